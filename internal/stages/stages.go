// Package stages runs the parts of a process in order, stops them in reverse, and tells the service manager.
package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Stage is one long-running part of a process. Its run blocks until ctx is done,
// then lets go of everything it holds before it returns.
type Stage struct {
	name  string
	run   func(ctx context.Context) error
	grace time.Duration // how long stop waits for run to return
}

// Of makes a stage. Grace is how long stop waits for run to return.
func Of(name string, run func(ctx context.Context) error, grace time.Duration) Stage {
	return Stage{name, run, grace}
}

// Name is what errors call it.
func (s Stage) Name() string { return s.name }

// Run starts the stages in order. When ctx ends, or any stage returns,
// it stops them in reverse order, each one fully before the one below it.
func Run(ctx context.Context, stages []Stage) error {
	type running struct {
		Stage
		cancel context.CancelFunc
		done   chan error
	}
	ended := make(chan struct{}, len(stages))
	var up []running
	for _, s := range stages {
		sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{s, cancel, make(chan error, 1)}
		go func() { r.done <- s.run(sctx); ended <- struct{}{} }()
		up = append(up, r)
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	var errs []error
	for _, r := range slices.Backward(up) {
		r.cancel()
		select {
		case err := <-r.done:
			if err != nil && !errors.Is(err, context.Canceled) {
				errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
			}
		case <-time.After(r.grace):
			errs = append(errs, fmt.Errorf("%s: still running after %v", r.name, r.grace))
		}
	}
	return errors.Join(errs...)
}

// An Early part runs since before its stage: its beginning takes long, and needs nothing of what is opened meanwhile.
type Early struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed when err is set
	err    error
}

// Begin runs a part until run's context, or stop, ends it.
func Begin(ctx context.Context, run func(context.Context) error) *Early {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &Early{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(e.ended)
		e.err = run(ctx)
	}()
	return e
}

// Run is the part's stage.
func (e *Early) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		e.cancel()
		<-e.ended
	case <-e.ended:
	}
	return e.err
}

// Stop ends a part whose stage may never have come. What it says in the end is its stage's to tell.
func (e *Early) Stop(grace time.Duration) error {
	e.cancel()
	select {
	case <-e.ended:
		return nil
	case <-time.After(grace):
		return fmt.Errorf("still running after %v", grace)
	}
}
