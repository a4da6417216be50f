package nats_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/carrier"
	"troupe/internal/carrier/nats"
	"troupe/internal/journal"
	"troupe/internal/troupetest"
)

// This file has members in one process: a journal, a carrier with its HTTPS, and a feed on a real nats-server.

const troupeID = "testtroupe"

// book is who belongs to the troupe.
type book struct {
	mu      sync.Mutex
	members []*member
	changed chan struct{}

	alone bool // no HTTPS from the beginning
}

func newBook() *book { return &book{changed: make(chan struct{})} }

// A member can be cut off from the others, but for NATS.
type member struct {
	t    *testing.T
	book *book
	dir  string
	key  *ecdsa.PrivateKey
	pub  []byte

	origin journal.Origin // its journal's, which others ask for while it begins again
	j      *journal.Journal
	c      atomic.Pointer[carrier.Carrier]
	feed   *nats.Feed
	srv    *httptest.Server
	log    *lines

	metrics *prometheus.Registry
	cut     atomic.Bool
	fetched atomic.Int64 // bytes of the answers of others
	stop    func()
}

func (b *book) check(by journal.Origin, key, signature, message []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.members, func(m *member) bool { return m.origin == by })
	if i < 0 || !bytes.Equal(b.members[i].pub, key) {
		return errors.New("the key is not that of the member")
	}
	if sum := sha256.Sum256(message); !ecdsa.VerifyASN1(&b.members[i].key.PublicKey, sum[:], signature) {
		return errors.New("the signature is not of this message")
	}
	return nil
}

func (b *book) others(m *member) ([]carrier.Peer, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []carrier.Peer
	for _, o := range b.members {
		if o != m {
			all = append(all, carrier.Peer{Origin: o.origin, Name: string(o.origin)[:4], Address: o.srv.URL})
		}
	}
	return all, b.changed
}

// sign signs as this member does.
func (m *member) sign(message []byte) (key, signature []byte, err error) {
	sum := sha256.Sum256(message)
	signature, err = ecdsa.SignASN1(rand.Reader, m.key, sum[:])
	return m.pub, signature, err
}

const fromHeader = "X-From"

type wire struct{ m *member }

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.m.cut.Load() {
		return nil, errors.New("the network is cut")
	}
	r.Header.Set(fromHeader, string(w.m.origin))
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		answer.Body = counted{answer.Body, &w.m.fetched}
	}
	return answer, err
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

// join adds a member that starts at once.
func (b *book) join(t *testing.T, o nats.Options) *member {
	t.Helper()
	m := &member{t: t, book: b, dir: t.TempDir(), log: &lines{}}
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if m.pub, err = x509.MarshalPKIXPublicKey(m.key.Public()); err != nil {
		t.Fatal(err)
	}
	m.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.cut.Load() {
			panic(http.ErrAbortHandler)
		}
		m.c.Load().Handler(func(r *http.Request) journal.Origin { return journal.Origin(r.Header.Get(fromHeader)) }).ServeHTTP(w, r)
	}))
	m.cut.Store(b.alone)
	m.start(o)
	t.Cleanup(func() {
		m.stop()
		m.srv.Close()
		if t.Failed() {
			t.Logf("log of %s:\n%s", m.j.Origin(), m.log.text.String())
		}
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members = append(b.members, m)
	close(b.changed)
	b.changed = make(chan struct{})
	return m
}

// start opens the journal and runs everything; stop ends it.
func (m *member) start(o nats.Options) {
	m.t.Helper()
	m.metrics = prometheus.NewRegistry()
	log := slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if m.j, err = journal.Open(m.dir, journal.Options{Log: log}); err != nil {
		m.t.Fatal(err)
	}
	if m.origin == "" {
		m.origin = m.j.Origin()
	}
	co := carrier.Options{
		Peers: func() ([]carrier.Peer, <-chan struct{}) { return m.book.others(m) },
		Dial: func(p carrier.Peer) carrier.Asker {
			return carrier.Asker{HTTP: &http.Client{Transport: wire{m}}, URL: p.Address}
		},
		Log: log,
	}
	m.feed = nil
	if o.Servers != nil {
		o.ID, o.Sign, o.Check, o.Log, o.Registerer = func() string { return troupeID }, m.sign, m.book.check, log, m.metrics
		o.Others = func() (all []journal.Origin, changed <-chan struct{}) {
			peers, changed := m.book.others(m)
			for _, p := range peers {
				all = append(all, p.Origin)
			}
			return all, changed
		}
		m.feed = nats.New(m.j, o)
		co.Feed = m.feed
	}
	c := carrier.New(m.j, co)
	m.c.Store(c)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	run := func(f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil {
				m.t.Error(err)
			}
		})
	}
	run(c.Run)
	if m.feed != nil {
		run(m.feed.Run)
	}
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			cancel()
			m.srv.CloseClientConnections()
			all.Wait()
			if err := m.j.Close(); err != nil {
				m.t.Error(err)
			}
		})
	}
}

// write appends records, ten at a time, of that many bytes that do not compress.
func (m *member) write(s journal.Stream, count, size int) {
	m.t.Helper()
	for i := 0; i < count; {
		var drafts []journal.Draft
		for ; i < count && len(drafts) < 10; i++ {
			body := make([]byte, size)
			if _, err := rand.Read(body); err != nil {
				m.t.Fatal(err)
			}
			drafts = append(drafts, journal.Draft{Stream: s, Kind: "x", Key: fmt.Sprint(i), Body: body})
		}
		if _, err := m.j.Append(m.t.Context(), drafts...); err != nil {
			m.t.Fatal(err)
		}
	}
}

// at waits until a member has a chain up to a number.
func (m *member) at(of *member, s journal.Stream, number uint64) {
	m.t.Helper()
	troupetest.Eventually(m.t, troupetest.Patience, fmt.Sprintf("%s record %d of %s", s, number, of.j.Origin()), func() bool {
		last, err := m.j.Last(m.t.Context(), of.j.Origin(), s)
		if err != nil {
			m.t.Fatal(err)
		}
		return last >= number
	})
}

// connected waits until NATS carries.
func (b *book) connected() {
	for _, m := range b.members {
		m.t.Helper()
		m.status("it is connected", func(s nats.Status) bool { return s.Server != "" && s.Problem == "" })
	}
}

// same waits until all journals are equal, and reads each whole.
func same(t *testing.T, all ...*member) {
	t.Helper()
	heads := func(m *member) string {
		h, err := m.j.Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(h)
	}
	troupetest.Eventually(t, troupetest.Patience, "all journals are the same", func() bool {
		first := heads(all[0])
		return !slices.ContainsFunc(all, func(m *member) bool { return heads(m) != first })
	})
	for _, m := range all {
		v, err := m.j.Verify(t.Context(), nil)
		if err != nil || len(v.Damaged) > 0 || len(v.File) > 0 {
			t.Errorf("journal of %s: %+v %v", m.j.Origin(), v, err)
		}
	}
}

// status waits for a state of the feed.
func (m *member) status(what string, is func(nats.Status) bool) nats.Status {
	m.t.Helper()
	var s nats.Status
	ok := false
	defer func() {
		if !ok {
			m.t.Logf("status: %+v", s)
		}
	}()
	troupetest.Eventually(m.t, troupetest.Patience, what, func() bool {
		var err error
		if s, err = m.feed.Status(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
		ok = is(s)
		return ok
	})
	return s
}

// follows waits until all bulk of all others comes through NATS.
func follows(all ...*member) {
	for _, m := range all {
		m.t.Helper()
		troupetest.Eventually(m.t, troupetest.Patience, "bulk of all others comes through NATS", func() bool {
			others, _ := m.book.others(m)
			return !slices.ContainsFunc(others, func(p carrier.Peer) bool { return !m.feed.Follows(p.Origin, journal.Bulk) })
		})
	}
}

// value is a metric, all its labels together.
func (m *member) value(name string) (sum float64) {
	m.t.Helper()
	families, err := m.metrics.Gather()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, one := range f.GetMetric() {
				sum += one.GetCounter().GetValue() + one.GetGauge().GetValue()
			}
		}
	}
	return sum
}
