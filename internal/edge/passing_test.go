package edge

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	gobgp "github.com/osrg/gobgp/v4/pkg/server"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// A router on the loopback that keeps routes in a graceful restart.
type router struct {
	t *testing.T
	s *gobgp.BgpServer
}

func newRouter(t *testing.T, at netip.AddrPort) *router {
	t.Helper()
	s := gobgp.NewBgpServer(gobgp.LoggerOption(slog.New(slog.DiscardHandler), nil))
	ended := make(chan struct{})
	go func() { s.Serve(); close(ended) }()
	t.Cleanup(func() { s.Stop(); <-ended })
	check(t, s.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{Asn: 64496, RouterId: "192.0.2.1", ListenPort: int32(at.Port()), ListenAddresses: []string{at.Addr().String()}}}))
	family := &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	check(t, s.AddPeer(t.Context(), &api.AddPeerRequest{Peer: &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: 65500}, Transport: &api.Transport{PassiveMode: true},
		Timers:          &api.Timers{Config: &api.TimersConfig{HoldTime: 90, KeepaliveInterval: 30, IdleHoldTimeAfterReset: 1}},
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 20},
		AfiSafis: []*api.AfiSafi{{
			Config: &api.AfiSafiConfig{Family: family, Enabled: true}, MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}},
	}}))
	return &router{t, s}
}

// knows tells whether the router has a route, and whether that is one that it only keeps.
func (r *router) knows(prefix string) (there, stale bool) {
	r.t.Helper()
	check(r.t, r.s.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: wire.RF_IPv4_UC}, func(n wire.NLRI, paths []*apiutil.Path) {
		if n.String() == prefix && len(paths) > 0 {
			there, stale = true, paths[0].Stale
		}
	}))
	return there, stale
}

// TestATakeoverWithdrawsNothingWithGracefulRestart: the session passes from one process to the next, and the router has the route all the time.
func TestATakeoverWithdrawsNothingWithGracefulRestart(t *testing.T) {
	const service = "203.0.113.1/32"
	at := netip.MustParseAddrPort(freeAddress(t))
	r := newRouter(t, at)
	th := openTheatre(t, 1, func(c *config.Edge) {
		c.Listeners[0].Listen = freeAddress(t)
		c.BGP = &config.EdgeBGP{
			AS: 65500, RouterID: netip.MustParseAddr("192.0.2.7"), Prefixes: []netip.Prefix{netip.MustParsePrefix(service)}, UpAfter: config.Duration(10 * time.Millisecond),
			Neighbors: []config.EdgeNeighbor{{Address: at.Addr(), Port: at.Port(), AS: 64496, Restart: config.Duration(20 * time.Second), HoldTime: config.Duration(90 * time.Second)}},
		}
	})
	th.wait("the router has the route", func() bool { there, _ := r.knows(service); return there })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, th.reread(nil), Options{Log: telemetry.NewLogger(t.Output(), nil, false), Version: "new", Takeover: true})
	}()
	kept := func() bool {
		there, stale := r.knows(service)
		if !there {
			t.Fatal("the router has forgotten the route")
		}
		return !stale
	}
	th.wait("the new process has the session", func() bool {
		fresh := kept()
		client, err := Dial(t.Context(), th.dir)
		if err != nil {
			return false
		}
		s, err := client.Status(t.Context())
		return err == nil && s.Version == "new" && len(s.BGP.Neighbors) > 0 && s.BGP.Neighbors[0].State == "established" && fresh
	})
	th.stop() // has ended by itself
	th.stop = nil
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("the session is some seconds old and was never lost", func() bool {
		kept()
		s, err := client.Status(t.Context())
		check(t, err)
		if n := s.BGP.Neighbors[0]; n.State != "established" || n.Downs > 0 {
			t.Fatalf("the old process took the session back: %s", strconv.Quote(strings.Join([]string{n.State, n.LastError}, " ")))
		}
		return time.Since(s.BGP.Neighbors[0].Since) > 7*time.Second
	})
	cancel()
	check(t, <-ended)
	th.wait("the router has forgotten the route of an edge that was stopped", func() bool { there, _ := r.knows(service); return !there })
}
