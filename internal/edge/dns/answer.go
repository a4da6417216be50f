package dns

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	wire "github.com/miekg/dns"
)

// This file answers one question from one picture.

// Answer is what the zone says to a question that comes from an address, without transport and its limits.
func (z *Zone) Answer(q wire.Question, from netip.Addr) *wire.Msg {
	m := &wire.Msg{}
	m.Question = []wire.Question{q}
	m.Response = true
	z.fill(m, z.perspective(from, nil))
	return m
}

// perspective is whose site is local for a question.
type perspective struct {
	site    string
	network netip.Prefix // that decided; not valid if the default did
	asker   netip.Addr
	subnet  *wire.EDNS0_SUBNET // the asker's network, told by a resolver that is believed
	matters bool               // set by an answer that depends on it
	at      time.Time          // the moment that is answered for

	// whole is for a copy of the zone: all addresses in a fixed order, and of each ladder one that all its names have.
	whole   bool
	ladders map[ladderName]ladder
}

// climb builds the ladder of a service as a site sees it.
func (v *perspective) climb(p *picture, site string, service Service) ladder {
	if !v.whole {
		return p.climb(site, service, nil, false, v.at)
	}
	name := ladderName{site, service}
	l, made := v.ladders[name]
	if !made {
		l = p.climb(site, service, nil, false, v.at)
		v.ladders[name] = l
	}
	return l
}

// perspective finds the site of an asker: that of the longest network around it.
func (z *Zone) perspective(from netip.Addr, subnet *wire.EDNS0_SUBNET) *perspective {
	v := &perspective{asker: from.Unmap(), subnet: subnet, at: z.o.Now()}
	var ok bool
	if subnet != nil {
		address, _ := netip.AddrFromSlice(subnet.Address)
		asked := netip.PrefixFrom(address.Unmap(), int(subnet.SourceNetmask)).Masked()
		v.asker = asked.Addr()
		v.network, v.site, ok = z.networks.LookupPrefixLPM(asked)
	} else {
		v.network, v.site, ok = z.networks.LookupPrefixLPM(netip.PrefixFrom(v.asker, v.asker.BitLen()))
	}
	if !ok {
		v.network, v.site = netip.Prefix{}, z.o.Default
	}
	return v
}

// settle names the site of an asker that neither a network nor the options give one: the first.
func (v *perspective) settle(p *picture) {
	if v.site == "" && len(p.sites) > 0 {
		v.site = p.sites[0].name
	}
}

// fill writes the answer to the one question of m.
func (z *Zone) fill(m *wire.Msg, v *perspective) {
	q := m.Question[0]
	name := wire.CanonicalName(q.Name)
	switch {
	case q.Qclass != wire.ClassINET, !wire.IsSubDomain(z.origin, name), q.Qtype == wire.TypeAXFR, q.Qtype == wire.TypeIXFR,
		q.Qtype == wire.TypeMAILA, q.Qtype == wire.TypeMAILB, q.Qtype == wire.TypeTSIG, q.Qtype == wire.TypeOPT:
		m.Rcode = wire.RcodeRefused
		return
	}
	m.Authoritative = true
	p := z.look()
	v.settle(p)
	n := p.nodes[name]
	if n == nil {
		m.Rcode = wire.RcodeNameError
		m.Ns = []wire.RR{z.soa()}
		return
	}
	a := z.records(p, n, q.Name, q.Qtype, v)
	m.Answer, m.Extra = a.answer, a.extra
	if a.panicked {
		z.metrics.lastKnownGood.WithLabelValues(string(a.service)).Inc()
	}
	if len(m.Answer) == 0 {
		m.Ns = []wire.RR{z.soa()}
	}
}

// answer is what one name has of one type.
type answer struct {
	answer, extra []wire.RR
	service       Service
	ladder        ladder
	panicked      bool
}

// records returns the records of a type at a name, the owner written as it was asked for.
func (z *Zone) records(p *picture, n *node, owner string, qtype uint16, v *perspective) answer {
	if n.apex {
		switch qtype {
		case wire.TypeSOA:
			return answer{answer: []wire.RR{z.soa()}}
		case wire.TypeNS:
			return z.nsRecords(p)
		}
	}
	switch qtype {
	case wire.TypeANY:
		if n.empty() {
			return answer{}
		}
		// RFC 8482: a small answer, so that nobody amplifies by it.
		return answer{answer: []wire.RR{&wire.HINFO{Hdr: header(owner, wire.TypeHINFO, z.o.TTL), Cpu: "RFC8482"}}}
	case wire.TypeSRV:
		if n.srv != nil {
			return z.srvRecords(p, n.srv, owner, v)
		}
	case wire.TypeA, wire.TypeAAAA:
		if n.address != nil {
			return z.addressRecords(p, n.address, owner, qtype, v)
		}
		return answer{answer: hostRecords(n.hosts, owner, qtype, z.o.TTL)}
	}
	return answer{}
}

func (z *Zone) srvRecords(p *picture, s *ladderName, owner string, v *perspective) answer {
	site := s.site
	if site == "" {
		site, v.matters = v.site, true
	}
	l := v.climb(p, site, s.service)
	ttl := z.ttl(l)
	out := answer{service: s.service, ladder: l, panicked: l.panicked}
	for _, c := range l.in() {
		out.answer = append(out.answer, &wire.SRV{
			Hdr: header(owner, wire.TypeSRV, ttl), Priority: c.priority, Weight: c.weight, Port: c.Port, Target: c.Target,
		})
		if v.whole {
			continue // the targets' addresses stand at their own names
		}
		if n := p.nodes[c.Target]; n != nil && !slices.ContainsFunc(out.extra, func(r wire.RR) bool { return r.Header().Name == c.Target }) {
			out.extra = append(out.extra, hostRecords(n.hosts, c.Target, wire.TypeA, ttl)...)
			out.extra = append(out.extra, hostRecords(n.hosts, c.Target, wire.TypeAAAA, ttl)...)
		}
	}
	return out
}

// addressRecords are the addresses of who serves nearest. Which site that is does not depend on the family asked for:
// else a client with both would go far away for want of a near IPv6.
func (z *Zone) addressRecords(p *picture, a *Address, owner string, qtype uint16, v *perspective) answer {
	v.matters = true
	l := p.climb(v.site, a.Service, a.Sites, true, v.at)
	l.nearest()
	out := answer{service: a.Service, ladder: l, panicked: l.panicked}
	chosen, most := l.in(), math.MaxInt
	if !v.whole {
		chosen, most = shuffled(chosen), a.Max
	}
	for _, c := range chosen {
		for _, r := range hostRecords(c.Addresses, owner, qtype, z.ttl(l)) {
			same := func(other wire.RR) bool { return wire.IsDuplicate(other, r) }
			if len(out.answer) < most && !slices.ContainsFunc(out.answer, same) {
				out.answer = append(out.answer, r)
			}
		}
	}
	return out
}

func (z *Zone) nsRecords(p *picture) answer {
	var out answer
	for _, s := range z.ns {
		out.answer = append(out.answer, &wire.NS{Hdr: header(z.origin, wire.TypeNS, z.steadyTTL()), Ns: s.Name})
		if n := p.nodes[s.Name]; n != nil {
			out.extra = append(out.extra, hostRecords(n.hosts, s.Name, wire.TypeA, z.steadyTTL())...)
			out.extra = append(out.extra, hostRecords(n.hosts, s.Name, wire.TypeAAAA, z.steadyTTL())...)
		}
	}
	return out
}

// soa is the start of the zone's authority. Its minimum is how long a name's absence is believed.
func (z *Zone) soa() wire.RR {
	return &wire.SOA{
		Hdr: header(z.origin, wire.TypeSOA, z.o.TTL), Ns: z.ns[0].Name, Mbox: z.o.Mail, Serial: z.serial(),
		// A secondary asks every minute even if no NOTIFY reaches it, and serves its last copy for a week.
		Refresh: 60, Retry: 10, Expire: 7 * 24 * 3600, Minttl: seconds(z.o.TTL),
	}
}

// steadyTTL is that of the name servers, which do not change with health.
func (z *Zone) steadyTTL() time.Duration { return max(z.o.TTL, time.Hour) }

func (z *Zone) ttl(l ladder) time.Duration {
	if l.restless || l.panicked {
		return min(z.o.TTL, z.o.TTLDown)
	}
	return z.o.TTL
}

func hostRecords(addresses []netip.Addr, owner string, qtype uint16, ttl time.Duration) []wire.RR {
	var out []wire.RR
	for _, a := range addresses {
		switch {
		case a.Unmap().Is4() && qtype == wire.TypeA:
			out = append(out, &wire.A{Hdr: header(owner, qtype, ttl), A: a.Unmap().AsSlice()})
		case !a.Unmap().Is4() && qtype == wire.TypeAAAA:
			out = append(out, &wire.AAAA{Hdr: header(owner, qtype, ttl), AAAA: a.AsSlice()})
		}
	}
	return out
}

func header(owner string, rrtype uint16, ttl time.Duration) wire.RR_Header {
	return wire.RR_Header{Name: owner, Rrtype: rrtype, Class: wire.ClassINET, Ttl: seconds(ttl)}
}

func seconds(d time.Duration) uint32 { return uint32(cmp.Or(d/time.Second, 1)) }
