package dns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/edge/dns"
	"troupe/internal/troupetest"
)

// stage is a view whose edges a test kills and raises, and a clock that it moves.
type stage struct {
	mu    sync.Mutex
	sites []dns.Site
	clock time.Time
}

func (s *stage) view() []dns.Site {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sites
}

func (s *stage) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock
}

func (s *stage) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

// edge changes one edge; the view becomes a new one, as that of a judge does.
func (s *stage) edge(name string, change func(e *dns.Edge)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sites := slices.Clone(s.sites)
	for i := range sites {
		sites[i].Edges = slices.Clone(sites[i].Edges)
		for j := range sites[i].Edges {
			if sites[i].Edges[j].Name == name {
				change(&sites[i].Edges[j])
			}
		}
	}
	s.sites = sites
}

func all() map[dns.Service]bool {
	return map[dns.Service]bool{dns.Puppet: true, dns.CA: true, dns.Report: true, dns.Fileserver: true}
}

func kill(e *dns.Edge)  { e.Services = nil }
func raise(e *dns.Edge) { e.Services = all() }

// newEdge makes an edge whose target lies in example.com and whose address ends in n.
func newEdge(name, target string, weight, n int) dns.Edge {
	return dns.Edge{
		Name: name, Target: target, Weight: weight, Services: all(),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})},
	}
}

// twoSites are those that the documentation of Puppet uses to show SRV records: two servers here, one there.
func twoSites() *stage {
	return &stage{
		clock: time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC),
		sites: []dns.Site{
			{Name: "site-a", Edges: []dns.Edge{newEdge("a1", "master-1.site-a.example.com", 75, 1), newEdge("a2", "master-2.site-a.example.com", 25, 2)}},
			{Name: "site-b", Edges: []dns.Edge{newEdge("b1", "master.site-b.example.com", 5, 11)}},
		},
	}
}

func options(s *stage) dns.Options {
	return dns.Options{
		Zone: "example.com", View: s.view, Now: s.now,
		NS:         []dns.NameServer{{Name: "ns1.example.com", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, {Name: "ns2.example.net"}},
		SRVDomains: map[string]string{"site-a.example.com": "site-a", "site-b.example.com": "site-b"},
		Names:      map[string]dns.Address{"puppet.example.com": {}, "puppet.site-b.example.com": {Sites: []string{"site-b"}}, "ca.example.com": {Service: dns.CA}},
		Networks: map[netip.Prefix]string{
			netip.MustParsePrefix("10.1.0.0/16"): "site-a", netip.MustParsePrefix("10.2.0.0/16"): "site-b",
			netip.MustParsePrefix("10.1.9.0/24"): "site-b", netip.MustParsePrefix("2001:db8:b::/48"): "site-b",
		},
		Listen: []string{"127.0.0.1:0"}, RateLimit: -1,
	}
}

func newZone(t *testing.T, o dns.Options) *dns.Zone {
	t.Helper()
	z, err := dns.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func question(name string, qtype uint16) wire.Question {
	return wire.Question{Name: wire.Fqdn(name), Qtype: qtype, Qclass: wire.ClassINET}
}

var (
	fromA    = netip.MustParseAddr("10.1.0.7")
	fromB    = netip.MustParseAddr("10.2.0.7")
	stranger = netip.MustParseAddr("203.0.113.9")
)

// data is the right-hand side of an answer's records, without TTLs.
func data(m *wire.Msg) []string {
	var out []string
	for _, r := range m.Answer {
		out = append(out, strings.TrimSpace(strings.TrimPrefix(r.String(), r.Header().String())))
	}
	return out
}

// wantData compares, in any order for addresses.
func wantData(t *testing.T, m *wire.Msg, want ...string) {
	t.Helper()
	got := data(m)
	if len(m.Question) > 0 && m.Question[0].Qtype != wire.TypeSRV {
		slices.Sort(got)
		slices.Sort(want)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s %s:\ngot  %q\nwant %q", m.Question[0].Name, wire.TypeToString[m.Question[0].Qtype], got, want)
	}
}

func ttl(m *wire.Msg) uint32 { return m.Answer[0].Header().Ttl }

func TestTheLadderOfTheDocumentationComesOutTheSame(t *testing.T) {
	z := newZone(t, options(twoSites()))
	for _, label := range []string{"_x-puppet", "_x-puppet-ca", "_x-puppet-report", "_x-puppet-fileserver", "_x-puppet-puppetserver"} {
		wantData(t, z.Answer(question(label+"._tcp.site-a.example.com", wire.TypeSRV), stranger),
			"0 75 8140 master-1.site-a.example.com.", "0 25 8140 master-2.site-a.example.com.", "1 5 8140 master.site-b.example.com.")
		m := z.Answer(question(label+"._tcp.site-b.example.com", wire.TypeSRV), stranger)
		wantData(t, m,
			"0 5 8140 master.site-b.example.com.", "1 75 8140 master-1.site-a.example.com.", "1 25 8140 master-2.site-a.example.com.")
		if !m.Authoritative || ttl(m) != 5 {
			t.Errorf("authoritative %v with a TTL of %d, want true with 5", m.Authoritative, ttl(m))
		}
		var extra []string
		for _, r := range m.Extra {
			extra = append(extra, r.(*wire.A).A.String())
		}
		if want := []string{"192.0.2.11", "192.0.2.1", "192.0.2.2"}; !slices.Equal(extra, want) {
			t.Errorf("additional addresses %v, want %v", extra, want)
		}
	}
}

func TestADeadTargetIsGoneFromTheNextAnswerOn(t *testing.T) {
	s := twoSites()
	z := newZone(t, options(s))
	q := question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV)
	wantData(t, z.Answer(q, stranger), "0 75 8140 master-1.site-a.example.com.", "0 25 8140 master-2.site-a.example.com.", "1 5 8140 master.site-b.example.com.")

	s.edge("a1", kill)
	m := z.Answer(q, stranger)
	wantData(t, m, "0 25 8140 master-2.site-a.example.com.", "1 5 8140 master.site-b.example.com.")
	if ttl(m) != 2 {
		t.Errorf("TTL %d while something is down, want 2", ttl(m))
	}
	s.edge("a2", kill)
	wantData(t, z.Answer(q, stranger), "1 5 8140 master.site-b.example.com.")
	wantData(t, z.Answer(question("puppet.example.com", wire.TypeA), fromA), "192.0.2.11")

	s.edge("a1", raise)
	s.edge("a2", raise)
	if m = z.Answer(q, stranger); ttl(m) != 2 {
		t.Errorf("TTL %d just after the return, want 2: it may flap", ttl(m))
	}
	s.advance(2 * time.Minute)
	if m = z.Answer(q, stranger); len(m.Answer) != 3 || ttl(m) != 5 {
		t.Errorf("%d records with a TTL of %d after two quiet minutes, want 3 with 5", len(m.Answer), ttl(m))
	}
	// The machine's own name stays: somebody may want to log in there.
	s.edge("a1", kill)
	wantData(t, z.Answer(question("master-1.site-a.example.com", wire.TypeA), stranger), "192.0.2.1")
}

func TestAServiceFailsAloneAndItsNameDoesNotFallBackToTheWrongServers(t *testing.T) {
	s := twoSites()
	z := newZone(t, options(s))
	s.edge("a1", func(e *dns.Edge) {
		e.Services = map[dns.Service]bool{dns.Puppet: true, dns.Report: true, dns.Fileserver: true}
	})
	wantData(t, z.Answer(question("_x-puppet-ca._tcp.site-a.example.com", wire.TypeSRV), stranger),
		"0 25 8140 master-2.site-a.example.com.", "1 5 8140 master.site-b.example.com.")
	wantData(t, z.Answer(question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV), stranger),
		"0 75 8140 master-1.site-a.example.com.", "0 25 8140 master-2.site-a.example.com.", "1 5 8140 master.site-b.example.com.")
	wantData(t, z.Answer(question("ca.example.com", wire.TypeA), fromA), "192.0.2.2")

	// An empty answer would send agents to _x-puppet, whose servers have no CA.
	for _, name := range []string{"a1", "a2", "b1"} {
		s.edge(name, func(e *dns.Edge) { e.Services = map[dns.Service]bool{dns.Puppet: true} })
	}
	if m := z.Answer(question("_x-puppet-ca._tcp.site-a.example.com", wire.TypeSRV), stranger); len(m.Answer) == 0 {
		t.Error("nothing is answered for a CA that is down everywhere")
	}
}

func TestWhatWasGoodLastIsAnsweredWhenNothingLives(t *testing.T) {
	s := twoSites()
	registry := prometheus.NewRegistry()
	o := options(s)
	o.Registerer = registry
	z := newZone(t, o)
	q := question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV)
	z.Answer(q, stranger)

	s.edge("a2", kill)
	z.Answer(q, stranger)
	s.advance(time.Hour) // a2 was long dead when the others went
	s.edge("a1", kill)
	z.Answer(q, stranger)
	s.advance(30 * time.Second)
	s.edge("b1", kill)
	m := z.Answer(q, stranger)
	wantData(t, m, "0 75 8140 master-1.site-a.example.com.", "1 5 8140 master.site-b.example.com.")
	if ttl(m) != 2 {
		t.Errorf("TTL %d, want 2", ttl(m))
	}
	wantData(t, z.Answer(question("puppet.example.com", wire.TypeA), fromA), "192.0.2.1")
	if e := z.Explain("_x-puppet._tcp.site-a.example.com", wire.TypeSRV, stranger); !e.Panicked || len(e.Answer) != 2 {
		t.Errorf("explained as %+v, want two records of last known good", e)
	}
	if n := counter(t, registry, "troupe_dns_last_known_good_total"); n != 2 {
		t.Errorf("%v answers counted as last known good, want 2", n)
	}

	s.edge("a2", raise)
	wantData(t, z.Answer(q, stranger), "0 25 8140 master-2.site-a.example.com.")
}

func TestAZoneThatNeverSawAnybodyServeAnswersAll(t *testing.T) {
	s := twoSites()
	for _, name := range []string{"a1", "a2", "b1"} {
		s.edge(name, kill)
	}
	z := newZone(t, options(s))
	if m := z.Answer(question("_x-puppet._tcp.site-b.example.com", wire.TypeSRV), stranger); len(m.Answer) != 3 {
		t.Errorf("%d records, want all 3", len(m.Answer))
	}
}

func TestWhoAsksSeesTheOwnSiteFirst(t *testing.T) {
	s := twoSites()
	o := options(s)
	o.SRVDomains["example.com"] = "" // the asker's
	z := newZone(t, o)
	q := question("puppet.example.com", wire.TypeA)
	wantData(t, z.Answer(q, fromA), "192.0.2.1", "192.0.2.2")
	wantData(t, z.Answer(q, fromB), "192.0.2.11")
	wantData(t, z.Answer(q, netip.MustParseAddr("10.1.9.1")), "192.0.2.11") // the longer network
	wantData(t, z.Answer(q, netip.MustParseAddr("::ffff:10.2.0.1")), "192.0.2.11")
	wantData(t, z.Answer(q, netip.MustParseAddr("2001:db8:b::1")), "192.0.2.11")
	wantData(t, z.Answer(q, stranger), "192.0.2.1", "192.0.2.2") // the default: the first by name
	wantData(t, z.Answer(question("puppet.site-b.example.com", wire.TypeA), fromA), "192.0.2.11")
	srv := question("_x-puppet._tcp.example.com", wire.TypeSRV)
	wantData(t, z.Answer(srv, fromB), "0 5 8140 master.site-b.example.com.", "1 75 8140 master-1.site-a.example.com.", "1 25 8140 master-2.site-a.example.com.")
}

func TestOtherSitesComeByDistance(t *testing.T) {
	s := twoSites()
	s.sites = append(s.sites,
		dns.Site{Name: "site-c", Edges: []dns.Edge{newEdge("c1", "c1.example.com", 7, 21)}, Order: map[string]float64{"site-b": 12.5, "site-a": 80}},
		dns.Site{Name: "site-d", Edges: []dns.Edge{newEdge("d1", "d1.example.net", 7, 31)}, Order: map[string]float64{"site-a": 3, "site-b": 3}})
	o := options(s)
	o.SRVDomains["c.example.com"], o.SRVDomains["d.example.com"] = "site-c", "site-d"
	z := newZone(t, o)
	wantData(t, z.Answer(question("_x-puppet._tcp.c.example.com", wire.TypeSRV), stranger),
		"0 7 8140 c1.example.com.", "1 5 8140 master.site-b.example.com.",
		"2 75 8140 master-1.site-a.example.com.", "2 25 8140 master-2.site-a.example.com.", "3 7 8140 d1.example.net.")
	wantData(t, z.Answer(question("_x-puppet._tcp.d.example.com", wire.TypeSRV), stranger),
		"0 7 8140 d1.example.net.", "1 75 8140 master-1.site-a.example.com.", "1 25 8140 master-2.site-a.example.com.",
		"1 5 8140 master.site-b.example.com.", "2 7 8140 c1.example.com.")

	// A site that dies leaves a gap: priorities of others do not move.
	s.edge("b1", kill)
	wantData(t, z.Answer(question("_x-puppet._tcp.c.example.com", wire.TypeSRV), stranger),
		"0 7 8140 c1.example.com.", "2 75 8140 master-1.site-a.example.com.", "2 25 8140 master-2.site-a.example.com.", "3 7 8140 d1.example.net.")
}

func TestWeightsAreNeverZeroUnlessAllAre(t *testing.T) {
	s := twoSites()
	z := newZone(t, options(s))
	q := question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV)
	weigh := func(a1, a2 int) {
		s.edge("a1", func(e *dns.Edge) { e.Weight = a1 })
		s.edge("a2", func(e *dns.Edge) { e.Weight = a2 })
	}
	for _, c := range []struct {
		a1, a2 int
		want   string
	}{
		{10, 0, "10 1"}, {0, 0, "0 0"}, {-5, 3, "1 3"}, {1 << 30, 1 << 29, "65535 32767"}, {1 << 40, 1, "65535 1"},
	} {
		weigh(c.a1, c.a2)
		m := z.Answer(q, stranger)
		got := fmt.Sprint(m.Answer[0].(*wire.SRV).Weight, " ", m.Answer[1].(*wire.SRV).Weight)
		if got != c.want {
			t.Errorf("capacities %d and %d became weights %s, want %s", c.a1, c.a2, got, c.want)
		}
	}
	weigh(4, 0)
	wantData(t, z.Answer(question("puppet.example.com", wire.TypeA), fromA), "192.0.2.1")
	weigh(0, 0)
	wantData(t, z.Answer(question("puppet.example.com", wire.TypeA), fromA), "192.0.2.1", "192.0.2.2")
}

func TestAddressesRotateByWeight(t *testing.T) {
	o := options(twoSites())
	o.Names["one.example.com"] = dns.Address{Max: 1}
	z := newZone(t, o)
	first := map[string]int{}
	const rounds = 2000
	for range rounds {
		first[data(z.Answer(question("one.example.com", wire.TypeA), fromA))[0]]++
		first["all "+data(z.Answer(question("puppet.example.com", wire.TypeA), fromA))[0]]++
	}
	for _, who := range []string{"192.0.2.1", "all 192.0.2.1"} {
		if share := float64(first[who]) / rounds; share < 0.68 || share > 0.82 {
			t.Errorf("%s was first in %.2f of the answers, want 0.75", who, share)
		}
	}
}

// serveZone runs a zone until the test ends and returns its address.
func serveZone(t *testing.T, o dns.Options) string {
	t.Helper()
	ready := make(chan []netip.AddrPort, 1)
	o.Ready = func(l []netip.AddrPort) { ready <- l }
	z := newZone(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- z.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the zone ended with %v", err)
		}
	})
	select {
	case l := <-ready:
		return l[0].String()
	case err := <-ended:
		ended <- nil
		t.Fatalf("the zone does not start: %v", err)
	case <-time.After(troupetest.Patience):
		t.Fatal("the zone does not start")
	}
	return ""
}

func exchange(t *testing.T, network, address string, m *wire.Msg) *wire.Msg {
	t.Helper()
	c := &wire.Client{Net: network, Timeout: troupetest.Patience}
	r, _, err := c.ExchangeContext(t.Context(), m, address)
	if err != nil && r == nil {
		t.Fatalf("%s over %s: %v", m.Question[0].Name, network, err)
	}
	return r
}

func ask(name string, qtype uint16) *wire.Msg {
	return new(wire.Msg).SetQuestion(wire.Fqdn(name), qtype)
}

func counter(t *testing.T, r *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
