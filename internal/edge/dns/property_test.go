package dns_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"pgregory.net/rapid"

	"troupe/internal/edge/dns"
)

// This file holds what must be true of any view, whatever happened before.

// drawSites makes a view: up to four sites with up to four edges each, any of them dead in any service.
func drawSites(t *rapid.T) []dns.Site {
	var sites []dns.Site
	n := 0
	for i := range rapid.IntRange(1, 4).Draw(t, "sites") {
		s := dns.Site{Name: fmt.Sprintf("site-%c", 'a'+i), Order: map[string]float64{}}
		for j := range rapid.IntRange(0, 3).Draw(t, "named") {
			s.Order[fmt.Sprintf("site-%c", 'a'+j)] = float64(rapid.IntRange(0, 3).Draw(t, "distance"))
		}
		for j := range rapid.IntRange(0, 4).Draw(t, "edges") {
			n++
			e := newEdge(fmt.Sprintf("e%d%d", i, j), fmt.Sprintf("e%d-%d.example.com", i, j), rapid.IntRange(-1, 100).Draw(t, "weight"), n)
			e.Services = map[dns.Service]bool{}
			for service := range all() {
				e.Services[service] = rapid.Bool().Draw(t, string(service))
			}
			s.Edges = append(s.Edges, e)
		}
		sites = append(sites, s)
	}
	return sites
}

func serving(sites []dns.Site, service dns.Service, only string) (living map[string]bool) {
	living = map[string]bool{}
	for _, s := range sites {
		for _, e := range s.Edges {
			if e.Services[service] && (only == "" || s.Name == only) {
				living[wire.Fqdn(e.Target)] = true
				living[e.Addresses[0].String()] = true
			}
		}
	}
	return living
}

func TestTheDeadAreNeverAnsweredWhileOthersLive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := twoSites()
		z, err := dns.New(options(s))
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			s.mu.Lock()
			s.sites = drawSites(t)
			s.clock = s.clock.Add(time.Duration(rapid.IntRange(0, 1200).Draw(t, "seconds")) * time.Second)
			s.mu.Unlock()
			checkLadders(t, z, s)
			checkAddresses(t, z, s)
		}
	})
}

func checkLadders(t *rapid.T, z *dns.Zone, s *stage) {
	for label, service := range map[string]dns.Service{"_x-puppet": dns.Puppet, "_x-puppet-ca": dns.CA, "_x-puppet-report": dns.Report, "_x-puppet-fileserver": dns.Fileserver} {
		living := serving(s.sites, service, "")
		edges := 0
		local := map[string]bool{}
		for _, site := range s.sites {
			edges += len(site.Edges)
			for _, e := range site.Edges {
				local[wire.Fqdn(e.Target)] = site.Name == "site-b"
			}
		}
		m := z.Answer(question(label+"._tcp.site-b.example.com", wire.TypeSRV), stranger)
		switch {
		case len(living) > 0 && len(m.Answer) != len(living)/2:
			t.Fatalf("%s: %d records, want the %d that serve", label, len(m.Answer), len(living)/2)
		case edges > 0 && len(m.Answer) == 0:
			t.Fatalf("%s: nothing is answered, though there are %d edges", label, edges)
		}
		some := map[uint16]bool{}
		for _, r := range m.Answer {
			some[r.(*wire.SRV).Priority] = some[r.(*wire.SRV).Priority] || r.(*wire.SRV).Weight > 0
		}
		for _, r := range m.Answer {
			srv := r.(*wire.SRV)
			if len(living) > 0 && !living[srv.Target] {
				t.Fatalf("%s answers %s, which is dead, while %v live", label, srv.Target, living)
			}
			if (srv.Priority == 0) != local[srv.Target] {
				t.Fatalf("%s gives %s priority %d; 0 is for the local site alone", label, srv.Target, srv.Priority)
			}
			if some[srv.Priority] && srv.Weight == 0 {
				t.Fatalf("%s gives %s no weight beside others with some", label, srv.Target)
			}
		}
		// What a person is told is what is answered.
		in := 0
		e := z.Explain(label+"._tcp.site-b.example.com", wire.TypeSRV, stranger)
		for _, r := range e.Edges {
			if r.In {
				in++
			}
		}
		if in != len(m.Answer) || len(e.Edges) != edges || e.Panicked != (len(living) == 0 && edges > 0) {
			t.Fatalf("%s: explained with %d of %d edges in, panicked %v; %d are answered of %d", label, in, len(e.Edges), e.Panicked, len(m.Answer), edges)
		}
	}
}

func checkAddresses(t *rapid.T, z *dns.Zone, s *stage) {
	for name, only := range map[string]string{"puppet.example.com": "", "puppet.site-b.example.com": "site-b"} {
		living := serving(s.sites, dns.Puppet, only)
		for _, from := range []netip.Addr{fromA, fromB, stranger} {
			for _, a := range data(z.Answer(question(name, wire.TypeA), from)) {
				if len(living) > 0 && !living[a] {
					t.Fatalf("%s answers %s, which is dead, while %v live", name, a, living)
				}
			}
		}
	}
}

// TestACopyOfTheZoneIsTheZone holds that an unchanged view gives the same zone file again and again, whatever is at random in answers.
func TestACopyOfTheZoneIsTheZone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := twoSites()
		s.sites = drawSites(t)
		z, err := dns.New(options(s))
		if err != nil {
			t.Fatal(err)
		}
		first, _ := z.Export("site-b")
		s.advance(time.Duration(rapid.IntRange(0, 5000).Draw(t, "seconds")) * time.Second)
		z.Answer(question("puppet.example.com", wire.TypeA), fromB)
		if again, _ := z.Export("site-b"); again != first {
			t.Fatalf("the zone file changed without a change:\n%s\n%s", first, again)
		}
	})
}
