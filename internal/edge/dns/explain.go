package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	wire "github.com/miekg/dns"
)

// This file tells a person why a question is answered as it is.

// Explanation is the whole way from a question to its answer.
type Explanation struct {
	Name     string     `json:"name"`
	Type     string     `json:"type"`
	From     netip.Addr `json:"from"`
	Site     string     `json:"site"`              // that the asker sees as local
	Network  string     `json:"network,omitempty"` // that decided it; "" means the default did
	View     string     `json:"view,omitempty"`    // the site from which the ladder was built, when there is one
	Service  Service    `json:"service,omitempty"`
	Rcode    string     `json:"rcode"`
	Panicked bool       `json:"last_known_good"`
	TTL      uint32     `json:"ttl,omitempty"`
	Why      string     `json:"why"`
	Edges    []Reason   `json:"edges,omitempty"`
	Answer   []string   `json:"answer,omitempty"`
	Measured []string   `json:"measured,omitempty"` // what the view's weights and order come from, in words of who made it
}

// Reason says of one edge why it is in the answer or not.
type Reason struct {
	Site     string `json:"site"`
	Edge     string `json:"edge"`
	Target   string `json:"target"`
	Priority uint16 `json:"priority"`
	Weight   uint16 `json:"weight"`
	Capacity int    `json:"capacity"`
	In       bool   `json:"in"`
	Why      string `json:"why"`
}

// ParseType reads the type of a question as people write it. "" is what one would ask of that name: SRV where a label
// begins with an underscore, addresses elsewhere.
func ParseType(text, name string) (uint16, error) {
	if text == "" {
		if strings.HasPrefix(name, "_") {
			return wire.TypeSRV, nil
		}
		return wire.TypeA, nil
	}
	qtype, ok := wire.StringToType[strings.ToUpper(text)]
	if !ok {
		return 0, fmt.Errorf("unknown type %q of a question; such as A, AAAA, SRV, SOA, NS", text)
	}
	return qtype, nil
}

// Explain answers a question as if it came from an address, and says why so. It counts nothing and changes nothing.
func (z *Zone) Explain(name string, qtype uint16, from netip.Addr) Explanation {
	v := z.perspective(from, nil)
	p := z.look()
	v.settle(p)
	owner := wire.CanonicalName(name)
	e := Explanation{Name: owner, Type: wire.TypeToString[qtype], From: v.asker, Site: v.site, Rcode: wire.RcodeToString[wire.RcodeSuccess]}
	e.Type = cmp.Or(e.Type, fmt.Sprintf("TYPE%d", qtype))
	if v.network.IsValid() {
		e.Network = v.network.String()
	}
	n := p.nodes[owner]
	switch {
	case !wire.IsSubDomain(z.origin, owner):
		e.Rcode, e.Why = wire.RcodeToString[wire.RcodeRefused], fmt.Sprintf("the name does not lie in the zone %s", z.origin)
		return e
	case n == nil:
		e.Rcode, e.Why = wire.RcodeToString[wire.RcodeNameError], "there is no such name: not of a server, not of an edge, not below an srv_domain"
		return e
	}
	a := z.records(p, n, owner, qtype, v)
	e.Service, e.Panicked = a.service, a.panicked
	for _, c := range a.ladder.all {
		e.Edges = append(e.Edges, Reason{c.site, c.Name, c.Target, c.priority, c.weight, c.Weight, c.in, c.why})
	}
	for _, r := range a.answer {
		e.TTL = r.Header().Ttl
		e.Answer = append(e.Answer, r.String())
	}
	e.View, e.Why = z.reason(n, qtype, v, a)
	return e
}

func (z *Zone) reason(n *node, qtype uint16, v *perspective, a answer) (view, why string) {
	switch {
	case len(a.answer) == 0 && len(a.ladder.all) == 0:
		return "", "the name exists and has no record of this type"
	case a.service == "":
		return "", "these records do not depend on health"
	}
	view = v.site
	if qtype == wire.TypeSRV && n.srv.site != "" {
		view = n.srv.site
	}
	switch {
	case a.panicked:
		return view, "no edge seems to serve: a judge may be wrong and an empty answer helps nobody, so what was good last is answered"
	case len(a.answer) == 0:
		return view, "who is in has no address of this family"
	case a.ladder.restless:
		return view, "something is down or changed within the last minute, so the answer is short-lived"
	}
	return view, "all is well"
}

// String writes an explanation for a person.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s from %v\n", e.Name, e.Type, e.From)
	by := "by default"
	if e.Network != "" {
		by = "by its network " + e.Network
	}
	fmt.Fprintf(&b, "the asker belongs to site %s, %s\n", cmp.Or(e.Site, "none"), by)
	if e.View != "" {
		fmt.Fprintf(&b, "service %s as site %s sees it\n", e.Service, e.View)
	}
	fmt.Fprintf(&b, "%s: %s\n", e.Rcode, e.Why)
	for _, r := range e.Edges {
		sign := "-"
		if r.In {
			sign = "+"
		}
		fmt.Fprintf(&b, "  %s %d %d %s (%s of %s): %s\n", sign, r.Priority, r.Weight, r.Target, r.Edge, r.Site, r.Why)
	}
	for _, line := range e.Measured {
		fmt.Fprintf(&b, "%s\n", line)
	}
	for _, line := range e.Answer {
		fmt.Fprintf(&b, "%s\n", line)
	}
	return b.String()
}
