package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"troupe/internal/authz"
	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// This file takes connections and finds out which way each one goes.

const (
	maxClients   = 100_000 // some 40 KB each with TLS, 5 KB while nothing was said
	maxPerSource = 10_000
	headerMost   = 30 * time.Second
	idleMost     = 60 * time.Second
)

// A listener is one address with what it does for which name.
type listener struct {
	edge *Edge
	conf config.EdgeListener
	net.Listener

	fronts   map[string]*door // by mode and pool
	open     sync.WaitGroup
	arriving atomic.Int64 // connections whose first request is not here yet

	mu      sync.Mutex
	clients int
	sources map[string]int
}

// A door hands connections that a listener has looked at to the HTTP server of their pool.
type door struct {
	server *http.Server
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

// Accept waits for the next connection.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.queue:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// Addr is the address of the listener.
func (d *door) Addr() net.Addr { return d.addr }

// listen binds an address; one that is in use is told with the way out.
func listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	lc.SetMultipathTCP(false) // a path more is another edge behind the same address; and [hush] needs plain TCP
	l, err := lc.Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another process has this port; stop it, or take over from a running edge with troupe edge run --takeover: %w", address, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

func (e *Edge) newListener(conf config.EdgeListener, bound net.Listener) *listener {
	l := &listener{edge: e, conf: conf, Listener: bound, fronts: map[string]*door{}, sources: map[string]int{}}
	if conf.Mode == config.ModePuppet {
		l.addDoor(conf.Pool)
	}
	for _, n := range conf.Names {
		if n.Mode == config.ModePuppet {
			l.addDoor(n.Pool)
		}
	}
	return l
}

func (l *listener) addDoor(pool string) {
	if l.fronts[pool] != nil {
		return
	}
	f := &front{edge: l.edge, listener: l.conf, pool: pool}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	d := &door{queue: make(chan net.Conn), closed: make(chan struct{}), addr: l.Addr()}
	d.server = &http.Server{
		Handler: arrived(authz.Normalize(l.edge.clients.Identified(http.HandlerFunc(f.ServeHTTP)))), Protocols: protocols, MaxHeaderBytes: 256 << 10,
		ReadHeaderTimeout: headerMost, ReadTimeout: 10 * time.Minute, WriteTimeout: 30 * time.Minute, IdleTimeout: idleMost,
		ErrorLog: stdlog.New(noise{l.edge}, "", 0), ConnContext: withGuest,
	}
	l.fronts[pool] = d
}

// noise is what net/http says of connections that fail before a request.
type noise struct{ edge *Edge }

func (n noise) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if said, handshake := strings.CutPrefix(text, "http: TLS handshake error from "); handshake {
		n.edge.metrics.handshakes.Inc()
		if strings.Contains(said, "certificate") && !strings.Contains(said, "remote error: ") {
			n.edge.log.Warn("client certificate refused", telemetry.KeyErr, said)
			return len(line), nil
		}
	}
	n.edge.log.Debug("connection failed", telemetry.KeyErr, text)
	return len(line), nil
}

// run serves until ctx ends: then nobody new is taken, and who is being served has until the edge's own end.
func (l *listener) run(ctx context.Context) error {
	served := make(chan error, len(l.fronts))
	for _, d := range l.fronts {
		go func() {
			err := d.server.Serve(tls.NewListener(d, l.edge.serverTLS()))
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			served <- err
		}()
	}
	accepted := make(chan struct{})
	sessions, endSessions := context.WithCancel(context.WithoutCancel(ctx))
	defer endSessions()
	go func() {
		defer close(accepted)
		select {
		case <-l.edge.accepting: // until then the process before this one takes them
			l.accept(sessions)
		case <-ctx.Done():
		}
	}()
	<-ctx.Done()
	err := l.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // another process has taken over
	}
	<-accepted // who was taken is among those that arrive
	l.awaitArrivals(sessions)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.edge.runConf.drain)
	defer cancel()
	for _, d := range l.fronts {
		if serr := d.server.Shutdown(grace); serr != nil {
			err = errors.Join(err, fmt.Errorf("requests still running after %v were cut: %w", l.edge.runConf.drain, serr), d.server.Close())
		}
	}
	over := make(chan struct{})
	go func() { l.open.Wait(); close(over) }()
	select {
	case <-over:
	case <-grace.Done():
		endSessions() // cuts what is carried
		<-over
	}
	for range l.fronts {
		err = errors.Join(err, <-served)
	}
	return err
}

// arriveMost is how long a stopping listener waits for the first requests of the connections that it has taken.
const arriveMost = 5 * time.Second

// awaitArrivals waits until all connections have had their first request. net/http, once it shuts down, closes a new connection when its
// request comes, and an agent does not ask again.
func (l *listener) awaitArrivals(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(arriveMost); l.arriving.Load() > 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// accept takes connections until the listener is closed.
func (l *listener) accept(ctx context.Context) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.edge.log.Warn("connections cannot be taken", telemetry.KeyErr, err, "remedy", "raise the limit of open files")
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		p := &place{listener: l}
		if !p.take() {
			l.edge.metrics.crowded.Inc()
			_ = conn.Close()
			continue
		}
		l.arriving.Add(1)
		l.open.Go(func() { l.lead(ctx, conn, p) })
	}
}

// A place is what one connection takes of the bounds of its listener.
type place struct {
	listener *listener
	source   string // whom it counts for; "" as long as that is not known
	left     bool
}

// take takes a place, if there is one.
func (p *place) take() bool {
	l := p.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients >= orInt(l.conf.MaxClients, maxClients) {
		return false
	}
	l.clients++
	return true
}

// count has the place count for an address, if that has not too many.
func (p *place) count(source string) bool {
	l := p.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source] >= orInt(l.conf.PerSource, maxPerSource) {
		return false
	}
	l.sources[source]++
	p.source = source
	return true
}

// leave gives the place back. It may be called more than once.
func (p *place) leave() {
	l := p.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.left {
		return
	}
	p.left = true
	l.clients--
	if p.source == "" {
		return
	}
	if l.sources[p.source]--; l.sources[p.source] == 0 {
		delete(l.sources, p.source)
	}
}

// count is how many connections there are.
func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients
}

// guest is a connection that gives its place back when it is closed.
type guest struct {
	net.Conn

	leave   func()
	arrived func() // its first request is here
}

// Close may be called more than once.
func (g *guest) Close() error {
	defer g.leave()
	g.arrived()
	return g.Conn.Close()
}

type guestKey struct{}

// withGuest lets requests find the connection that they came over.
func withGuest(ctx context.Context, conn net.Conn) context.Context {
	for {
		switch c := conn.(type) {
		case *tls.Conn:
			conn = c.NetConn()
		case *renamed:
			conn = c.Conn
		case *rewound:
			conn = c.Conn
		case *guest:
			return context.WithValue(ctx, guestKey{}, c)
		default:
			return ctx
		}
	}
}

// arrived notes the first request of each connection.
func arrived(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
			g.arrived()
		}
		next.ServeHTTP(w, r)
	})
}

// lead brings a connection where its name belongs.
func (l *listener) lead(ctx context.Context, conn net.Conn, p *place) {
	g := &guest{conn, p.leave, sync.OnceFunc(func() { l.arriving.Add(-1) })}
	conn = g
	source, _ := netip.ParseAddr(host(conn.RemoteAddr().String()))
	if slices.ContainsFunc(l.conf.ProxyProtocol, func(p netip.Prefix) bool { return p.Contains(source.Unmap()) }) {
		named, err := proxied(conn)
		if err != nil {
			l.edge.metrics.forged.Inc()
			l.edge.log.Warn("a balancer in front sent no PROXY header", "source", source, telemetry.KeyErr, err, "remedy", "have it send one, or take it out of proxy_protocol")
			_ = conn.Close()
			return
		}
		conn = named
		source, _ = netip.ParseAddr(host(conn.RemoteAddr().String())) // whom the balancer speaks for, and not the balancer, has bounds
	}
	if !p.count(source.Unmap().String()) {
		l.edge.metrics.crowded.Inc()
		_ = conn.Close()
		return
	}
	mode, pool := l.conf.Mode, l.conf.Pool
	var read []byte
	if len(l.conf.Names) > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(helloMost)); err != nil {
			_ = conn.Close()
			return
		}
		name, heard, err := peek(ctx, conn)
		if err != nil {
			l.edge.metrics.handshakes.Inc()
			l.edge.log.Debug("no TLS hello", "source", source, telemetry.KeyErr, err)
			_ = conn.Close()
			return
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			_ = conn.Close()
			return
		}
		read = heard
		if i := slices.IndexFunc(l.conf.Names, func(n config.EdgeName) bool {
			return slices.ContainsFunc(n.SNI, func(pattern string) bool { return fits(pattern, name) })
		}); i >= 0 {
			mode, pool = l.conf.Names[i].Mode, l.conf.Names[i].Pool
		}
	}
	if mode == config.ModePassthrough {
		g.arrived()
		l.edge.through(ctx, conn, read, l.edge.pools[l.poolFor(pool, conn)])
		return
	}
	d := l.fronts[pool]
	if read != nil {
		conn = &rewound{conn, read}
	}
	select {
	case d.queue <- conn:
	case <-d.closed:
		_ = conn.Close()
	case <-ctx.Done():
		_ = conn.Close()
	}
}

// proxied reads the PROXY header, after which the connection comes from whom the header names.
func proxied(conn net.Conn) (net.Conn, error) {
	if err := conn.SetReadDeadline(time.Now().Add(helloMost)); err != nil {
		return nil, err
	}
	reader := bufio.NewReaderSize(conn, 4<<10)
	header, err := proxyproto.Read(reader)
	if err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	ahead, err := reader.Peek(reader.Buffered())
	if err != nil {
		return nil, err
	}
	named := &renamed{Conn: &rewound{conn, slices.Clone(ahead)}, remote: conn.RemoteAddr()}
	if header.Command.IsProxy() && header.SourceAddr != nil {
		named.remote = header.SourceAddr
	}
	return named, nil
}

// renamed is a connection whose client is known from a header.
type renamed struct {
	net.Conn

	remote net.Addr
}

// RemoteAddr is the client's.
func (r *renamed) RemoteAddr() net.Addr { return r.remote }
