package edge

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/config"
)

func TestTheWorldIsToldWhatTheJudgeSays(t *testing.T) {
	at := freeAddress(t)
	var state string
	th := openTheatre(t, 2, func(c *config.Edge) {
		state = filepath.Join(c.Data, "announce.conf")
		c.BGP = &config.EdgeBGP{Mode: "file", File: state, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, UpAfter: config.Duration(10 * time.Millisecond)}
		edges := map[string]config.EdgeSite{}
		for i, s := range c.Pools["workers"].Servers {
			addr := netip.MustParseAddrPort(s.Address)
			name := []string{"east", "west"}[i]
			edges[name] = config.EdgeSite{Edges: []config.EdgeDNSEdge{{Name: name + "1", Target: name + "1.puppet.example.com", Addresses: []netip.Addr{addr.Addr()}, Port: addr.Port(), Check: &config.EdgeCheck{Verify: new(bool), Interval: config.Duration(100 * time.Millisecond), Timeout: config.Duration(20 * time.Second), Fall: 1}}}}
		}
		c.DNS = &config.EdgeDNS{
			Listen: []string{at}, Zone: "puppet.example.com", NameServers: []config.EdgeNameServer{{Name: "ns1.puppet.example.com", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
			SRV: map[string]string{"east.puppet.example.com": "east"}, Sites: edges, Names: map[string]config.EdgeDNSName{"agents.puppet.example.com": {}},
		}
	})
	ladder := func() (targets []string) {
		m := new(wire.Msg)
		m.SetQuestion("_x-puppet._tcp.east.puppet.example.com.", wire.TypeSRV)
		answer, err := wire.Exchange(m, at)
		if err != nil {
			return nil
		}
		for _, rr := range answer.Answer {
			if srv, ok := rr.(*wire.SRV); ok {
				targets = append(targets, srv.Target)
			}
		}
		return targets
	}
	th.wait("both sites are in the ladder", func() bool { return len(ladder()) == 2 })
	announced := func() bool {
		text, err := os.ReadFile(state)
		return err == nil && strings.Contains(string(text), "192.0.2.1/32")
	}
	th.wait("the service address is announced", announced)

	th.servers[0].Listener.Close()
	th.servers[0].CloseClientConnections()
	th.wait("the site that is down has left the ladder", func() bool {
		return strings.Join(ladder(), " ") == "west1.puppet.example.com."
	})
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	x, err := client.ExplainDNS(t.Context(), "_x-puppet._tcp.east.puppet.example.com", "", "127.0.0.1")
	check(t, err)
	if len(x.Edges) != 2 || len(x.Answer) == 0 {
		t.Errorf("explained %+v", x)
	}
	zone, delegation, err := client.ExportZone(t.Context(), "east")
	check(t, err)
	if own, _, err := client.ExportZone(t.Context(), ""); err != nil || own != zone {
		t.Errorf("without a site, %v:\n%s\nwant that of the edge's own:\n%s", err, own, zone)
	}
	if _, _, err := client.ExportZone(t.Context(), "esat"); err == nil || !strings.Contains(err.Error(), "there are east, west") {
		t.Errorf("a site that there is not: %v", err)
	}
	if _, err := client.ExplainDNS(t.Context(), "east.puppet.example.com", "FOO", "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "unknown type") {
		t.Errorf("a type that there is not: %v", err)
	}
	if !strings.Contains(zone, "SOA") || !strings.Contains(delegation, "ns1.puppet.example.com") {
		t.Errorf("exported\n%s\n%s", zone, delegation)
	}
	if !announced() {
		t.Error("with one server left the site is withdrawn")
	}

	// An operator drains the edge: the address is taken back while requests are served on.
	check(t, client.ChangeEdge(t.Context(), "drain"))
	th.wait("the service address is taken back", func() bool { return !announced() })
	th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", "")
	check(t, client.ChangeEdge(t.Context(), "ready"))
	th.wait("the service address is announced again", announced)

	th.servers[1].Listener.Close()
	th.servers[1].CloseClientConnections()
	th.wait("a site that can finish no run is taken back", func() bool { return !announced() })
}
