package balance

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"troupe/internal/edge/health"
)

// TestPoolKeepsItsPromises drives a pool through random events, and holds after each of them that
//   - no server that is down or in maintenance gets work, one in drain only what sticks to it and belongs to a run,
//   - no server gets more than its limit,
//   - nobody waits who could be served, and nobody overtakes one of its class that can use the same servers,
//   - the queue is bounded and in order,
//
// and at the end that everybody was answered once and every place was given back.
func TestPoolKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"acquire":  m.acquire,
			"done":     m.done,
			"give up":  m.giveUp,
			"verdict":  m.verdict,
			"set":      m.set,
			"time":     m.pass,
			"refresh":  func(*rapid.T) { m.act(m.p.Refresh) },
			"done all": m.doneAll,
		})
		m.end(t)
	})
}

// model is what the test knows of the pool.
type model struct {
	p                 *Pool
	j                 *judgement
	now               time.Time
	waiting           []*waiter
	leases            []*Lease
	granted           []grant // of this step
	entered, answered int
}

type grant struct {
	ask    Ask
	lease  *Lease
	number uint64 // of its arrival
}

var serverNames = []string{"a", "b", "c", "d"}

func drawServers(t *rapid.T) []Server {
	return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Server {
		return Server{
			Name:     rapid.SampledFrom(serverNames).Draw(t, "name"),
			Weight:   rapid.SampledFrom([]int{0, 50, 100, 256}).Draw(t, "weight"),
			MaxConns: rapid.IntRange(0, 3).Draw(t, "maxconns"),
			Backup:   rapid.IntRange(0, 4).Draw(t, "backup") == 0,
			Tier:     rapid.IntRange(0, 1).Draw(t, "tier"),
		}
	}), 0, 4, func(s Server) string { return s.Name }).Draw(t, "servers")
}

func newModel(t *rapid.T) *model {
	m := &model{now: time.Unix(1_000_000, 0), j: &judgement{}}
	m.p = New(Options{
		Name:      "p",
		Method:    rapid.SampledFrom([]string{RoundRobin, LeastConnections, Random, LeastWork, Hash, First}).Draw(t, "method"),
		Stick:     rapid.SampledFrom([]string{"", "certname"}).Draw(t, "stick"),
		StickSize: 3,
		MaxQueue:  rapid.IntRange(1, 6).Draw(t, "queue"),
		Spill:     rapid.SampledFrom([]float64{0, 1}).Draw(t, "spill"),
		SlowStart: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "slow start"), AllBackups: rapid.Bool().Draw(t, "all backups"),
		Verdict: m.j.Verdict,
		Now:     func() time.Time { return m.now },
		Rand:    func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "draw") },
	})
	m.p.Set(drawServers(t))
	return m
}

// act does something that may serve those who wait, and collects what they got.
func (m *model) act(do func()) {
	m.granted = nil
	do()
	m.waiting = slices.DeleteFunc(m.waiting, func(w *waiter) bool {
		select {
		case <-w.answered:
			m.answered++
			if w.lease != nil {
				m.granted = append(m.granted, grant{w.ask, w.lease, w.number})
				m.leases = append(m.leases, w.lease)
			}
			return true
		default:
			return false
		}
	})
}

func (m *model) acquire(t *rapid.T) {
	ask := Ask{
		Key:         rapid.SampledFrom([]string{"", "web1", "web2", "web3", "web4"}).Draw(t, "key"),
		Environment: rapid.SampledFrom([]string{"production", "test"}).Draw(t, "environment"),
		Class:       rapid.IntRange(0, 1).Draw(t, "class"),
		Cost:        time.Duration(rapid.IntRange(0, 3).Draw(t, "cost")) * time.Second,
		Run:         rapid.Bool().Draw(t, "run"),
		Prefer:      rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(t, "prefer"),
		Patient:     rapid.IntRange(0, 3).Draw(t, "patient") == 0,
	}
	if rapid.IntRange(0, 3).Draw(t, "excludes") == 0 {
		ask.Exclude = []string{rapid.SampledFrom(serverNames).Draw(t, "exclude")}
	}
	m.entered++
	m.act(func() {
		w, l, err := m.p.enter(ask)
		switch {
		case w != nil && err == nil && l == nil:
			m.waiting = append(m.waiting, w)
		case l != nil && err == nil:
			m.answered++
			m.granted = append(m.granted, grant{ask, l, math.MaxUint64})
			m.leases = append(m.leases, l)
		case err != nil:
			m.answered++
		default:
			t.Fatalf("no place, no waiter and no error")
		}
	})
}

func (m *model) done(t *rapid.T) {
	m.granted = nil
	if len(m.leases) == 0 {
		return // nothing is held
	}
	i := rapid.IntRange(0, len(m.leases)-1).Draw(t, "lease")
	l := m.leases[i]
	m.leases = slices.Delete(m.leases, i, i+1)
	m.act(func() { l.Done(time.Second, rapid.Bool().Draw(t, "ok")) })
	before := m.p.Stats()
	l.Done(time.Second, true) // does nothing
	if after := m.p.Stats(); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Fatalf("a second Done changed the pool from %+v to %+v", before, after)
	}
}

func (m *model) doneAll(*rapid.T) {
	m.act(func() {
		held := m.leases
		m.leases = nil
		for _, l := range held {
			l.Done(time.Second, true)
		}
	})
}

func (m *model) giveUp(t *rapid.T) {
	m.granted = nil
	if len(m.waiting) == 0 {
		return // nobody waits
	}
	i := rapid.IntRange(0, len(m.waiting)-1).Draw(t, "waiter")
	w := m.waiting[i]
	m.waiting = slices.Delete(m.waiting, i, i+1)
	l, err := m.p.leave(w, ErrQueueTimeout)
	if l != nil || err == nil {
		t.Fatalf("who gave up got %v, %v", l, err)
	}
	m.answered++
}

func (m *model) verdict(t *rapid.T) {
	m.j.verdict(rapid.SampledFrom(serverNames).Draw(t, "server"), health.Verdict{
		State:    rapid.SampledFrom([]health.State{health.Up, health.Up, health.Down, health.Drain, health.Maint}).Draw(t, "state"),
		Share:    rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "share"),
		MaxConns: rapid.IntRange(0, 2).Draw(t, "maxconns"),
	})
	m.act(m.p.Refresh)
}

func (m *model) set(t *rapid.T) {
	servers := drawServers(t)
	m.act(func() { m.p.Set(servers) })
}

func (m *model) pass(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
	m.act(m.p.Refresh)
}

func (m *model) check(t *rapid.T) {
	for _, g := range m.granted {
		s := g.lease.s
		v := m.j.Verdict(s.Name)
		takes := v.State == health.Up && v.Share > 0 || g.ask.Run && (v.State == health.Drain || v.State == health.Up)
		if !takes {
			t.Fatalf("%+v got %s, which is %+v", g.ask, s.Name, v)
		}
		if slices.Contains(g.ask.Exclude, s.Name) {
			t.Fatalf("%+v got %s, which it excludes", g.ask, s.Name)
		}
		if limit := s.limit(m.now); limit > 0 && len(s.leases) > limit {
			t.Fatalf("%s got its request %d of %d", s.Name, len(s.leases), limit)
		}
		for _, w := range m.waiting { // nobody overtakes: who still waits came later, or needs another server
			if w.ask.Class <= g.ask.Class && w.number < g.number && alike(w.ask, g.ask) {
				t.Fatalf("%+v was overtaken by %+v", w.ask, g.ask)
			}
		}
	}
	m.granted = nil
	if len(m.p.queue) != len(m.waiting) || len(m.waiting) > m.p.o.MaxQueue {
		t.Fatalf("%d in the queue, %d wait, %d may", len(m.p.queue), len(m.waiting), m.p.o.MaxQueue)
	}
	if !slices.IsSortedFunc(m.p.queue, order) {
		t.Fatalf("the queue is out of order")
	}
	for _, w := range m.waiting {
		f := m.p.field(w.ask, m.now)
		if f.stuck != nil && f.stuck.room(m.now) || f.pick(m.p, w.ask, m.now) != nil {
			t.Fatalf("%+v waits, though there is room", w.ask)
		}
		if f.stuck == nil && len(f.tiers) == 0 && !w.ask.Patient {
			t.Fatalf("%+v waits, though no server can take it", w.ask)
		}
	}
}

// alike reports whether two requests can use the same servers.
func alike(a, b Ask) bool {
	return a.Key == "" && b.Key == "" && a.Prefer == b.Prefer && a.Run == b.Run && slices.Equal(a.Exclude, b.Exclude)
}

// end brings all servers back and everything to its end.
func (m *model) end(t *rapid.T) {
	for _, s := range serverNames {
		m.j.say(s, health.Up)
	}
	m.act(func() { m.p.Set([]Server{{Name: "a"}, {Name: "b", MaxConns: 1}}) })
	m.check(t)
	for range 100 {
		m.doneAll(t)
		m.check(t)
	}
	if len(m.waiting) > 0 || len(m.leases) > 0 || m.entered != m.answered {
		t.Fatalf("%d wait, %d places are held, %d of %d were answered", len(m.waiting), len(m.leases), m.answered, m.entered)
	}
	for _, s := range m.p.Stats().Servers {
		if s.Current != 0 {
			t.Fatalf("%s still has %d requests", s.Name, s.Current)
		}
	}
}

// TestTablesAgree holds that tables which heard the same entries, in any order and more than once, are the same.
func TestTablesAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		clock := func() time.Time { return now }
		entries := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Entry {
			return Entry{
				Key:    rapid.SampledFrom([]string{"web1", "web2", "web3"}).Draw(t, "key"),
				Server: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "server"),
				Used:   now.Add(time.Duration(rapid.IntRange(-3, 0).Draw(t, "age")) * time.Minute),
			}
		})).Draw(t, "entries")
		one, two := NewTable(time.Hour, 10, clock), NewTable(time.Hour, 10, clock)
		one.Merge(entries)
		shuffled := append(rapid.Permutation(entries).Draw(t, "order"), entries...)
		for _, e := range shuffled {
			two.Merge([]Entry{e})
		}
		three := NewTable(time.Hour, 10, clock)
		changes, _ := two.Changes(0)
		three.Merge(changes)
		state := func(t *Table) map[string]Entry {
			m := map[string]Entry{}
			for k, v := range t.entries {
				m[k] = v.Entry
			}
			return m
		}
		if a, b, c := state(one), state(two), state(three); fmt.Sprint(a) != fmt.Sprint(b) || fmt.Sprint(b) != fmt.Sprint(c) {
			t.Fatalf("tables differ:\n%v\n%v\n%v", a, b, c)
		}
		if n := three.Merge(changes); n != 0 {
			t.Fatalf("what is known was taken over again: %d entries", n)
		}
		used := one.byUse.Front()
		for used != nil && used.Next() != nil {
			a, _ := used.Value.(*kept)
			b, _ := used.Next().Value.(*kept)
			if a.Used.After(b.Used) {
				t.Fatalf("entries are not in the order of their use: %v before %v", a.Entry, b.Entry)
			}
			used = used.Next()
		}
	})
}
