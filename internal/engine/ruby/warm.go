package ruby

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"troupe/internal/engine"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file warms zygotes: it remembers which nodes were compiled lately, and
// compiles some of them in a new code version before workers are forked.

// maxRecentEnvironments bounds the memory that recent takes.
const maxRecentEnvironments = 64

// recent keeps the last request of each of the last roles of an environment. A
// role is what nodes with the same classes have in common, as far as a zygote is
// concerned: one of them loads what all of them need. Requests know the classes
// of an ENC, which stored facts do not. Pool.mu guards it.
type recent struct {
	roles    int
	requests map[puppet.Environment][]recentRequest // newest last
}

type recentRequest struct {
	engine.Request

	role string
	at   time.Time
}

func newRecent(roles int) *recent {
	return &recent{roles: roles, requests: map[puppet.Environment][]recentRequest{}}
}

func (r *recent) add(q engine.Request, role string) {
	env := q.Version.Environment
	if _, ok := r.requests[env]; !ok && len(r.requests) >= maxRecentEnvironments {
		for other := range r.requests { // any of them
			delete(r.requests, other)
			break
		}
	}
	q.Version = nil // of another time, and too large to keep
	list := slices.DeleteFunc(r.requests[env], func(o recentRequest) bool { return o.Certname == q.Certname || o.role == role })
	list = append(list, recentRequest{q, role, time.Now()})
	r.requests[env] = list[max(0, len(list)-r.roles):]
}

// newest returns the requests of an environment, the newest first.
func (r *recent) newest(e puppet.Environment) []engine.Request {
	var all []engine.Request
	for _, q := range slices.Backward(r.requests[e]) {
		all = append(all, q.Request)
	}
	return all
}

// remember keeps a request whose catalog compiled.
func (p *Pool) remember(q engine.Request, role string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent.add(q, role)
}

// inUse is for how long an environment counts as used after a catalog: agents
// come every half hour.
const inUse = time.Hour

// InUse returns the environments that catalogs were compiled for lately.
func (p *Pool) InUse() []puppet.Environment {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []puppet.Environment
	for e, list := range p.recent.requests {
		if len(list) > 0 && time.Since(list[len(list)-1].at) < inUse {
			all = append(all, e)
		}
	}
	slices.Sort(all)
	return all
}

// A warming is the state of making one zygote warm, over all attempts.
type warming struct {
	zygote  *zygote
	log     *slog.Logger
	attempt warmAttempt
	bad     []puppet.Certname // whose compile ended the zygote
	known   []engine.Request  // still to be compiled in this attempt
	asked   bool              // known was filled
	tried   []puppet.Certname // in this attempt
}

// A warmAttempt says with whom a zygote is warmed: each failure makes it more
// careful.
type warmAttempt uint8

const (
	withOffers warmAttempt = iota // with requests that wait for it, and known nodes
	withKnown                     // with known nodes
	cold                          // with nobody
)

// enough is how many nodes warm a zygote while requests wait for it; beyond
// that it is better that workers serve them.
const enough = 3

// warmLimit bounds one warming compile: requests may be waiting for the end.
const warmLimit = time.Minute

// warm compiles catalogs in the zygote. A catalog that does not compile does no
// harm. Requests that wait for the zygote come first, one at a time; while nobody
// waits it goes on with the nodes of other roles.
func (p *Pool) warm(ctx context.Context, w *warming) error {
	w.known, w.asked, w.tried = nil, false, nil
	w.zygote.warmed = 0
	for w.attempt != cold {
		q, o, more := p.nextToWarm(ctx, w)
		if !more {
			break
		}
		w.tried = append(w.tried, q.Certname)
		a, err := p.compileInZygote(ctx, w.zygote, q)
		if err != nil {
			w.bad = append(w.bad, q.Certname)
			return fmt.Errorf("warming with %s: %w", q.Certname, err)
		}
		if a.Event == "done" {
			w.zygote.warmed++
		} else {
			// Not yet news: the node's next run fails in the same words and is told.
			w.log.Debug("warming compile failed", slog.String(telemetry.KeyCertname, string(q.Certname)), slog.String("message", a.Message))
		}
		if o != nil {
			o.resolve(a)
		}
	}
	return nil
}

// nextToWarm says what the zygote compiles next, and whose offer that answers,
// if it is one. An offer whose request has gone is compiled all the same: its
// node comes back.
func (p *Pool) nextToWarm(ctx context.Context, w *warming) (q engine.Request, o *offer, more bool) {
	z := w.zygote
	p.mu.Lock()
	waiting := len(z.offers)
	if w.attempt == withOffers && waiting > 0 && (waiting == 1 || len(w.tried) < enough) && len(w.tried) < 2*p.o.WarmNodes {
		o, z.offers = z.offers[0], z.offers[1:]
	}
	p.mu.Unlock()
	switch {
	case o != nil:
		return o.request, o, true
	case waiting > 0 && len(w.tried) >= enough, len(w.tried) >= p.o.WarmNodes:
		return engine.Request{}, nil, false
	}
	if !w.asked {
		w.known, w.asked = p.knownNodes(ctx, z, w.log), true
	}
	for len(w.known) > 0 {
		q, w.known = w.known[0], w.known[1:]
		if !slices.Contains(w.tried, q.Certname) && !slices.Contains(w.bad, q.Certname) {
			q.Version = z.version
			return q, nil, true
		}
	}
	return engine.Request{}, nil, false
}

// knownNodes says whom to warm with: nodes that were compiled lately, else nodes
// that the store knows.
func (p *Pool) knownNodes(ctx context.Context, z *zygote, log *slog.Logger) []engine.Request {
	p.mu.Lock()
	requests := p.recent.newest(z.key.environment)
	p.mu.Unlock()
	if len(requests) > 0 || p.o.Warm == nil {
		return requests
	}

	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	requests, err := p.o.Warm(ctx, z.key.environment, p.o.WarmNodes)
	if err != nil {
		log.Warn("no nodes to warm with", slog.Any(telemetry.KeyErr, err))
	}
	return requests
}

// compileInZygote compiles a catalog in the zygote itself, within the bounds of a
// worker. An error means that the zygote is lost or has to go.
func (p *Pool) compileInZygote(ctx context.Context, z *zygote, q engine.Request) (answer, error) {
	limit := min(p.o.Deadline, warmLimit)
	command, err := newCompileCommand("compile", q, limit)
	if err != nil {
		return answer{event: event{Event: "failed", Message: err.Error()}}, nil //nolint:nilerr // it is told like what a manifest gets wrong
	}

	began := time.Now()
	self := &worker{conn: z.control.conn, pid: z.process.Pid, process: z.process, log: p.o.Log}
	done := make(chan struct{})
	var verdict cause
	var watching sync.WaitGroup
	watching.Go(func() { verdict = self.watch(ctx, done, bounds{deadline: limit, memory: 2 * p.o.MaxMemory}) })
	// The watch closes the connection.
	e, err := z.control.command(context.WithoutCancel(ctx), command, nil)
	close(done)
	watching.Wait()
	switch {
	case err != nil && verdict == timedOut:
		err = fmt.Errorf("it took longer than %s: %w", limit, err)
	case err != nil && verdict == tooLarge:
		err = fmt.Errorf("it took more than %d bytes: %w", 2*p.o.MaxMemory, err)
	case err == nil && (e.Memory || e.Leaving):
		err = fmt.Errorf("it left the process unfit: %s", e.Message)
	}
	if err != nil {
		return answer{}, err
	}
	return answer{event: e, body: e.body, restore: z.restore, pid: z.process.Pid, took: time.Since(began)}, nil
}
