package balance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"troupe/internal/edge/health"
)

// This file keeps those who wait: by class, and first come, first served within a class. Whenever a place becomes free, or a verdict
// changes, they are looked at in that order. So nobody who waits could be served at once, and whoever comes may take what is free.

// Why there is no place. Acquire returns them in a [BusyError].
var (
	ErrNoServer     = errors.New("no server can take it")
	ErrQueueFull    = errors.New("the queue is full")
	ErrQueueTimeout = errors.New("no server was free in time")
)

// A BusyError says why a request got no place, and when to come again.
type BusyError struct {
	Pool  string
	Err   error         // ErrNoServer, ErrQueueFull or ErrQueueTimeout
	Wait  time.Duration // how long the queue takes, as far as can be told; 0: it cannot
	Queue int           // how many wait
	Why   string        // of ErrNoServer: what keeps each server from taking it
}

// Error tells operators what is busy.
func (e *BusyError) Error() string {
	s := fmt.Sprintf("pool %s: %v", e.Pool, e.Err)
	if e.Why != "" {
		s += ": " + e.Why
	}
	if e.Queue > 0 {
		s += fmt.Sprintf(" (%d wait)", e.Queue)
	}
	return s
}

// Unwrap returns which error it is.
func (e *BusyError) Unwrap() error { return e.Err }

// A waiter stands in the queue until it is answered.
type waiter struct {
	ask      Ask
	number   uint64 // of arrival
	since    time.Time
	answered chan struct{} // closed when lease or err is set
	lease    *Lease
	err      error
}

func (w *waiter) answer(l *Lease, err error) {
	w.lease, w.err = l, err
	close(w.answered)
}

// order sorts waiters: by class, then by arrival.
func order(a, b *waiter) int {
	if a.ask.Class != b.ask.Class {
		return a.ask.Class - b.ask.Class
	}
	if a.number < b.number {
		return -1
	}
	return 1
}

// enqueue lets a request wait. In a full queue it takes the place of the last one that is of a later class: overload refuses runs that
// begin, not what is inside a run. p.mu is held.
func (p *Pool) enqueue(ask Ask, now time.Time) (*waiter, error) {
	if len(p.queue) >= p.o.MaxQueue {
		if len(p.queue) == 0 || p.queue[len(p.queue)-1].ask.Class <= ask.Class {
			return nil, p.busy(ErrQueueFull, ask, now)
		}
		last := p.queue[len(p.queue)-1]
		p.queue = p.queue[:len(p.queue)-1]
		last.answer(nil, p.busy(ErrQueueFull, last.ask, now))
	}
	p.arrived++
	w := &waiter{ask: ask, number: p.arrived, since: now, answered: make(chan struct{})}
	at, _ := slices.BinarySearchFunc(p.queue, w, order)
	p.queue = slices.Insert(p.queue, at, w)
	return w, nil
}

// remove takes a waiter out. p.mu is held.
func (p *Pool) remove(w *waiter) {
	at, found := slices.BinarySearchFunc(p.queue, w, func(a, b *waiter) int {
		if a == b {
			return 0
		}
		return order(a, b)
	})
	if found {
		p.queue = slices.Delete(p.queue, at, at+1)
	}
}

// dispatch gives free places to those who wait. With all, it also answers those whom no server can take any more. p.mu is held.
func (p *Pool) dispatch(now time.Time, all bool) {
	p.moved = false
	for i := 0; i < len(p.queue) && p.anyRoom(now); {
		w := p.queue[i]
		s, possible := p.choose(w.ask, now)
		switch {
		case s != nil:
			w.answer(p.lease(s, w.ask, now, w.since), nil)
		case !possible && !w.ask.Patient:
			w.answer(nil, p.busy(ErrNoServer, w.ask, now))
		default:
			i++
			continue
		}
		p.queue = slices.Delete(p.queue, i, i+1)
		if p.moved { // who was passed over may be served now
			p.moved, i = false, 0
		}
	}
	if !all {
		return
	}
	panics := p.panics(now)
	var hopeless []*waiter
	p.queue = slices.DeleteFunc(p.queue, func(w *waiter) bool {
		if w.ask.Patient || p.possible(w.ask, panics, now) {
			return false
		}
		hopeless = append(hopeless, w)
		return true
	})
	for _, w := range hopeless {
		w.answer(nil, p.busy(ErrNoServer, w.ask, now))
	}
}

// anyRoom reports whether it is worth looking at those who wait. p.mu is held.
func (p *Pool) anyRoom(now time.Time) bool {
	return slices.ContainsFunc(p.servers, func(s *server) bool {
		takes := s.verdict.State == health.Up || s.verdict.State == health.Drain || s.verdict.State == health.Down && p.o.Panic > 0
		return takes && s.room(now)
	})
}

// possible reports whether a server could take a request if it had room. p.mu is held.
func (p *Pool) possible(ask Ask, panics bool, now time.Time) bool {
	for _, s := range p.servers {
		if p.bar(s, ask, panics, now) == "" || keeps(s, ask, now) && s == p.stuck(ask) {
			return true
		}
	}
	return false
}

// busy makes the error for a request that gets no place. p.mu is held.
func (p *Pool) busy(err error, ask Ask, now time.Time) *BusyError {
	b := &BusyError{Pool: p.o.Name, Err: err, Queue: len(p.queue), Wait: p.wait(ask, now)}
	if errors.Is(err, ErrNoServer) {
		var why []string
		for _, s := range p.servers {
			why = append(why, s.Name+" "+p.bar(s, ask, p.panics(now), now))
		}
		b.Why = strings.Join(why, "; ")
		if len(why) == 0 {
			b.Why = "it has no servers"
		}
	}
	p.metrics.refuse(err)
	return b
}

// wait estimates when a request that comes now has its turn: the work of those before it, over the places that there are. A run that
// begins before it brings all its requests. p.mu is held.
func (p *Pool) wait(ask Ask, now time.Time) time.Duration {
	places := p.places(now)
	if places == 0 {
		return 0
	}
	work := p.cost(ask)
	for _, w := range p.queue {
		switch {
		case w.ask.Class > ask.Class:
		case w.ask.Class > 0:
			work += max(p.cost(w.ask), p.run())
		default:
			work += p.cost(w.ask)
		}
	}
	return max(work/time.Duration(places), 1)
}

// places counts the requests that can be served at one time. p.mu is held.
func (p *Pool) places(now time.Time) int {
	places := 0
	for _, s := range p.servers {
		if s.verdict.State == health.Up && s.weight(now) > 0 {
			limit := s.limit(now)
			if limit == 0 {
				limit = max(len(s.leases), 1)
			}
			places += limit
		}
	}
	return places
}

// Queue returns how many requests wait.
func (p *Pool) Queue() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// AverageQueue returns how many wait for each usable server, as HAProxy's avg_queue does. Without a usable server it is all of them.
func (p *Pool) AverageQueue() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.look(now)
	return p.averageQueue(now)
}

func (p *Pool) averageQueue(now time.Time) float64 {
	return float64(len(p.queue)) / float64(max(p.usable(now), 1))
}

// Usable returns how many servers take new work.
func (p *Pool) Usable() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.look(now)
	return p.usable(now)
}

// usable counts servers that are up; backups only when there are no others. p.mu is held.
func (p *Pool) usable(now time.Time) int {
	n, backups := 0, 0
	none := p.o.PanicNone && p.panics(now)
	for _, s := range p.servers {
		switch {
		case s.verdict.State != health.Up || s.weight(now) == 0:
		case s.Backup:
			backups++
		case none:
		default:
			n++
		}
	}
	if n > 0 {
		return n
	}
	if !p.o.AllBackups {
		return min(backups, 1)
	}
	return backups
}
