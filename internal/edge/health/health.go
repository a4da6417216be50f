// Package health is the one judge of servers: what balancing, DNS and BGP believe of a server is the same verdict.
//
// A [Target] is watched in the ways that its [Check] says: by active checks, by what requests show ([Monitor.Observe]), by a server
// that states its own weight (an agent check), and by the operator's word ([Monitor.Admin]),
// which wins over all the others. Begin with [New], [Monitor.Watch] and [Monitor.Run].
package health

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/telemetry"
)

// State is what a server is good for.
type State string

// The states.
const (
	Up    State = "up"    // takes work
	Down  State = "down"  // failed its checks, is ejected, or was not checked yet
	Drain State = "drain" // takes no new run; what belongs to a run that began there still goes there
	Maint State = "maint" // taken out by an operator or by its own agent
)

// A Verdict is what the judge says of a server.
type Verdict struct {
	State    State
	Reason   string    // for people: why it is not up; may be empty when it is
	Since    time.Time // when it came into this state
	Share    float64   // of the configured weight: 1, unless the server's own agent says otherwise (above 1 where it asks for more)
	MaxConns int       // what the server's agent says; 0 when it said nothing
	Doubted  bool      // it is down because of a suspicion, and its usual checks have not said the same yet: it may only be slow
}

// Options tunes a Monitor. The zero value works.
type Options struct {
	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers nothing
	Now        func() time.Time      // nil means time.Now
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
	Rand       func() float64 // in [0, 1), spreads checks; nil means math/rand
	SaveFile   string         // where the operator's word survives a restart; empty: nowhere
}

// A Monitor watches servers. Its methods are safe for concurrent use, before, during and after Run.
type Monitor struct {
	o       Options
	metrics *metrics
	replan  chan struct{} // holds a token when the targets or the earliest deadline may have changed

	saving   sync.Mutex // one writer of SaveFile at a time; taken before mu
	unloaded error      // why SaveFile could not be read; Run and Admin tell

	mu       sync.Mutex
	targets  map[string]*watched
	order    []string             // of Watch
	admin    map[string]string    // the operator's word: drain or maint; also for servers that are not watched now
	changed  chan struct{}        // closed at the next change
	compared map[string]time.Time // when the servers of a pool were last compared with each other
}

// watched is a target with what is known of it. Its target never changes: another check or address makes a new one.
type watched struct {
	Target
	judge judge
	due   time.Time     // of the next active check
	asked time.Time     // when the agent is due
	now   chan struct{} // holds a token when the next check was brought forward

	suspected chan struct{} // holds a token when somebody wants to know now
}

// New returns a Monitor that watches nothing yet.
func New(o Options) *Monitor {
	o.Log = telemetry.Discard(o.Log).With(telemetry.KeySystem, "health")
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	m := &Monitor{
		o: o, replan: make(chan struct{}, 1),
		targets: map[string]*watched{}, admin: map[string]string{}, changed: make(chan struct{}), compared: map[string]time.Time{},
	}
	m.unloaded = m.load()
	m.metrics = newMetrics(m)
	return m
}

// Watch replaces the set of targets. What is known of a target stays when it has the same address; with another check it is judged by
// that one from now on. The first checks of new targets are spread.
func (m *Monitor) Watch(targets []Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	before := m.targets
	m.targets, m.order = map[string]*watched{}, nil
	for i, t := range targets {
		if m.targets[t.ID] != nil {
			m.o.Log.Warn("a server is named twice, the first one counts", "server", t.ID)
			continue
		}
		t.Check = t.Check.withDefaults()
		w := before[t.ID]
		switch {
		case w == nil || w.Address != t.Address:
			spread := time.Duration(t.Check.Spread * float64(t.Check.Interval) * float64(i) / float64(len(targets)))
			w = &watched{Target: t, judge: newJudge(t, now), due: now.Add(spread), asked: now.Add(spread)}
			w.judge.admin = m.admin[t.ID]
		case !w.same(t):
			w = &watched{Target: t, judge: w.judge.under(t, now), due: w.due, asked: w.asked}
		}
		if w.now == nil {
			w.now, w.suspected = make(chan struct{}, 1), make(chan struct{}, 1)
		}
		m.targets[t.ID] = w
		m.order = append(m.order, t.ID)
	}
	news := len(before) != len(m.targets)
	for id, w := range m.targets {
		m.settle(w, now)
		news = news || before[id] == nil || before[id].judge.verdict.State != w.judge.verdict.State
	}
	if news {
		m.broadcast()
	}
	m.wake()
}

// Run checks until ctx ends, and returns when every check has.
func (m *Monitor) Run(ctx context.Context) error {
	if m.unloaded != nil {
		return m.unloaded
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	running := map[*watched]context.CancelFunc{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.replan:
		case <-timer.C:
		}
		m.mu.Lock()
		for w, cancel := range running {
			if m.targets[w.ID] != w {
				cancel()
				delete(running, w)
			}
		}
		for _, w := range m.targets {
			if running[w] != nil {
				continue
			}
			one, cancel := context.WithCancel(ctx)
			running[w] = cancel
			if w.Check.active() {
				wg.Go(func() { m.check(one, w) })
				wg.Go(func() { m.doubt(one, w) })
			}
			if w.Check.AgentAddress != "" {
				wg.Go(func() { m.ask(one, w) })
			}
		}
		now := m.o.Now()
		m.sweep(now)
		timer.Reset(m.earliest(now).Sub(now))
		m.mu.Unlock()
	}
}

// check runs the active checks of one target.
func (m *Monitor) check(ctx context.Context, w *watched) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.mu.Lock()
		timer.Reset(w.due.Sub(m.o.Now()))
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-w.now: // the time of the next check changed
			continue
		case <-timer.C:
		}

		m.mu.Lock()
		w.due = m.o.Now().Add(w.Check.Timeout + w.Check.Interval) // so that it can be brought forward meanwhile
		m.mu.Unlock()
		r := m.probe(ctx, w.Target, w.Check.Timeout)
		if ctx.Err() != nil {
			return // the result is that of our own end
		}
		m.mu.Lock()
		now := m.o.Now()
		if m.targets[w.ID] == w {
			w.judge.checked(r)
			m.settle(w, now)
		}
		next := now.Add(m.jitter(w.judge.interval(), w.Check.Spread))
		if next.Before(w.due) {
			w.due = next
		}
		m.mu.Unlock()
	}
}

// jitter moves an interval by up to the given share, in both directions.
func (m *Monitor) jitter(d time.Duration, spread float64) time.Duration {
	return d + time.Duration(float64(d)*spread*(2*m.o.Rand()-1))
}

// bring moves the next active check forward. m.mu is held.
func (m *Monitor) bring(w *watched, due time.Time) {
	if !due.Before(w.due) {
		return
	}
	w.due = due
	select {
	case w.now <- struct{}{}:
	default:
	}
}

// settle takes over what the judge says of w now, and tells if that is news. m.mu is held.
func (m *Monitor) settle(w *watched, now time.Time) {
	before := w.judge.verdict
	if !w.judge.settle(now) {
		return
	}
	after := w.judge.verdict
	m.broadcast()
	if before.State == after.State {
		return
	}
	level := slog.LevelInfo
	if after.State == Down && w.judge.decided() {
		level = slog.LevelWarn
	}
	m.o.Log.Log(context.Background(), level, "a server changed its state",
		"server", w.ID, "address", w.Address, "from", string(before.State), "to", string(after.State), "reason", after.Reason)
	if before.State == Up && !m.spared(w) {
		m.amnesty(w, now)
	}
}

// broadcast tells everybody who waits for a change. m.mu is held.
func (m *Monitor) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// wake has Run look at the targets and deadlines again.
func (m *Monitor) wake() {
	select {
	case m.replan <- struct{}{}:
	default:
	}
}

// Changed returns a channel that is closed at the next change of any verdict's state, share or limit, or of the set of targets. Get the
// channel first, then read verdicts: so no change is missed.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Verdict returns what is to be believed of a server now. A server that nobody watches is down.
func (m *Monitor) Verdict(id string) Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.targets[id]
	if w == nil {
		return Verdict{State: Down, Reason: "nobody watches it", Share: 1}
	}
	return w.judge.verdict
}

// Suspect says that a request waits longer for a server than it should. The server is checked at once, beside its usual checks. With
// [Check.Suspicion], one such check that gets no answer in that time marks it down, so that a server which hangs is seen much sooner than
// by its usual checks; but not the last one of its pool, for nobody else could do its work. It may be called as often as one likes.
func (m *Monitor) Suspect(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.targets[id]
	if w == nil {
		return
	}
	if w.Check.Suspicion <= 0 {
		m.bring(w, m.o.Now())
		return
	}
	select {
	case w.suspected <- struct{}{}:
	default:
	}
}

// doubt runs the checks that Suspect asks for. They pass without a trace: that a server answers now is no news.
func (m *Monitor) doubt(ctx context.Context, w *watched) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.suspected:
		}
		r := m.probe(ctx, w.Target, w.Check.Suspicion)
		if ctx.Err() != nil || r.ok {
			continue
		}
		m.mu.Lock()
		now := m.o.Now()
		if m.targets[w.ID] == w && m.spared(w) {
			w.judge.hangs(r)
			m.bring(w, now.Add(w.Check.FastInterval))
			m.settle(w, now)
		}
		m.mu.Unlock()
	}
}

// spared reports whether another server of the pool could take the work of w. m.mu is held.
func (m *Monitor) spared(w *watched) bool {
	for id, other := range m.targets {
		if other != w && group(id) == group(w.ID) && other.judge.verdict.State == Up {
			return true
		}
	}
	return false
}

// group is the pool of a server: the part of its ID before the slash.
func group(id string) string {
	pool, _, _ := strings.Cut(id, "/")
	return pool
}
