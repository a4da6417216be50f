package edge

import (
	"context"
	"hash/fnv"
	"net/http"
	"sync"
	"time"

	"troupe/internal/edge/balance"
)

// This file says no: to runs that begin while those that run have enough to wait for, to replays beyond their budget, to requests
// whose servers die.

// admitMost is what a run that begins may have to wait for a server; runs that would wait longer come back later.
const admitMost = 15 * time.Second

// refuses tells whether a run must not begin now, and when it may try again. What belongs to a run that began is never refused
// here, and agents that do not know Retry-After wait.
func (e *Edge) refuses(x *exchange) (time.Duration, bool) {
	if !x.obeys || !x.fresh {
		return 0, false
	}
	if after, ok := x.pool.Admit(balance.Ask{Key: x.client, Environment: x.environment, Class: newRun}, admitMost); !ok {
		return after, true
	}
	return e.outage.holdsBack(x.client, time.Now())
}

func (e *Edge) spread(x *exchange, wait time.Duration) time.Duration {
	return spread(x.client, wait, e.runConf.maxRetryAfter)
}

// strangerBody is what a client without a certificate may send: a certificate request has some two kilobytes.
const strangerBody = 1 << 20

// newcomers bounds who asks for a certificate at the same time: anybody may, so a flood of them must not fill the servers.
type newcomers chan struct{}

const maxNewcomers = 64

// enter takes a place, which leave gives back. Who can be told to come back does not wait for one.
func (n newcomers) enter(ctx context.Context, obeys bool) (leave func(), ok bool) {
	leave = func() { <-n }
	select {
	case n <- struct{}{}:
		return leave, true
	default:
	}
	if obeys {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, oldAgentMost)
	defer cancel()
	select {
	case n <- struct{}{}:
		return leave, true
	case <-ctx.Done():
		return nil, false
	}
}

// spread turns a wait into a time that is another one for each client and always the same for one: a herd that was sent away
// together must not come back together.
func spread(client string, wait, most time.Duration) time.Duration {
	wait = max(wait, time.Second)
	wait += time.Duration(share(client) * float64(wait))
	return min(wait, most).Round(time.Second)
}

// share is a number from 0 to 1 that belongs to a client.
func share(client string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(client)) // it cannot fail
	// Names of a fleet differ in a digit, which FNV leaves near the end; the finish of MurmurHash3 brings it everywhere.
	n := h.Sum64()
	n ^= n >> 33
	n *= 0xff51afd7ed558ccd
	n ^= n >> 33
	n *= 0xc4ceb9fe1a85ec53
	n ^= n >> 33
	return float64(n>>11) / (1 << 53)
}

// An outage remembers since when servers serve again. For a while after it runs are let in bit by bit: all agents that were sent away or
// failed come at once, and caches are cold.
type outage struct {
	ramp time.Duration

	mu     sync.Mutex
	served bool      // before: the start of an edge is no outage
	down   time.Time // since when; zero while it serves
	since  time.Time // when it ended
}

// outageLeast is how long an outage must be for a herd to gather.
const outageLeast = 10 * time.Second

func (o *outage) note(serving bool, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !serving && o.served && o.down.IsZero():
		o.down = now
	case serving:
		if !o.down.IsZero() && now.Sub(o.down) >= outageLeast {
			o.since = now
		}
		o.served, o.down = true, time.Time{}
	}
}

func (o *outage) holdsBack(client string, now time.Time) (time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() || o.ramp <= 0 {
		return 0, false
	}
	turn := o.since.Add(time.Duration(share(client) * float64(o.ramp)))
	if now.Before(turn) {
		return turn.Sub(now), true
	}
	return 0, false
}

// A budget bounds replays to a share of all requests: when everything fails, asking everything three times helps nobody.
type budget struct {
	share float64

	mu     sync.Mutex
	tokens float64
}

// budgetMost is how many replays may come at once: those of a server that died with all that it had.
const budgetMost = 500

func newBudget(share float64) *budget { return &budget{share: share, tokens: budgetMost} }

func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(budgetMost, b.tokens+b.share)
}

func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// A poison list has the requests whose servers died under them again and again: they are not sent for a while, since they might be why.
type poison struct {
	mu   sync.Mutex
	list map[string]*suspect
}

type suspect struct {
	until time.Time
	turns int
}

const (
	poisonFirst = 5 * time.Minute
	poisonMost  = time.Hour
	maxPoison   = 10_000
)

func suspectKey(x *exchange) string {
	return x.client + " " + x.verb.name + " " + x.environment
}

// judge returns why a request is not sent, or nothing.
func (p *poison) judge(x *exchange) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.list[suspectKey(x)]
	if s == nil || time.Now().After(s.until) {
		return ""
	}
	return "Every server that was asked for this " + x.verb.name + " died under it, so it is set aside until " + s.until.UTC().Format(http.TimeFormat) + ". See troupe edge explain " + x.client + "."
}

// died notes that all attempts at a request ended with their servers. One that was set aside before is for longer.
func (p *poison) died(x *exchange, attempts int) {
	if attempts < 2 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := suspectKey(x)
	s := p.list[key]
	if s == nil {
		if len(p.list) >= maxPoison {
			clear(p.list)
		}
		s = &suspect{}
		p.list[key] = s
	}
	// The first time, chance may have done it, as when several servers are restarted: the agent tries again by Retry-After.
	if s.turns++; s.turns > 1 {
		s.until = time.Now().Add(min(poisonMost, poisonFirst<<min(s.turns-2, 4)))
	}
}

func (p *poison) survived(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.list, suspectKey(x))
}
