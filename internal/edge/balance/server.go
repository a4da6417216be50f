package balance

import (
	"sync/atomic"
	"time"

	"troupe/internal/edge/health"
)

// This file knows one server: what it may take now, and what it has.

type server struct {
	Server
	tier    int
	verdict health.Verdict
	wasUp   bool
	ramp    time.Time // when its slow start began; zero: none

	leases map[*Lease]struct{}
	turn   float64 // of round robin
	used   uint64  // which lease it got last
	slow   float64 // how much longer than expected it takes, on average

	total, failed uint64
}

// look reads all verdicts, and reports whether one changed. p.mu is held.
func (p *Pool) look(now time.Time) bool {
	changed := false
	for _, s := range p.servers {
		v := p.o.Verdict(s.Name)
		if v.State != s.verdict.State || v.Share != s.verdict.Share || v.MaxConns != s.verdict.MaxConns {
			changed = true
		}
		if v.State == health.Up {
			p.rise(s, now)
		}
		s.verdict = v
	}
	return changed
}

// rise begins the slow start of a server that comes up. When the pool itself begins, nobody else could take the work meanwhile: there
// is no slow start then. A server that was in drain is still warm. p.mu is held.
func (p *Pool) rise(s *server, now time.Time) {
	if p.firstUp.IsZero() {
		p.firstUp = now
	}
	cold := s.verdict.State != health.Up && s.verdict.State != health.Drain
	if cold && s.SlowStart > 0 && (s.wasUp || now.Sub(p.firstUp) >= s.SlowStart) {
		s.ramp = now
	}
	s.wasUp = true
}

// risen is the share of weight and limit that a slow start has reached.
func (s *server) risen(now time.Time) float64 {
	if s.ramp.IsZero() || s.SlowStart <= 0 {
		return 1
	}
	share := float64(now.Sub(s.ramp)) / float64(s.SlowStart)
	if share >= 1 {
		s.ramp = time.Time{}
		return 1
	}
	return max(share, 0.01)
}

// weight is what counts in choosing; 0 takes nothing new.
func (s *server) weight(now time.Time) float64 {
	return max(float64(s.Weight)*s.verdict.Share, 0) * s.risen(now)
}

// limit is how many requests it may have at one time; 0: as many as come.
func (s *server) limit(now time.Time) int {
	limit := s.MaxConns
	if said := s.verdict.MaxConns; said > 0 && (limit <= 0 || said < limit) {
		limit = said
	}
	if limit <= 0 {
		return 0
	}
	return max(int(float64(limit)*s.risen(now)), 1)
}

// room reports whether one more fits.
func (s *server) room(now time.Time) bool {
	limit := s.limit(now)
	return limit == 0 || len(s.leases) < limit
}

// ahead is the work that s still has to do, as far as it was expected. What takes longer than that is not done either.
func (s *server) ahead(now time.Time) time.Duration {
	var sum time.Duration
	for l := range s.leases {
		sum += max(l.cost-now.Sub(l.start), l.cost/8)
	}
	return sum
}

// A Lease is a place on a server.
type Lease struct {
	p      *Pool
	s      *server
	cost   time.Duration
	start  time.Time
	waited time.Duration
	done   atomic.Bool
}

// lease takes a place on s. p.mu is held.
func (p *Pool) lease(s *server, ask Ask, now, since time.Time) *Lease {
	p.picked++
	s.used = p.picked
	s.total++
	l := &Lease{p: p, s: s, cost: p.cost(ask), start: now, waited: now.Sub(since)}
	s.leases[l] = struct{}{}
	if ask.Class > 0 {
		p.learnRun(0, 1)
	}
	p.metrics.wait(l.waited)
	return l
}

// release gives a place back to whoever waits. p.mu is held.
func (p *Pool) release(l *Lease, now time.Time) {
	l.done.Store(true)
	delete(l.s.leases, l)
	p.dispatch(now, p.look(now))
}

// Server returns the server that the place is on.
func (l *Lease) Server() Server { return l.s.Server }

// Waited returns how long the request stood in the queue.
func (l *Lease) Waited() time.Duration { return l.waited }

// memory is how many requests the averages are of.
const memory = 64

// Done gives the place back, once: a second call does nothing. What took how long is learnt from requests that were ok.
func (l *Lease) Done(took time.Duration, ok bool) {
	if l.done.Swap(true) {
		return
	}
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok && took > 0 {
		p.learnRun(took, 0)
		p.learned = min(p.learned+1, memory)
		p.average += (took - p.average) / time.Duration(p.learned)
		ratio := min(max(float64(took)/float64(max(l.cost, time.Millisecond)), 0.1), 10)
		l.s.slow += (ratio - l.s.slow) / 16
	}
	if !ok {
		l.s.failed++
	}
	p.release(l, p.o.Now())
}

// firstGuess is what a request takes before there was one.
const firstGuess = 300 * time.Millisecond

// usual is what a request takes on average. p.mu is held.
func (p *Pool) usual() time.Duration {
	if p.learned == 0 {
		return firstGuess
	}
	return max(p.average, time.Millisecond)
}

// cost is the work that a request is expected to be. p.mu is held.
func (p *Pool) cost(ask Ask) time.Duration {
	if ask.Cost > 0 {
		return ask.Cost
	}
	return p.usual()
}
