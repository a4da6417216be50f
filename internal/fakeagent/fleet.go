package fakeagent

// This file runs many agents, once or for a while.

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Fleet is a number of nodes and the times at which they run. There are three ways: once (Duration is 0); again and
// again at an interval, as nodes do (Duration and Interval); and as fast as AtOnce of them can (Duration alone), which
// measures capacity.
type Fleet struct {
	Agents   []*Agent
	Splay    time.Duration // a single run starts at a random moment of it; 0 is the herd: all at once
	Duration time.Duration // runs begin for so long; 0 means that each agent runs once
	Interval time.Duration // between the beginnings of two runs of an agent, each with a phase of its own
	AtOnce   int           // agents that run at the same time at most; 0 means all, or 8 if they run as fast as they can

	Observe  func(RunResult, error) // called after each run, by many goroutines at once
	Progress func(FleetResult)      // called every second by one goroutine
}

// Run lets the agents run and waits for all of them. A cut context ends the runs that are under way.
func (f *Fleet) Run(ctx context.Context) FleetResult {
	t := newTally(time.Now(), f.Observe)
	var watch sync.WaitGroup
	watched, stop := context.WithCancel(ctx)
	if f.Progress != nil {
		watch.Go(func() { f.watch(watched, t) })
	}

	switch {
	case f.Duration == 0:
		f.once(ctx, t)
	case f.Interval > 0:
		f.repeat(ctx, t)
	default:
		f.race(ctx, t)
	}
	stop()
	watch.Wait()
	return t.result()
}

func (f *Fleet) watch(ctx context.Context, t *tally) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.Progress(t.result())
		case <-ctx.Done():
			return
		}
	}
}

// slots bounds how many agents run at the same time.
func (f *Fleet) slots(otherwise int) chan struct{} {
	n := f.AtOnce
	if n <= 0 {
		n = max(otherwise, 1)
	}
	return make(chan struct{}, n)
}

func (f *Fleet) once(ctx context.Context, t *tally) {
	slots := f.slots(len(f.Agents))
	var wg sync.WaitGroup
	for _, a := range f.Agents {
		wg.Go(func() {
			if f.Splay > 0 && sleep(ctx, rand.N(f.Splay)) != nil { //nolint:gosec // spread, not secrecy
				return
			}
			f.runInTurn(ctx, a, slots, t)
		})
	}
	wg.Wait()
}

// repeat gives each agent a random phase of the interval, which it keeps. An agent that still runs when its time has
// come misses it, as the lock file of a real one makes sure.
func (f *Fleet) repeat(ctx context.Context, t *tally) {
	slots := f.slots(len(f.Agents))
	begin := time.Now()
	var wg sync.WaitGroup
	for _, a := range f.Agents {
		wg.Go(func() {
			phase := rand.N(f.Interval) //nolint:gosec // spread, not secrecy
			for due := phase; due < f.Duration; due += f.Interval {
				late := time.Since(begin) - due
				if late > f.Interval {
					t.miss()
					continue
				}
				if late < 0 && sleep(ctx, -late) != nil {
					return
				}
				f.runInTurn(ctx, a, slots, t)
			}
		})
	}
	wg.Wait()
}

// race keeps a number of agents running: who has run goes to the end of the line.
func (f *Fleet) race(ctx context.Context, t *tally) {
	slots := f.slots(8)
	line := make(chan *Agent, len(f.Agents))
	for _, a := range f.Agents {
		line <- a
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for range min(cap(slots), len(f.Agents)) {
		wg.Go(func() {
			for ctx.Err() == nil && time.Since(begin) < f.Duration {
				a := <-line
				f.runInTurn(ctx, a, slots, t)
				line <- a
			}
		})
	}
	wg.Wait()
}

func (f *Fleet) runInTurn(ctx context.Context, a *Agent, slots chan struct{}, t *tally) {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-slots }()
	t.begin()
	t.end(a.Run(ctx))
}
