package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// This file starts the parts of a member in order and stops them in reverse.

// A stage is one long-running part of the member. Run blocks until ctx is done,
// then lets go of everything it holds before it returns.
type stage struct {
	name  string
	run   func(ctx context.Context) error
	grace time.Duration // how long stop waits for run to return
}

// runStages starts the stages in order. When ctx ends, or any stage returns,
// it stops them in reverse order, each one fully before the one below it.
func runStages(ctx context.Context, stages []stage) error {
	type running struct {
		stage
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
