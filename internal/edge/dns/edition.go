package dns

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// This file writes the zone down as a whole: for secondaries, with a serial number, and as a zone file.

// edition is a state of the zone that has a serial number: a picture at a moment, from which the records of each site
// can be made again at any time. Answers may be newer: they never wait for one.
type edition struct {
	serial uint32
	digest [sha256.Size]byte
	of     *picture
	at     time.Time
	until  time.Time // when its TTLs change although the picture does not
}

// good tells whether an edition needs not be looked at: nothing has changed, or it is less than a second old.
func (e edition) good(seen *picture, now time.Time) bool {
	if e.serial == 0 || now.Before(e.at) {
		return false
	}
	return e.of == seen && now.Before(e.until) || now.Sub(e.at) < time.Second
}

// serial returns the serial number of the picture that was looked at last, a new one if answers changed. It is the
// clock's second, so that it goes on growing after a restart, and from one server of the zone to the next; for that
// there is at most one in a second. The zone is written down without z.mu: questions go on, and who needs the number
// meanwhile gets the one before.
func (z *Zone) serial() uint32 {
	z.mu.Lock()
	e, seen, now := z.edition, z.seen, z.o.Now()
	z.mu.Unlock()
	if seen == nil {
		seen = z.look()
	}
	if e.good(seen, now) {
		return e.serial
	}
	if e.serial == 0 {
		z.writing.Lock() // the first number is worth waiting for
	} else if !z.writing.TryLock() {
		return e.serial
	}
	defer z.writing.Unlock()
	return z.publish(now)
}

// publish compares the newest picture with the edition and makes it the new one. z.writing is held.
func (z *Zone) publish(now time.Time) uint32 {
	z.mu.Lock()
	e, p := z.edition, z.seen
	z.mu.Unlock()
	if e.good(p, now) {
		return e.serial // somebody else was faster
	}
	first := e.serial == 0
	digest := z.digest(p, now)
	changed := digest != e.digest || first
	if changed {
		e.serial = max(uint32(now.Unix()), e.serial+1)
	}
	e.digest, e.of, e.at, e.until = digest, p, now, p.calm(now)
	z.mu.Lock()
	z.edition = e
	z.mu.Unlock()
	if changed {
		z.metrics.serial.Set(float64(e.serial))
	}
	if changed && !first {
		select {
		case z.changed <- struct{}{}:
		default: // it is said already, and not yet heard
		}
	}
	return e.serial
}

func (z *Zone) current() edition {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.edition
}

// calm is when answers of a picture change next although it does not: a change of health has settled then.
func (p *picture) calm(now time.Time) time.Time {
	next := now.Add(24 * time.Hour)
	for _, s := range p.sites {
		for _, e := range s.edges {
			for _, c := range e.health {
				if at := c.changed.Add(settleTime); !c.changed.IsZero() && at.After(now) && at.Before(next) {
					next = at
				}
			}
		}
	}
	return next
}

// copyFor is the zone as a secondary takes it: records and serial of one moment, whatever happened since.
func (z *Zone) copyFor(site string) []wire.RR {
	z.look()
	soa := z.soa().(*wire.SOA)
	e := z.current()
	soa.Serial = e.serial
	return append([]wire.RR{soa}, z.body(e.of, site, e.at)...)
}

// viewers are the sites that an asker can be counted to.
func (z *Zone) viewers(p *picture) []string {
	all := []string{z.o.Default}
	for _, s := range p.sites {
		all = append(all, s.name)
	}
	for _, site := range z.networks.All() {
		all = append(all, site)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// digest tells editions apart: of all records as all sites see them. What every site sees alike is taken once.
func (z *Zone) digest(p *picture, at time.Time) (sum [sha256.Size]byte) {
	h := sha256.New()
	names := p.names(z.origin)
	packed := make([]byte, 1<<10)
	add := func(records []wire.RR) {
		for _, r := range records {
			n, err := wire.PackRR(r, packed, 0, nil, false)
			if err != nil { // the text says the same, only slower
				fmt.Fprintln(h, r)
				continue
			}
			h.Write(packed[:n])
		}
	}
	shared := &perspective{at: at, whole: true, ladders: map[ladderName]ladder{}}
	for _, name := range names {
		if !p.nodes[name].relative() {
			add(z.recordsAt(p, name, shared))
		}
	}
	for _, site := range z.viewers(p) {
		fmt.Fprintln(h, site)
		v := &perspective{site: site, at: at, whole: true, ladders: map[ladderName]ladder{}}
		for _, name := range names {
			if p.nodes[name].relative() {
				add(z.recordsAt(p, name, v))
			}
		}
	}
	h.Sum(sum[:0])
	return sum
}

// relative tells whether what stands at a name depends on who asks.
func (n *node) relative() bool { return n.address != nil || n.srv != nil && n.srv.site == "" }

// names are all names of a picture, the apex first.
func (p *picture) names(origin string) []string {
	names := slices.Sorted(maps.Keys(p.nodes))
	if i := slices.Index(names, origin); i > 0 {
		names = append([]string{origin}, slices.Delete(names, i, i+1)...)
	}
	return names
}

// recordsAt are all records at a name but the SOA, in an order that depends on nothing else.
func (z *Zone) recordsAt(p *picture, name string, v *perspective) (out []wire.RR) {
	for _, qtype := range []uint16{wire.TypeNS, wire.TypeSRV, wire.TypeA, wire.TypeAAAA} {
		records := z.records(p, p.nodes[name], name, qtype, v).answer
		if qtype != wire.TypeSRV { // those are in the order of the ladder
			slices.SortFunc(records, func(a, b wire.RR) int { return strings.Compare(a.String(), b.String()) })
		}
		out = append(out, records...)
	}
	return out
}

// body is all records but the SOA as one site sees them at a moment.
func (z *Zone) body(p *picture, site string, at time.Time) (out []wire.RR) {
	v := &perspective{site: site, at: at, whole: true, ladders: map[ladderName]ladder{}}
	for _, name := range p.names(z.origin) {
		out = append(out, z.recordsAt(p, name, v)...)
	}
	return out
}

// Export is the zone as a site sees it now, as a zone file for another name server. From "" is the site of who asks from
// no network that was named; ok is false for a site that does not exist.
func (z *Zone) Export(from string) (text string, ok bool) {
	p := z.look()
	v := &perspective{site: cmp.Or(from, z.o.Default)}
	v.settle(p)
	if v.site != "" && !slices.ContainsFunc(p.sites, func(one *site) bool { return one.name == v.site }) {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "; the zone %s as site %s sees it; health at this moment, so the copy ages\n$ORIGIN %s\n$TTL %d\n",
		z.origin, v.site, z.origin, seconds(z.o.TTL))
	for _, r := range append([]wire.RR{z.soa()}, z.body(p, v.site, z.o.Now())...) {
		fmt.Fprintln(&b, r)
	}
	return b.String(), true
}

// Delegation is what the parent zone needs: the name servers, and the addresses of those within the zone.
func (z *Zone) Delegation() string {
	var b strings.Builder
	for _, s := range z.ns {
		fmt.Fprintln(&b, &wire.NS{Hdr: header(z.origin, wire.TypeNS, z.steadyTTL()), Ns: s.Name})
	}
	for _, s := range z.ns {
		if wire.IsSubDomain(z.origin, s.Name) {
			for _, qtype := range []uint16{wire.TypeA, wire.TypeAAAA} {
				for _, r := range hostRecords(s.Addresses, s.Name, qtype, z.steadyTTL()) {
					fmt.Fprintln(&b, r)
				}
			}
		}
	}
	return b.String()
}

func isBase64(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) > 0
}
