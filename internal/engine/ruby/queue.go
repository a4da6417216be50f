package ruby

import (
	"context"
	"fmt"
	"slices"
	"time"

	"troupe/internal/engine"
	"troupe/internal/fault"
)

// This file decides who waits, who is refused, and which worker a request gets.

func errClosing() error {
	return fault.New(fault.Unavailable, "the Ruby engine is not running")
}

// enter admits a request to the queue; leave is called when it is done. Whoever
// was sent away and is back waits as the patient do: its turn was estimated, and
// it would sleep through what the next estimate gets wrong.
func (p *Pool) enter(q engine.Request) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != serving {
		return nil, errClosing()
	}
	now := time.Now()
	if back := p.away.IsBack(now, string(q.Certname)); p.full(q.Patient || back) {
		p.metrics.refused.Inc()
		after := p.estimate()
		if !q.Patient {
			p.away.Add(now, string(q.Certname), after)
		}
		return nil, &fault.Error{
			Kind: fault.Unavailable, After: after,
			Msg: fmt.Sprintf("The compile queue is full (%d requests are compiling or waiting)", p.waiting),
		}
	}
	p.waiting++
	p.running++
	return p.leave, nil
}

// Whoever cannot come back waits at its open connection. Agents give up after ten
// minutes (http_read_timeout), so a wait that might take longer is refused at
// once. maxWaiting bounds the memory: each request holds its facts.
const (
	maxPatience = 8 * time.Minute
	maxWaiting  = 4096
)

// full reports whether a request finds no place in the queue. p.mu is held.
func (p *Pool) full(patient bool) bool {
	// Free workers are no queue: a waiting request may only be starting.
	waiting := p.waiting - (p.o.Workers - len(p.slots))
	if waiting < p.limit() {
		return false
	}
	return !patient || waiting >= maxWaiting || p.behind(waiting) > maxPatience
}

// maxHaste is for how long everybody waits. To send an agent away and to shake
// hands with it again costs as much as a small catalog: a server that does so
// with all of them, for a queue of seconds, never gets rid of that queue.
const maxHaste = 20 * time.Second

// limit is how many may wait before the first is refused: what the operator says,
// or as many as are compiled in maxHaste. p.mu is held.
func (p *Pool) limit() int {
	if p.o.MaxQueue > 0 {
		return p.o.MaxQueue
	}
	return min(max(16*p.o.Workers, int(maxHaste/p.behind(0))), maxWaiting)
}

func (p *Pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	p.running--
	p.wake()
}

// maxAway bounds for how long a request is sent away.
const maxAway = 10 * time.Minute

// estimate says when a request that came now would have its turn: behind those
// that wait and those that were sent away and are still to come back. So a herd
// that comes at once comes back spread over the time that it takes to serve it.
// p.mu is held.
func (p *Pool) estimate() time.Duration {
	return min(max(p.behind(p.waiting+p.away.Count(time.Now())), time.Second), maxAway)
}

// behind is how long a request waits that has so many before it. p.mu is held.
func (p *Pool) behind(others int) time.Duration {
	average := p.average
	if average == 0 {
		average = firstGuess
	}
	return max(average*time.Duration(others+1)/time.Duration(p.o.Workers), 1)
}

// firstGuess is a compile's length before there was one.
const firstGuess = 300 * time.Millisecond

// count moves a request between the queue and a worker.
func (p *Pool) count(waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting += waiting
}

// memory is how many compiles the average is of.
const memory = 64

// learn adds a compile to the average: what it takes where it gets a CPU when it
// wants one. In the first seconds of a herd handshakes have the CPUs, and compiles
// take several times as long as they will. An estimate that is too short only
// lets agents wait here rather than at home.
func (p *Pool) learn(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	took = max(took, time.Millisecond)
	p.learned = min(p.learned+1, memory)
	p.average += (took - p.average) / time.Duration(p.learned)
}

// takeSlot waits for its turn among those who want a worker: first come, first
// served, as channels wake their senders in order.
func (p *Pool) takeSlot(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-p.closed:
		return errClosing()
	case <-ctx.Done():
		return fault.Wrap(fault.Unavailable, ctx.Err(), "the request ended while it was waiting for a worker")
	}
}

func (p *Pool) leaveSlot() { <-p.slots }

// worker returns an idle worker of the zygote, or a new one. The caller holds a
// slot, so there is room for it if another version's idle worker goes.
func (p *Pool) worker(ctx context.Context, z *zygote, fresh bool) (*worker, error) {
	p.mu.Lock()
	if n := len(z.idle); n > 0 && !fresh {
		w := z.idle[n-1]
		z.idle = z.idle[:n-1]
		p.mu.Unlock()
		return w, nil
	}
	var owner *zygote
	var surplus *worker
	if p.alive >= p.o.Workers {
		owner, surplus = p.leastUsed()
	}
	p.alive++
	p.mu.Unlock()

	if surplus != nil {
		p.discard(owner, surplus)
	}
	w, err := z.fork(ctx, p.o.Log)
	if err != nil {
		p.mu.Lock()
		p.alive--
		p.mu.Unlock()
		return nil, err
	}
	p.metrics.forks.Inc()
	return w, nil
}

// leastUsed takes the worker that was idle longest out of its zygote. p.mu is
// held.
func (p *Pool) leastUsed() (owner *zygote, w *worker) {
	for _, z := range p.zygotes {
		if len(z.idle) > 0 && (w == nil || z.idle[0].used.Before(w.used)) {
			owner, w = z, z.idle[0]
		}
	}
	if w != nil {
		owner.idle = slices.Delete(owner.idle, 0, 1)
	}
	return owner, w
}

// giveBack makes a worker idle, or ends it.
func (p *Pool) giveBack(z *zygote, w *worker, spent bool) {
	p.mu.Lock()
	if !spent && !z.retired {
		w.used = time.Now()
		z.idle = append(z.idle, w)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.discard(z, w)
}

// discard ends a worker and waits for it.
func (p *Pool) discard(z *zygote, w *worker) {
	w.kill()
	awaitExit(w.process, stopGrace)
	z.control.forget(w.pid)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive--
}

// learn completes what is known about a lost worker.
func (e *lostError) learn(death event, w *worker) {
	e.ending = death.ending()
	byUs := w.dead.Load() && e.cause != died
	// Killed by somebody else, or its zygote is gone too and nobody saw.
	e.fromOutside = !byUs && (death.Signal == nil && death.Exit == nil || death.Signal != nil && *death.Signal == 9)
}
