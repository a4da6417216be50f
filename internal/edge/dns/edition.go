package dns

import (
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

// edition is the state of the zone that has a serial number. Answers may be newer: they never wait for one.
type edition struct {
	serial uint32
	digest [sha256.Size]byte
	looked time.Time            // when the digest was last compared
	bodies map[string][]wire.RR // by site: what a secondary copies under this serial, and nothing newer
}

// serial returns the serial number of the zone, a new one if it changed. It is the clock's second, so that it goes on
// growing after a restart, and from one server of the zone to the next; for that there is at most one in a second.
func (z *Zone) serial(p *picture) uint32 {
	z.mu.Lock()
	defer z.mu.Unlock()
	now := z.o.Now()
	if e := z.edition; e.serial != 0 && now.Sub(e.looked) < time.Second && !now.Before(e.looked) {
		return e.serial
	}
	z.edition.looked = now
	bodies := map[string][]wire.RR{}
	for _, site := range z.viewers(p) {
		bodies[site] = z.body(p, site)
	}
	digest := digestOf(bodies)
	if z.edition.serial != 0 && digest == z.edition.digest {
		return z.edition.serial
	}
	first := z.edition.serial == 0
	z.edition.serial = max(uint32(now.Unix()), z.edition.serial+1)
	z.edition.digest, z.edition.bodies = digest, bodies
	z.metrics.serial.Set(float64(z.edition.serial))
	if !first {
		select {
		case z.changed <- struct{}{}:
		default: // it is said already, and not yet heard
		}
	}
	return z.edition.serial
}

// copyFor is the zone as a secondary takes it: records and serial of one moment.
func (z *Zone) copyFor(site string) []wire.RR {
	soa := z.soa(z.look())
	z.mu.Lock()
	defer z.mu.Unlock()
	soa.(*wire.SOA).Serial = z.edition.serial // with these bodies, whatever happened since
	return append([]wire.RR{soa}, z.edition.bodies[site]...)
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

func digestOf(bodies map[string][]wire.RR) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, site := range slices.Sorted(maps.Keys(bodies)) {
		for _, r := range bodies[site] {
			fmt.Fprintln(h, r)
		}
	}
	h.Sum(sum[:0])
	return sum
}

// body is all records but the SOA as one site sees them, in an order that depends on nothing else.
func (z *Zone) body(p *picture, site string) []wire.RR {
	var out []wire.RR
	names := make([]string, 0, len(p.nodes))
	for name := range p.nodes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if (a == z.origin) != (b == z.origin) { // the apex comes first
			if a == z.origin {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		for _, qtype := range []uint16{wire.TypeNS, wire.TypeSRV, wire.TypeA, wire.TypeAAAA} {
			records := z.records(p, p.nodes[name], name, qtype, &perspective{site: site, whole: true}).answer
			if qtype != wire.TypeSRV { // those are in the order of the ladder
				slices.SortFunc(records, func(a, b wire.RR) int { return strings.Compare(a.String(), b.String()) })
			}
			out = append(out, records...)
		}
	}
	return out
}

// Export is the zone as a site sees it now, as a zone file for another name server.
func (z *Zone) Export(site string) string {
	p := z.look()
	var b strings.Builder
	fmt.Fprintf(&b, "; the zone %s as site %s sees it; health at this moment, so the copy ages\n$ORIGIN %s\n$TTL %d\n",
		z.origin, site, z.origin, seconds(z.o.TTL))
	for _, r := range append([]wire.RR{z.soa(p)}, z.body(p, site)...) {
		fmt.Fprintln(&b, r)
	}
	return b.String()
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
