package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// A country is a zone of many sites, each with a domain of its own, on a clock that is moved by hand.
type country struct {
	*Zone

	sites []Site
	clock time.Time
}

func newCountry(tb testing.TB, sites, edges int) *country {
	tb.Helper()
	c := &country{clock: time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)}
	domains := map[string]string{"wherever.example.com": ""}
	for i := range sites {
		s := Site{Name: fmt.Sprintf("s%02d", i), Order: map[string]float64{}}
		for j := range edges {
			s.Edges = append(s.Edges, Edge{
				Name: fmt.Sprintf("e%d", j), Target: fmt.Sprintf("e%d.s%02d.example.com", j, i), Weight: 10,
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j)})},
				Services:  map[Service]bool{Puppet: true, CA: true, Report: true, Fileserver: true},
			})
		}
		c.sites = append(c.sites, s)
		domains[s.Name+".example.com"] = s.Name
	}
	z, err := New(Options{
		Zone: "example.com", NS: []NameServer{{Name: "ns.example.net"}}, SRVDomains: domains, Names: map[string]Address{"puppet.example.com": {}},
		View: func() []Site { return c.sites }, Now: func() time.Time { return c.clock }, Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	c.Zone = z
	return c
}

// change moves a weight, as measures do.
func (c *country) change(weight int) {
	sites := append([]Site(nil), c.sites...)
	sites[0].Edges = append([]Edge(nil), sites[0].Edges...)
	sites[0].Edges[0].Weight = weight
	c.sites = sites
}

func (c *country) ask(name string, qtype uint16) *wire.Msg {
	return c.Answer(wire.Question{Name: name, Qtype: qtype, Qclass: wire.ClassINET}, netip.MustParseAddr("192.0.2.9"))
}

// TestAZoneThatDidNotChangeIsNotWrittenDownAgain counts what is allocated, since a clock would measure the machine.
func TestAZoneThatDidNotChangeIsNotWrittenDownAgain(t *testing.T) {
	c := newCountry(t, 40, 3)
	first := c.ask("example.com.", wire.TypeSOA).Answer[0].(*wire.SOA).Serial
	unchanged := testing.AllocsPerRun(10, func() {
		c.clock = c.clock.Add(2 * time.Second)
		if now := c.ask("example.com.", wire.TypeSOA).Answer[0].(*wire.SOA).Serial; now != first {
			t.Fatalf("serial %d became %d without a change", first, now)
		}
	})
	if unchanged > 100 {
		t.Errorf("the serial of a zone that did not change took %.0f allocations", unchanged)
	}
	weight := 10
	changed := testing.AllocsPerRun(3, func() {
		c.clock = c.clock.Add(2 * time.Second)
		weight++
		c.change(weight)
		before := first
		if first = c.ask("example.com.", wire.TypeSOA).Answer[0].(*wire.SOA).Serial; first == before {
			t.Fatal("a change has no new serial")
		}
	})
	// 24,600 SRV records for domains with a site, and as many for the one that every site sees differently.
	if changed > 400_000 {
		t.Errorf("a change took %.0f allocations: is each site's copy made anew?", changed)
	}
}

// TestNobodyWaitsWhileTheZoneIsWrittenDown has a change be written down for as long as the test likes.
func TestNobodyWaitsWhileTheZoneIsWrittenDown(t *testing.T) {
	c := newCountry(t, 2, 2)
	first := c.ask("nobody.example.com.", wire.TypeA).Ns[0].(*wire.SOA).Serial
	c.clock = c.clock.Add(time.Hour)
	c.change(99)
	c.writing.Lock()
	m := c.ask("_x-puppet._tcp.s00.example.com.", wire.TypeSRV)
	if len(m.Answer) != 4 || m.Answer[0].(*wire.SRV).Weight != 99 {
		t.Errorf("answered with %v, want the ladder as it is now", m.Answer)
	}
	if serial := c.ask("nobody.example.com.", wire.TypeA).Ns[0].(*wire.SOA).Serial; serial != first {
		t.Errorf("serial %d before the zone was written down, want the one before, %d", serial, first)
	}
	c.writing.Unlock()
	if serial := c.ask("nobody.example.com.", wire.TypeA).Ns[0].(*wire.SOA).Serial; serial != uint32(c.clock.Unix()) {
		t.Errorf("serial %d afterwards, want the clock's", serial)
	}
}

// TestASettledChangeHasASerialOfItsOwn: TTLs grow again when a minute has passed, though the view says nothing new.
func TestASettledChangeHasASerialOfItsOwn(t *testing.T) {
	c := newCountry(t, 2, 1)
	serial := func() uint32 { return c.ask("example.com.", wire.TypeSOA).Answer[0].(*wire.SOA).Serial }
	serial()
	toggle := func(up bool) {
		sites := append([]Site(nil), c.sites...)
		sites[0].Edges = append([]Edge(nil), sites[0].Edges...)
		sites[0].Edges[0].Services = map[Service]bool{Puppet: up, CA: true, Report: true, Fileserver: true}
		c.sites = sites
	}
	toggle(false)
	c.clock = c.clock.Add(2 * time.Second)
	serial()
	toggle(true)
	c.clock = c.clock.Add(2 * time.Second)
	risen := serial()
	c.clock = c.clock.Add(settleTime - time.Second)
	if now := serial(); now != risen {
		t.Errorf("serial %d before the change has settled, want %d", now, risen)
	}
	c.clock = c.clock.Add(time.Second)
	if now := serial(); now == risen {
		t.Error("the TTLs of a copy have changed, and its serial has not")
	}
	if records := c.copyFor("s00"); records[1].Header().Ttl == 0 || len(records) < 20 {
		t.Errorf("copied %v", records)
	}
}

func TestACopyIsThatOfItsSerial(t *testing.T) {
	c := newCountry(t, 2, 1)
	before := c.copyFor("s00")
	c.change(77)
	text := func(records []wire.RR) string { return fmt.Sprint(records) }
	if again := c.copyFor("s00"); text(again) != text(before) {
		t.Error("within the same second, under the same serial, there is another copy")
	}
	c.clock = c.clock.Add(time.Second)
	after := c.copyFor("s00")
	if after[0].(*wire.SOA).Serial == before[0].(*wire.SOA).Serial || !strings.Contains(text(after), " 77 8140 ") {
		t.Errorf("a second later: %v", after)
	}
}

func TestAnExportIsOfASiteThatThereIs(t *testing.T) {
	c := newCountry(t, 2, 1)
	own, ok := c.Export("")
	if !ok || strings.Count(own, "puppet.example.com.\t") != 1 {
		t.Errorf("without a site, %v:\n%s", ok, own)
	}
	if text, ok := c.Export("sO0"); ok {
		t.Errorf("a site that does not exist:\n%s", text)
	}
}

// BenchmarkSerial is what a serial costs when a weight has changed, and when nothing has.
func BenchmarkSerial(b *testing.B) {
	for _, sites := range []int{20, 40} {
		c := newCountry(b, sites, 3)
		for _, what := range []string{"changed", "unchanged"} {
			weight := 10
			b.Run(fmt.Sprintf("%d sites, %s", sites, what), func(b *testing.B) {
				for b.Loop() {
					c.clock = c.clock.Add(2 * time.Second)
					if weight++; what == "changed" {
						c.change(weight)
					}
					c.look()
					c.serial()
				}
			})
		}
		b.Run(fmt.Sprintf("%d sites, the lock", sites), func(b *testing.B) {
			weight := 10
			for b.Loop() {
				weight++
				c.change(weight)
				c.look()
			}
		})
	}
}
