package dns

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/telemetry"
)

// This file turns what the view says into what can be answered: which names there are, and who stands behind them.

// picture is one state of the view, immutable once made.
type picture struct {
	given []Site // a copy of what the view said, to see that it says something else
	sites []*site
	nodes map[string]*node // every name that exists, by canonical name
}

type site struct {
	name  string
	order map[string]float64
	edges []*edge
}

type edge struct {
	Edge
	site   string
	health map[Service]condition
}

// offers tells whether an edge is meant for a service, up or down.
func (e *edge) offers(service Service) bool {
	return e.Offers == nil || slices.Contains(e.Offers, service)
}

// condition is what is known of one service of an edge over time.
type condition struct {
	up      bool
	changed time.Time // when it was last seen to go up or down; zero if it never did
	everUp  bool
}

// health remembers conditions from one picture to the next.
type health struct{ of map[Service]condition }

// node is what stands at a name. One that is empty is there only because names below it are.
type node struct {
	apex    bool
	hosts   []netip.Addr // of a name server or a target: a machine's own, whether it serves or not
	address *Address
	srv     *ladderName
}

type ladderName struct {
	site    string // "" means that of the asker
	service Service
}

// look returns the picture of this moment.
func (z *Zone) look() *picture {
	z.mu.Lock()
	defer z.mu.Unlock()
	sites := z.o.View()
	if z.seen == nil || !slices.EqualFunc(z.seen.given, sites, sameSite) {
		z.seen = z.draw(sites)
	}
	return z.seen
}

func sameSite(a, b Site) bool {
	return a.Name == b.Name && maps.Equal(a.Order, b.Order) && slices.EqualFunc(a.Edges, b.Edges, sameEdge)
}

func sameEdge(a, b Edge) bool {
	return a.Name == b.Name && a.Target == b.Target && a.Port == b.Port && a.Weight == b.Weight &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Offers, b.Offers) && maps.Equal(a.Services, b.Services)
}

func cloneSite(s Site) Site {
	s.Order, s.Edges = maps.Clone(s.Order), slices.Clone(s.Edges)
	for i, e := range s.Edges {
		s.Edges[i].Addresses, s.Edges[i].Services = slices.Clone(e.Addresses), maps.Clone(e.Services)
	}
	return s
}

// draw makes a picture. What cannot be in an answer is left out and said once. Under z.mu.
func (z *Zone) draw(sites []Site) *picture {
	p := &picture{nodes: map[string]*node{}}
	for _, s := range sites {
		p.given = append(p.given, cloneSite(s))
	}
	now := z.o.Now()
	var faults []string
	edges := 0
	for _, s := range p.given {
		if len(p.sites) == maxSites {
			faults = append(faults, fmt.Sprintf("more than %d sites", maxSites))
			break
		}
		drawn := &site{name: s.Name, order: s.Order}
		for _, e := range s.Edges {
			if edges == maxEdges {
				faults = append(faults, fmt.Sprintf("more than %d edges", maxEdges))
				break
			}
			ready, err := z.usable(e)
			if slices.ContainsFunc(drawn.edges, func(other *edge) bool { return other.Name == e.Name }) {
				err = errors.New("another edge of this site has the same name")
			}
			if err != nil {
				faults = append(faults, fmt.Sprintf("edge %s of site %s: %v", e.Name, s.Name, err))
				continue
			}
			edges++
			drawn.edges = append(drawn.edges, &edge{Edge: ready, site: s.Name, health: z.conditions(s.Name, ready, now)})
		}
		slices.SortStableFunc(drawn.edges, func(a, b *edge) int { return cmp.Compare(a.Name, b.Name) })
		p.sites = append(p.sites, drawn)
	}
	slices.SortStableFunc(p.sites, func(a, b *site) int { return cmp.Compare(a.name, b.name) })
	z.forget(p)
	z.complain(p, faults)
	z.plant(p)
	return p
}

// usable brings an edge of the view into the form of answers.
func (z *Zone) usable(e Edge) (Edge, error) {
	target, ok := hostname(e.Target)
	if !ok || target == "." {
		return e, fmt.Errorf("target %q is not a host name", e.Target)
	}
	e.Target = target
	var addresses []netip.Addr
	for _, a := range e.Addresses {
		a = a.Unmap()
		if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() {
			return e, fmt.Errorf("address %v cannot be answered", a)
		}
		addresses = append(addresses, a)
	}
	if len(addresses) == 0 && wire.IsSubDomain(z.origin, target) {
		return e, fmt.Errorf("its target %s lies in the zone and has no address", target)
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	e.Addresses = slices.Compact(addresses)
	e.Port = cmp.Or(e.Port, defaultPort)
	e.Weight = max(e.Weight, 0)
	return e, nil
}

// conditions notes what changed for an edge and returns a copy.
func (z *Zone) conditions(site string, e Edge, now time.Time) map[Service]condition {
	key := site + "/" + e.Name
	known := z.health[key]
	if known == nil {
		known = &health{of: map[Service]condition{}}
		z.health[key] = known
	}
	for _, service := range []Service{Puppet, CA, Report, Fileserver} {
		up := e.Services[service] && (e.Offers == nil || slices.Contains(e.Offers, service))
		c, seen := known.of[service]
		if seen && c.up != up {
			c.changed = now
		}
		c.up, c.everUp = up, c.everUp || up
		known.of[service] = c
	}
	return maps.Clone(known.of)
}

// forget drops what is remembered of edges that the view no longer has.
func (z *Zone) forget(p *picture) {
	there := map[string]bool{}
	for _, s := range p.sites {
		for _, e := range s.edges {
			there[s.name+"/"+e.Name] = true
		}
	}
	maps.DeleteFunc(z.health, func(key string, _ *health) bool { return !there[key] })
}

// complain tells, once for each change, what is wrong with the view, and when nothing seems to serve.
func (z *Zone) complain(p *picture, faults []string) {
	if said := strings.Join(faults, "; "); said != z.faults {
		z.faults = said
		if said != "" {
			z.log.Warn("edges are left out of the zone", telemetry.KeyErr, said)
		}
	}
	for _, service := range []Service{Puppet, CA, Report, Fileserver} {
		meant, up := false, false
		for _, s := range p.sites {
			for _, e := range s.edges {
				meant = meant || e.offers(service)
				up = up || e.health[service].up
			}
		}
		dead := meant && !up
		if dead == z.panicked[service] {
			continue
		}
		z.panicked[service] = dead
		if dead {
			z.log.Error("no edge of any site serves; what was good last is answered", "service", string(service))
		} else {
			z.log.Info("an edge serves again", "service", string(service))
		}
	}
}

// plant puts every name in its place, and with it the empty ones above it: below those there is something, so they
// have no records but are not missing (RFC 8020).
func (z *Zone) plant(p *picture) {
	at := func(name string) *node {
		for i := name; wire.IsSubDomain(z.origin, i); {
			if p.nodes[i] == nil {
				p.nodes[i] = &node{}
			}
			next, end := wire.NextLabel(i, 0)
			if end {
				break
			}
			i = i[next:]
		}
		return p.nodes[name]
	}
	at(z.origin).apex = true
	for _, s := range z.ns {
		if wire.IsSubDomain(z.origin, s.Name) {
			at(s.Name).addHosts(s.Addresses)
		}
	}
	for _, s := range p.sites {
		for _, e := range s.edges {
			if wire.IsSubDomain(z.origin, e.Target) {
				at(e.Target).addHosts(e.Addresses)
			}
		}
	}
	for name, a := range z.names {
		at(name).address = &a
	}
	for domain, site := range z.domains {
		for _, l := range srvLabels() {
			at(l.label + "._tcp." + domain).srv = &ladderName{site, l.service}
		}
	}
}

// empty tells whether a node has no records of any type.
func (n *node) empty() bool { return !n.apex && n.hosts == nil && n.address == nil && n.srv == nil }

func (n *node) addHosts(addresses []netip.Addr) {
	for _, a := range addresses {
		if a = a.Unmap(); !slices.Contains(n.hosts, a) {
			n.hosts = append(n.hosts, a)
		}
	}
	slices.SortFunc(n.hosts, netip.Addr.Compare)
}
