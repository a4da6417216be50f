package code

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file keeps one environment up to date: when its folder is scanned and
// which version is current.

const (
	quiet      = 100 * time.Millisecond // without a change, and a deploy counts as finished
	maxSettle  = 2 * time.Second        // how long a scan waits for that
	maxScans   = 5                      // of a folder that changes while it is read
	unwatched  = 200 * time.Millisecond // between scans of folders that cannot be watched
	idleAfter  = time.Hour              // without a request, and an environment is no longer scanned ahead
	pollSettle = 20 * time.Millisecond
)

// An environment is the state of one name. Its versions come and go.
type environment struct {
	r       *Repo
	name    puppet.Environment
	log     *slog.Logger
	watched watched

	scanning chan struct{} // holds one token; who has it scans
	cache    statCache     // guarded by scanning
	restored bool          // guarded by scanning: cache was filled from disk

	mu       sync.Mutex
	now      *Version // of the folder
	pinned   *Version // was deployed and serves in its place, if there is one
	failure  error    // of the last scan
	versions map[string]*Version
	users    map[string]*atomic.Int64
	asked    time.Time // last request
	scan     lastScan
	gone     time.Time // when the folder was first found missing
}

// lastScan is what must still be true for the current version to be current.
type lastScan struct {
	at      time.Time
	took    time.Duration
	changes uint64   // events before it began
	dir     string   // folder as configured …
	real    string   // … and where that led
	absent  []string // folders of the modulepath that did not exist
	again   bool     // somebody wants another scan
	forget  bool     // … that trusts nothing that was seen before
	settled bool     // … of a folder whose deploy has ended
}

func newEnvironment(r *Repo, name puppet.Environment) *environment {
	return &environment{
		r: r, name: name, log: r.o.Log.With(slog.String(telemetry.KeyEnvironment, string(name))),
		scanning: make(chan struct{}, 1),
		cache:    statCache{},
		versions: map[string]*Version{},
		users:    map[string]*atomic.Int64{},
		asked:    time.Now(),
	}
}

// fresh returns the version that serves, after a scan if one is needed.
func (e *environment) fresh(ctx context.Context) (*Version, error) {
	e.mu.Lock()
	e.asked = time.Now()
	pinned := e.pinned
	e.mu.Unlock()
	if pinned != nil {
		return pinned, nil
	}
	return e.folder(ctx)
}

// folder returns what the environment's folder holds, after a scan if one is needed.
func (e *environment) folder(ctx context.Context) (*Version, error) {
	if v, err, ok := e.upToDate(); ok {
		return v, err
	}

	select {
	case e.scanning <- struct{}{}:
		defer func() { <-e.scanning }()
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Unavailable, ctx.Err(), "environment '%s' is being read", e.name)
	}
	if v, err, ok := e.upToDate(); ok { // somebody else just scanned
		return v, err
	}
	return e.refresh(ctx)
}

// upToDate returns the outcome of the last scan if nothing changed since.
func (e *environment) upToDate() (*Version, error, bool) {
	changes, _, complete := e.r.watch.poll(&e.watched)
	e.mu.Lock()
	defer e.mu.Unlock()

	s := e.scan
	switch {
	case s.at.IsZero() || s.again || s.changes != changes:
		return nil, nil, false
	case !complete && time.Since(s.at) > max(unwatched, 10*s.took):
		return nil, nil, false
	case !complete && e.moved():
		return nil, nil, false
	case e.failure != nil && fault.KindOf(e.failure) != fault.NotFound && time.Since(s.at) > max(unwatched, 10*s.took):
		// What failed may mend without an event in the folder: a disk that was full.
		return nil, nil, false
	case e.now == nil:
		return nil, e.failure, e.failure != nil
	}
	return e.now, nil, true
}

// moved reports, for what cannot be watched, whether the environment's folder is
// now another one, as after the switch of a link, or whether a missing module
// folder appeared.
func (e *environment) moved() bool {
	dir := e.r.folder(e.name)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || dir != e.scan.dir || real != e.scan.real {
		return true
	}
	for _, path := range e.scan.absent {
		if _, err := filepath.EvalSymlinks(path); err == nil {
			return true
		}
	}
	return false
}

// refresh scans until it has seen a state that holds still. The caller holds the
// token.
func (e *environment) refresh(ctx context.Context) (*Version, error) {
	e.restore()
	err := errMoved
	for attempt := range maxScans {
		if e.current() != nil && !e.isSettled() || attempt > 0 {
			if err := e.settle(ctx); err != nil {
				return nil, err
			}
		}
		var v *Version
		var still bool
		v, still, err = e.scanOnce(ctx)
		if err == nil && (still || attempt >= maxScans/2) {
			return v, nil
		}
		if err != nil && !errors.Is(err, errMoved) {
			return e.failed(ctx, err)
		}
	}
	return e.failed(ctx, fault.Wrap(fault.Unavailable, err, "environment '%s' changes faster than it can be read; let the deploy finish, and keep files that change all the time out of it", e.name))
}

// settle waits for a moment without changes, but not for ever.
func (e *environment) settle(ctx context.Context) error {
	deadline := time.Now().Add(maxSettle)
	tick := time.NewTicker(pollSettle)
	defer tick.Stop()
	for {
		_, last, _ := e.r.watch.poll(&e.watched)
		if now := time.Now(); now.Sub(last) >= quiet || now.After(deadline) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fault.Wrap(fault.Unavailable, ctx.Err(), "environment '%s' is being deployed", e.name)
		}
	}
}

// scanOnce scans and builds. still reports that nothing changed meanwhile.
func (e *environment) scanOnce(ctx context.Context) (v *Version, still bool, err error) {
	e.r.store.building.RLock()
	defer e.r.store.building.RUnlock()

	began := time.Now()
	e.mu.Lock()
	if e.scan.forget {
		e.cache = statCache{}
	}
	asked := e.scan
	e.scan.again, e.scan.forget, e.scan.settled = false, false, false // what is asked for from now on is for the next scan
	e.mu.Unlock()

	w := e.r.watch
	before, _, _ := w.poll(&e.watched)
	next := lastScan{at: began, changes: before, dir: e.r.folder(e.name)}
	if next.dir == "" {
		return nil, false, fault.New(fault.NotFound, "Could not find environment '%s'", e.name)
	}
	if next.real, err = filepath.EvalSymlinks(next.dir); err != nil {
		return nil, false, vanishing(next.dir, err)
	}
	s := &scanner{
		ctx: ctx, store: e.r.store, old: e.cache, seen: make(statCache, len(e.cache)),
		watch: func(dir, name string) { w.add(&e.watched, dir, name) },
	}
	w.begin(&e.watched)
	for _, dir := range e.r.o.EnvironmentPath { // an earlier one may get a folder of this name
		s.way(filepath.Join(dir, string(e.name)), 0)
	}
	p, err := s.assemble(e.name, next.dir, e.r.o)
	w.end(&e.watched, err == nil)
	e.r.metrics.scanned(time.Since(began), s.read, err)
	if err != nil {
		if ctx.Err() != nil {
			e.ask(asked)
			return nil, false, err
		}
		e.note(next)
		return nil, false, err
	}

	next.absent = p.missing
	v, err = e.publish(p, s, next)
	after, _, _ := w.poll(&e.watched)
	return v, before == after, err
}

// publish makes the plan's version current.
func (e *environment) publish(p *plan, s *scanner, scan lastScan) (*Version, error) {
	if v := e.current(); v != nil && v.plan.equal(p) {
		e.cache = s.seen
		e.note(scan)
		e.mended()
		return v, nil
	}
	id := p.id()
	if err := e.r.store.build(id, e.name, p); err != nil {
		e.cache = statCache{} // a blob that was thought known may be gone
		return nil, err
	}
	e.cache = s.seen
	v := e.version(id, p)
	scan.took = time.Since(scan.at)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == nil || e.now.ID != id {
		e.log.Info("new version of environment", slog.String(telemetry.KeyCodeID, id), slog.Int("modules", len(v.modules)),
			slog.Int("files_read", s.read), slog.Duration(telemetry.KeyDuration, scan.took))
		for _, w := range v.Warnings {
			e.log.Warn("part of the environment is not served", slog.String("reason", w))
		}
	}
	scan.again, scan.forget, scan.settled = e.scan.again, e.scan.forget, e.scan.settled
	e.now, e.failure, e.scan, e.versions[id] = v, nil, scan, v
	return v, nil
}

// note remembers when a scan was made that gave nothing new.
func (e *environment) note(scan lastScan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	scan.took = time.Since(scan.at)
	scan.again, scan.forget, scan.settled = e.scan.again, e.scan.forget, e.scan.settled
	e.scan = scan
}

// mended forgets the failure of an earlier scan.
func (e *environment) mended() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure = nil
}

// failed keeps the last good version in service.
func (e *environment) failed(ctx context.Context, err error) (*Version, error) {
	if ctx.Err() != nil {
		return nil, fault.Wrap(fault.Unavailable, ctx.Err(), "environment '%s' is being read", e.name)
	}
	if fault.KindOf(err) == fault.Internal {
		err = fmt.Errorf("reading environment %s: %w", e.name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	news := e.failure == nil || e.failure.Error() != err.Error()
	e.failure = err
	if news {
		e.log.Warn("environment cannot be read", slog.Bool("last_version_serves", e.now != nil), slog.Any(telemetry.KeyErr, err))
	}
	if e.now == nil || fault.KindOf(err) == fault.NotFound {
		return nil, err
	}
	return e.now, nil
}

// restore fills the cache from the newest version that an earlier process left,
// so that only files which changed since are read.
func (e *environment) restore() {
	if e.restored {
		return
	}
	e.restored = true
	built, err := e.r.store.built()
	if err != nil {
		e.log.Warn("cannot list earlier versions", slog.Any(telemetry.KeyErr, err))
	}
	for _, b := range built { // newest first
		if b.environment != e.name {
			continue
		}
		_, p, err := e.r.store.readManifest(b.id)
		if err != nil {
			e.log.Warn("cannot use an earlier version", slog.String(telemetry.KeyCodeID, b.id), slog.Any(telemetry.KeyErr, err))
			continue
		}
		e.cache = p.files()
		return
	}
}

// current returns what the folder was last seen to hold; nil before the first scan.
func (e *environment) current() *Version {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// serving is what requests get without looking at the folder; nil if that is not known.
func (e *environment) serving() *Version {
	e.mu.Lock()
	defer e.mu.Unlock()
	return cmp.Or(e.pinned, e.now)
}

func (e *environment) known(id string) *Version {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.versions[id]
}

var contentID = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// load brings back a version that an earlier process built.
func (e *environment) load(id string) (*Version, error) {
	if !contentID.MatchString(id) {
		return nil, fault.New(fault.NotFound, "no version %q of environment '%s' is kept here", id, e.name)
	}
	name, p, err := e.r.store.readManifest(id)
	if err != nil {
		return nil, err
	}
	if name != e.name {
		return nil, fault.New(fault.NotFound, "no version %s of environment '%s' is kept here", id, e.name)
	}
	v := e.version(id, p)
	e.mu.Lock()
	defer e.mu.Unlock()
	if known := e.versions[id]; known != nil {
		return known, nil
	}
	e.versions[id] = v
	return v, nil
}

// drop asks for a scan that reads everything.
func (e *environment) drop() { e.ask(lastScan{again: true, forget: true}) }

// deployed asks for a scan that reads what changed and waits for nothing.
func (e *environment) deployed() { e.ask(lastScan{again: true, settled: true}) }

// rescan asks for a scan that reads what changed.
func (e *environment) rescan() { e.ask(lastScan{again: true}) }

func (e *environment) ask(s lastScan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.scan.again = e.scan.again || s.again
	e.scan.forget = e.scan.forget || s.forget
	e.scan.settled = e.scan.settled || s.settled
}

func (e *environment) isSettled() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scan.settled
}

// idle reports whether nobody has asked for the environment for long.
func (e *environment) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Since(e.asked) > idleAfter
}
