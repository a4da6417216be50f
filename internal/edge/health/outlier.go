package health

import (
	"fmt"
	"time"
)

// This file learns from requests: a server that fails them is taken out, either by what its check says of such errors, or for a time,
// because it is worse than the others of its pool (slow.go has another way to be that). A pool never loses its last server in this way: nothing would be better by that.

// An Outcome is what one request, or one connection, has shown of a server.
type Outcome struct {
	OK    bool
	Layer int // 4: the connection (and its handshake); 7: the answer
	Took  time.Duration
	Err   string // for people
	// Client is who asked; empty if that is not known. What one client alone asks for may be what breaks.
	Client string
	// Doubtful is a failure that may be the fault of what was asked, such as broken code. It counts only where servers are compared.
	Doubtful bool
}

// Outlier says when a server is ejected, and for how long.
type Outlier struct {
	Consecutive int           // failures in a row; 0 means 5
	Margin      float64       // ejected when its share of successes is by so much below that of the others; 0 means 0.2
	MinRequests int           // that a server must have had in an interval to be compared; 0 means 20
	Interval    time.Duration // of comparisons; 0 means 10 s
	BaseTime    time.Duration // of the first ejection; the second is twice as long, and so on; 0 means 30 s
	MaxTime     time.Duration // 0 means 5 min
	MaxPercent  int           // of a pool that may be ejected at one time; one always may; 0 means 10
	Slow        float64       // ejected when its checks take so many times longer than those of the others; 0: never
	SlowLeast   time.Duration // and by so much at least; 0 means 300 ms
}

func (o Outlier) withDefaults() Outlier {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	number := func(n *int, value int) {
		if *n <= 0 {
			*n = value
		}
	}
	number(&o.Consecutive, 5)
	number(&o.MinRequests, 20)
	number(&o.MaxPercent, 10)
	def(&o.Interval, 10*time.Second)
	def(&o.BaseTime, 30*time.Second)
	def(&o.MaxTime, 5*time.Minute)
	def(&o.SlowLeast, 300*time.Millisecond)
	if o.Margin <= 0 {
		o.Margin = 0.2
	}
	return o
}

// unchecked is how a server is ejected that has no check by which it could come back.
var unchecked = Outlier{BaseTime: 5 * time.Second, MaxPercent: 100}.withDefaults()

type ejection struct {
	until  time.Time
	why    string
	wanted string // the reason of an ejection that is to be decided on
	times  int    // grows the next one; less by one for each interval that passed well
	total  int

	row     int // failures in a row
	ok, bad int // in this interval
}

func (e *ejection) count(o Outcome) {
	if o.OK {
		e.ok++
		e.row = 0
		return
	}
	e.bad++
	e.row++
}

// Observe hands in what a request has shown of a server.
func (m *Monitor) Observe(id string, o Outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.targets[id]
	if w == nil {
		return
	}
	now := m.o.Now()
	if w.judge.observed(o, now) {
		m.bring(w, now.Add(w.Check.FastInterval))
	}
	e := &w.judge.eject
	if out := w.Check.Outlier; out != nil && e.row >= out.Consecutive {
		e.row = 0
		e.wanted = fmt.Sprintf("%d requests in a row failed, the last with: %s", out.Consecutive, o.Err)
	}
	if e.wanted != "" {
		m.ejectOne(w, now)
	}
	m.settle(w, now)
}

// ejectOne ejects w for the reason that it wants, if its pool can spare it. m.mu is held.
func (m *Monitor) ejectOne(w *watched, now time.Time) {
	e := &w.judge.eject
	why := e.wanted
	e.wanted = ""
	if now.Before(e.until) {
		return
	}
	rules := unchecked
	if w.Check.Outlier != nil {
		rules = *w.Check.Outlier
		if w.Check.Observe && !w.Check.active() {
			rules.MaxPercent = 100
		}
	}
	size, out := 0, 0
	for id, other := range m.targets {
		if group(id) != group(w.ID) {
			continue
		}
		size++
		if now.Before(other.judge.eject.until) {
			out++
		}
	}
	if !m.spared(w) || out >= max(1, size*rules.MaxPercent/100) {
		return
	}
	if !e.until.IsZero() {
		e.times = max(0, e.times-int(now.Sub(e.until)/rules.Interval))
	}
	e.times++
	e.total++
	e.until = now.Add(min(time.Duration(e.times)*rules.BaseTime, rules.MaxTime))
	e.why = why
	m.wake()
}

// amnesty ends the ejections in a pool that has just lost its last server, w, for another reason. m.mu is held.
func (m *Monitor) amnesty(w *watched, now time.Time) {
	for id, other := range m.targets {
		if e := &other.judge.eject; other != w && group(id) == group(w.ID) && now.Before(e.until) {
			e.until = now
			m.settle(other, now)
		}
	}
}

// sweep looks at what changes with time alone: ejections end, pools are compared. m.mu is held.
func (m *Monitor) sweep(now time.Time) {
	pools := map[string][]*watched{}
	for _, id := range m.order {
		if w := m.targets[id]; w.Check.Outlier != nil {
			pools[group(id)] = append(pools[group(id)], w)
		}
	}
	for pool := range m.compared {
		if pools[pool] == nil {
			delete(m.compared, pool)
		}
	}
	for pool, servers := range pools {
		last, known := m.compared[pool]
		if known && now.Before(last.Add(servers[0].Check.Outlier.Interval)) {
			continue
		}
		m.compared[pool] = now
		m.compare(servers, now)
	}
	for _, w := range m.targets {
		m.settle(w, now)
	}
	for _, w := range m.targets {
		if e := &w.judge.eject; now.Before(e.until) && !m.spared(w) { // the others were taken away
			e.until = now
			m.settle(w, now)
		}
	}
}

// compare ejects who was worse than the others of its pool in the interval that ends now. m.mu is held.
func (m *Monitor) compare(servers []*watched, now time.Time) {
	var ok, all int
	for _, w := range servers {
		ok += w.judge.eject.ok
		all += w.judge.eject.ok + w.judge.eject.bad
	}
	for _, w := range servers {
		e, o := &w.judge.eject, w.Check.Outlier
		mine := e.ok + e.bad
		others := all - mine
		if mine >= o.MinRequests && others >= o.MinRequests {
			share, theirs := float64(e.ok)/float64(mine), float64(ok-e.ok)/float64(others)
			if share < theirs-o.Margin {
				e.wanted = fmt.Sprintf("%.0f %% of %d requests succeeded, %.0f %% of those to the others", 100*share, mine, 100*theirs)
			}
		}
	}
	compareSlow(servers, now)
	for _, w := range servers {
		if w.judge.eject.wanted != "" {
			m.ejectOne(w, now)
		}
		w.judge.eject.ok, w.judge.eject.bad = 0, 0
	}
}

// earliest is the next time at which sweep has something to do. m.mu is held.
func (m *Monitor) earliest(now time.Time) time.Time {
	next := now.Add(time.Minute)
	sooner := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	for _, w := range m.targets {
		sooner(w.judge.eject.until)
		if w.Check.Outlier != nil {
			sooner(m.compared[group(w.ID)].Add(w.Check.Outlier.Interval))
		}
	}
	return next
}
