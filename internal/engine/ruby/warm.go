package ruby

import (
	"context"
	"log/slog"
	"slices"

	"troupe/internal/engine"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file remembers which nodes were compiled lately, to warm a new code
// version with them.

// maxRecentEnvironments bounds the memory that recent takes.
const maxRecentEnvironments = 64

// recent keeps the last requests of different nodes for each environment. They
// know the classes of an ENC, which stored facts do not. Pool.mu guards it.
type recent struct {
	nodes    int
	requests map[puppet.Environment][]engine.Request // newest last
}

func newRecent(nodes int) *recent {
	return &recent{nodes: nodes, requests: map[puppet.Environment][]engine.Request{}}
}

func (r *recent) add(q engine.Request) {
	env := q.Version.Environment
	if _, ok := r.requests[env]; !ok && len(r.requests) >= maxRecentEnvironments {
		for other := range r.requests { // any of them
			delete(r.requests, other)
			break
		}
	}
	q.Version = nil // of another time, and too large to keep
	list := slices.DeleteFunc(r.requests[env], func(o engine.Request) bool { return o.Certname == q.Certname })
	list = append(list, q)
	r.requests[env] = list[max(0, len(list)-r.nodes):]
}

// remember keeps a request whose catalog compiled.
func (p *Pool) remember(q engine.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent.add(q)
}

// warmRequests says what to compile in a new zygote: what was compiled lately,
// else nodes that the store knows, else the request that is waiting for it.
func (p *Pool) warmRequests(ctx context.Context, z *zygote, log *slog.Logger) []engine.Request {
	p.mu.Lock()
	requests := slices.Clone(p.recent.requests[z.key.environment])
	p.mu.Unlock()

	if len(requests) == 0 && p.o.Warm != nil {
		ctx, cancel := context.WithTimeout(ctx, stepLimit)
		defer cancel()
		facts, err := p.o.Warm(ctx, z.key.environment, p.o.WarmNodes)
		if err != nil {
			log.Warn("no facts to warm with", slog.Any(telemetry.KeyErr, err))
		}
		for _, f := range facts {
			requests = append(requests, engine.Request{Certname: f.Certname, Facts: f, Rich: true, Trusted: puppet.Trusted{
				Authenticated: "remote", Certname: f.Certname, Hostname: f.Certname.Hostname(), Domain: f.Certname.Domain(),
			}})
		}
	}
	if len(requests) == 0 && z.first.Certname != "" {
		requests = append(requests, z.first)
	}
	for i := range requests {
		requests[i].Version = z.version
	}
	return requests
}
