package balance

import (
	"maps"
	"time"
)

// This file says which runs may begin, and when the others are to come back. Who is sent away is expected back, and counts as if it
// stood in the queue: so a herd that comes at once comes back spread over the time that it takes to serve it, and not all together.

// maxAway bounds for how long anybody is sent away: agents sleep no longer than their runinterval.
const maxAway = 30 * time.Minute

// Admit says whether a run may begin that would have to wait for at most so long, and if not, when it is to come again. Ask.Key names it:
// whoever was sent away and is back has waited once, and may wait for twice as long here.
func (p *Pool) Admit(ask Ask, most time.Duration) (after time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.dispatch(now, p.look(now))
	back := p.away.isBack(now, ask.Key)
	if back {
		most *= 2
	}
	if len(p.queue) == 0 || p.wait(ask, now) <= most && len(p.queue) < p.o.MaxQueue {
		return 0, true
	}
	after = p.wait(ask, now)
	if places := p.places(now); places > 0 {
		after += time.Duration(p.away.count(now)) * p.run() / time.Duration(places)
	}
	after = min(max(after, time.Second), maxAway)
	p.away.add(now, ask.Key, after)
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

// absences knows who was sent away, by the second in which they are expected back. The zero value is ready to use.
type absences struct {
	due   [maxAway/time.Second + 1]int
	from  int64            // Unix second of the oldest count
	names map[string]int64 // the second of each
}

const (
	late     = 60      // seconds for which somebody is remembered who does not come back in time
	maxNames = 100_000 // more are counted, but not known again
)

// add expects one more back in a while.
func (a *absences) add(now time.Time, name string, in time.Duration) {
	a.forget(now)
	second := now.Add(in).Unix()
	a.due[second%int64(len(a.due))]++
	if a.names == nil {
		a.names = map[string]int64{}
	}
	if name != "" && len(name) <= maxKey && len(a.names) < maxNames {
		a.names[name] = second
	}
}

// isBack reports whether somebody was sent away, and expects it no longer.
func (a *absences) isBack(now time.Time, name string) bool {
	a.forget(now)
	second, known := a.names[name]
	if known && second >= a.from {
		a.due[second%int64(len(a.due))]--
	}
	delete(a.names, name)
	return known
}

// count returns how many are still expected.
func (a *absences) count(now time.Time) int {
	a.forget(now)
	n := 0
	for _, due := range a.due {
		n += due
	}
	return n
}

// forget drops the seconds that have passed: who was due then is back, late or gone.
func (a *absences) forget(now time.Time) {
	second, size := now.Unix(), int64(len(a.due))
	if second < a.from || second-a.from >= size+late {
		*a = absences{from: second}
		return
	}
	if a.from == second {
		return
	}
	for ; a.from < second; a.from++ {
		a.due[a.from%size] = 0
	}
	maps.DeleteFunc(a.names, func(_ string, due int64) bool { return due < second-late })
}
