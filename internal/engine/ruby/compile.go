package ruby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file compiles a catalog: queue, zygote, worker, answer.

// Compile compiles a catalog in a worker of the request's code version.
func (p *Pool) Compile(ctx context.Context, q engine.Request) (engine.Result, error) {
	if q.Version == nil {
		return engine.Result{}, fmt.Errorf("request for %s has no code version", q.Certname)
	}
	command, err := newCompileCommand("compile", q, p.o.Deadline)
	if err != nil {
		return engine.Result{}, err
	}

	start := time.Now()
	a, err := p.run(ctx, q, command)
	p.metrics.observe(time.Since(start), a, err)
	if err != nil {
		return engine.Result{}, p.describe(q, compiling(q), err)
	}
	if a.Event != "done" {
		return engine.Result{}, p.failure(q, a)
	}
	p.remember(q, a.Role)

	timings := a.timings()
	timings["total"] = time.Since(start)
	telemetry.Note(ctx, slog.Duration("compile", a.took), slog.Int("resources", a.Resources))
	return engine.Result{
		Catalog: a.restore.bytes(a.body), PSON: a.Format == "pson", CatalogUUID: a.CatalogUUID, ConfigVersion: a.Version,
		Exported: a.exported(q), Resources: a.Resources, Logs: a.Logs, Timings: timings, WorkerPID: a.pid,
	}, nil
}

// EnvironmentClasses returns the body of Puppet Server's environment_classes
// endpoint: every class of every manifest with its parameters.
func (p *Pool) EnvironmentClasses(ctx context.Context, v *code.Version) (json.RawMessage, error) {
	a, err := p.run(ctx, engine.Request{Version: v}, plainCommand{Op: "classes", Deadline: seconds(p.o.Deadline)})
	if err != nil {
		return nil, p.describe(engine.Request{Version: v}, "Listing the classes", err)
	}
	if a.Event != "done" {
		return nil, fault.New(fault.Failed, "%s", a.Message)
	}
	return classListing(v.Environment, a.Files)
}

// Prepare starts and warms the zygote of a version before anybody asks for it. It
// takes no other version's place.
func (p *Pool) Prepare(ctx context.Context, v *code.Version) error {
	if !p.hasRoom(v) {
		return nil
	}
	leave, err := p.enter(engine.Request{Patient: true})
	if err != nil {
		return err
	}
	defer leave()
	z, err := p.acquire(ctx, v, nil, false)
	if err != nil {
		return err
	}
	p.release(z)
	return nil
}

func (p *Pool) hasRoom(v *code.Version) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.zygotes) < p.o.MaxVersions || p.zygotes[zygoteKey{v.Environment, v.ID}] != nil
}

// An answer is what a worker said, and who said it.
type answer struct {
	event
	body    []byte
	restore *restorer
	pid     int
	queued  time.Duration
	took    time.Duration
}

func (a answer) timings() map[string]time.Duration {
	t := map[string]time.Duration{"queue": a.queued}
	for step, seconds := range a.Timings {
		t[step] = time.Duration(seconds * float64(time.Second))
	}
	return t
}

// attempts is how often a request is tried when its worker is killed from
// outside. A catalog that makes the kernel kill workers costs two of them.
const attempts = 2

// run takes a request through the queue and gives it to a worker.
func (p *Pool) run(ctx context.Context, q engine.Request, command any) (answer, error) {
	start := time.Now()
	leave, err := p.enter(q)
	if err != nil {
		return answer{}, err
	}
	defer leave()

	for attempt := 1; ; attempt++ {
		a, err := p.attempt(ctx, q, command, start, attempt > 1)
		lost, isLost := errors.AsType[*lostError](err)
		if !isLost || lost.cause != died || !lost.fromOutside || attempt == attempts {
			return a, err
		}
		p.o.Log.Warn("worker was killed from outside; trying once more", slog.String(telemetry.KeyCertname, string(q.Certname)))
	}
}

func (p *Pool) attempt(ctx context.Context, q engine.Request, command any, start time.Time, fresh bool) (answer, error) {
	var o *offer
	if _, ok := command.(compileCommand); ok {
		o = newOffer(q)
	}
	z, err := p.acquire(ctx, q.Version, o, q.Former)
	if err != nil {
		return answer{}, err
	}
	defer p.release(z)
	if a, ok := o.take(); ok {
		a.queued = time.Since(start) - a.took
		return a, nil
	}
	if err := p.takeSlot(ctx); err != nil {
		return answer{}, err
	}
	defer p.leaveSlot()

	w, err := p.worker(ctx, z, fresh)
	if err != nil {
		return answer{}, fault.Wrap(fault.Unavailable, err, "the Ruby engine cannot start a worker")
	}
	p.count(-1)
	queued, began := time.Since(start), time.Now()
	e, body, err := w.exchange(ctx, command, bounds{deadline: p.o.Deadline, memory: 2 * p.o.MaxMemory}, func(ctx context.Context, e event) any {
		return p.answer(ctx, q.Version, e)
	})
	p.count(+1)
	if lost, ok := errors.AsType[*lostError](err); ok {
		lost.learn(z.control.death(w.pid), w)
	}
	took := time.Since(began)
	p.giveBack(z, w, err != nil || w.spent(e, p.o))
	if err != nil {
		return answer{}, err
	}
	p.learn(took - time.Duration(e.Starved*float64(time.Second)))
	return answer{event: e, body: body, restore: z.restore, pid: w.pid, queued: queued, took: took}, nil
}

func compiling(q engine.Request) string { return "Compiling the catalog of " + string(q.Certname) }

// describe turns what happened to a worker into what the agent and the operator
// should know.
func (p *Pool) describe(q engine.Request, what string, err error) error {
	lost, ok := errors.AsType[*lostError](err)
	if !ok {
		return err
	}
	env := q.Version.Environment
	switch lost.cause {
	case cancelled:
		return fault.Wrap(fault.Unavailable, err, "%s was stopped because the request ended", what)
	case timedOut:
		err = fmt.Errorf("worker was killed at the deadline: %w", err)
		return p.fail(q, err, "%s took longer than %s and was stopped: look for a loop or a slow function in environment %s, or raise the deadline of compiles",
			what, p.o.Deadline, env)
	case tooLarge:
		return p.fail(q, err, "%s", p.tooLarge(what, env))
	case garbled:
		return p.fail(q, err, "%s ended with an answer that cannot be understood: code of environment %s disturbs its worker process", what, env)
	case died:
		return p.fail(q, err, "%s ended its worker process (%s): look for exit!, abort or a crash in code of environment %s", what, lost.ending, env)
	}
	return err
}

func (p *Pool) tooLarge(what string, env puppet.Environment) string {
	return fmt.Sprintf("%s needed more than %d MiB of memory and was stopped: look for data without end in environment %s, or raise the memory of workers",
		what, 2*p.o.MaxMemory>>20, env)
}

// fail makes the fault for a catalog whose code is to blame.
func (p *Pool) fail(q engine.Request, cause error, format string, args ...any) error {
	msg := fmt.Sprintf(format, args...)
	return fault.Wrap(fault.Failed, errors.Join(&engine.CompileError{Certname: q.Certname, Msg: msg}, cause), "%s", msg)
}

// failure is for a compile that Puppet itself, or Ruby, ended with an error.
func (p *Pool) failure(q engine.Request, a answer) error {
	msg := a.Message
	if a.Memory {
		msg = p.tooLarge(compiling(q), q.Version.Environment)
	}
	return fault.Wrap(fault.Failed, &engine.CompileError{Certname: q.Certname, Msg: msg, Logs: a.Logs, Timings: a.timings()}, "%s", msg)
}
