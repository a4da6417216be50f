package fakeagent

// This file runs many agents at once and sums up what they met.

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Fleet is a number of nodes that run at about the same time.
type Fleet struct {
	Agents []*Agent
	Splay  time.Duration // each agent starts at a random moment of it; 0 is the herd: all at once
	AtOnce int           // agents that run at the same time at most; 0 means all
}

// FleetResult sums up one run of every agent.
type FleetResult struct {
	Runs, Failed, Cached, Unreported int
	Took                             time.Duration
	Run                              Latency            // of whole runs
	Kinds                            map[string]Latency // of the requests of each kind
	Problems                         map[string]int     // the first failure of each run, at most maxProblems different ones
}

// Latency is the distribution of some durations.
type Latency struct {
	Count              int
	P50, P90, P99, Max time.Duration
}

// maxProblems bounds the different texts that a FleetResult keeps.
const maxProblems = 50

// Run lets every agent run once and waits for all of them. A cut context ends the runs that are under way.
func (f *Fleet) Run(ctx context.Context) FleetResult {
	atOnce := f.AtOnce
	if atOnce <= 0 {
		atOnce = max(len(f.Agents), 1)
	}
	slots := make(chan struct{}, atOnce)
	sum := newSummary()
	start := time.Now()

	var wg sync.WaitGroup
	for _, a := range f.Agents {
		wg.Go(func() {
			if f.Splay > 0 && sleep(ctx, rand.N(f.Splay)) != nil { //nolint:gosec // spread, not secrecy
				return
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			sum.add(a.Run(ctx))
		})
	}
	wg.Wait()
	return sum.result(time.Since(start))
}

// summary collects durations of a bounded number of kinds.
type summary struct {
	mu       sync.Mutex
	r        FleetResult
	runs     []time.Duration
	requests map[string][]time.Duration
}

func newSummary() *summary {
	return &summary{r: FleetResult{Problems: map[string]int{}}, requests: map[string][]time.Duration{}}
}

func (s *summary) add(r RunResult, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.r.Runs++
	if err != nil || r.Status == "failed" {
		s.r.Failed++
	}
	if r.CachedCatalog {
		s.r.Cached++
	}
	if !r.ReportSent {
		s.r.Unreported++
	}
	problem := ""
	if len(r.Failures) > 0 {
		problem = r.Failures[0]
	} else if err != nil {
		problem = err.Error()
	}
	if _, known := s.r.Problems[problem]; problem != "" && (known || len(s.r.Problems) < maxProblems) {
		s.r.Problems[problem]++
	}
	s.runs = append(s.runs, r.Took)
	for _, q := range r.Requests {
		s.requests[q.Kind] = append(s.requests[q.Kind], q.Took)
	}
}

func (s *summary) result(took time.Duration) FleetResult {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.r.Took, s.r.Run, s.r.Kinds = took, latency(s.runs), map[string]Latency{}
	for kind, took := range s.requests {
		s.r.Kinds[kind] = latency(took)
	}
	return s.r
}

func latency(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(percent int) time.Duration { return all[(len(all)-1)*percent/100] }
	return Latency{Count: len(all), P50: at(50), P90: at(90), P99: at(99), Max: all[len(all)-1]}
}
