package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file publishes the chains of this member, one message after the other: the next one is sent when the stream has acknowledged
// the one before. So there is never a hole in what a stream has got, and nothing waits in a queue; what is written meanwhile goes
// with the next group.

const (
	groupRecords = 64              // of one group
	backlogMost  = 4000            // records that are published late; older ones are left to HTTPS, where they are already
	publishAgain = 5 * time.Second // after the stream took something not
)

// publish publishes one of our chains until ctx ends. That a stream takes nothing is no reason to read nothing from it.
func (s *session) publish(ctx context.Context, stream journal.Stream) {
	for {
		err := s.publishChain(ctx, stream)
		if ctx.Err() != nil {
			return
		}
		s.f.hold(stream, run{})
		s.f.told(stream, s.explain(err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(publishAgain):
		}
	}
}

// publishChain goes on after what the stream holds of us.
func (s *session) publishChain(ctx context.Context, stream journal.Stream) error {
	after, err := s.resume(ctx, stream)
	if err != nil {
		return err
	}
	begun := after // everything up to here was there before us
	s.f.through(stream, after)
	if s.copies(stream) {
		s.f.hold(stream, run{after + 1, after})
	}
	for {
		changed := s.f.j.Changed()
		head, err := s.f.ownHead(ctx, stream)
		if err != nil {
			return err
		}
		if after > head.Last {
			return trouble(nil, "wait until other members have given back what this one lost; if it stays, see troupe status for forks",
				"the %s stream has records of this member up to %d, and its journal ends at %d", stream, after, head.Last)
		}
		if from := max(head.Base, head.Last-min(backlogMost, head.Last)); from > after {
			if begun > 0 || after > begun {
				s.f.log.InfoContext(ctx, "records are left to HTTPS: they are too many, or too old, for the stream", "stream", stream.String(), "from", after+1, "to", from)
			}
			s.f.metrics.skipped.Add(float64(from - after))
			after, begun = from, from
		}
		for after < head.Last {
			last, err := s.publishGroup(ctx, stream, after, head.Last)
			if err != nil {
				return err
			}
			after = last
			s.f.through(stream, after)
			if s.copies(stream) {
				s.f.extend(stream, begun+1, after)
			}
		}
		s.f.told(stream, nil)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// resume returns the last record of ours that a stream has whole. A message there that we have not signed, whoever put it there,
// says nothing.
func (s *session) resume(ctx context.Context, stream journal.Stream) (uint64, error) {
	last, err := s.stream(stream).GetLastMsgForSubject(ctx, s.subject(chain{s.f.j.Origin(), stream}))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	m, cause, err := s.check(chain{s.f.j.Origin(), stream}, last.Data)
	if err != nil {
		s.f.refuse(ctx, chain{s.f.j.Origin(), stream}, cause, err)
		return 0, nil
	}
	if m.part < m.parts-1 {
		return m.first - 1, nil
	}
	return m.last, nil
}

// publishGroup publishes the records after a number, some of them or all, and returns the last.
func (s *session) publishGroup(ctx context.Context, stream journal.Stream, after, end uint64) (last uint64, err error) {
	var body bytes.Buffer
	n, err := s.f.j.Export(ctx, &body, s.f.j.Origin(), stream, after, int(min(groupRecords, end-after)))
	if err != nil {
		return 0, err
	}
	head, err := s.f.ownHead(ctx, stream)
	if err != nil {
		return 0, err
	}
	if n == 0 || head.Base > after {
		// An export that begins with what was pruned lets its reader skip that; only who asks for it over HTTPS may.
		return 0, fmt.Errorf("%s records after %d were pruned just now", stream, after)
	}
	group := message{troupe: s.id, origin: s.f.j.Origin(), stream: stream, first: after + 1, last: after + uint64(n), payload: body.Bytes()}
	if len(group.payload) > groupMost {
		return 0, fmt.Errorf("%s records %d to %d have %d bytes, more than %d", stream, group.first, group.last, len(group.payload), groupMost)
	}
	for _, m := range split(group, s.partSize()) {
		if err := s.publishPart(ctx, m); err != nil {
			return 0, err
		}
	}
	s.f.metrics.sent.WithLabelValues(stream.String()).Add(float64(n))
	return group.last, nil
}

// publishPart returns when the stream has a message. The server drops one that it has already.
func (s *session) publishPart(ctx context.Context, m message) error {
	key, signature, err := s.f.o.Sign(m.signed())
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestMost)
	defer cancel()
	begun := time.Now()
	ack, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: s.subject(chain{m.origin, m.stream}), Data: m.encode(proof{key, signature})},
		jetstream.WithMsgID(m.id()), jetstream.WithExpectStream(s.names[m.stream]))
	if err != nil {
		return err
	}
	s.f.acknowledged(time.Since(begun))
	if ack.Duplicate {
		s.f.log.DebugContext(ctx, "the stream has this message already", "id", m.id())
	}
	return nil
}

// copies reports whether what a stream has acknowledged lies on two machines.
func (s *session) copies(stream journal.Stream) bool {
	return s.stream(stream).CachedInfo().Config.Replicas > 1
}

// trim takes back what a stream has lost meanwhile by its age or size.
func (s *session) trim(ctx context.Context, stream journal.Stream) {
	from, to, _ := s.f.Holds(stream)
	if to < from || from == 0 {
		return
	}
	name := chain{s.f.j.Origin(), stream}
	first, err := s.stream(stream).GetMsg(ctx, 1, jetstream.WithGetMsgSubject(s.subject(name)))
	var m message
	if err == nil {
		m, _, err = s.check(name, first.Data)
	}
	switch begin := m.first; {
	case err != nil || !s.copies(stream):
		s.f.log.DebugContext(ctx, "what the stream holds of this member counts as no copy", "stream", stream.String(), telemetry.KeyErr, err)
		s.f.cut(stream, to+1)
	case m.part > 0:
		s.f.cut(stream, m.last+1)
	case begin > from:
		s.f.cut(stream, begin)
	}
}

// extend takes over that a stream holds what we have published without a gap.
func (f *Feed) extend(stream journal.Stream, from, to uint64) {
	f.mu.Lock()
	before := f.holds[stream]
	f.mu.Unlock()
	f.hold(stream, run{max(from, before.from), to})
}

// cut takes over where what a stream holds begins.
func (f *Feed) cut(stream journal.Stream, from uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.holds[stream]
	r.from = max(r.from, from)
	f.holds[stream] = r
}

// ownHead returns the end of one of our chains.
func (f *Feed) ownHead(ctx context.Context, stream journal.Stream) (journal.Head, error) {
	heads, err := f.j.Heads(ctx)
	if err != nil {
		return journal.Head{}, err
	}
	for _, h := range heads {
		if h.Origin == f.j.Origin() && h.Stream == stream {
			return h, nil
		}
	}
	return journal.Head{}, nil
}
