package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file takes what other members have published. Each chain has a reader of its own: one that waits for room on the disk does not
// hold up the others.

const (
	aheadMost     = 16               // messages that wait at a reader
	heartbeat     = 5 * time.Second  // a reader that hears nothing for two of them begins again
	clocksMost    = 10 * time.Minute // by which clocks of members and of NATS may differ: twice what the journal takes
	importAgain   = 5 * time.Second  // when the journal could not write
	complainAgain = time.Hour        // about the same cause
)

// follow takes one chain until ctx ends or the stream can no longer be read.
func (s *session) follow(ctx context.Context, name chain) error {
	stream := s.stream(name.stream)
	config := jetstream.ConsumerConfig{
		FilterSubject: s.subject(name), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
		Description: "troupe " + string(s.f.j.Origin()),
	}
	if err := s.begin(ctx, name, stream.CachedInfo(), &config); err != nil {
		return err
	}
	consumer, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(aheadMost), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return err
	}
	defer messages.Stop()
	var parts assembly
	for delivered := uint64(1); ; delivered++ {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != delivered {
			return fmt.Errorf("message %d of %s came where %d was next", meta.Sequence.Consumer, msg.Subject(), delivered)
		}
		s.take(ctx, name, msg.Data(), &parts)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !parts.open { // else a reader that begins again needs the first part once more
			s.f.mu.Lock()
			s.f.cursors[name] = cursor{stream.CachedInfo().Created, meta.Sequence.Stream}
			s.f.mu.Unlock()
		}
	}
}

// begin says where reading begins: at what was read last before, if that is still the same stream, or else a little before the time
// of the last record that we have. What comes a second time does no harm.
func (s *session) begin(ctx context.Context, name chain, info *jetstream.StreamInfo, config *jetstream.ConsumerConfig) error {
	s.f.mu.Lock()
	at, known := s.f.cursors[name]
	s.f.mu.Unlock()
	if known && at.sequence > 0 && at.created.Equal(info.Created) && at.sequence <= info.State.LastSeq {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, at.sequence // that one too: it shows that all is here
		return nil
	}
	heads, err := s.f.j.Heads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if h.Origin == name.origin && h.Stream == name.stream {
			from := h.Time.Time().Add(-clocksMost)
			config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
		}
	}
	return nil // a member of which nothing is here: from the beginning
}

// check returns what a message says, if the member whose subject it came on has signed it for this troupe, and else why not.
func (s *session) check(name chain, data []byte) (m message, cause string, err error) {
	if len(data) > messageMost {
		return m, causeTooBig, fmt.Errorf("it has %d bytes, more than %d", len(data), messageMost)
	}
	m, p, err := decode(data)
	switch {
	case err != nil:
		return m, causeUnreadable, err
	case m.troupe != s.id:
		return m, causeForeign, fmt.Errorf("it is of the troupe %.64q", m.troupe)
	case m.origin != name.origin || m.stream != name.stream:
		return m, causeMisplaced, fmt.Errorf("it is of the %s stream of member %.64q", m.stream, m.origin)
	case len(p.signature) == 0:
		return m, causeUnsigned, errors.New("it is not signed")
	}
	if err := s.f.o.Check(m.origin, p.key, p.signature, m.signed()); err != nil {
		return m, causeForged, err
	}
	return m, "", nil
}

// take brings a message into the journal. What it does not take, package carrier fetches, who tells the operator why not.
func (s *session) take(ctx context.Context, name chain, data []byte, parts *assembly) {
	m, cause, err := s.check(name, data)
	if err != nil {
		s.f.refuse(ctx, name, cause, err)
		return
	}
	have, err := s.f.j.Last(ctx, name.origin, name.stream)
	switch {
	case err != nil:
		s.unread(ctx, name, err)
		return
	case m.last <= have:
		*parts = assembly{}
		s.f.metrics.known.Inc()
		s.f.follows(name, true)
		return
	case m.first > have+1:
		*parts = assembly{}
		s.f.log.DebugContext(ctx, "records are missing before those that came", "origin", name.origin, "stream", name.stream.String(), "have", have, "came", m.first)
		s.f.follows(name, false)
		return
	}
	group, whole := parts.add(m)
	if !whole || !s.importGroup(ctx, name, group) {
		return
	}
	switch have, err = s.f.j.Last(ctx, name.origin, name.stream); {
	case err != nil:
		s.unread(ctx, name, err)
	case have < m.last:
		s.f.refuse(ctx, name, causeUnreadable, fmt.Errorf("it does not have the records up to %d that it is said to have", m.last))
	default:
		s.f.follows(name, true)
	}
}

// unread says that our own journal could not be asked.
func (s *session) unread(ctx context.Context, name chain, err error) {
	if ctx.Err() == nil {
		s.f.log.WarnContext(ctx, "the journal cannot be read", telemetry.KeyErr, err)
	}
	s.f.follows(name, false)
}

// importGroup returns whether the journal has taken a group. When it cannot write, this waits: what is in the stream is not lost, and
// the journal has told the operator.
func (s *session) importGroup(ctx context.Context, name chain, group []byte) bool {
	for {
		n, err := s.f.j.Import(ctx, bytes.NewReader(group))
		s.f.metrics.taken.WithLabelValues(name.stream.String()).Add(float64(n))
		if err == nil {
			return true
		}
		s.f.follows(name, false)
		if journal.Refused(err) || fault.KindOf(err) == fault.Invalid {
			s.f.refuse(ctx, name, causeJournal, err)
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(importAgain):
		}
	}
}

// Why a message is not taken.
const (
	causeTooBig     = "too-big"
	causeUnreadable = "unreadable"
	causeForeign    = "other-troupe"
	causeMisplaced  = "other-member"
	causeUnsigned   = "unsigned"
	causeForged     = "forged"
	causeJournal    = "journal"
)

// A refusal is a cause for which messages on the subject of a member are not taken.
type refusal struct {
	origin journal.Origin
	cause  string
}

// refusals are counted.
type refusals struct {
	count uint64
	told  time.Time
}

// refuse counts a message that is not taken, and tells the operator once an hour.
func (f *Feed) refuse(ctx context.Context, name chain, cause string, err error) {
	f.metrics.refused.WithLabelValues(cause).Inc()
	f.mu.Lock()
	key := refusal{name.origin, cause}
	r := f.refused[key]
	if r == nil {
		r = &refusals{}
		f.refused[key] = r
	}
	r.count++
	tell := time.Since(r.told) >= complainAgain
	if tell {
		r.told = time.Now()
	}
	count := r.count
	f.mu.Unlock()
	if tell {
		f.log.WarnContext(ctx, "messages from NATS are not taken", "origin", name.origin, "stream", name.stream.String(), "cause", cause, telemetry.KeyErr, err, "count", count,
			"remedy", remedyOf(cause))
	}
}

func remedyOf(cause string) string {
	if cause == causeJournal {
		return "nothing: what this is, HTTPS between the members finds and says, see troupe status"
	}
	return "see who may publish to the subjects of this troupe: only its members should (docs/sites.md); records come over HTTPS meanwhile"
}
