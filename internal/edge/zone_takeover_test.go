package edge

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// TestNoAnswerOfATakeoverHasTheDead asks all the time while one process takes over from another. Both have the port for a while, so that
// an answer may come from either: none of them may be of a process that has checked nobody yet.
func TestNoAnswerOfATakeoverHasTheDead(t *testing.T) {
	at, dead := freeAddress(t), netip.MustParseAddrPort(freeAddress(t))
	th := openTheatre(t, 1, func(c *config.Edge) {
		live := netip.MustParseAddrPort(c.Pools["workers"].Servers[0].Address)
		one := func(name string, a netip.AddrPort) config.EdgeDNSEdge {
			return config.EdgeDNSEdge{
				Name: name, Target: name + ".example.com", Addresses: []netip.Addr{a.Addr()}, Port: a.Port(),
				Check: &config.EdgeCheck{Verify: new(bool), Interval: config.Duration(100 * time.Millisecond), Timeout: config.Duration(20 * time.Second)},
			}
		}
		c.DNS = &config.EdgeDNS{
			Listen: []string{at}, Zone: "example.com", NameServers: []config.EdgeNameServer{{Name: "ns1.example.net"}}, RateLimit: 1 << 20,
			SRV: map[string]string{"example.com": "east"}, Sites: map[string]config.EdgeSite{"east": {Edges: []config.EdgeDNSEdge{one("live", live), one("dead", dead)}}},
		}
	})
	// ask is nil for a question that got no answer: those in the socket of a process that closes it are lost, and resolvers ask again.
	ask := func() *wire.Msg {
		c := &wire.Client{Timeout: 200 * time.Millisecond}
		m, _, err := c.ExchangeContext(t.Context(), new(wire.Msg).SetQuestion("_x-puppet._tcp.example.com.", wire.TypeSRV), at)
		if err != nil {
			return nil
		}
		return m
	}
	th.wait("the zone is answered for", func() bool { return ask() != nil })

	text, err := os.ReadFile(filepath.Join(th.dir, "edge.yaml"))
	check(t, err)
	conf, err := config.ParseEdge("edge.yaml", text)
	check(t, err)
	asking, enough := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	answered := 0
	wg.Go(func() {
		for asking.Err() == nil {
			m := ask()
			if m == nil {
				continue
			}
			answered++
			if len(m.Answer) != 1 || m.Answer[0].(*wire.SRV).Target != "live.example.com." {
				t.Errorf("answered %v", m.Answer)
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, conf, Options{Log: telemetry.NewLogger(t.Output(), nil, false), Version: "new", Takeover: true})
	}()
	th.wait("the new edge serves", func() bool {
		client, err := Dial(t.Context(), th.dir)
		if err != nil {
			return false
		}
		status, err := client.Status(t.Context())
		return err == nil && status.Version == "new" && status.Serving
	})
	th.stop() // has ended by itself
	th.stop = nil
	th.wait("the new one answers", func() bool { return ask() != nil })
	enough()
	wg.Wait()
	if answered == 0 {
		t.Error("nobody was answered meanwhile")
	}
	cancel()
	check(t, <-ended)
}
