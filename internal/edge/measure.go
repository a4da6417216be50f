package edge

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/edge/health"
)

// This file measures what DNS answers by besides health: what an edge can still take, and how far other sites are. An edge says both of
// itself in a header of its status page, and the checks of all edges read it there. So all name servers of a zone go by the same numbers,
// also for a site that they are not in.

// tellHeader is of answers to status checks, written as the query of a URL: free=12&near.west=13. Places, and milliseconds.
const (
	tellHeader = "Troupe-Edge"
	maxTelling = 4 << 10
)

const (
	measureEvery = time.Second
	freeOver     = 15 * time.Second // the time over which a measure is smoothed
	nearOver     = time.Minute
	moves        = 0.25 // a smoothed measure that has moved by less says what it said before
	leastFree    = 0.5  // or by less than half a place
	leastNear    = 1.0  // or a millisecond
	autoPlace    = 10   // what a free place weighs
)

// A steady is a measure that does not jump: smoothed, and said anew only when it has moved far enough.
type steady struct {
	mean, said float64
	at         time.Time
}

// take adds what was measured now.
func (s *steady) take(value float64, now time.Time, over time.Duration, least float64) {
	if s.at.IsZero() {
		s.mean, s.said, s.at = value, value, now
		return
	}
	old := math.Exp(-float64(now.Sub(s.at)) / float64(over))
	s.mean, s.at = old*s.mean+(1-old)*value, now
	if far := math.Abs(s.mean - s.said); far >= max(least, moves*max(s.mean, s.said)) {
		s.said = s.mean
	}
}

// A telling is what an edge says of itself.
type telling struct {
	free  float64            // places; below 0 where it does not know
	near  map[string]float64 // milliseconds to other sites
	known bool
	// name and router are the edge and the router id that it announces with, in its autonomous system; empty without BGP.
	name, router string
}

// measures are what is known of this edge and of those that DNS tells of.
type measures struct {
	mu    sync.Mutex
	free  steady
	near  map[string]*steady // by site
	share map[string]*steady // by edge: what its agent says, in percent
	own   telling            // name and router of this one
	told  map[string]telling // by edge
	line  string             // what this one says
}

func newMeasures() *measures {
	return &measures{near: map[string]*steady{}, share: map[string]*steady{}, told: map[string]telling{}}
}

// measure measures until ctx ends.
func (e *Edge) measure(ctx context.Context) error {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		e.measureNow(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (e *Edge) measureNow(now time.Time) {
	free, _, counted := e.rooms()
	checks := map[string]health.Status{}
	for _, s := range e.judge.All() {
		checks[s.ID] = s
	}
	m := e.measures
	m.mu.Lock()
	defer m.mu.Unlock()
	say := url.Values{}
	if counted {
		m.free.take(float64(free), now, freeOver, leastFree)
		say.Set("free", strconv.FormatFloat(m.free.said, 'f', 1, 64))
	}
	if e.conf.DNS != nil {
		for name, site := range e.conf.DNS.Sites {
			m.measureSite(name, site, checks, now)
			if d := m.near[name]; d != nil && name != e.conf.Site {
				say.Set("near."+name, strconv.FormatFloat(d.said, 'f', 1, 64))
			}
		}
	}
	m.own.name, m.own.router = e.conf.Name, e.routerID()
	if m.own.router != "" {
		say.Set("name", m.own.name)
		say.Set("router", m.own.router)
	}
	m.line = say.Encode()
}

// measureSite takes over what checks have shown of the edges of a site. m.mu is held.
func (m *measures) measureSite(name string, site config.EdgeSite, checks map[string]health.Status, now time.Time) {
	var nearest time.Duration
	for _, d := range site.Edges {
		c := checks[dnsPool+"/"+d.Name]
		if c.State == health.Up && c.Near > 0 && (nearest == 0 || c.Near < nearest) {
			nearest = c.Near
		}
		if c.Said != "" {
			m.told[d.Name] = readTelling(c.Said)
		}
		if d.Agent != "" && c.State == health.Up {
			if m.share[d.Name] == nil {
				m.share[d.Name] = &steady{}
			}
			m.share[d.Name].take(100*c.Share, now, freeOver, leastFree)
		}
	}
	if nearest > 0 {
		if m.near[name] == nil {
			m.near[name] = &steady{}
		}
		m.near[name].take(float64(nearest)/float64(time.Millisecond), now, nearOver, leastNear)
	}
}

// readTelling reads what an edge says. What makes no sense was not said.
func readTelling(line string) telling {
	t := telling{free: -1, near: map[string]float64{}, known: true}
	if len(line) > maxTelling {
		return t
	}
	said, err := url.ParseQuery(line)
	if err != nil {
		return t
	}
	t.name, t.router = said.Get("name"), said.Get("router")
	for key, values := range said {
		n, err := strconv.ParseFloat(values[0], 64)
		if err != nil || math.IsNaN(n) || n < 0 || n > 1e6 {
			continue
		}
		if site, ok := strings.CutPrefix(key, "near."); ok {
			t.near[site] = n
		} else if key == "free" {
			t.free = n
		}
	}
	return t
}

// rooms is how many places are free in the pool that has the fewest, of those that listeners begin with, and how many it has.
func (e *Edge) rooms() (free, all int, counted bool) {
	for _, l := range e.conf.Listeners {
		if f, a, ok := e.room(e.pools[l.Pool]); ok && (!counted || f < free) {
			free, all, counted = f, a, true
		}
	}
	return free, all, counted
}

// room is how many places a pool has, and how many of them are free: by the heartbeats of members, those of this site alone, else by
// max_connections. A pool whose servers have no limit cannot be counted.
func (e *Edge) room(p *pool) (free, all int, counted bool) {
	stats := p.Stats()
	var beats map[string]cluster.ViewPeer
	if p.conf.Members {
		beats = e.troupe.heard()
	}
	local := slices.ContainsFunc(stats.Servers, func(s balance.ServerStats) bool { return s.Site == e.conf.Site })
	taken := stats.Queue
	for _, s := range stats.Servers {
		if p.conf.Members && local && s.Site != e.conf.Site {
			continue
		}
		b, beat := beats[s.Name]
		counted = counted || beat
		if s.Verdict.State != health.Up || s.Weight == 0 {
			continue
		}
		switch {
		case beat && b.State == "running":
			taken += b.Busy + b.Waiting
			all += b.Workers
		case beat:
		case s.Limit == 0:
			return 0, 0, false
		default:
			taken += s.Current
			all += s.Limit
			counted = true
		}
	}
	return max(all-taken, 0), all, counted
}

// weight is that of an edge in DNS, and why.
func (m *measures) weight(d config.EdgeDNSEdge, living int) (weight int, why string) {
	if d.Weight != config.WeightAuto {
		return orInt(int(d.Weight), 100), "as configured"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.share[d.Name]; s != nil {
		return atLeastOne(s.said), fmt.Sprintf("its agent check says %.0f %%", s.said)
	}
	if t := m.told[d.Name]; t.known && t.free >= 0 {
		return atLeastOne(autoPlace * t.free / float64(max(living, 1))), fmt.Sprintf("its site has %.1f places free, for %d edges", t.free, max(living, 1))
	}
	return 100, "it does not say what it can take"
}

func atLeastOne(weight float64) int { return max(1, int(math.Round(weight))) }

// distances are those from a site to the others, as its own edges measure them, and who of them says so. An edge of that site that is not
// up says what it knew last.
func (m *measures) distances(site config.EdgeSite, own bool, up func(config.EdgeDNSEdge) bool) (near map[string]float64, by string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	near = map[string]float64{}
	for _, alive := range []bool{true, false} {
		for _, d := range site.Edges {
			if t := m.told[d.Name]; len(t.near) > 0 && up(d) == alive {
				for other, ms := range t.near {
					near[other] = wholly(ms)
				}
				return near, d.Name
			}
		}
	}
	if own {
		for other, d := range m.near {
			near[other] = wholly(d.said)
		}
		return near, "this edge"
	}
	return near, ""
}

// wholly has sites that differ in less than a millisecond share a step.
func wholly(ms float64) float64 { return max(1, math.Round(ms)) }

// routerID is the one that this edge announces with.
func (e *Edge) routerID() string {
	if b := e.conf.BGP; b != nil && b.RouterID.IsValid() {
		return fmt.Sprintf("%v in AS %d", b.RouterID, b.AS)
	}
	return ""
}

// twins are alarms: edges that announce with the router id of this one. Their routers need not notice.
func (m *measures) twins() (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.told)) {
		if t := m.told[name]; m.own.router != "" && t.router == m.own.router && t.name != m.own.name {
			all = append(all, fmt.Sprintf("edge %s has the router_id %s of this edge; give each its own (bgp.router_id), or routers will lose routes that differ in nothing else", name, t.router))
		}
	}
	return all
}

// says is what the status page tells other edges.
func (m *measures) says() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.line
}
