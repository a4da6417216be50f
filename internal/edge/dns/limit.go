package dns

import (
	"net/netip"
	"sync"
	"time"
)

// This file limits how many answers a network gets over UDP, whose senders can be forged. Every second answer beyond
// the limit is an empty one that says "ask over TCP", which a forged sender cannot; the others are dropped.

const maxBuckets = 1 << 16

// verdict is what may be sent back.
type verdict int

const (
	allowed verdict = iota
	slipped         // empty, with the TC bit
	silent
)

// limiter holds one bucket of tokens for each network.
type limiter struct {
	rate float64 // tokens a second; 0 or less limits nothing

	mu      sync.Mutex
	buckets map[netip.Prefix]*bucket
}

type bucket struct {
	tokens float64
	filled time.Time
	beyond int
}

func newLimiter(rate int) *limiter {
	return &limiter{rate: float64(rate), buckets: map[netip.Prefix]*bucket{}}
}

// judge takes a token of the sender's network. A network that was quiet may burst for two seconds' worth.
func (l *limiter) judge(from netip.Addr, now time.Time) verdict {
	if l.rate <= 0 {
		return allowed
	}
	bits := 56
	if from = from.Unmap(); from.Is4() {
		bits = 24
	}
	network, err := from.Prefix(bits)
	if err != nil {
		return silent
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[network]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			l.sweep(now)
		}
		b = &bucket{tokens: 2 * l.rate, filled: now}
		l.buckets[network] = b
	}
	if passed := now.Sub(b.filled).Seconds(); passed > 0 {
		b.tokens = min(2*l.rate, b.tokens+passed*l.rate)
	}
	b.filled = now
	if b.tokens >= 1 {
		b.tokens--
		b.beyond = 0
		return allowed
	}
	b.beyond++
	if b.beyond%2 == 0 {
		return slipped
	}
	return silent
}

// sweep forgets networks whose bucket is full again, and if all are busy, some of them: better a limit that is too
// generous for a moment than a table that grows for ever.
func (l *limiter) sweep(now time.Time) {
	for network, b := range l.buckets {
		if now.Sub(b.filled) > 2*time.Second {
			delete(l.buckets, network)
		}
	}
	for network := range l.buckets {
		if len(l.buckets) < maxBuckets*3/4 {
			return
		}
		delete(l.buckets, network)
	}
}
