package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
	"golang.org/x/sys/unix"
)

// This file sends and receives the packets of BFD sessions. What comes must have a TTL of 255 (RFC 5881, 5): nobody further away than
// the next hop can make such a packet.

const (
	bfdPort  = 3784
	firstOwn = 49152 // the lowest source port that RFC 5881 allows
	maxQueue = 16    // packets that wait for a session; more are dropped, as on a line
	maxBFD   = 256   // bytes of a packet
)

// bfdLinks are the sessions of one edge.
type bfdLinks struct {
	log   *slog.Logger
	links map[netip.Addr]*bfdLink
	fell  chan<- fallen
	ctx   context.Context //nolint:containedctx // ends all goroutines of the struct
	end   context.CancelFunc
	doing sync.WaitGroup
	conns []*net.UDPConn
}

// bfdLink is the session with one neighbour.
type bfdLink struct {
	neighbor Neighbor
	conn     net.Conn // to it
	packets  chan *wire.BFDHeader

	mu    sync.Mutex
	state wire.StateType
}

// fallen says that a session which was up is down.
type fallen struct {
	neighbor netip.Addr
	why      fall
}

// startBFD opens the sessions of all neighbours that want one.
func startBFD(ctx context.Context, neighbors []Neighbor, log *slog.Logger, fell chan<- fallen) (*bfdLinks, error) {
	b := &bfdLinks{log: log, links: map[netip.Addr]*bfdLink{}, fell: fell}
	b.ctx, b.end = context.WithCancel(ctx)
	// Where a neighbour of a family is spoken to from any address, the port belongs to that: a second socket for one address would not
	// find it free.
	anywhere := map[bool]bool{}
	for _, n := range neighbors {
		anywhere[n.Address.Is6()] = anywhere[n.Address.Is6()] || n.BFD != nil && !n.LocalAddress.IsValid()
	}
	listening := map[netip.Addr]bool{}
	for _, n := range neighbors {
		if n.BFD == nil {
			continue
		}
		local, at := n.LocalAddress, n.LocalAddress
		if anywhere[n.Address.Is6()] {
			at = netip.IPv4Unspecified()
			if n.Address.Is6() {
				at = netip.IPv6Unspecified()
			}
		}
		if !local.IsValid() {
			local = at
		}
		if !listening[at] {
			listening[at] = true
			if err := b.listen(at); err != nil {
				return nil, errors.Join(err, b.stop())
			}
		}
		conn, err := dialBFD(ctx, local, n.Address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("BFD with %v: %w", n.Address, err), b.stop())
		}
		b.links[n.Address] = &bfdLink{neighbor: n, conn: conn, packets: make(chan *wire.BFDHeader, maxQueue), state: wire.StateDown}
	}
	for _, l := range b.links {
		b.doing.Go(func() { b.run(l) })
	}
	for _, conn := range b.conns {
		b.doing.Go(func() { b.receive(conn) })
	}
	return b, nil
}

// options sets what packets must have: TTL 255, and the class of network control.
func options(v6 bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var errs []error
		set := func(fd uintptr, level, name, value int) {
			errs = append(errs, unix.SetsockoptInt(int(fd), level, name, value))
		}
		err := c.Control(func(fd uintptr) {
			if v6 {
				set(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255)
				set(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
				set(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0xc0)
				set(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
			} else {
				set(fd, unix.IPPROTO_IP, unix.IP_TTL, 255)
				set(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
				set(fd, unix.IPPROTO_IP, unix.IP_TOS, 0xc0)
			}
		})
		return errors.Join(append(errs, err)...)
	}
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "udp4"
	}
	return "udp6"
}

func (b *bfdLinks) listen(local netip.Addr) error {
	lc := net.ListenConfig{Control: options(local.Is6())}
	conn, err := lc.ListenPacket(b.ctx, network(local), netip.AddrPortFrom(local, bfdPort).String())
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is taken, so the BFD of a bird or FRR runs on this machine; have it announce the addresses (mode %s), "+
			"or leave bfd out here: %w", bfdPort, ModeAddress, err)
	}
	if err != nil {
		return fmt.Errorf("listen for BFD: %w", err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return errors.Join(fmt.Errorf("listen for BFD: a %T", conn), conn.Close())
	}
	b.conns = append(b.conns, udp)
	return nil
}

// dialBFD takes a source port that is free.
func dialBFD(ctx context.Context, local, remote netip.Addr) (conn net.Conn, err error) {
	for range 100 {
		port := uint16(firstOwn + rand.IntN(1<<16-firstOwn)) //nolint:gosec // any free one, no secret
		d := net.Dialer{
			LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, port)), Control: options(remote.Is6()), Timeout: tellMost,
		}
		conn, err = d.DialContext(ctx, network(remote), netip.AddrPortFrom(remote, bfdPort).String())
		if !errors.Is(err, unix.EADDRINUSE) {
			return conn, err
		}
	}
	return nil, err
}

// receive hands each packet to its session, by the address that it comes from.
func (b *bfdLinks) receive(conn *net.UDPConn) {
	buf, control := make([]byte, maxBFD), make([]byte, 128)
	for {
		n, cn, _, from, err := conn.ReadMsgUDPAddrPort(buf, control)
		if b.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // an ICMP message for an earlier packet
		}
		link := b.links[from.Addr().Unmap()]
		if link == nil || !nextHop(control[:cn]) {
			continue
		}
		h := &wire.BFDHeader{}
		const authenticated, multipoint = 0x04, 0x01
		if h.UnmarshalBinary(buf[:n]) != nil || buf[1]&(authenticated|multipoint) != 0 {
			continue
		}
		select {
		case link.packets <- h:
		default:
		}
	}
}

// nextHop reports whether the control message of a packet says TTL 255.
func nextHop(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	for _, m := range messages {
		ttl := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT
		if ttl && len(m.Data) > 0 {
			return m.Data[0] == 255 || m.Data[len(m.Data)-1] == 255 // a C int, of either order
		}
	}
	return false
}

// run is one session until the end. Then the neighbour is told that it is no failure.
func (b *bfdLinks) run(l *bfdLink) {
	s := newBFDSession(*l.neighbor.BFD)
	next, detect := time.NewTimer(0), time.NewTimer(time.Hour)
	defer next.Stop()
	defer detect.Stop()
	for {
		before, f := s.state, still
		select {
		case <-b.ctx.Done():
			s.state, s.diagnostic, s.polling = wire.StateAdminDown, wire.DiagnosticAdministrativelyDown, false
			l.send(s.packet())
			return
		case h := <-l.packets:
			var reply *wire.BFDHeader
			if f, reply = s.take(h, time.Now()); reply != nil {
				l.send(reply)
			}
		case <-next.C:
			if pause := s.pause(); pause > 0 {
				l.send(s.packet())
				next.Reset(pause)
			} else {
				next.Reset(slow)
			}
		case <-detect.C:
			if len(l.packets) > 0 { // they came while this process had no CPU
				detect.Reset(0)
				continue
			}
			f = s.expire(time.Now())
		}
		if s.state != before {
			l.mu.Lock()
			l.state = s.state
			l.mu.Unlock()
			l.send(s.packet()) // the other side learns it at once
			next.Reset(s.desired())
		}
		if s.state != wire.StateDown {
			detect.Reset(max(time.Until(s.deadline()), 0))
		}
		if f != still {
			select {
			case b.fell <- fallen{l.neighbor.Address, f}:
			case <-b.ctx.Done():
			}
		}
	}
}

func (l *bfdLink) send(h *wire.BFDHeader) {
	packet, err := h.MarshalBinary()
	if err == nil {
		_, err = l.conn.Write(packet)
	}
	_ = err // a packet that does not arrive is what BFD is there to notice
}

// stateOf is for people.
func (b *bfdLinks) stateOf(n netip.Addr) string {
	l := b.links[n]
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[wire.StateType]string{wire.StateAdminDown: "admin down", wire.StateDown: "down", wire.StateInit: "init", wire.StateUp: "up"}[l.state]
}

// stop ends all sessions and waits for their goroutines.
func (b *bfdLinks) stop() error {
	b.end()
	var errs []error
	for _, conn := range b.conns {
		errs = append(errs, conn.Close())
	}
	b.doing.Wait()
	for _, l := range b.links {
		errs = append(errs, l.conn.Close())
	}
	return errors.Join(errs...)
}
