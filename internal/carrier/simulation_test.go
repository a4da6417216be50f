package carrier

// This file runs a troupe of two sites in one process, on a clock and a network of its own, and breaks both.

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/journal"
)

var (
	seeds   = flag.Int("seeds", 20, "how many troupes TestSimulation breaks")
	oneSeed = flag.Int("seed", -1, "the only one to break")
)

const (
	troubles = time.Minute // for so long things go wrong
	maxSkew  = 10 * time.Minute
	healMost = 2 * time.Minute // then all must agree, once no record is from the future
)

// TestSimulation lets four or six members write, and be cut off one way or both, crash, restart, get lost for good and have wrong
// clocks, over a network that delays, drops, repeats and tears. Afterwards all journals must be equal, whole, and hold each
// record that was acknowledged. A seed fixes what goes wrong and when; run one again with -seed.
func TestSimulation(t *testing.T) {
	first, last := 0, *seeds
	if *oneSeed >= 0 {
		first, last = *oneSeed, *oneSeed+1
	}
	for seed := first; seed < last; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newWorld(t, uint64(seed)).run() })
		})
	}
}

type world struct {
	t       *testing.T
	r       *rand.Rand
	perSite int // members
	members []*simulated
	start   time.Time

	mu     sync.Mutex
	faulty bool // the network drops, repeats and tears
	links  map[[2]int]*link
}

// simulated is a member. It is used by one goroutine at a time, but for what mu guards.
type simulated struct {
	w     *world
	index int
	dir   string

	mu      sync.Mutex
	j       *journal.Journal // nil while it is down
	c       *Carrier
	handler http.Handler
	stop    func()

	skew   atomic.Int64 // of its clock; the journal asks for it while mu is held
	origin journal.Origin
	lost   bool // for good
	wrote  []journal.Record
	copied []journal.Record // that another member had at once
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 4)), perSite: 2 + int(seed%2), start: time.Now(), links: map[[2]int]*link{}}
	for i := range 2 * w.perSite {
		m := &simulated{w: w, index: i, dir: t.TempDir()}
		w.members = append(w.members, m)
		for j := range 2 * w.perSite {
			w.links[[2]int{i, j}] = &link{w: w, from: i, to: j, r: rand.New(rand.NewPCG(seed, uint64(100+10*i+j)))}
		}
	}
	for _, m := range w.members {
		m.open()
		m.origin = m.j.Origin() // from here on all know it
	}
	for _, m := range w.members {
		m.begin()
	}
	return w
}

func (w *world) run() {
	w.setFaulty(true)
	for time.Since(w.start) < troubles {
		time.Sleep(time.Duration(w.r.Int64N(int64(time.Second))))
		w.step()
	}
	w.heal()
	w.wantAllEqual()
	for _, m := range w.members {
		m.down()
	}
}

func (w *world) setFaulty(faulty bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faulty = faulty
}

// step lets one thing happen.
func (w *world) step() {
	m := w.members[w.r.IntN(len(w.members))]
	switch n := w.r.IntN(20); {
	case n < 9:
		m.write(1 + w.r.IntN(6))
	case n < 12:
		m.writeAndWait()
	case n == 12: // one way
		w.links[[2]int{m.index, w.r.IntN(len(w.members))}].set(w.r.IntN(2) == 0)
	case n == 13: // the sites, one way or both, or none
		there, back := w.r.IntN(2) == 0, w.r.IntN(2) == 0
		for i := range w.perSite {
			for j := range w.perSite {
				w.links[[2]int{i, w.perSite + j}].set(there)
				w.links[[2]int{w.perSite + j, i}].set(back)
			}
		}
	case n < 16:
		m.down()
	case n < 18:
		m.up()
	case n == 18:
		m.skew.Store(w.r.Int64N(int64(2*maxSkew)) - int64(maxSkew))
	case w.r.IntN(4) == 0 && !w.hasLost(): // two copies outlive one loss
		m.down()
		m.lost = true
	}
}

func (w *world) hasLost() bool {
	return slices.ContainsFunc(w.members, func(m *simulated) bool { return m.lost })
}

func (w *world) heal() {
	w.setFaulty(false)
	for _, l := range w.links {
		l.set(false)
	}
	for _, m := range w.members {
		m.skew.Store(0)
		m.up()
	}
}

// wantAllEqual waits until all members agree, and looks for every acknowledged record.
func (w *world) wantAllEqual() {
	var alive []*simulated
	for _, m := range w.members {
		if !m.lost {
			alive = append(alive, m)
		}
	}
	var diff string
	for limit := time.Now().Add(healMost + maxSkew); ; time.Sleep(5 * time.Second) {
		if diff = unequal(w.t, alive); diff == "" {
			break
		}
		if time.Now().After(limit) {
			w.t.Fatalf("members do not agree %v after the heal:\n%s", healMost, diff)
		}
	}
	for _, m := range alive {
		if v, err := m.j.Verify(w.t.Context(), nil); err != nil || !v.OK() {
			w.t.Errorf("journal of member %d: %+v, %v", m.index, v, err)
		}
	}
	for _, m := range w.members {
		promised := m.wrote
		if m.lost {
			promised = m.copied
		}
		w.wantRecords(alive[0].j, m, promised)
	}
}

func (w *world) wantRecords(j *journal.Journal, m *simulated, promised []journal.Record) {
	has := map[journal.Stream]map[uint64][32]byte{journal.State: {}, journal.Bulk: {}}
	for s := range has {
		for after := uint64(0); ; {
			recs, err := j.Read(w.t.Context(), m.origin, s, after, 1000)
			if err != nil {
				w.t.Fatal(err)
			}
			if len(recs) == 0 {
				break
			}
			for _, r := range recs {
				has[s][r.Number] = r.Hash
			}
			after = recs[len(recs)-1].Number
		}
	}
	for _, r := range promised {
		if has[r.Stream][r.Number] != r.Hash {
			w.t.Errorf("%s record %d of member %d was acknowledged and is lost", r.Stream, r.Number, m.index)
		}
	}
}

func unequal(t *testing.T, members []*simulated) string {
	first, err := members[0].j.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members[1:] {
		heads, err := m.j.Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, heads); diff != "" {
			return fmt.Sprintf("member %d and %d: %s", members[0].index, m.index, diff)
		}
	}
	return ""
}

func (m *simulated) open() {
	j, err := journal.Open(m.dir, journal.Options{Now: m.now})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.j = j
}

// begin follows the others.
func (m *simulated) begin() {
	var peers []Peer
	for _, o := range m.w.members {
		if o != m {
			peers = append(peers, Peer{Origin: o.origin, Name: fmt.Sprint(o.index)})
		}
	}
	never := make(chan struct{})
	c := New(m.j, Options{
		Peers: func() ([]Peer, <-chan struct{}) { return peers, never },
		Dial: func(p Peer) Asker {
			for _, o := range m.w.members {
				if o.origin == p.Origin {
					return Asker{HTTP: &http.Client{Transport: m.w.links[[2]int{m.index, o.index}]}, URL: "http://member"}
				}
			}
			panic("nobody has this origin")
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			m.w.t.Error(err)
		}
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.c, m.stop = c, func() { cancel(); running.Wait() }
	m.handler = c.Handler(func(r *http.Request) journal.Origin { return journal.Origin(r.Header.Get(fromHeader)) })
}

func (m *simulated) up() {
	if m.j == nil && !m.lost {
		m.open()
		m.begin()
	}
}

// down ends a member, as a kill does: what it has not acknowledged may be gone, what it has is on the disk.
func (m *simulated) down() {
	if m.j == nil {
		return
	}
	m.stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.j.Close(); err != nil {
		m.w.t.Error(err)
	}
	m.j, m.c, m.handler = nil, nil, nil
}

func (m *simulated) now() time.Time {
	return time.Now().Add(time.Duration(m.skew.Load()))
}

func (m *simulated) write(n int) {
	if m.j == nil {
		return
	}
	for i := range n {
		s := journal.Bulk
		if i%2 == 0 {
			s = journal.State
		}
		recs, err := m.j.Append(m.w.t.Context(), journal.Draft{Stream: s, Kind: "x", Key: fmt.Sprint(i), Body: bytes.Repeat([]byte{byte(i)}, 40*i)})
		if err != nil {
			m.w.t.Fatal(err)
		}
		m.wrote = append(m.wrote, recs...)
	}
}

// writeAndWait writes as the CA does: it is told within two seconds whether another member has the record.
func (m *simulated) writeAndWait() {
	if m.j == nil {
		return
	}
	m.write(1)
	r := m.wrote[len(m.wrote)-1]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if m.c.Copied(ctx, r.Stream, r.Number) == nil {
		m.copied = append(m.copied, r)
	}
}

// A link carries requests from one member to another.
type link struct {
	w        *world
	from, to int

	mu  sync.Mutex
	r   *rand.Rand
	cut bool
}

func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

// chance is true once in n, while the network is faulty.
func (l *link) chance(n int) bool {
	l.w.mu.Lock()
	faulty := l.w.faulty
	l.w.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return faulty && l.r.IntN(n) == 0
}

func (l *link) number(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.IntN(n)
}

var errCut = errors.New("nobody answers")

// pass takes a message along this way, or swallows it: then the sender waits for nothing.
func (l *link) pass(ctx context.Context) error {
	delay := time.Duration(1+l.number(30)) * time.Millisecond
	if l.chance(20) {
		delay += time.Duration(l.number(3000)) * time.Millisecond
	}
	time.Sleep(delay)
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if !cut && !l.chance(15) {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second): // TCP keep-alive
		return errCut
	}
}

// RoundTrip carries the request there and the answer back.
func (l *link) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	from, to := l.w.members[l.from], l.w.members[l.to]
	r = r.Clone(r.Context())
	r.Header.Set(fromHeader, string(from.origin))
	times := 1
	if l.chance(20) {
		times = 2 // the first answer gets lost
	}
	var answer *httptest.ResponseRecorder
	for range times {
		if err := l.pass(r.Context()); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if answer, err = to.serve(r); err != nil {
			return nil, err
		}
	}
	if err := l.w.links[[2]int{l.to, l.from}].pass(r.Context()); err != nil {
		return nil, err
	}
	got := answer.Result()
	if n := answer.Body.Len(); n > 0 && l.chance(20) {
		got.Body = io.NopCloser(io.MultiReader(io.LimitReader(answer.Body, int64(l.number(n))), broken{}))
	}
	return got, nil
}

// broken is where an answer tears.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (m *simulated) serve(r *http.Request) (answer *httptest.ResponseRecorder, err error) {
	m.mu.Lock()
	h := m.handler
	m.mu.Unlock()
	if h == nil {
		return nil, errors.New("connection refused")
	}
	defer func() {
		if said := recover(); said != nil {
			err = io.ErrUnexpectedEOF
			if said != http.ErrAbortHandler {
				panic(said)
			}
		}
	}()
	answer = httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	return answer, nil
}
