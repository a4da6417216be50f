package ruby

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file lets a zygote be the heir of one that serves another version of its
// environment. An heir is forked from that one and has all that both versions
// share in memory: Ruby code, programs of manifests, compiled templates. Only
// what changed is read again. Where Ruby code differs there are no heirs.

// A line is a zygote and those that it descends from.
type line struct {
	ancestors int           // zygotes before this one
	ruby      *code.Version // whose Ruby files are loaded, the first one's; retained
	start     int64         // resident bytes of the first one when it was ready
}

// A line ends, and the next version begins with a fresh process, after so many
// heirs or when one is so many times as large as the first: what code of an
// environment holds on to goes with it.
const (
	maxLine   = 100
	maxGrowth = 2
)

// elder returns the zygote that z can be an heir of, with one more user, or nil.
func (p *Pool) elder(z *zygote) *zygote {
	p.mu.Lock()
	e := p.dropped[z.key.environment]
	for key, o := range p.zygotes {
		if key.environment == z.key.environment && o.isReady() && (e == nil || o.used.After(e.used)) {
			e = o
		}
	}
	if e != nil {
		e.users++
	}
	p.mu.Unlock()
	if e == nil {
		return nil
	}
	if e.line.ancestors >= maxLine || e.resident > maxGrowth*e.line.start || !e.version.SameRuby(z.version) {
		p.release(e)
		return nil
	}
	return e
}

// forkNext forks z from its elder, else from the template.
func (p *Pool) forkNext(ctx context.Context, z *zygote, mayInherit bool, log *slog.Logger) (*net.UnixConn, int, error) {
	if mayInherit {
		conn, pid, ok, err := p.forkHeir(ctx, z)
		if ok {
			return conn, pid, nil
		}
		if err != nil {
			log.Warn("the code version before this one cannot be built on; loading all of this one", slog.Any(telemetry.KeyErr, err))
		}
	}
	return p.forkFirst(ctx, z)
}

// forkHeir forks z from its elder. ok is false where it has none, or with an
// error, where that could not.
func (p *Pool) forkHeir(ctx context.Context, z *zygote) (conn *net.UnixConn, pid int, ok bool, err error) {
	e := p.elder(z)
	if e == nil {
		return nil, 0, false, nil
	}
	defer p.release(e)
	if conn, pid, err = e.control.fork(ctx, forkCommand{Op: "fork", Heir: true}); err != nil {
		return nil, 0, false, fmt.Errorf("forking an heir: %w", err)
	}
	e.control.forget(pid)
	z.begin(line{ancestors: e.line.ancestors + 1, ruby: e.line.ruby, start: e.line.start})
	return conn, pid, true, nil
}

// forkFirst forks z from the template.
func (p *Pool) forkFirst(ctx context.Context, z *zygote) (*net.UnixConn, int, error) {
	t, err := p.waitTemplate(ctx)
	if err != nil {
		return nil, 0, fault.Wrap(fault.Unavailable, err, "the Ruby engine is starting again")
	}
	conn, pid, err := t.control.fork(ctx, forkCommand{Op: "fork"})
	if err != nil {
		return nil, 0, fault.Wrap(fault.Unavailable, err, "the Ruby engine cannot start a process")
	}
	t.control.forget(pid)
	z.begin(line{ruby: z.version})
	return conn, pid, nil
}

// begin takes the place in a line. Messages may name files of the version whose
// Ruby code is loaded, too.
func (z *zygote) begin(l line) {
	l.ruby.Retain()
	z.leave()
	z.line = l
	z.restore = newRestorer(slices.Concat(z.version.Paths, l.ruby.Paths))
}

// leave gives back the version whose Ruby code was loaded.
func (z *zygote) leave() {
	if z.line.ruby != nil {
		z.line.ruby.Release()
	}
	z.line = line{}
}

// Drop ends the zygotes of an environment: the next request starts with a new
// one, which reads manifests and data again. Compiles that run are not disturbed.
func (p *Pool) Drop(e puppet.Environment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, z := range p.zygotes {
		if key.environment != e {
			continue
		}
		if z.isReady() {
			p.keepForHeir(z)
		}
		p.retire(z)
	}
}

// Reload ends the zygotes of an environment and loads its Ruby code again, too.
func (p *Pool) Reload(e puppet.Environment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.letGo(e)
	for key, z := range p.zygotes {
		if key.environment == e {
			p.retire(z)
		}
	}
}

// keepForHeir keeps a zygote that is about to be retired, for as long as lingers
// one that was superseded. Of several it keeps the last used. p.mu is held.
func (p *Pool) keepForHeir(z *zygote) {
	e := z.key.environment
	if other := p.dropped[e]; other != nil && other.used.After(z.used) {
		return
	}
	p.letGo(e)
	z.users++
	z.used = time.Now()
	p.dropped[e] = z
}

// letGo ends what keepForHeir began. p.mu is held.
func (p *Pool) letGo(e puppet.Environment) {
	if z := p.dropped[e]; z != nil {
		delete(p.dropped, e)
		p.releaseHeld(z)
	}
}

// letGoOld ends it for all that were dropped long ago. p.mu is held.
func (p *Pool) letGoOld(now time.Time) {
	for e, z := range p.dropped {
		if now.Sub(z.used) > linger {
			p.letGo(e)
		}
	}
}
