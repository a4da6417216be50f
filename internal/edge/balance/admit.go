package balance

import (
	"time"

	"troupe/internal/absence"
)

// This file says which runs may begin, and when the others are to come back. Who is sent away is expected back (package
// absence), and counts as if it stood in the queue.

// Admit says whether a run may begin that would have to wait for at most so long, and if not, when it is to come again. Ask.Key names it:
// whoever was sent away and is back has waited once, and may wait for twice as long here.
func (p *Pool) Admit(ask Ask, most time.Duration) (after time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.dispatch(now, p.look(now))
	back := p.away.IsBack(now, ask.Key)
	if back {
		most *= 2
	}
	if len(p.queue) == 0 || p.wait(ask, now) <= most && len(p.queue) < p.o.MaxQueue {
		return 0, true
	}
	after = p.wait(ask, now)
	if places := p.places(now); places > 0 {
		after += time.Duration(p.away.Count(now)) * p.run() / time.Duration(places)
	}
	after = min(max(after, time.Second), absence.Most)
	p.away.Add(now, ask.Key, after)
	return after, false
}

// learnRun counts the work and the runs that it was for. The sums forget by halves. p.mu is held.
func (p *Pool) learnRun(took time.Duration, runs int) {
	p.work += took
	p.runs += runs
	if p.runs >= 1024 {
		p.work /= 2
		p.runs /= 2
	}
}

// run is what a run that begins will cost in all: its other requests come before those of runs that wait. p.mu is held.
func (p *Pool) run() time.Duration {
	if p.runs < 8 {
		return p.usual()
	}
	return p.work / time.Duration(p.runs)
}
