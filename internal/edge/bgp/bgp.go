// Package bgp announces service addresses while this site can finish an agent run, and withdraws them when it cannot.
//
// A [Speaker] asks whether the site serves, decides by that what routers are told ([Phase]), and tells them in one of three ways: it
// speaks BGP itself (mode speak), or it puts the addresses on an interface (mode address) or the routes into a file (mode file), for
// the bird or FRR that the site runs already. Begin with [New] and [Speaker.Run].
//
// Nothing is ever taken from a router: a route that one sends is refused and counted. docs/anycast.md is the operator's side of it.
package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/telemetry"
)

// A Speaker announces the service addresses of one edge.
type Speaker struct {
	o       Options
	log     *slog.Logger
	way     way
	metrics *metrics
	asked   chan struct{} // an operator changed the wish; holds one

	abandoned atomic.Bool
	inherited bool

	mu     sync.Mutex
	drain  bool
	status Status
}

// A way is how routers are told. Its methods are called by one goroutine.
type way interface {
	// start is called once, before all others.
	start(ctx context.Context) error
	// tell makes a phase what routers know, and returns when it is on its way. It may be called again with the same phase.
	tell(ctx context.Context, p Phase) error
	// watch brings Status up to date, and checks that nothing else happened than what was told.
	watch(ctx context.Context, s *Status) error
	// stop lets go of everything.
	stop(ctx context.Context) error
}

const (
	watchEvery = 500 * time.Millisecond
	retryAfter = time.Second     // something could not be told
	tellMost   = 5 * time.Second // for one call of a way
)

// New checks the options and makes a speaker.
func New(o Options) (*Speaker, error) {
	o.defaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Speaker{
		o: o, log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "bgp"), metrics: newMetrics(o.Registerer),
		asked: make(chan struct{}, 1), status: Status{Mode: o.Mode, Reason: "not started yet"},
	}
	switch o.Mode {
	case ModeSpeak:
		s.way = newSpeech(o, s.log, s.metrics)
	case ModeAddress:
		s.way = &addresses{o: o, log: s.log}
	case ModeFile:
		s.way = &stateFile{o: o}
	}
	return s, nil
}

// Drain has the addresses withdrawn, gracefully, or lets them be announced again.
func (s *Speaker) Drain(on bool) {
	s.mu.Lock()
	s.drain = on
	s.mu.Unlock()
	select {
	case s.asked <- struct{}{}:
	default: // the one that is there says it too
	}
}

// Abandon has the end of [Speaker.Run] take nothing back: another process announces the same from here. A session of our own ends all the
// same, and the router takes back what it had from it until the other process has one, unless it keeps it for that long
// ([Neighbor.Restart]).
func (s *Speaker) Abandon() { s.abandoned.Store(true) }

// Inherit has the beginning of [Speaker.Run] go on with what another process on this machine announces until now: it is not taken back
// while this process does not know yet whether the site serves, and announced as it was when it does. Call it before Run.
func (s *Speaker) Inherit() {
	s.inherited = true
	if sp, ok := s.way.(*speech); ok {
		sp.inherited = true
	}
}

// inheritMost is how long a process that took over may take to find out whether the site serves. In mode address the kernel keeps an address
// for as long.
const inheritMost = 10 * time.Second

// Status tells what routers know, not older than a second.
func (s *Speaker) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.clone()
}

// Run announces and withdraws until ctx ends. Then it tells routers that the addresses are about to go, waits for Grace, withdraws them,
// and lets go of its sessions.
func (s *Speaker) Run(ctx context.Context) error {
	// What has been told must be taken back, so calls of the way go on after ctx has ended.
	outside := context.WithoutCancel(ctx)
	err := s.start(ctx, outside)
	if err == nil {
		err = s.follow(ctx, outside)
	}
	bounded, cancel := context.WithTimeout(outside, tellMost)
	defer cancel()
	if sp, ok := s.way.(*speech); ok {
		sp.kept = s.abandoned.Load()
	}
	return errors.Join(err, s.way.stop(bounded))
}

// start begins the way. A process that took over may have to wait until the one before it lets go of the port of BFD.
func (s *Speaker) start(ctx, outside context.Context) error {
	tick := time.NewTicker(portPoll)
	defer tick.Stop()
	for begin := time.Now(); ; {
		err := s.way.start(outside)
		if err == nil || s.inherited && errors.Is(err, unix.EADDRINUSE) {
			s.o.Ready()
		}
		if !s.inherited || !errors.Is(err, unix.EADDRINUSE) || time.Since(begin) > portMost {
			return err
		}
		bounded, cancel := context.WithTimeout(outside, tellMost)
		stopped := s.way.stop(bounded)
		cancel()
		if stopped != nil {
			return errors.Join(err, stopped)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

const (
	portMost = 30 * time.Second
	portPoll = 200 * time.Millisecond
)

// follow is one turn after another: look, decide, tell, wait. It returns when ctx has ended and nothing is announced any more.
func (s *Speaker) follow(ctx, outside context.Context) error {
	d := newDecision(s.o.timing(), s.o.Now())
	if s.inherited {
		d.inherited = d.since.Add(inheritMost)
	}
	told, failed := Phase(untold), ""
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		changed := s.look(ctx, d)
		now := s.o.Now()
		before := d.phase
		next := d.step(now)
		s.say(d, before)

		if told != d.phase && (!d.stop || !s.abandoned.Load()) && !d.waits(now) {
			err := s.tell(outside, d.phase)
			if errors.Is(err, errStuck) {
				return err
			}
			if err != nil {
				if failed != err.Error() {
					s.log.Error("routers could not be told", telemetry.KeyErr, err, "phase", d.phase.String())
				}
				failed, next = err.Error(), soonest(next, now.Add(retryAfter))
			} else {
				told, failed = d.phase, ""
			}
		}
		if err := s.remember(outside, d, failed); err != nil {
			return err
		}
		if d.stop && s.abandoned.Load() {
			s.log.Info("what is announced is left to the process that takes over", "phase", d.phase.String())
			return nil
		}
		if d.stop && d.phase == Silent {
			return s.farewell(told, failed)
		}
		s.wait(ctx, waits{changed: changed, watch: watch.C, next: next, now: now, stopping: d.stop})
	}
}

// look brings what was seen and wished into the decision.
func (s *Speaker) look(ctx context.Context, d *decision) (changed <-chan struct{}) {
	if s.o.Changed != nil {
		changed = s.o.Changed() // before the question, so that no change falls between the two
	}
	ok, why := s.o.Serving()
	if !ok && why == "" {
		why = "the site cannot finish a run"
	}
	d.serve(s.o.Now(), ok, why)
	s.mu.Lock()
	d.drain = s.drain
	s.mu.Unlock()
	d.stop = d.stop || ctx.Err() != nil
	return changed
}

func (s *Speaker) say(d *decision, before Phase) {
	if d.phase == before {
		return
	}
	s.metrics.phase(d.phase)
	level := slog.LevelInfo
	if d.phase == Silent && !d.stop && !d.drain {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "announcement changed", "from", before.String(), "to", d.phase.String(), "reason", d.reason)
}

func (s *Speaker) tell(outside context.Context, p Phase) error {
	ctx, cancel := context.WithTimeout(outside, tellMost)
	defer cancel()
	return s.way.tell(ctx, p)
}

// remember brings the status up to date.
func (s *Speaker) remember(outside context.Context, d *decision, failed string) error {
	st := s.Status() // the way adds to what it told before
	st.Mode, st.Phase, st.Since, st.Reason = s.o.Mode, d.phase, d.since, d.reason
	st.Serving, st.Drain = d.serving, d.drain
	st.Announcements, st.Withdrawals = d.announcements, d.withdrawals
	st.Prefixes = nil
	if d.phase != Silent {
		for _, p := range s.o.Prefixes {
			st.Prefixes = append(st.Prefixes, Route{Prefix: p, Preference: s.o.preference(d.phase)})
		}
	}
	st.Alarms = s.o.Alarms()
	if failed != "" {
		st.Alarms = append(st.Alarms, "routers could not be told: "+failed)
	}
	ctx, cancel := context.WithTimeout(outside, tellMost)
	defer cancel()
	err := s.way.watch(ctx, &st)
	if errors.Is(err, errStuck) {
		return err
	}
	if err != nil {
		st.Alarms = append(st.Alarms, err.Error())
	}
	for _, alarm := range st.Alarms {
		if !s.status.has(alarm) {
			s.log.Error("alarm", "alarm", alarm)
		}
	}
	s.metrics.alarms.Set(float64(len(st.Alarms)))
	s.mu.Lock()
	s.status = st
	s.mu.Unlock()
	return nil
}

func (s *Speaker) farewell(told Phase, failed string) error {
	if told == Silent {
		return nil
	}
	return fmt.Errorf("the service addresses may still be announced: %s", failed)
}

type waits struct {
	changed  <-chan struct{}
	watch    <-chan time.Time
	next     time.Time
	now      time.Time
	stopping bool
}

// wait returns when there may be something to decide.
func (s *Speaker) wait(ctx context.Context, w waits) {
	ended := ctx.Done()
	if w.stopping {
		ended = nil
	}
	var due <-chan time.Time
	if !w.next.IsZero() {
		timer := time.NewTimer(max(w.next.Sub(w.now), 0))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-w.changed:
	case <-s.asked:
	case <-w.watch:
	case <-ended:
	case <-due:
	}
}

func soonest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
