package edge

import (
	"context"
	"math"
	"net"
	"time"

	"troupe/internal/edge/health"
)

// This file tells a HAProxy in front of several edges how much each can take, by its own agent-check protocol.

// runAgentCheck answers agent checks until ctx ends, or another process has taken over.
func (e *Edge) runAgentCheck(ctx context.Context, begun func()) error {
	return e.beside(ctx, "agent_check", e.conf.AgentCheck, begun, func(ctx context.Context, l net.Listener) error {
		e.firstVerdicts(ctx, verdictsMost)
		return health.AgentResponder(ctx, l, e.agentLine)
	})
}

// verdictsMost is how long the first checks may take before their result counts as what it looks like.
const verdictsMost = 5 * time.Second

// firstVerdicts waits until servers were checked: an edge that has just begun is not down.
func (e *Edge) firstVerdicts(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		changed := e.judge.Changed()
		if ok, _ := e.serving(); ok {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-changed:
		}
	}
}

// agentLine says what this edge can take.
func (e *Edge) agentLine() string {
	v := health.Verdict{State: health.Up, Share: e.spare()}
	serving, why := e.serving()
	switch {
	case !serving:
		v.State, v.Reason = health.Down, why
	case e.leaving.Load():
		v.State, v.Reason = health.Drain, "the edge stops"
	case e.drained.Load():
		v.State, v.Reason = health.Drain, "by an operator"
	}
	return health.AgentLine(v)
}

// spare is the share of places that are free, in the pool that has the fewest, of those that listeners begin with. A pool whose servers
// have no limit has all. It is one in a hundred at least: without any weight, nobody new would come even when all others are full, too.
func (e *Edge) spare() float64 {
	least := 1.0
	for _, l := range e.conf.Listeners {
		if free, all, counted := e.room(e.pools[l.Pool]); counted {
			least = min(least, float64(free)/float64(max(all, 1)))
		}
	}
	return max(math.Round(100*least)/100, 0.01)
}
