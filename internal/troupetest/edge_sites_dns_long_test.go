//go:build long

package troupetest

// This file has agents that find their edge by SRV records of the edges' own zone: no anycast, two name servers.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"troupe/internal/fakeagent"
)

const (
	srvName = "_x-puppet._tcp.east.example.test."
	dnsMost = time.Second // for an answer, before the next name server is asked
)

// zoneOf is the zone as each edge has it. The uplinks are where agents connect to.
func zoneOf(sites []string) func(*SiteEdge) string {
	return func(e *SiteEdge) string {
		text := "dns:\n  zone: example.test\n  listen: ['" + e.own + ":53']\n  srv_domains: {east.example.test: east}\n  name_servers:\n"
		for i, site := range sites {
			text += fmt.Sprintf("    - {name: ns-%s.example.test, addresses: [10.78.%d.2]}\n", site, i+1)
		}
		text += "  sites:\n"
		for i, site := range sites {
			others := slices.DeleteFunc(slices.Clone(sites), func(other string) bool { return other == site })
			text += fmt.Sprintf("    %s:\n      order: [%s]\n      edges: [{name: %s, target: edge-%s.example.test, addresses: [10.78.%d.2], port: 8140}]\n",
				site, strings.Join(others, ", "), site, site, i+1)
		}
		return text
	}
}

// A resolver asks name servers in turn, as the resolver of a machine does.
type resolver struct {
	s       *EdgeSites
	servers []string
	unheard atomic.Int64 // questions that a server did not answer
}

func (r *resolver) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	var errs []error
	for _, server := range r.servers {
		answer, err := r.exchange(ctx, server, q)
		if err == nil {
			return answer, nil
		}
		r.unheard.Add(1)
		errs = append(errs, fmt.Errorf("%s: %w", server, err))
	}
	return nil, errors.Join(errs...)
}

func (r *resolver) exchange(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	conn, err := r.s.Clients.Dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := dns.Client{Timeout: dnsMost}
	answer, _, err := c.ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn})
	if err == nil && answer.Rcode != dns.RcodeSuccess {
		err = errors.New(dns.RcodeToString[answer.Rcode])
	}
	return answer, err
}

// ladder is what SRV records say, in the order in which an agent climbs: by priority, within one by chance and weight.
func (r *resolver) ladder(ctx context.Context) ([]*dns.SRV, error) {
	answer, err := r.ask(ctx, srvName, dns.TypeSRV)
	if err != nil {
		return nil, err
	}
	var all []*dns.SRV
	keys := map[*dns.SRV]float64{}
	for _, rr := range answer.Answer {
		if srv, ok := rr.(*dns.SRV); ok {
			all = append(all, srv)
			keys[srv] = rand.ExpFloat64() / (10*float64(srv.Weight) + 1)
		}
	}
	slices.SortFunc(all, func(a, b *dns.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(keys[a], keys[b]))
	})
	return all, nil
}

// dial goes where the ladder says, and on to the next rung only when nobody can be connected to.
func (r *resolver) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	rungs, err := r.ladder(ctx)
	if err != nil {
		return nil, err
	}
	errs := []error{errors.New("no rung of the ladder can be connected to")}
	for _, srv := range rungs {
		answer, err := r.ask(ctx, srv.Target, dns.TypeA)
		if err != nil {
			return nil, err
		}
		for _, rr := range answer.Answer {
			if a, ok := rr.(*dns.A); ok {
				conn, err := r.s.Clients.Dial(ctx, "tcp", net.JoinHostPort(a.A.String(), fmt.Sprint(srv.Port)))
				if err == nil {
					return conn, nil
				}
				errs = append(errs, err)
			}
		}
	}
	return nil, errors.Join(errs...)
}

func TestEdgeSitesBySRV(t *testing.T) {
	sites := []string{"east", "west"}
	s := NewEdgeSites(t, EdgeSitesOptions{Sites: sites, BGP: "  up_after: 1s\n", Config: zoneOf(sites)})
	east, west := s.Edges[0], s.Edges[1]
	r := &resolver{s: s, servers: []string{east.own + ":53", west.own + ":53"}}
	for _, a := range s.agents(9, "fake") {
		one, err := fakeagent.New(a.Certname(), serviceAddress+":8140", fakeagent.Options{
			ServerName: serviceName, WaitForCert: time.Second, Dial: r.dial, ReadTimeout: readMost,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.fleet = append(s.fleet, one)
	}
	targets := func(r *resolver) (all []string) {
		rungs, err := r.ladder(t.Context())
		if err != nil {
			return []string{err.Error()}
		}
		for _, srv := range rungs {
			all = append(all, srv.Target)
		}
		return all
	}
	westOnly := &resolver{s: s, servers: r.servers[1:]}
	both, alone := []string{"edge-east.example.test.", "edge-west.example.test."}, []string{"edge-west.example.test."}
	Eventually(t, Patience, "both sites are in the answers", func() bool { return slices.Equal(targets(r), both) })

	s.act(t, "a site is black-holed, and comes back", func(a *actor) {
		begin := time.Now()
		a.Blackhole(east)
		Eventually(a.t, Patience, "the answers are without the site", func() bool { return slices.Equal(targets(westOnly), alone) })
		gone := time.Since(begin)
		pause(a.t, 5*time.Second)
		back := time.Now()
		a.Restore()
		Eventually(a.t, Patience, "the site is in the answers again", func() bool { return slices.Equal(targets(r), both) })
		returned := time.Since(back)
		a.settle(5 * time.Second)
		a.t.Logf("gone from the answers of the other site %v after the cut; back %v after the repair; %d questions unheard", gone, returned, r.unheard.Load())
		a.inFlight("a site by SRV records", begin, gone)
	})
	s.act(t, "a name server dies with its edge", func(a *actor) {
		before := r.unheard.Load()
		begin := time.Now()
		east.Kill()
		Eventually(a.t, Patience, "the answers are without the edge", func() bool { return slices.Equal(targets(westOnly), alone) })
		gone := time.Since(begin)
		pause(a.t, 5*time.Second)
		east.Start()
		Eventually(a.t, Patience, "the edge is in the answers again", func() bool { return slices.Equal(targets(r), both) })
		a.settle(5 * time.Second)
		a.t.Logf("the other name server answers, without the dead edge from %v after its death; %d questions unheard", gone, r.unheard.Load()-before)
		a.inFlight("an edge by SRV records", begin, gone)
	})
}
