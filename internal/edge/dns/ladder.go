package dns

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// This file decides which edges are in an answer, in which order, and why.

// candidate is one edge that could be in an answer.
type candidate struct {
	*edge
	priority uint16
	weight   uint16
	in       bool
	why      string
}

// ladder is everybody who could be answered for a service, nearest first.
type ladder struct {
	all      []candidate
	panicked bool // nobody lives: those that are in were good last
	restless bool // something is down, or changed a short time ago
}

// in are the candidates that are answered.
func (l ladder) in() []candidate {
	return slices.DeleteFunc(slices.Clone(l.all), func(c candidate) bool { return !c.in })
}

// climb builds the ladder of a service as it is seen from a site. Priorities do not depend on health, so a site that
// dies leaves a gap and the others stay where they are. Who is not meant for the service is no candidate, neither by
// being nearest nor by being good last; with addressed, nor is who has no address.
func (p *picture) climb(from string, service Service, only []string, addressed bool, now time.Time) ladder {
	var l ladder
	var never []candidate
	distance := p.distances(from)
	for _, s := range p.sites {
		if len(only) > 0 && !slices.Contains(only, s.name) {
			continue
		}
		for _, e := range s.edges {
			c := candidate{edge: e, priority: distance[s.name]}
			if !e.offers(service) {
				c.why = "is not meant for " + string(service)
			} else if addressed && len(e.Addresses) == 0 {
				c.why = "has no address, and this name has nothing else"
			}
			if c.why != "" {
				never = append(never, c)
				continue
			}
			h := e.health[service]
			c.in = h.up
			if c.why = "serves " + string(service); !h.up {
				c.why = "does not serve " + string(service)
			}
			l.restless = l.restless || !h.up || !h.changed.IsZero() && now.Sub(h.changed) < settleTime
			l.all = append(l.all, c)
		}
	}
	slices.SortStableFunc(l.all, func(a, b candidate) int { return cmp.Compare(a.priority, b.priority) })
	if !slices.ContainsFunc(l.all, func(c candidate) bool { return c.in }) {
		l.lastKnownGood(service)
	}
	l.weigh()
	l.all = append(l.all, never...)
	return l
}

// distances are the priorities of the sites as seen from one: 0 itself, then by its order, equals sharing a step.
func (p *picture) distances(from string) map[string]uint16 {
	steps := map[string]float64{}
	i := slices.IndexFunc(p.sites, func(s *site) bool { return s.name == from })
	for _, s := range p.sites {
		steps[s.name] = math.Inf(1)
		if i >= 0 {
			if d, ok := p.sites[i].order[s.name]; ok && !math.IsNaN(d) {
				steps[s.name] = d
			}
		}
	}
	delete(steps, from)
	var distinct []float64
	for _, d := range steps {
		distinct = append(distinct, d)
	}
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	out := map[string]uint16{from: 0}
	for name, d := range steps {
		out[name] = uint16(1 + slices.Index(distinct, d))
	}
	return out
}

// lastKnownGood takes those that were the last to serve, and what died shortly before them: deaths of one cause are
// not noticed at one moment. If nobody was ever seen to serve, it takes all.
func (l *ladder) lastKnownGood(service Service) {
	l.panicked = len(l.all) > 0
	var last time.Time
	any := false
	for _, c := range l.all {
		if h := c.health[service]; h.everUp {
			any = true
			if h.changed.After(last) {
				last = h.changed
			}
		}
	}
	for i := range l.all {
		c := &l.all[i]
		h := c.health[service]
		switch {
		case !any:
			c.in, c.why = true, "nobody was ever seen to serve "+string(service)+": all are answered"
		case h.everUp && last.Sub(h.changed) <= graceTime:
			c.in, c.why = true, "nobody serves "+string(service)+": this one did last"
		default:
			c.why += ", and did not when the last one died"
		}
	}
}

// weigh turns spare capacities into SRV weights. Agents take a weight n as 10n and 0 as 1, so within a step 0 is
// given only if all have 0; otherwise one that is full would be found by a hundredth of the agents that it is meant for.
func (l *ladder) weigh() {
	most, some := map[uint16]int{}, map[uint16]bool{}
	for _, c := range l.all {
		if c.in {
			most[c.priority] = max(most[c.priority], c.Weight)
			some[c.priority] = some[c.priority] || c.Weight > 0
		}
	}
	for i := range l.all {
		c := &l.all[i]
		if !c.in || !some[c.priority] {
			continue
		}
		w := c.Weight
		if m := most[c.priority]; m > math.MaxUint16 {
			w = int(float64(w) / float64(m) * math.MaxUint16)
		}
		c.weight = uint16(max(w, 1))
	}
}

// nearest leaves only the first step that has anybody, for names with addresses, which know no priorities. One with
// no spare capacity is left out while others have some: addresses carry no weights.
func (l *ladder) nearest() {
	first := slices.IndexFunc(l.all, func(c candidate) bool { return c.in })
	if first < 0 {
		return
	}
	step := l.all[first].priority
	full := func(c candidate) bool { return c.Weight == 0 }
	allFull := !slices.ContainsFunc(l.all, func(c candidate) bool { return c.in && c.priority == step && !full(c) })
	for i := range l.all {
		switch c := &l.all[i]; {
		case !c.in:
		case c.priority != step:
			c.in, c.why = false, fmt.Sprintf("serves, but site %s is nearer", l.all[first].site)
		case full(*c) && !allFull:
			c.in, c.why = false, "serves, but has no spare capacity and others of its site have"
		}
	}
}

// shuffled orders candidates at random, each place going to one with the probability of its weight.
func shuffled(all []candidate) []candidate {
	type ticket struct {
		candidate
		key float64
	}
	tickets := make([]ticket, len(all))
	for i, c := range all {
		//nolint:gosec // who gets the next agent is no secret
		tickets[i] = ticket{c, rand.ExpFloat64() / float64(max(c.weight, 1))}
	}
	slices.SortFunc(tickets, func(a, b ticket) int { return cmp.Compare(a.key, b.key) })
	out := make([]candidate, len(all))
	for i, t := range tickets {
		out[i] = t.candidate
	}
	return out
}
