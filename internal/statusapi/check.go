package statusapi

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"troupe/internal/telemetry"
)

// This file asks the services how they do, and does not wait for one that hangs.

// State is a service's state, in the words of Puppet's status service.
type State string

// The states, most severe first: the order in which several are summed up.
const (
	StateError    State = "error"
	StateUnknown  State = "unknown"
	StateStopping State = "stopping"
	StateStarting State = "starting"
	StateRunning  State = "running"
)

// Service is one line of the status. Check should obey ctx; detail is the level
// that the client asked for: critical, info or debug. What it returns beside the
// state is shown as the service's status and may be nil.
type Service struct {
	Name    string
	Version string
	Check   func(ctx context.Context, detail string) (State, map[string]any)
}

// maxChecks is how many checks of one service may run. A check that hangs in the
// kernel cannot be ended; with this bound a monitor that asks every second cannot
// pile them up.
const maxChecks = 8

// checked is a service with its slots for running checks.
type checked struct {
	Service

	running chan struct{}
}

// status is the JSON of one service, keys as Puppet's status service has them.
// Status is an object, or text when there is no more to tell.
type status struct {
	ServiceVersion string `json:"service_version"`
	StatusVersion  int    `json:"service_status_version"`
	DetailLevel    string `json:"detail_level"`
	State          State  `json:"state"`
	Status         any    `json:"status"`
	ActiveAlerts   []any  `json:"active_alerts"`
	ServiceName    string `json:"service_name,omitempty"`
}

// checkAll asks the services side by side.
func (a *API) checkAll(ctx context.Context, level string, timeout time.Duration) []status {
	out := make([]status, len(a.services))
	var wg sync.WaitGroup
	for i, s := range a.services {
		wg.Go(func() { out[i] = a.check(ctx, s, level, timeout) })
	}
	wg.Wait()
	return out
}

// check asks one service; one that does not answer in time is unknown. Its check
// then ends by itself, holding its slot until it does.
func (a *API) check(asker context.Context, s *checked, level string, timeout time.Duration) status {
	ctx, cancel := context.WithTimeout(asker, timeout)
	defer cancel()
	out := status{
		ServiceVersion: s.Version, StatusVersion: 1, DetailLevel: level, ActiveAlerts: []any{},
		State: StateUnknown, Status: fmt.Sprintf("Status check timed out after %d seconds", int(timeout.Seconds())),
	}
	select {
	case s.running <- struct{}{}:
	case <-ctx.Done():
		return out
	}
	type answer struct {
		state State
		facts map[string]any
	}
	answered := make(chan answer, 1)
	go func() {
		defer func() { <-s.running }()
		state, facts := a.ask(ctx, s.Service, level)
		answered <- answer{state, facts}
	}()
	var got answer
	select {
	case got = <-answered:
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // also when the check gave up for this reason and calls it an error
		if asker.Err() == nil { // and did not go away before
			a.o.Log.WarnContext(ctx, "status check did not answer in time", "service", s.Name, "timeout", timeout)
		}
		return out
	}
	out.State, out.Status = got.state, map[string]any{}
	if got.facts != nil {
		out.Status = got.facts
	}
	return out
}

// ask keeps a check that panics from ending the member: it runs outside of the
// goroutine that net/http guards.
func (a *API) ask(ctx context.Context, s Service, level string) (state State, facts map[string]any) {
	defer func() {
		if p := recover(); p != nil {
			a.o.Log.ErrorContext(ctx, "status check panicked", "service", s.Name, telemetry.KeyErr, p, "stack", string(debug.Stack()))
			state, facts = StateUnknown, nil
		}
	}()
	state, facts = s.Check(ctx, level)
	if !slices.Contains(severity(), state) {
		return StateUnknown, facts
	}
	return state, facts
}

func severity() []State {
	return []State{StateError, StateUnknown, StateStopping, StateStarting, StateRunning}
}

// worst sums up states; no service at all is unknown (status_core.clj, summarize-states).
func worst(list []status) State {
	for _, s := range severity() {
		if slices.ContainsFunc(list, func(x status) bool { return x.State == s }) {
			return s
		}
	}
	return StateUnknown
}
