package edge

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/edge/health"
)

func TestAMeasureDoesNotJump(t *testing.T) {
	var s steady
	now := time.Unix(1000, 0)
	take := func(value float64, times int) (said int) {
		last := s.said
		for range times {
			now = now.Add(time.Second)
			s.take(value, now, freeOver, leastFree)
			if s.said != last {
				said++
			}
			last = s.said
		}
		return said
	}
	if take(40, 1); s.said != 40 {
		t.Errorf("what is measured first is said at once; said %v", s.said)
	}
	for i := range 100 { // compilations come and go
		if n := take(40-float64(i%2)*18, 1); n > 0 {
			t.Fatalf("a measure that moves to and fro was said anew after %d times: %v", i, s.said)
		}
	}
	if n := take(4, 120); n < 2 || n > 12 || s.said > 6 {
		t.Errorf("when a site filled up its measure was said %d times, and at last as %v", n, s.said)
	}
	if take(0, 300); s.said > leastFree {
		t.Errorf("a full site is said to have %v", s.said)
	}
	if take(40, 1); s.said > 10 {
		t.Errorf("one measurement moved it to %v", s.said)
	}
	if take(40, 120); s.said < 30 {
		t.Errorf("an empty site is said to have %v", s.said)
	}
}

func TestWhatAnotherEdgeSaysIsReadWithCare(t *testing.T) {
	for line, want := range map[string]float64{
		"free=12.5&near.west=3": 12.5, "free=-1": -1, "free=NaN": -1, "free=1e9": -1, "free=x": -1, "%zz": -1, "near.west=1": -1, "free=" + strings.Repeat("1", maxTelling): -1,
	} {
		if got := readTelling(line); got.free != want || !got.known {
			t.Errorf("%.40q is read as %+v", line, got)
		}
	}
}

// TestRoomOfMembers: heartbeats say how many places there are, and only those of this site count.
func TestRoomOfMembers(t *testing.T) {
	e := &Edge{conf: &config.Edge{Site: "east"}, troupe: &membership{}, judge: health.New(health.Options{})}
	p := &pool{name: "members", conf: config.EdgePool{Members: true}, Pool: balance.New(balance.Options{})}
	p.Pool.Set([]balance.Server{{Name: "a", Site: "east"}, {Name: "b", Site: "east"}, {Name: "c", Site: "west"}})
	if _, _, counted := e.room(p); counted {
		t.Error("places were counted before any member said how many it has")
	}
	e.troupe.beats.Store(&map[string]cluster.ViewPeer{
		"a": {State: "running", Workers: 4, Busy: 3, Waiting: 2}, "b": {State: "running", Workers: 8, Busy: 1}, "c": {State: "running", Workers: 50},
	})
	if free, all, counted := e.room(p); free != 6 || all != 12 || !counted {
		t.Errorf("room %d of %d, %v; want 6 of 12", free, all, counted)
	}
	e.troupe.beats.Store(&map[string]cluster.ViewPeer{"a": {State: "running", Workers: 4, Busy: 4, Waiting: 9}, "b": {State: "starting", Workers: 8}})
	if free, all, _ := e.room(p); free != 0 || all != 4 {
		t.Errorf("room %d of %d; want 0 of 4", free, all)
	}
	e.conf.Site = "south" // without members of its own
	e.troupe.beats.Store(&map[string]cluster.ViewPeer{"a": {State: "running", Workers: 4}, "b": {State: "running", Workers: 4}, "c": {State: "running", Workers: 4}})
	if free, all, _ := e.room(p); free != 12 || all != 12 {
		t.Errorf("room %d of %d; want 12 of 12", free, all)
	}
}

// TestDNSFollowsWhatEdgesSay: weights are what edges can still take, and the order of sites is how far they are from each other; both as
// the edges of each site say, also where this edge is somewhere else.
func TestDNSFollowsWhatEdgesSay(t *testing.T) {
	says := map[string]*atomic.Pointer[string]{}
	sites := map[string]config.EdgeSite{}
	add := func(site, address string) {
		at := netip.MustParseAddrPort(address)
		sites[site] = config.EdgeSite{Order: config.EdgeOrder{Measured: true}, Edges: []config.EdgeDNSEdge{{
			Name: site + "1", Target: site + "1.example.org", Addresses: []netip.Addr{at.Addr()}, Port: at.Port(), Weight: config.WeightAuto,
			Check: &config.EdgeCheck{Verify: new(bool), Interval: config.Duration(50 * time.Millisecond), Timeout: config.Duration(20 * time.Second)},
		}}}
	}
	for site, line := range map[string]string{"west": "free=3&near.east=20&near.south=5", "south": "free=9&near.east=70.4&near.west=5"} {
		says[site] = &atomic.Pointer[string]{}
		says[site].Store(&line)
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(tellHeader, *says[site].Load())
			fmt.Fprint(w, "running")
		}))
		t.Cleanup(s.Close)
		add(site, s.Listener.Addr().String())
	}
	own, zone := freePort(t), freeAddress(t)
	add("east", own)
	th := openTheatre(t, 2, func(c *config.Edge) {
		c.Site, c.Listeners[0].Listen = "east", own
		workers := c.Pools["workers"]
		for i := range workers.Servers {
			workers.Servers[i].MaxConnections = 4
		}
		c.Pools["workers"] = workers
		c.DNS = &config.EdgeDNS{
			Listen: []string{zone}, Zone: "puppet.example.com", NameServers: []config.EdgeNameServer{{Name: "ns1.example.org"}}, Sites: sites,
			SRV: map[string]string{"east.puppet.example.com": "east", "west.puppet.example.com": "west", "south.puppet.example.com": "south"},
		}
	})
	ladder := func(site string) string {
		m := new(wire.Msg)
		m.SetQuestion("_x-puppet._tcp."+site+".puppet.example.com.", wire.TypeSRV)
		answer, err := wire.ExchangeContext(t.Context(), m, zone)
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, rr := range answer.Answer {
			if srv, ok := rr.(*wire.SRV); ok {
				all = append(all, fmt.Sprintf("%d %d %s", srv.Priority, srv.Weight, strings.TrimSuffix(srv.Target, "1.example.org.")))
			}
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	th.wait("the ladder of west", func() bool { return ladder("west") == "0 30 west, 1 90 south, 2 80 east" })
	th.wait("the ladder of south", func() bool { return ladder("south") == "0 90 south, 1 30 west, 2 80 east" })
	th.wait("the ladder of east", func() bool {
		from := ladder("east") // who of the others is nearer by the loopback is chance
		return strings.HasPrefix(from, "0 80 east, 1 ") && strings.Contains(from, " 30 west") && strings.Contains(from, " 90 south")
	})

	// South fills up and moves away. What it says was smoothed there, so it counts at once; none is ever left out for being full.
	full := "free=0&near.east=3&near.west=9"
	says["south"].Store(&full)
	th.wait("the ladder of south, which is full", func() bool { return ladder("south") == "0 1 south, 1 80 east, 2 30 west" })

	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	x, err := client.ExplainDNS(t.Context(), "_x-puppet._tcp.south.puppet.example.com", "", "127.0.0.1")
	check(t, err)
	for _, want := range []string{
		"weight of south1 (south): 1, since its site has 0.0 places free, for 1 edges", "weight of east1 (east): 80, since its site has 8.0 places free, for 1 edges",
		"order from south: east 3 ms, west 9 ms, measured by south1", "order from west: south 5 ms, east 20 ms, measured by west1",
	} {
		if !slices.Contains(x.Measured, want) || !strings.Contains(x.String(), want) {
			t.Errorf("the explanation does not say %q: %q", want, x.Measured)
		}
	}
}

// TestAnEdgeWithTheRouterIDOfAnotherIsAnAlarm: their routers see neither of the two beside the other, so the edges have to.
func TestAnEdgeWithTheRouterIDOfAnotherIsAnAlarm(t *testing.T) {
	said := atomic.Pointer[string]{}
	line := "name=edge2.example.com&router=192.0.2.7+in+AS+65500"
	said.Store(&line)
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(tellHeader, *said.Load())
		fmt.Fprint(w, "running")
	}))
	defer other.Close()
	own := freePort(t)
	th := openTheatre(t, 1, func(c *config.Edge) {
		c.Listeners[0].Listen = own
		var edges []config.EdgeDNSEdge
		for i, address := range []string{own, other.Listener.Addr().String()} {
			at := netip.MustParseAddrPort(address)
			edges = append(edges, config.EdgeDNSEdge{
				Name: fmt.Sprintf("edge%d", i+1), Target: fmt.Sprintf("edge%d.example.org", i+1), Addresses: []netip.Addr{at.Addr()}, Port: at.Port(),
				Check: &config.EdgeCheck{Verify: new(bool), Interval: config.Duration(50 * time.Millisecond), Timeout: config.Duration(20 * time.Second)},
			})
		}
		c.DNS = &config.EdgeDNS{Listen: []string{freeAddress(t)}, Zone: "puppet.example.com", NameServers: []config.EdgeNameServer{{Name: "ns1.example.org"}}, Sites: map[string]config.EdgeSite{"east": {Edges: edges}}}
		c.BGP = &config.EdgeBGP{Mode: "file", File: c.Data + "/announced", AS: 65500, RouterID: netip.MustParseAddr("192.0.2.7"), Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")}}
	})
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	alarms := func() string {
		s, err := client.Status(t.Context())
		check(t, err)
		return strings.Join(s.BGP.Alarms, "\n")
	}
	th.wait("the alarm", func() bool {
		return alarms() == "edge edge2 has the router_id 192.0.2.7 in AS 65500 of this edge; give each its own (bgp.router_id), or routers will lose routes that differ in nothing else"
	})
	mended := "name=edge2.example.com&router=192.0.2.8+in+AS+65500"
	said.Store(&mended)
	th.wait("the end of the alarm", func() bool { return alarms() == "" })
}
