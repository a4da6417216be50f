package ruby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file runs zygotes: one for each code version in use.

type zygoteKey struct {
	environment puppet.Environment
	codeID      string
}

// A zygote is the parent process of the workers of one code version.
type zygote struct {
	key     zygoteKey
	version *code.Version
	born    time.Time
	restore *restorer
	ready   chan struct{} // closed when it can fork, or has failed
	stop    chan struct{} // closed when nothing uses it any more

	// set before ready is closed
	err      error
	control  *control
	process  *os.Process
	line     line
	boot     time.Duration
	warmed   int
	resident int64

	// guarded by Pool.mu
	users   int       // requests that hold it
	used    time.Time // when the last one took it
	chosen  time.Time // when the last one took it that wanted the newest version
	retired bool      // not to be given to new requests
	offers  []*offer  // of requests that wait for it, oldest first
	idle    []*worker // the most recently used last
}

// acquire returns the zygote of a version, starting it if need be, as soon as it
// can fork or has answered the offer, which may be nil. The caller gives it back
// with release. former says that the environment has a newer version.
func (p *Pool) acquire(ctx context.Context, v *code.Version, o *offer, former bool) (*zygote, error) {
	for {
		z, isNew, changed := p.find(v, o, former)
		if z == nil {
			// Every zygote is in use. That ends with the requests that use them.
			select {
			case <-changed:
				continue
			case <-p.closed:
				return nil, errClosing()
			case <-ctx.Done():
				return nil, errWaiting(ctx)
			}
		}
		if isNew {
			select {
			case p.starts <- z:
			case <-p.closed:
				p.abandon(z)
			case <-ctx.Done():
				p.abandon(z)
			}
		}

		err := p.await(ctx, z, o)
		if err == nil {
			return z, nil
		}
		p.release(z)
		if !errors.Is(err, errAbandoned) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// await waits until a zygote can fork, has failed, or has answered the offer.
func (p *Pool) await(ctx context.Context, z *zygote, o *offer) error {
	for closed := p.closed; ; {
		select {
		case <-o.answered():
			return nil
		case <-z.ready:
			if _, ok := o.take(); ok {
				return nil
			}
			return z.err
		case <-closed:
			if p.withdraw(z, o) {
				return errClosing()
			}
			closed = nil // it is being compiled, and Run waits for what runs
		case <-ctx.Done():
			p.withdraw(z, o)
			return errWaiting(ctx)
		}
	}
}

// errAbandoned is the end of a zygote whose first request went away before Run
// could start it. Others that waited for it begin again.
var errAbandoned = fault.New(fault.Unavailable, "the request ended before its code version was loaded")

func errWaiting(ctx context.Context) error {
	return fault.Wrap(fault.Unavailable, ctx.Err(), "the request ended while its code version was being loaded")
}

// find returns a zygote with one more user, a new one if there is room, or
// nothing and a channel that says when to look again.
func (p *Pool) find(v *code.Version, o *offer, former bool) (z *zygote, isNew bool, changed <-chan struct{}) {
	key := zygoteKey{v.Environment, v.ID}
	p.mu.Lock()
	defer p.mu.Unlock()
	z = p.zygotes[key]
	if z == nil {
		if len(p.zygotes) >= p.o.MaxVersions && !p.evict() {
			return nil, false, p.changed
		}
		isNew = true
		z = &zygote{
			key: key, version: v, born: time.Now(),
			ready: make(chan struct{}), stop: make(chan struct{}),
		}
		v.Retain()
		p.zygotes[key] = z
	}
	z.users++
	z.used = time.Now()
	if !former {
		z.chosen = z.used
	}
	if o != nil && !z.isReady() {
		z.offers = append(z.offers, o)
	}
	return z, isNew, nil
}

// evict ends the zygote that was idle longest. p.mu is held.
func (p *Pool) evict() bool {
	var oldest *zygote
	for _, z := range p.zygotes {
		if z.users == 0 && (oldest == nil || z.used.Before(oldest.used)) {
			oldest = z
		}
	}
	if oldest == nil {
		return false
	}
	p.retire(oldest)
	return true
}

// release gives a zygote back.
func (p *Pool) release(z *zygote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseHeld(z)
}

// releaseHeld is release for a caller that holds p.mu.
func (p *Pool) releaseHeld(z *zygote) {
	z.users--
	if z.retired && z.users == 0 {
		close(z.stop)
	}
	p.wake()
}

// retire keeps new requests from a zygote, which ends with its last user. p.mu
// is held.
func (p *Pool) retire(z *zygote) {
	if z.retired {
		return
	}
	z.retired = true
	if p.zygotes[z.key] == z {
		delete(p.zygotes, z.key)
	}
	if z.users == 0 {
		close(z.stop)
	}
	p.wake()
}

// abandon is for a zygote that never got to Run.
func (p *Pool) abandon(z *zygote) {
	p.mu.Lock()
	p.retire(z)
	p.mu.Unlock()
	z.err = errAbandoned
	z.version.Release()
	close(z.ready)
}

// linger is how long the zygote of an old version stays after its last use:
// requests that were accepted before a deploy may still come.
const linger = 5 * time.Second

// retireSuperseded ends zygotes whose environment has a newer one that works.
func (p *Pool) retireSuperseded(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.letGoOld(now)
	newest := map[puppet.Environment]time.Time{}
	for key, z := range p.zygotes {
		if z.isReady() && z.chosen.After(newest[key.environment]) {
			newest[key.environment] = z.chosen
		}
	}
	for key, z := range p.zygotes {
		if z.users == 0 && z.isReady() && z.chosen.Before(newest[key.environment]) && now.Sub(z.used) > linger {
			p.retire(z)
		}
	}
}

func (z *zygote) isReady() bool {
	select {
	case <-z.ready:
		return z.err == nil
	default:
		return false
	}
}

// runZygote is the life of a zygote.
func (p *Pool) runZygote(ctx context.Context, z *zygote) {
	defer z.version.Release()
	defer z.leave()
	log := p.o.Log.With(slog.String(telemetry.KeyEnvironment, string(z.key.environment)), slog.String(telemetry.KeyCodeID, z.key.codeID))

	var reading sync.WaitGroup
	defer reading.Wait()
	err := p.bootZygote(ctx, z, log, &reading)
	if err != nil {
		if ctx.Err() == nil {
			log.Error("code version cannot be served", slog.Any(telemetry.KeyErr, err))
		}
		p.mu.Lock()
		p.retire(z)
		p.mu.Unlock()
		z.err = err
		close(z.ready)
		return
	}
	z.boot = time.Since(z.born)
	p.metrics.boots.Inc()
	log.Info("code version ready", slog.Duration(telemetry.KeyDuration, z.boot), slog.Int("warmed", z.warmed), slog.Int("ancestors", z.line.ancestors), slog.Int64("resident_bytes", z.resident))
	close(z.ready)

	select {
	case <-ctx.Done():
	case <-z.stop:
	case <-z.control.gone:
		log.Warn("ruby zygote died; a new one starts with the next request", slog.Int("pid", z.process.Pid))
	}
	p.mu.Lock()
	p.retire(z)
	idle := z.idle
	z.idle = nil
	p.mu.Unlock()
	for _, w := range idle {
		p.discard(z, w)
	}
	p.endZygote(z, log)
	log.Debug("code version put away")
}

// bootZygote starts the process and warms it. If a node's compile hangs or kills
// it, it is started again and warmed with known nodes only; if that fails too, it
// is not warmed.
func (p *Pool) bootZygote(ctx context.Context, z *zygote, log *slog.Logger, reading *sync.WaitGroup) error {
	for w := (&warming{zygote: z, log: log}); ; w.attempt++ {
		if err := p.forkZygote(ctx, z, w.attempt == withOffers, log, reading); err != nil {
			return err
		}
		if err := p.openZygote(ctx, z, log); err != nil {
			p.endZygote(z, log)
			return err
		}
		err := p.warm(ctx, w)
		if err == nil {
			err = p.settleZygote(ctx, z)
		}
		if err == nil {
			return nil
		}
		killGroup(z.process, log)
		p.endZygote(z, log)
		if w.attempt == cold || ctx.Err() != nil {
			return err
		}
		log.Warn("warming failed; starting again", slog.Any(telemetry.KeyErr, err))
	}
}

// stepLimit bounds the steps of a boot that run no code of the environment.
const stepLimit = 30 * time.Second

// forkZygote starts the process.
func (p *Pool) forkZygote(ctx context.Context, z *zygote, mayInherit bool, log *slog.Logger, reading *sync.WaitGroup) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	conn, pid, err := p.forkNext(ctx, z, mayInherit, log)
	if err != nil {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return errors.Join(fmt.Errorf("finding a zygote: %w", err), conn.Close())
	}
	z.process = process
	z.control = newControl(conn, z.restore, func(ctx context.Context, e event) any { return p.answer(ctx, z.version, e) })
	reading.Go(func() {
		if err := z.control.read(context.WithoutCancel(ctx), func(e event) { p.forgetIdle(z, e.PID) }); err != nil {
			log.Error("ruby zygote cannot be understood", slog.Any(telemetry.KeyErr, err))
		}
	})
	return nil
}

func (p *Pool) openZygote(ctx context.Context, z *zygote, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	e, err := z.control.command(ctx, openCommand{
		Op: "open", Environment: z.key.environment, Root: z.version.Root, EnvironmentPath: z.version.EnvironmentPath, BaseModulePath: z.version.BaseModulePath,
		Paths: z.version.Paths, ConfigVersion: z.version.ConfigVersion, Settings: p.settings(), Limits: limits{Memory: 2 * p.o.MaxMemory},
	}, nil)
	if err != nil {
		return fmt.Errorf("opening environment %s: %w", z.key.environment, err)
	}
	for _, name := range e.UnknownSettings {
		log.Warn("setting is unknown to this version of Puppet and is ignored", slog.String("setting", name))
	}
	logMessages(log, e.Logs)
	if e.Event != "opened" {
		return fault.New(fault.Failed, "%s", e.Message)
	}
	return nil
}

func (p *Pool) settleZygote(ctx context.Context, z *zygote) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	e, err := z.control.command(ctx, plainCommand{Op: "settle"}, nil)
	if err != nil {
		return fmt.Errorf("settling a zygote: %w", err)
	}
	z.resident = e.Resident
	if z.line.ancestors == 0 {
		z.line.start = z.resident
	}
	if z.resident > p.o.MaxMemory {
		return fmt.Errorf("zygote has %d bytes in memory, more than the %d of a worker", z.resident, p.o.MaxMemory)
	}
	return nil
}

// endZygote ends the process and waits for it.
func (p *Pool) endZygote(z *zygote, log *slog.Logger) {
	if err := z.control.write(plainCommand{Op: "stop"}); err != nil {
		log.Debug("ruby zygote is gone", slog.Any(telemetry.KeyErr, err))
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-z.control.gone:
	case <-timer.C:
	}
	if err := z.control.conn.Close(); err != nil {
		log.Debug("ruby zygote was closed before", slog.Any(telemetry.KeyErr, err))
	}
	if !awaitExit(z.process, stopGrace) {
		log.Warn("ruby zygote is killed", slog.Int("pid", z.process.Pid))
		killGroup(z.process, log)
		awaitExit(z.process, stopGrace)
	}
}

// logMessages puts what Puppet said outside of a compile into our own log.
func logMessages(log *slog.Logger, messages []engine.Log) {
	for _, m := range messages {
		log.Info("puppet", slog.String("level", m.Level), slog.String("message", m.Message))
	}
}

// forgetIdle drops an idle worker that died.
func (p *Pool) forgetIdle(z *zygote, pid int) {
	p.mu.Lock()
	i := slices.IndexFunc(z.idle, func(w *worker) bool { return w.pid == pid })
	var w *worker
	if i >= 0 {
		w = z.idle[i]
		z.idle = slices.Delete(z.idle, i, i+1)
	}
	p.mu.Unlock()
	if w != nil {
		p.discard(z, w)
	}
}

// stats describes the zygote. Pool.mu is held.
func (z *zygote) stats() ZygoteStats {
	s := ZygoteStats{Environment: z.key.environment, CodeID: z.key.codeID, Ready: z.isReady()}
	if !s.Ready {
		return s
	}
	s.PID, s.Ancestors, s.Warmed, s.Boot, s.Resident = z.process.Pid, z.line.ancestors, z.warmed, z.boot, z.resident
	for _, w := range z.idle {
		s.Workers = append(s.Workers, w.pid)
	}
	return s
}
