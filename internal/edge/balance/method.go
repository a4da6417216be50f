package balance

import (
	"hash/fnv"
	"math"
	"time"
)

// This file holds the methods: each chooses one of the servers that have room.

// method chooses one of free, which are those of all in a tier that have room. p.mu is held.
func (p *Pool) method(all, free []*server, ask Ask, now time.Time) *server {
	switch p.o.Method {
	case LeastConnections:
		return least(free, func(s *server) float64 { return float64(len(s.leases)+1) / s.weight(now) })
	case Random:
		return p.twoChoices(free, now)
	case LeastWork:
		cost := p.cost(ask)
		fastest := free[0].slow
		for _, s := range free[1:] {
			fastest = min(fastest, s.slow)
		}
		return least(free, func(s *server) float64 { return float64(s.ahead(now)+cost) * pace(s.slow/fastest) / s.weight(now) })
	case First:
		return free[0]
	case Hash:
		return p.rendezvous(all, free, ask, now)
	default:
		return next(free, now)
	}
}

// pace leaves small differences out, which are chance: without that, an idle pool would send everything to one server.
func pace(slow float64) float64 {
	if slow < 1.25 {
		return 1
	}
	return slow
}

// least returns the server with the smallest value; of several, the one that was used longest ago.
func least(servers []*server, value func(*server) float64) *server {
	best, smallest := servers[0], value(servers[0])
	for _, s := range servers[1:] {
		v := value(s)
		if v < smallest || v == smallest && s.used < best.used {
			best, smallest = s, v
		}
	}
	return best
}

// next is smooth weighted round robin: each server earns its weight at each turn, who has most is next, and pays for all. So a heavy
// server's turns are spread among those of the others.
func next(free []*server, now time.Time) *server {
	best := free[0]
	for _, s := range free[1:] {
		if s.turn+s.weight(now) > best.turn+best.weight(now) {
			best = s
		}
	}
	return best
}

// turn makes a server pay for its turn of round robin: those that could have had it earn.
func (f field) turn(chosen *server, now time.Time) {
	for _, t := range f.tiers {
		if t.number != chosen.tier {
			continue
		}
		sum := 0.0
		for _, s := range t.servers {
			if s != chosen && !s.room(now) {
				continue // who is full earns nothing: it would come back with all of it at once
			}
			s.turn += s.weight(now)
			sum += s.weight(now)
		}
		chosen.turn -= sum
	}
}

// twoChoices draws two servers by weight, and takes the one that is less loaded.
func (p *Pool) twoChoices(free []*server, now time.Time) *server {
	a := p.draw(free, nil, now)
	b := p.draw(free, a, now)
	if b == nil {
		return a
	}
	return least([]*server{a, b}, func(s *server) float64 { return float64(len(s.leases)+1) / s.weight(now) })
}

// draw draws one server by weight, but not that one.
func (p *Pool) draw(servers []*server, not *server, now time.Time) *server {
	sum := 0.0
	for _, s := range servers {
		if s != not {
			sum += s.weight(now)
		}
	}
	at := p.o.Rand() * sum
	var last *server
	for _, s := range servers {
		if s == not {
			continue
		}
		last = s
		at -= s.weight(now)
		if at < 0 {
			break
		}
	}
	return last
}

// rendezvous takes the server that scores highest for the key, unless that one has more than its share of what runs now, times Bound.
// A server that comes or goes moves only the keys that are its own. All edges choose alike.
func (p *Pool) rendezvous(all, free []*server, ask Ask, now time.Time) *server {
	key := ask.Key
	if p.o.HashBy == "environment" {
		key = ask.Environment
	}
	running, weights := 1, 0.0
	for _, s := range all {
		running += len(s.leases)
		weights += s.weight(now)
	}
	var best, bounded *server
	var high, highBounded float64
	for _, s := range free {
		value := score(key, s.Name, s.weight(now))
		if best == nil || value > high {
			best, high = s, value
		}
		bound := math.Ceil(p.o.Bound * float64(running) * s.weight(now) / weights)
		if float64(len(s.leases)+1) <= bound && (bounded == nil || value > highBounded) {
			bounded, highBounded = s, value
		}
	}
	if bounded != nil {
		return bounded
	}
	return best
}

// score is the weighted rendezvous score of a server for a key: the one with twice the weight scores highest for twice as many keys.
func score(key, server string, weight float64) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // it never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(server))
	x := h.Sum64()
	// FNV's last bytes hardly reach its high bits; mix them.
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return -weight / math.Log((float64(x>>11)+0.5)/(1<<53))
}
