package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/bgp"
	"troupe/internal/edge/dns"
	"troupe/internal/edge/health"
	"troupe/internal/fault"
)

// This file tells the world where to come: DNS and BGP say what the judge says.

// dnsPool is the name under which the judge knows what DNS answers with.
const dnsPool = "dns"

// Checks for DNS are quicker than those of pools: no request of an agent shows the judge what is wrong, and an edge whose packets vanish is to
// be in no answer two seconds later. Far sites are a fifth of a second away and more; three ways there and back make a check.
const (
	dnsEvery   = 500 * time.Millisecond
	dnsTimeout = 600 * time.Millisecond
	dnsFall    = 2
)

// openOutward makes the zone and the announcement that the configuration has.
func (e *Edge) openOutward() (err error) {
	if e.conf.DNS != nil {
		if e.zone, err = e.newZone(e.conf.DNS); err != nil {
			return err
		}
	}
	if e.conf.BGP != nil {
		e.speaker, err = e.newSpeaker(e.conf.BGP)
	}
	return err
}

func (e *Edge) newZone(c *config.EdgeDNS) (*dns.Zone, error) {
	o := dns.Options{
		Zone: c.Zone, Mail: c.Contact, TTL: time.Duration(c.TTL), TTLDown: time.Duration(c.TTLDown), SRVDomains: c.SRV, Names: map[string]dns.Address{},
		Networks: map[netip.Prefix]string{}, Default: e.conf.Site, Trusted: c.Trusted, Keys: map[string]dns.Key{},
		Listen: c.Listen, RateLimit: c.RateLimit, View: e.dnsView, Log: e.log, Registerer: e.registry,
	}
	for _, ns := range c.NameServers {
		o.NS = append(o.NS, dns.NameServer{Name: ns.Name, Addresses: ns.Addresses})
	}
	for name, n := range c.Names {
		o.Names[name] = dns.Address{Sites: n.Sites, Service: dns.Service(n.Service), Max: n.Max}
	}
	var wrong []error
	for network, site := range c.Networks {
		p, err := netip.ParsePrefix(network)
		wrong = append(wrong, err)
		o.Networks[p] = site
	}
	for _, s := range c.Secondaries {
		p, err := s.AddrPort()
		wrong = append(wrong, err)
		o.Secondaries = append(o.Secondaries, dns.Secondary{Addr: p, Key: s.Key})
	}
	for name, k := range c.Keys {
		secret, err := secretFile(k.SecretFile)
		wrong = append(wrong, err)
		o.Keys[name] = dns.Key{Algorithm: k.Algorithm, Secret: secret}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "dns: %v", err)
	}
	e.zoneBegun = e.begun.wait()
	o.Ready = func([]netip.AddrPort) { close(e.answering); e.zoneBegun() }
	return dns.New(o)
}

// dnsView is what the judge says of all edges. One that has no check of its own is asked what agents with a list of servers ask.
func (e *Edge) dnsView() []dns.Site {
	var all []dns.Site
	for name, s := range e.conf.DNS.Sites {
		site := dns.Site{Name: name, Order: map[string]float64{}}
		for rank, other := range s.Order.Sites {
			site.Order[other] = float64(rank + 1)
		}
		if s.Order.Measured {
			site.Order, _ = e.measures.distances(s, name == e.conf.Site, e.answered)
		}
		living := e.living(s)
		for _, d := range s.Edges {
			up := e.answered(d)
			weight, _ := e.measures.weight(d, living)
			site.Edges = append(site.Edges, dns.Edge{
				Name: d.Name, Target: d.Target, Addresses: d.Addresses, Port: d.Port, Weight: weight,
				Services: map[dns.Service]bool{dns.Puppet: up, dns.CA: up, dns.Report: up, dns.Fileserver: up}, Offers: offers(d),
			})
		}
		all = append(all, site)
	}
	slices.SortFunc(all, func(a, b dns.Site) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// answered tells whether an edge serves, so that it is in answers.
func (e *Edge) answered(d config.EdgeDNSEdge) bool {
	return e.judge.Verdict(dnsPool+"/"+d.Name).State == health.Up
}

// living is how many edges of a site serve. One that is named twice, for services that are checked apart, is one.
func (e *Edge) living(s config.EdgeSite) int {
	targets := map[string]bool{}
	for _, d := range s.Edges {
		if e.answered(d) {
			targets[strings.ToLower(strings.TrimSuffix(d.Target, "."))] = true
		}
	}
	return len(targets)
}

// measured says by which numbers DNS answers.
func (e *Edge) measured() (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(e.conf.DNS.Sites)) {
		s := e.conf.DNS.Sites[name]
		living := e.living(s)
		for _, d := range s.Edges {
			if d.Weight == config.WeightAuto {
				weight, why := e.measures.weight(d, living)
				lines = append(lines, fmt.Sprintf("weight of %s (%s): %d, since %s", d.Name, name, weight, why))
			}
		}
		if !s.Order.Measured {
			continue
		}
		near, by := e.measures.distances(s, name == e.conf.Site, e.answered)
		var far []string
		for _, other := range slices.SortedFunc(maps.Keys(near), func(a, b string) int { return cmp.Or(cmp.Compare(near[a], near[b]), cmp.Compare(a, b)) }) {
			far = append(far, fmt.Sprintf("%s %.0f ms", other, near[other]))
		}
		if by == "" {
			lines = append(lines, fmt.Sprintf("order from %s: not measured yet, none of its edges says how far others are", name))
			continue
		}
		lines = append(lines, fmt.Sprintf("order from %s: %s, measured by %s", name, strings.Join(far, ", "), by))
	}
	return lines
}

// dnsTargets are what the judge watches for DNS.
func (e *Edge) dnsTargets() (all []health.Target, err error) {
	if e.conf.DNS == nil {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(e.conf.DNS.Sites)) {
		for _, d := range e.conf.DNS.Sites[name].Edges {
			port := int(d.Port)
			if port == 0 {
				port = 8140
			}
			at := d.Target
			if len(d.Addresses) > 0 {
				at = d.Addresses[0].String()
			}
			c := config.EdgeCheck{Verify: new(bool)} // who is there is known by its address; agents verify it
			if d.Check != nil {
				c = *d.Check
			}
			h, err := e.check(c, config.EdgeServer{AgentCheck: d.Agent}, nil, "")
			if err != nil {
				return nil, err
			}
			h.Interval, h.Timeout, h.Fall = orElse(h.Interval, dnsEvery), orElse(h.Timeout, dnsTimeout), orInt(h.Fall, dnsFall)
			h.Header = tellHeader
			all = append(all, health.Target{ID: dnsPool + "/" + d.Name, Address: net.JoinHostPort(strings.TrimSuffix(at, "."), strconv.Itoa(port)), Check: h})
		}
	}
	return all, nil
}

func (e *Edge) newSpeaker(c *config.EdgeBGP) (*bgp.Speaker, error) {
	e.speakerBegun = e.begun.wait()
	o := bgp.Options{
		Mode: c.Mode, Prefixes: c.Prefixes, ASN: c.AS, RouterID: c.RouterID, Interface: c.Interface, File: c.File, Bird: c.Bird,
		Prepend: c.Prepend, MED: c.MED, UpAfter: time.Duration(c.UpAfter), DownAfter: time.Duration(c.DownAfter), Rejoin: time.Duration(c.Rejoin), Grace: time.Duration(c.Grace),
		Serving: e.serving, Changed: e.judge.Changed, Ready: e.speakerBegun, Alarms: e.measures.twins, Log: e.log, Registerer: e.registry,
	}
	for _, n := range c.Neighbors {
		one := bgp.Neighbor{
			Address: n.Address, ASN: n.AS, Port: n.Port, PasswordFile: n.PasswordFile, TTLSecurity: n.TTLSecurity, Multihop: n.Multihop,
			HoldTime: time.Duration(n.HoldTime), Passive: n.Passive, LocalAddress: n.Local, Restart: time.Duration(n.Restart),
		}
		if n.BFD != nil {
			one.BFD = &bgp.BFD{Interval: time.Duration(n.BFD.Interval), Multiplier: n.BFD.Multiplier}
		}
		o.Neighbors = append(o.Neighbors, one)
	}
	return bgp.New(o)
}

// speak announces. Sessions that pass to the next process must have one owner at a time, or the two take them from each other for ever.
func (e *Edge) speak(ctx context.Context) error {
	if !slices.ContainsFunc(e.conf.BGP.Neighbors, func(n config.EdgeNeighbor) bool { return n.Restart != 0 }) {
		return e.speaker.Run(ctx)
	}
	if e.predecessor != nil {
		e.speakerBegun()
		select {
		case <-e.took:
		case <-ctx.Done():
			return nil
		}
	}
	ctx, stop := e.untilReplaced(ctx)
	defer stop()
	return e.speaker.Run(ctx)
}

// answerDNS explains one answer.
func (e *Edge) answerDNS(w http.ResponseWriter, r *http.Request) {
	if err := e.zoneAnswers(); err != nil {
		e.reply(w, nil, err)
		return
	}
	q := r.URL.Query()
	kind, err := dns.ParseType(q.Get("type"), q.Get("name"))
	if err != nil {
		e.reply(w, nil, fault.Wrap(fault.Invalid, err, "%v", err))
		return
	}
	from, err := netip.ParseAddr(q.Get("from"))
	if err != nil {
		e.reply(w, nil, fault.New(fault.Invalid, "%q is no address: whose question is it?", q.Get("from")))
		return
	}
	x := e.zone.Explain(q.Get("name"), kind, from)
	x.Measured = e.measured()
	e.reply(w, x, nil)
}

// answerExport writes the zone as a file.
func (e *Edge) answerExport(w http.ResponseWriter, r *http.Request) {
	if err := e.zoneAnswers(); err != nil {
		e.reply(w, nil, err)
		return
	}
	site := r.URL.Query().Get("site")
	text, ok := e.zone.Export(site)
	if !ok {
		e.reply(w, nil, fault.New(fault.NotFound, "dns.sites has no site %q; there are %s", site, strings.Join(slices.Sorted(maps.Keys(e.conf.DNS.Sites)), ", ")))
		return
	}
	e.reply(w, map[string]string{"zone": text, "delegation": e.zone.Delegation()}, nil)
}

// ExplainDNS asks why a question is answered as it is.
func (c *Client) ExplainDNS(ctx context.Context, name, kind, from string) (x dns.Explanation, err error) {
	q := url.Values{"name": {name}, "type": {kind}, "from": {from}}
	return x, c.do(ctx, http.MethodGet, "/v1/dns/explain?"+q.Encode(), nil, &x)
}

// ExportZone asks for the zone as a file, as a site sees it, and for the records that the parent zone needs.
func (c *Client) ExportZone(ctx context.Context, site string) (zone, delegation string, err error) {
	var x struct{ Zone, Delegation string }
	err = c.do(ctx, http.MethodGet, "/v1/dns/export?site="+url.QueryEscape(site), nil, &x)
	return x.Zone, x.Delegation, err
}
