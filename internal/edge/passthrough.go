package edge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/edge/health"
	"troupe/internal/telemetry"
)

// This file carries bytes between a client and a server, without opening what is encrypted.

// spliceAfter is how much is copied by hand before the kernel does it alone: short answers are over before its pipe is set up.
const spliceAfter = 64 << 10

// A session is one connection in mode passthrough.
type session struct {
	client   net.Conn
	server   *net.TCPConn
	source   string
	pool     string
	name     string // of the server
	began    time.Time
	up, down atomic.Int64
	why      atomic.Pointer[string]
}

// A SessionStatus is a session as commands see it.
type SessionStatus struct {
	Source string    `json:"source"`
	Pool   string    `json:"pool"`
	Server string    `json:"server"`
	Began  time.Time `json:"began"`
	Up     int64     `json:"bytes_up"`
	Down   int64     `json:"bytes_down"`
}

type sessions struct {
	mu  sync.Mutex
	all map[*session]struct{}
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

func (s *sessions) add(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[one] = struct{}{}
}

func (s *sessions) remove(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, one)
}

func (s *sessions) list(most int) []SessionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []SessionStatus{}
	for one := range s.all {
		if len(list) == most {
			break
		}
		list = append(list, SessionStatus{one.source, one.pool, one.name, one.began, one.up.Load(), one.down.Load()})
	}
	return list
}

// through connects a client with a server of the pool and carries bytes until one of them has enough. read is what the client has
// said already.
func (e *Edge) through(ctx context.Context, client net.Conn, read []byte, p *pool) {
	defer client.Close()
	source := host(client.RemoteAddr().String())
	server, way, lease, err := e.reach(ctx, p, source)
	if err != nil {
		e.metrics.unserved.WithLabelValues(p.name).Inc()
		e.log.Warn("a connection found no server", "source", source, "pool", p.name, telemetry.KeyErr, err)
		return
	}
	s := &session{client: client, server: server, source: source, pool: p.name, name: way.name, began: time.Now()}
	e.sessions.add(s)
	ctx, end := way.begin(ctx, false, nil)
	stop := context.AfterFunc(ctx, func() { // the server went down, or the edge ends
		cause := context.Cause(ctx)
		text := "edge stopped"
		if errors.Is(cause, errWentDown) {
			text = "server went down"
		}
		s.why.CompareAndSwap(nil, &text)
		_ = client.Close()
		_ = server.Close()
	})
	failed := s.carry(read, p.conf.SendProxy)
	stop()
	end()
	_ = server.Close()
	e.sessions.remove(s)
	lease.Done(time.Since(s.began), !failed)
	why := "closed"
	if w := s.why.Load(); w != nil {
		why = *w
	}
	e.metrics.bytes.WithLabelValues(p.name, "up").Add(float64(s.up.Load()))
	e.metrics.bytes.WithLabelValues(p.name, "down").Add(float64(s.down.Load()))
	e.log.LogAttrs(ctx, slog.LevelInfo, "session", slog.String("source", source), slog.String("server", way.id), slog.Duration(telemetry.KeyDuration, time.Since(s.began).Round(time.Millisecond)),
		slog.Int64("bytes_up", s.up.Load()), slog.Int64("bytes_down", s.down.Load()), slog.String("ended", why))
}

// reachMost is how long a connection is kept for a server to come back. Agents with a list of servers try the next one only when this
// one is closed, so it is short.
const reachMost = 5 * time.Second

// reach connects to a server; one that does not take the connection is left for another, and when there is none, asked again.
func (e *Edge) reach(ctx context.Context, first *pool, source string) (*net.TCPConn, *server, *balance.Lease, error) {
	var tried []string
	for until := time.Now().Add(reachMost); ; {
		conn, way, lease, err := e.connect(ctx, first.orOverflow(), balance.Ask{Key: source, Exclude: tried})
		if err == nil {
			return conn, way, lease, nil
		}
		if way != nil {
			tried = append(tried, way.name)
		}
		if ctx.Err() != nil || errors.Is(err, balance.ErrQueueFull) || time.Now().After(until) {
			return nil, nil, nil, err
		}
		if way != nil && len(tried) <= e.runConf.replays {
			continue
		}
		tried = nil
		select {
		case <-ctx.Done():
			return nil, nil, nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// connect connects to one server. With an error, it returns the server that failed, if one did.
func (e *Edge) connect(ctx context.Context, p *pool, ask balance.Ask) (*net.TCPConn, *server, *balance.Lease, error) {
	lease, err := p.Acquire(ctx, ask)
	if err != nil {
		return nil, nil, nil, err
	}
	way := p.server(lease.Server().Name)
	if way == nil { // removed meanwhile
		lease.Done(0, false)
		return nil, &server{name: lease.Server().Name}, nil, errWentDown
	}
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: p.conf.Connect.Or(connectMost)}).DialContext(ctx, "tcp", way.address)
	if err == nil {
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			lease.Done(0, false)
			return nil, nil, nil, errors.New("no TCP connection")
		}
		e.judge.Observe(way.id, health.Outcome{OK: true, Layer: 4, Took: time.Since(began)})
		return tcp, way, lease, nil
	}
	lease.Done(0, false)
	if ctx.Err() == nil {
		e.judge.Observe(way.id, health.Outcome{Layer: 4, Took: time.Since(began), Err: err.Error()})
	}
	return nil, way, nil, err
}

// carry copies both ways. It is over when both sides have said their last, or when one fails.
func (s *session) carry(read []byte, sendProxy string) (failed bool) {
	if sendProxy != "" {
		version := byte(2)
		if sendProxy == "v1" {
			version = 1
		}
		if _, err := proxyproto.HeaderProxyFromAddrs(version, s.client.RemoteAddr(), s.client.LocalAddr()).WriteTo(s.server); err != nil {
			return true
		}
	}
	client, ahead := bare(s.client)
	if read = append(read, ahead...); len(read) > 0 {
		if _, err := s.server.Write(read); err != nil {
			return true
		}
		s.up.Add(int64(len(read)))
	}
	back := make(chan error, 1)
	go func() {
		back <- s.copyTo(client, s.server, &s.down)
	}()
	err := s.copyTo(s.server, client, &s.up)
	if err != nil {
		_ = s.client.Close()
		_ = s.server.Close()
	}
	return errors.Join(err, <-back) != nil
}

// bare is the connection itself, for only that is spliced, and what was read of it ahead.
func bare(c net.Conn) (conn net.Conn, ahead []byte) {
	for {
		switch wrapped := c.(type) {
		case *renamed:
			c = wrapped.Conn
		case *rewound:
			ahead = append(wrapped.again, ahead...)
			c = wrapped.Conn
		case *guest:
			c = wrapped.Conn
		default:
			return c, ahead
		}
	}
}

func (s *session) copyTo(to, from net.Conn, count *atomic.Int64) error {
	buffer := buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in there
	var total int64
	for total < spliceAfter {
		n, err := from.Read(*buffer)
		if n > 0 {
			if _, werr := to.Write((*buffer)[:n]); werr != nil {
				buffers.Put(buffer)
				return s.over(to, from, werr)
			}
			total += int64(n)
			count.Add(int64(n))
		}
		if err != nil {
			buffers.Put(buffer)
			return s.over(to, from, err)
		}
	}
	buffers.Put(buffer)
	n, err := io.Copy(to, from) // TCP to TCP: the kernel splices
	count.Add(n)
	return s.over(to, from, err)
}

// over passes on that one side has said its last, and leaves the other its say.
func (s *session) over(to, from net.Conn, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			return nil
		}
		return to.Close()
	}
	_ = from.Close() // a reset is passed on, too
	_ = to.Close()
	return err
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// reapEvery is how often connections without a byte are looked for.
const reapEvery = 10 * time.Second

// reap ends connections on which nothing came either way for longer than their pool allows. The kernel knows: bytes that it splices
// pass nobody else.
func (e *Edge) reap(ctx context.Context) error {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		e.sessions.mu.Lock()
		all := make([]*session, 0, len(e.sessions.all))
		for s := range e.sessions.all {
			all = append(all, s)
		}
		e.sessions.mu.Unlock()
		for _, s := range all {
			most := e.pools[s.pool].conf.Idle.Or(passIdle)
			if quiet, err := quietFor(s.server); err == nil && quiet > most && time.Since(s.began) > most {
				text := "idle"
				s.why.CompareAndSwap(nil, &text)
				_ = s.client.Close()
				_ = s.server.Close()
			}
		}
	}
}

// quietFor is how long ago the last byte was received from or sent to a server.
func quietFor(conn *net.TCPConn) (time.Duration, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var ierr error
	if err := raw.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || ierr != nil {
		return 0, errors.Join(err, ierr)
	}
	return time.Duration(min(info.Last_data_recv, info.Last_data_sent)) * time.Millisecond, nil
}

// poolFor is the pool of a connection in mode passthrough.
func (l *listener) poolFor(name string, client net.Conn) string {
	source, err := netip.ParseAddr(host(client.RemoteAddr().String()))
	for _, rule := range l.conf.Rules {
		if rule.Source != nil && ruleFits(config.EdgeRule{Source: rule.Source}, source.Unmap(), err == nil, nil) {
			return rule.Pool
		}
	}
	return name
}
