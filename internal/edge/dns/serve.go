package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"troupe/internal/telemetry"
)

// This file listens, and brings answers into packets: sizes, EDNS, signatures, limits.

const (
	payload   = 1232 // bytes that pass every network in one piece
	maxTCP    = 256  // connections
	maxFlight = 1024 // questions being answered
	tcpIdle   = 5 * time.Second
	tcpWrite  = 10 * time.Second
	shutdown  = 5 * time.Second
)

// Run opens the addresses and answers until ctx ends. It returns when everything that it started has ended.
func (z *Zone) Run(ctx context.Context) error {
	servers, listening, err := z.open(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var wg sync.WaitGroup
	ended := make(chan error, len(servers))
	running, failed := start(ctx, servers, &wg, ended)
	if failed == nil && running {
		wg.Go(func() { z.notifyAll(ctx) })
		z.log.Info("the zone is served", "zone", z.origin, "listen", fmt.Sprint(listening))
		if z.o.Ready != nil {
			z.o.Ready(listening)
		}
		select {
		case <-ctx.Done():
		case failed = <-ended:
			failed = unasked(failed)
		}
	}
	if failed != nil {
		failed = fmt.Errorf("serve the zone %s: %w", z.origin, failed)
	}
	cancel()
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
	defer done()
	for _, s := range servers {
		if err := s.ShutdownContext(grace); err != nil && failed == nil {
			z.log.Debug("a listener of the zone ended late", telemetry.KeyErr, err)
		}
	}
	wg.Wait()
	return failed
}

// start has each server serve, one after the other. A server that ends before it has begun says why; who is not running then cannot be
// shut down, so its socket is closed.
func start(ctx context.Context, servers []*wire.Server, wg *sync.WaitGroup, ended chan error) (running bool, err error) {
	for i, s := range servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { ended <- s.ActivateAndServe() })
		select {
		case <-started:
			continue
		case err = <-ended:
			err = unasked(err)
		case <-ctx.Done():
		}
		closeAll(servers[i:])
		return false, err
	}
	return true, nil
}

// closeAll closes sockets that nobody serves.
func closeAll(servers []*wire.Server) {
	for _, s := range servers {
		if s.Listener != nil {
			_ = s.Listener.Close()
		} else {
			_ = s.PacketConn.Close()
		}
	}
}

// unasked names an end that nobody asked for.
func unasked(err error) error {
	if err == nil {
		return errors.New("a listener ended by itself")
	}
	return err
}

// open binds each address for TCP and UDP, or none at all.
func (z *Zone) open(ctx context.Context) (servers []*wire.Server, listening []netip.AddrPort, err error) {
	defer func() {
		if err != nil {
			closeAll(servers)
		}
	}()
	secrets := map[string]string{}
	for name, key := range z.o.Keys {
		secrets[name] = key.Secret
	}
	handler := &handler{zone: z, flight: make(chan struct{}, maxFlight), transfers: make(chan struct{}, 4)}
	for _, address := range z.o.Listen {
		l, p, err := bind(ctx, address)
		if err != nil {
			return servers, nil, fmt.Errorf("listen for the zone %s: %w; another name server on this address? "+
				"give listen addresses that it does not use", z.origin, err)
		}
		listening = append(listening, l.Addr().(*net.TCPAddr).AddrPort())
		servers = append(servers,
			&wire.Server{
				Listener: &bounded{Listener: l, slots: make(chan struct{}, maxTCP), full: z.metrics.dropped.WithLabelValues("connections").Inc},
				Handler:  handler, TsigSecret: secrets, ReadTimeout: tcpIdle, IdleTimeout: func() time.Duration { return tcpIdle },
			},
			&wire.Server{PacketConn: p, Handler: handler, TsigSecret: secrets, UDPSize: 4096})
	}
	for _, s := range servers {
		s.MsgInvalidFunc = func([]byte, error) { z.metrics.dropped.WithLabelValues("malformed").Inc() }
	}
	return servers, listening, nil
}

// shared lets the process that takes over from this one open the same port, so that no question goes unanswered meanwhile.
func shared(_, _ string, conn syscall.RawConn) error {
	var err error
	cerr := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	return errors.Join(cerr, err)
}

// bind opens an address for TCP and for UDP. Port 0 is the kernel's choice for TCP, which may be taken for UDP.
func bind(ctx context.Context, address string) (net.Listener, net.PacketConn, error) {
	lc := net.ListenConfig{Control: shared}
	const attempts = 20
	for i := 1; ; i++ {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, nil, err
		}
		p, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
		if err == nil {
			return l, p, nil
		}
		_ = l.Close()
		if _, port, _ := net.SplitHostPort(address); port != "0" || i == attempts {
			return nil, nil, err
		}
	}
}

// bounded refuses connections beyond a number, and lets no write wait for a reader for ever.
type bounded struct {
	net.Listener
	slots chan struct{}
	full  func()
}

// Accept returns the next connection that there is room for.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &conn{Conn: c, free: sync.OnceFunc(func() { <-b.slots })}, nil
		default:
			b.full()
			_ = c.Close()
		}
	}
}

type conn struct {
	net.Conn
	free func()
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(tcpWrite)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// handler answers what the listeners hand it.
type handler struct {
	zone      *Zone
	flight    chan struct{}
	transfers chan struct{}
}

// ServeDNS answers one message.
func (h *handler) ServeDNS(w wire.ResponseWriter, r *wire.Msg) {
	z := h.zone
	select {
	case h.flight <- struct{}{}:
		defer func() { <-h.flight }()
	default:
		z.metrics.dropped.WithLabelValues("busy").Inc()
		return
	}
	from, udp := sender(w.RemoteAddr())
	transport := "tcp"
	if udp {
		transport = "udp"
		switch z.limit.judge(from, z.o.Now()) {
		case allowed:
		case slipped:
			z.metrics.dropped.WithLabelValues("limited").Inc()
			m := new(wire.Msg).SetReply(r)
			m.Truncated = true
			_ = w.WriteMsg(m) // nobody waits for the fate of a hint
			return
		case silent:
			z.metrics.dropped.WithLabelValues("limited").Inc()
			return
		}
	}

	key, err := z.signer(w, r)
	var m *wire.Msg
	switch q := r.Question; {
	case err != nil:
		m = new(wire.Msg).SetRcode(r, wire.RcodeNotAuth)
	case r.Opcode == wire.OpcodeQuery && len(q) == 1 && (q[0].Qtype == wire.TypeAXFR || q[0].Qtype == wire.TypeIXFR):
		h.transfer(w, r, from, udp, key)
		return
	default:
		m = z.reply(r, from, udp)
	}
	z.metrics.answers.WithLabelValues(transport, wire.RcodeToString[m.Rcode]).Inc()
	if key != "" {
		m.SetTsig(key, z.o.Keys[key].Algorithm, 300, z.o.Now().Unix())
	}
	_ = w.WriteMsg(m) // the asker asks again
}

func sender(a net.Addr) (from netip.Addr, udp bool) {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap(), true
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap(), false
	}
	return netip.Addr{}, true
}

// signer returns the key that signed a message, "" if none did.
func (z *Zone) signer(w wire.ResponseWriter, r *wire.Msg) (key string, err error) {
	t := r.IsTsig()
	if t == nil {
		return "", nil
	}
	if err := w.TsigStatus(); err != nil {
		return "", err
	}
	key = wire.CanonicalName(t.Hdr.Name)
	if known, ok := z.o.Keys[key]; !ok || wire.CanonicalName(t.Algorithm) != known.Algorithm {
		return "", fmt.Errorf("no key %s with algorithm %s", key, t.Algorithm)
	}
	return key, nil
}

// reply is the whole answer to a message that is no transfer, as large as its transport and the asker allow.
func (z *Zone) reply(r *wire.Msg, from netip.Addr, udp bool) *wire.Msg {
	m := new(wire.Msg).SetReply(r)
	m.Compress = true
	options, size, subnet, err := z.edns(r, from)
	if !udp {
		size = wire.MaxMsgSize
	}
	v := z.perspective(from, nil)
	if subnet != nil && subnet.SourceNetmask > 0 {
		v = z.perspective(from, subnet)
	}
	switch {
	case r.Opcode != wire.OpcodeQuery:
		m.Rcode = wire.RcodeNotImplemented
	case len(r.Question) != 1 || errors.Is(err, errForm):
		m.Rcode = wire.RcodeFormatError
	case errors.Is(err, errVersion):
		m.Rcode = wire.RcodeBadVers
	default:
		z.fill(m, v)
	}
	if options != nil {
		if subnet != nil && m.Rcode != wire.RcodeFormatError {
			echo := *subnet
			if v.matters {
				// Never wider than what was asked: a smaller network within it may belong to another site.
				echo.SourceScope = subnet.SourceNetmask
			}
			options.Option = append(options.Option, &echo)
		}
		m.Extra = append(m.Extra, options)
	}
	if r.IsTsig() != nil {
		size -= 256 // room for ours
	}
	fit(m, size)
	return m
}

var (
	errForm    = errors.New("the options of the message contradict themselves")
	errVersion = errors.New("an EDNS version that does not exist yet")
)

// edns reads the options of a message and makes those of the answer; nil if it had none.
func (z *Zone) edns(r *wire.Msg, from netip.Addr) (options *wire.OPT, size int, subnet *wire.EDNS0_SUBNET, err error) {
	size = wire.MinMsgSize
	var asked *wire.OPT
	for _, extra := range r.Extra {
		if o, ok := extra.(*wire.OPT); ok {
			if asked != nil {
				return nil, size, nil, errForm
			}
			asked = o
		}
	}
	if asked == nil {
		return nil, size, nil, nil
	}
	options = &wire.OPT{Hdr: wire.RR_Header{Name: ".", Rrtype: wire.TypeOPT}}
	options.SetUDPSize(payload)
	if asked.Do() {
		options.SetDo()
	}
	size = max(wire.MinMsgSize, min(int(asked.UDPSize()), payload))
	if asked.Version() != 0 {
		return options, size, nil, errVersion
	}
	if _, ok := z.trusted.Lookup(from.Unmap()); !ok {
		return options, size, nil, nil // as if we did not know the option
	}
	for _, o := range asked.Option {
		if s, ok := o.(*wire.EDNS0_SUBNET); ok {
			if subnet != nil || !wellFormed(s) {
				return options, size, nil, errForm
			}
			subnet = s
		}
	}
	return options, size, subnet, nil
}

// wellFormed is what RFC 7871 asks of a client subnet: a known family, no scope, no bits beyond the length.
func wellFormed(s *wire.EDNS0_SUBNET) bool {
	a, ok := netip.AddrFromSlice(s.Address)
	if !ok {
		return s.SourceNetmask == 0 && s.SourceScope == 0
	}
	a = a.Unmap()
	if s.Family == 1 != a.Is4() || s.Family > 2 || s.SourceScope != 0 || int(s.SourceNetmask) > a.BitLen() {
		return false
	}
	p, err := a.Prefix(int(s.SourceNetmask))
	return err == nil && p.Addr() == a
}

// fit makes an answer small enough: first without the addresses that nobody asked for, then with nothing but the
// advice to ask over TCP. A part of a ladder would be a wrong ladder.
func fit(m *wire.Msg, size int) {
	if m.Len() <= size {
		return
	}
	var options []wire.RR
	if o := m.IsEdns0(); o != nil {
		options = []wire.RR{o}
	}
	m.Extra = options
	if m.Len() <= size {
		return
	}
	m.Truncated = true
	m.Answer, m.Ns = nil, nil
}
