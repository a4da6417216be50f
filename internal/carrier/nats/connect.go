package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"troupe/internal/journal"
	"troupe/internal/secretfile"
)

// This file connects to NATS and finds or makes the streams.

const (
	connectMost = 5 * time.Second  // of trying one server
	requestMost = 5 * time.Second  // of one question to JetStream, and of an acknowledgement
	watchEvery  = 30 * time.Second // how often the streams are looked at
)

// A session is one connection with what is known through it.
type session struct {
	f     *Feed
	id    string
	nc    *nats.Conn
	js    jetstream.JetStream
	names map[journal.Stream]string

	mu      sync.Mutex
	streams map[journal.Stream]jetstream.Stream
	denied  error // what the server has last said that we may not do
}

// A dialer lets whoever stops a member not wait for a server that does not answer, and remembers why the last one could not be reached.
type dialer struct {
	ctx context.Context //nolint:containedctx // the interface of the client has none

	mu  sync.Mutex
	err error
}

// Dial connects to one server.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: connectMost}).DialContext(d.ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return conn, err
}

func (d *dialer) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// connect opens a connection, whose end calls end.
func (f *Feed) connect(ctx context.Context, end context.CancelCauseFunc) (*session, error) {
	s := &session{f: f, id: f.o.ID(), streams: map[journal.Stream]jetstream.Stream{}, names: map[journal.Stream]string{}}
	dial := &dialer{}
	options, err := f.connectOptions(ctx, dial, end, func(err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.denied = err
		}
	})
	if err != nil {
		return nil, err
	}
	if s.nc, err = nats.Connect(strings.Join(f.o.Servers, ","), options...); err != nil {
		if errors.Is(err, nats.ErrNoServers) && dial.last() != nil {
			err = dial.last()
		}
		return nil, s.explain(err)
	}
	if s.js, err = jetstream.New(s.nc, jetstream.WithDefaultTimeout(requestMost)); err != nil {
		s.close()
		return nil, err
	}
	if s.partSize() < partLeast {
		s.close()
		return nil, trouble(nil, fmt.Sprintf("set max_payload of the NATS servers to %d or more", partLeast+headerMost), "the servers take messages of %d bytes only", s.nc.MaxPayload())
	}
	return s, nil
}

func (s *session) close() { s.nc.Close() }

// partSize is how large a payload may be.
func (s *session) partSize() int { return int(min(s.nc.MaxPayload()-headerMost, partMost)) }

// identity says who we are. Files are read for each connection, since who keeps them changes them.
func (f *Feed) identity() (all []nats.Option, err error) {
	o := f.o
	secret := func(path, setting string, read func(path string) (string, error)) string {
		if path == "" || err != nil {
			return ""
		}
		var text string
		if text, err = read(path); err != nil {
			err = trouble(err, "correct the file, or the setting cluster.nats."+setting, "cluster.nats.%s: %s", setting, err)
		}
		return text
	}
	line := func(path string) (string, error) { return secretfile.Line(path, "the secret", secretfile.Limit) }
	creds := secret(o.Credentials, "credentials", secretfile.Read)
	password := secret(o.PasswordFile, "password_file", line)
	token := secret(o.TokenFile, "token_file", line)
	secret(o.Key, "tls.key", secretfile.Read) // read below; here for its mode
	if err != nil {
		return nil, err
	}
	switch {
	case creds != "":
		all = append(all, nats.UserCredentialBytes([]byte(creds)))
	case o.User != "":
		all = append(all, nats.UserInfo(o.User, password))
	case token != "":
		all = append(all, nats.Token(token))
	}
	if !slices.ContainsFunc(o.Servers, func(url string) bool { return strings.HasPrefix(url, "tls://") }) {
		return all, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		text, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, trouble(err, "correct the setting cluster.nats.tls.ca", "cluster.nats.tls.ca: %s", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, trouble(nil, "correct the setting cluster.nats.tls.ca", "%s has no certificate in PEM form", o.CA)
		}
	}
	if o.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(o.Certificate, o.Key)
		if err != nil {
			return nil, trouble(err, "correct the settings cluster.nats.tls.certificate and .key", "%s", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return append(all, nats.Secure(c)), nil
}

// streamName and subject name what the members of one troupe share.
func (s *session) streamName(stream journal.Stream) string {
	return strings.ReplaceAll(s.f.o.Prefix, ".", "_") + "_" + s.id + "_" + stream.String()
}

func (s *session) subject(c chain) string {
	return s.f.o.Prefix + "." + s.id + "." + c.stream.String() + "." + string(c.origin)
}

// findStreams looks for the streams and makes those that are not there. One that is there is taken as it is, however it is set: its
// owner may have reasons.
func (s *session) findStreams(ctx context.Context) error {
	for _, stream := range []journal.Stream{journal.State, journal.Bulk} {
		name := s.streamName(stream)
		s.names[stream] = name
		found, err := s.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			found, err = s.makeStream(ctx, stream, name)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		if err := s.checkStream(stream, found.CachedInfo().Config); err != nil {
			return err
		}
		s.streams[stream] = found
	}
	return nil
}

// makeStream makes a stream. Another member may do so at the same time.
func (s *session) makeStream(ctx context.Context, stream journal.Stream, name string) (jetstream.Stream, error) {
	o := s.f.o
	c := jetstream.StreamConfig{
		Name: name, Description: "records of troupe " + s.id, Subjects: []string{s.subject(chain{"*", stream})},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		MaxAge: o.MaxAge, MaxBytes: o.MaxBytes, MaxMsgSize: messageMost, Duplicates: min(2*time.Minute, o.MaxAge), Replicas: o.Replicas,
	}
	if c.Replicas == 0 {
		c.Replicas = 3
	}
	made, err := s.js.CreateStream(ctx, c)
	if tooFew(err) && o.Replicas == 0 {
		c.Replicas = 1
		made, err = s.js.CreateStream(ctx, c)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return s.js.Stream(ctx, name)
	}
	if err == nil {
		s.f.log.InfoContext(ctx, "stream made", "stream", name, "replicas", c.Replicas, "max_age", c.MaxAge, "max_bytes", c.MaxBytes)
	}
	return made, err
}

// tooFew reports that the servers cannot have as many replicas as were asked for.
func tooFew(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == codeNotClustered || api.ErrorCode == codeNoPeers)
}

// checkStream refuses a stream through which records cannot come.
func (s *session) checkStream(stream journal.Stream, c jetstream.StreamConfig) error {
	remedy := "remove the stream (nats stream rm " + c.Name + "): a member makes it anew; records are in the journals"
	want := s.subject(chain{"*", stream})
	switch {
	case !slices.ContainsFunc(c.Subjects, func(subject string) bool { return subject == want }):
		return trouble(nil, remedy, "the stream %s does not have the subject %s", c.Name, want)
	case c.Retention != jetstream.LimitsPolicy:
		return trouble(nil, remedy, "the stream %s does not keep messages for several readers", c.Name)
	case c.NoAck:
		return trouble(nil, remedy, "the stream %s acknowledges nothing", c.Name)
	case c.Storage != jetstream.FileStorage:
		return trouble(nil, remedy, "the stream %s is not on a disk", c.Name)
	}
	return nil
}

// stream returns a stream as it was last looked at.
func (s *session) stream(stream journal.Stream) jetstream.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[stream]
}

// watchStreams looks at the streams now and then: an operator may have removed one, or changed its replicas.
func (s *session) watchStreams(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for stream, name := range s.names {
			before := s.stream(stream).CachedInfo()
			now, err := s.js.Stream(ctx, name)
			if err == nil && !now.CachedInfo().Created.Equal(before.Created) {
				err = fmt.Errorf("stream %s was made anew", name)
			}
			if err == nil {
				err = s.checkStream(stream, now.CachedInfo().Config)
			}
			if err != nil {
				end(err)
				return
			}
			s.mu.Lock()
			s.streams[stream] = now
			s.mu.Unlock()
			s.trim(ctx, stream)
		}
		s.f.mu.Lock()
		s.f.state.streams = s.described()
		s.f.mu.Unlock()
	}
}

func (s *session) described() []StreamStatus {
	var all []StreamStatus
	for _, stream := range []journal.Stream{journal.State, journal.Bulk} {
		i := s.stream(stream).CachedInfo()
		all = append(all, StreamStatus{Name: i.Config.Name, Replicas: i.Config.Replicas, Messages: i.State.Msgs, Bytes: i.State.Bytes, MaxBytes: i.Config.MaxBytes, MaxAge: i.Config.MaxAge})
	}
	return all
}
