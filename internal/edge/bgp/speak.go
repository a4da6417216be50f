package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"troupe/internal/telemetry"
)

// This file speaks BGP: GoBGP in this process, with the service addresses and nothing else.
//
// Two filters stand between GoBGP's table and its neighbours, though nothing but our routes is ever put there: what a neighbour
// sends is not let in, and what is no service address is not let out. Graceful restart is off unless it is asked for: with it, routers go
// on sending agents to a speaker that is dead.

// speech is the way of mode speak.
type speech struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	hints   *hints

	inherited bool // sessions of the process before this one are to pass to it
	kept      bool // and those of this one to the next

	server   *server.BgpServer
	bfd      *bfdLinks
	serving  sync.WaitGroup
	ending   context.CancelFunc
	told     Phase
	sessions map[netip.Addr]*session
}

// Timers of a session. The long ones of GoBGP keep a site away for a minute after a moment's trouble.
const (
	connectRetry = 5 // s; one attempt takes a second less
	idleReset    = 1 // s; after we ended it, for BFD
	deferral     = 2 // s; after a graceful restart, until the neighbor is told that it knows all
)

func newSpeech(o Options, log *slog.Logger, m *metrics) *speech {
	sp := &speech{o: o, log: log, metrics: m, hints: newHints(log), sessions: map[netip.Addr]*session{}}
	for _, n := range o.Neighbors {
		sp.sessions[n.Address] = &session{Neighbor: n, since: o.Now()}
	}
	return sp
}

func (sp *speech) start(ctx context.Context) error {
	sp.server = server.NewBgpServer(server.LoggerOption(slog.New(sp.hints), nil))
	sp.serving.Go(sp.server.Serve)
	global := &api.Global{Asn: sp.o.ASN, RouterId: sp.o.RouterID.String(), ListenPort: -1}
	for _, n := range sp.o.Neighbors {
		if !n.Passive {
			continue
		}
		global.ListenPort = int32(n.Port)
		if a := n.LocalAddress.String(); !slices.Contains(global.ListenAddresses, a) {
			global.ListenAddresses = append(global.ListenAddresses, a)
		}
	}
	if err := sp.server.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		return fmt.Errorf("start BGP: %w", err)
	}
	if err := sp.filter(ctx); err != nil {
		return fmt.Errorf("set the filters of BGP: %w", err)
	}
	for _, n := range sp.o.Neighbors {
		peer, err := sp.peer(n)
		if err != nil {
			return err
		}
		if err := sp.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peer}); err != nil {
			return fmt.Errorf("add neighbor %v: %w", n.Address, err)
		}
	}
	ctx, sp.ending = context.WithCancel(ctx)
	fell := make(chan fallen)
	links, err := startBFD(ctx, sp.o.Neighbors, sp.log, fell)
	if err != nil {
		return err
	}
	sp.bfd = links
	sp.serving.Go(func() { sp.reset(ctx, fell) })
	return nil
}

// reset ends the session with a neighbour whose BFD fell, so that the neighbour and we forget it now and not after the hold time. A
// session that is not established is left alone: GoBGP would keep the word and end the next one with it.
func (sp *speech) reset(ctx context.Context, fell <-chan fallen) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-fell:
			address := f.neighbor.String()
			if f.why == closed {
				sp.log.Warn("bfd was switched off by the neighbor; the session stands", "neighbor", address)
				continue
			}
			up := false
			err := sp.server.ListPeer(ctx, &api.ListPeerRequest{Address: address}, func(p *api.Peer) {
				up = p.GetState().GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED
			})
			if err == nil && up {
				err = sp.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: address, Communication: "BFD is down"})
			}
			if up {
				sp.log.Warn("bfd is down", "neighbor", address, "reason", string(f.why))
			}
			if err != nil {
				sp.log.Error("a session could not be ended; it ends by its hold time", "neighbor", address, telemetry.KeyErr, err)
			}
		}
	}
}

// filter lets exactly the service addresses out, and in only what we put there ourselves. (SetPolicies would take it all in one call,
// and drops the assignments without a word.)
func (sp *speech) filter(ctx context.Context) error {
	in, out := &api.Policy{Name: "own"}, &api.Policy{Name: "service"}
	for _, family := range []string{"ipv4", "ipv6"} {
		set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: "service-" + family}
		for _, p := range sp.o.Prefixes {
			if p.Addr().Is4() == (family == "ipv4") {
				set.Prefixes = append(set.Prefixes, &api.Prefix{
					IpPrefix: p.String(), MaskLengthMin: uint32(p.Bits()), MaskLengthMax: uint32(p.Bits()),
				})
			}
		}
		if set.Prefixes == nil {
			continue
		}
		if err := sp.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set}); err != nil {
			return err
		}
		for _, policy := range []*api.Policy{in, out} {
			policy.Statements = append(policy.Statements, &api.Statement{
				Name: policy.Name + "-" + family,
				Conditions: &api.Conditions{
					PrefixSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set.Name},
					RouteType: api.Conditions_ROUTE_TYPE_LOCAL,
				},
				Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
			})
		}
	}
	for policy, direction := range map[*api.Policy]api.PolicyDirection{
		in: api.PolicyDirection_POLICY_DIRECTION_IMPORT, out: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		if err := sp.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
			return err
		}
		err := sp.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: direction, Policies: []*api.Policy{policy}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (sp *speech) peer(n Neighbor) (*api.Peer, error) {
	family := &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	if n.Address.Is6() {
		family.Afi = api.Family_AFI_IP6
	}
	peer := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.ASN},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: uint64(n.HoldTime.Seconds()), KeepaliveInterval: uint64(n.HoldTime.Seconds()) / 3,
			ConnectRetry: connectRetry, IdleHoldTimeAfterReset: idleReset,
		}},
		Transport: &api.Transport{RemotePort: uint32(n.Port), PassiveMode: n.Passive},
		AfiSafis: []*api.AfiSafi{{
			Config:       &api.AfiSafiConfig{Family: family, Enabled: true},
			PrefixLimits: &api.PrefixLimit{Family: family, MaxPrefixes: uint32(n.MaxPrefixes)},
		}},
	}
	if n.Restart > 0 {
		peer.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(n.Restart.Seconds()), DeferralTime: deferral, LocalRestarting: sp.inherited,
		}
		peer.AfiSafis[0].MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	}
	if n.LocalAddress.IsValid() {
		peer.Transport.LocalAddress = n.LocalAddress.String()
	}
	if n.PasswordFile != "" {
		word, err := password(n.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("neighbor %v: %w", n.Address, err)
		}
		peer.Conf.AuthPassword = word
	}
	if n.TTLSecurity {
		peer.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255}
	}
	if n.Multihop > 1 {
		peer.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.Multihop)}
	}
	return peer, nil
}

// errStuck ends the speaker, and its process after it: the kernel closes the sessions then, and routers forget the routes.
var errStuck = errors.New("GoBGP does not answer, so nothing could be withdrawn; this process has to end, and its sessions end with it")

// within bounds a call of GoBGP, none of which knows a deadline. What is not done in time never will be.
func within(ctx context.Context, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errStuck
	}
}

// tell puts the routes of a phase into GoBGP's table, or takes them out. GoBGP sends what changed before it answers to anything else.
func (sp *speech) tell(ctx context.Context, p Phase) error {
	return within(ctx, func() error { return sp.put(p) })
}

func (sp *speech) put(p Phase) error {
	var paths []*apiutil.Path
	for _, prefix := range sp.o.Prefixes {
		path, err := sp.path(prefix, p)
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	if p == Silent {
		if sp.told == Silent {
			return nil
		}
		if err := sp.server.DeletePath(apiutil.DeletePathRequest{Paths: paths}); err != nil {
			return fmt.Errorf("withdraw: %w", err)
		}
	} else if _, err := sp.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	sp.told = p
	return nil
}

// path is a route as neighbours see it. The next hop is left open: each session puts in its own address.
func (sp *speech) path(prefix netip.Prefix, p Phase) (*apiutil.Path, error) {
	nlri, err := wire.NewIPAddrPrefix(prefix)
	if err != nil {
		return nil, fmt.Errorf("prefix %v: %w", prefix, err)
	}
	family, nowhere := wire.RF_IPv4_UC, netip.IPv4Unspecified()
	if prefix.Addr().Is6() {
		family, nowhere = wire.RF_IPv6_UC, netip.IPv6Unspecified()
	}
	hop, err := wire.NewPathAttributeNextHop(nowhere)
	if err != nil {
		return nil, fmt.Errorf("prefix %v: %w", prefix, err)
	}
	attrs := []wire.PathAttributeInterface{wire.NewPathAttributeOrigin(wire.BGP_ORIGIN_ATTR_TYPE_IGP), hop}
	pref := sp.o.preference(p)
	if pref.Prepend > 0 {
		own := slices.Repeat([]uint32{sp.o.ASN}, pref.Prepend)
		attrs = append(attrs, wire.NewPathAttributeAsPath([]wire.AsPathParamInterface{wire.NewAs4PathParam(wire.BGP_ASPATH_ATTR_TYPE_SEQ, own)}))
	}
	if pref.MED > 0 {
		attrs = append(attrs, wire.NewPathAttributeMultiExitDisc(pref.MED))
	}
	if p == Joining || p == Leaving {
		attrs = append(attrs, wire.NewPathAttributeLocalPref(0)) // is sent within our own AS only
	}
	if len(pref.Communities) > 0 {
		attrs = append(attrs, wire.NewPathAttributeCommunities([]uint32{gracefulShutdown}))
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attrs}, nil
}

const gracefulShutdown = 65535 << 16 // [GracefulShutdown] on the wire

// stop ends the sessions, with a word to each neighbour, and everything that GoBGP runs.
func (sp *speech) stop(ctx context.Context) error {
	if sp.server == nil {
		return nil
	}
	return within(ctx, func() (err error) {
		if sp.kept { // without a word, as if it broke: who knows graceful restart keeps what it was told
			err = sp.server.StopBgp(ctx, &api.StopBgpRequest{AllowGracefulRestart: true})
		} else {
			sp.server.Stop() // before BFD: neighbours are to hear it from BGP
		}
		if sp.ending != nil {
			sp.ending()
		}
		if sp.bfd != nil {
			err = errors.Join(err, sp.bfd.stop())
		}
		sp.serving.Wait()
		return err
	})
}
