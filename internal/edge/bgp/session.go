package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// This file watches the sessions: what state they are in, what neighbours send, and that they were sent what they should have.

// session is what is remembered of a neighbour between two looks.
type session struct {
	Neighbor

	up       bool
	since    time.Time // of up, or of not
	downs    uint64
	flops    uint32
	received uint64
	updates  uint64
	full     time.Time // it had sent too many prefixes
}

const (
	fullPause = time.Minute      // before a neighbour that sent too much is spoken to again
	quietMost = 10 * time.Second // without a session, before it is an alarm
)

func (sp *speech) watch(ctx context.Context, s *Status) error {
	seen := &Status{}
	err := within(ctx, func() error { return sp.see(ctx, seen) })
	if errors.Is(err, errStuck) {
		return err // what is seen is not ours yet
	}
	s.RouterID, s.Neighbors = sp.o.RouterID.String(), seen.Neighbors
	s.Alarms = append(s.Alarms, seen.Alarms...)
	return err
}

func (sp *speech) see(ctx context.Context, s *Status) error {
	now := sp.o.Now()
	err := sp.server.ListPeer(ctx, &api.ListPeerRequest{EnableAdvertised: true}, func(p *api.Peer) {
		address, err := netip.ParseAddr(p.GetConf().GetNeighborAddress())
		if err != nil {
			return // no address of ours
		}
		if n := sp.sessions[address]; n != nil {
			status := sp.look(n, p, now)
			s.Neighbors = append(s.Neighbors, status)
			s.Alarms = append(s.Alarms, sp.alarms(n, p, status, now)...)
		}
	})
	if err != nil {
		return fmt.Errorf("BGP tells nothing about its sessions: %w", err)
	}
	slices.SortFunc(s.Neighbors, func(a, b NeighborStatus) int { return a.Address.Compare(b.Address) })
	return sp.checkTable()
}

// look compares a session with what it was.
func (sp *speech) look(n *session, p *api.Peer, now time.Time) NeighborStatus {
	state := p.GetState()
	up := state.GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED
	label := n.Address.String()
	// A session that ended and came back between two looks has been down, too.
	if fell := state.GetFlops() - n.flops; fell > 0 || n.up && !up {
		n.flops = state.GetFlops()
		if n.up {
			n.downs++
			sp.metrics.downs.WithLabelValues(label).Inc()
			sp.log.Warn("bgp session ended", "neighbor", label, "reason", sp.hints.last(n.Address))
			n.up, n.since = false, now
		}
	}
	if up && !n.up {
		sp.log.Info("bgp session established", "neighbor", label, "router_id", state.GetRouterId(), "after", now.Sub(n.since))
		n.up, n.since = true, now
		sp.hints.forget(n.Address)
	}
	sp.metrics.sessions.WithLabelValues(label).Set(map[bool]float64{true: 1}[n.up])

	var received, sent uint64
	for _, family := range p.GetAfiSafis() {
		received += family.GetState().GetReceived()
		sent += family.GetState().GetAdvertised()
	}
	if received > n.received {
		sp.log.Warn("a neighbor sends routes; none is used", "neighbor", label, "routes", received)
	}
	n.received = received
	sp.metrics.received.WithLabelValues(label).Set(float64(received))
	updates := state.GetMessages().GetReceived().GetUpdate()
	if updates >= n.updates { // it begins anew with a session
		sp.metrics.updates.WithLabelValues(label).Add(float64(updates - n.updates))
	} else {
		sp.metrics.updates.WithLabelValues(label).Add(float64(updates))
	}
	n.updates = updates

	st := NeighborStatus{
		Address: n.Address, ASN: n.ASN, Since: n.since, Sent: sent, Received: received, Downs: n.downs, LastError: sp.hints.last(n.Address),
		State: strings.ToLower(strings.TrimPrefix(state.GetSessionState().String(), "SESSION_STATE_")),
	}
	if n.up {
		st.RouterID = state.GetRouterId()
	}
	if n.BFD != nil {
		st.BFD = sp.bfd.stateOf(n.Address)
	}
	return st
}

// alarms are what an operator has to look at. They name the next step.
func (sp *speech) alarms(n *session, p *api.Peer, st NeighborStatus, now time.Time) []string {
	var all []string
	add := func(format string, args ...any) {
		all = append(all, fmt.Sprintf("neighbor %v: ", n.Address)+fmt.Sprintf(format, args...))
	}
	if p.GetState().GetAdminState() == api.PeerState_ADMIN_STATE_PFX_CT {
		if n.full.IsZero() {
			n.full = now
		}
		add("it sent more than %d routes, so the session was ended, and is tried again every %v: it has to send none (export filter)",
			n.MaxPrefixes, fullPause)
		if now.Sub(n.full) >= fullPause {
			n.full = time.Time{}
			if err := sp.server.EnablePeer(context.Background(), &api.EnablePeerRequest{Address: n.Address.String()}); err != nil {
				add("the session could not be tried again: %v", err)
			}
		}
		return all
	}
	n.full = time.Time{}
	if n.up && st.RouterID == sp.o.RouterID.String() {
		add("it has the router_id %v of this edge; give each its own, or routers will lose routes that differ in nothing else", sp.o.RouterID)
	}
	if !n.up && now.Sub(n.since) >= quietMost {
		add("no session for more than %v: %s", quietMost, sp.why(n))
	}
	if n.up && n.BFD != nil && st.BFD != "up" && now.Sub(n.since) >= quietMost {
		add("BFD is %s for more than %v although the session stands: is bfd on at the router, and UDP 3784 open both ways?", st.BFD, quietMost)
	}
	return all
}

// why there is no session, with what can be done.
func (sp *speech) why(n *session) string {
	last := sp.hints.last(n.Address)
	switch {
	case last == "" && n.Passive:
		last = "it does not connect"
		fallthrough
	case strings.Contains(last, "timeout"):
		more := "does it know this edge's address, and does a firewall let TCP port 179 pass?"
		if n.PasswordFile != "" {
			more += " A wrong password (TCP MD5) looks the same: compare " + n.PasswordFile + " with the router's"
		} else {
			more += " A router that wants a password (TCP MD5) looks the same: none is set here"
		}
		return last + ": " + more
	case last == "":
		return "still trying"
	case strings.Contains(last, "refused"):
		return last + ": no BGP runs there, or it does not know this edge as a neighbor"
	case strings.Contains(last, "BGP Identifier"), strings.Contains(last, "bad bgp identifier"):
		return last + fmt.Sprintf(": is the router_id %v its own, too? Give each its own", sp.o.RouterID)
	}
	return last
}

// checkTable holds that GoBGP's table has our routes only, whatever the filters let pass.
func (sp *speech) checkTable() error {
	for _, family := range []wire.Family{wire.RF_IPv4_UC, wire.RF_IPv6_UC} {
		var stray []string
		list := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: family}
		err := sp.server.ListPath(list, func(_ wire.NLRI, paths []*apiutil.Path) {
			for _, path := range paths {
				prefix, err := netip.ParsePrefix(path.Nlri.String())
				if err != nil || path.PeerAddress.IsValid() || !slices.Contains(sp.o.Prefixes, prefix) {
					stray = append(stray, path.Nlri.String())
				}
			}
		})
		if err != nil {
			return fmt.Errorf("BGP does not tell its table: %w", err)
		}
		if stray != nil {
			return fmt.Errorf("routes that are not this edge's are in its table, which must never be; tell the authors: %s", strings.Join(stray, ", "))
		}
	}
	return nil
}
