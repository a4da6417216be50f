package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// This file performs one active check: connect, shake hands, ask, look at the answer, and close. It has one deadline for all of that.

// What a check reads at most: what is longer is cut, and judged by what was read.
const (
	maxHead = 64 << 10
	maxBody = 64 << 10
)

// A result is what one check has shown. Its codes are HAProxy's: L4, L6 and L7 are the layers, TOUT a time-out, CON no connection,
// RSP an answer that cannot be read, STS the wrong status.
type result struct {
	ok     bool
	drain  bool // up, but without new work
	code   string
	status int // of HTTP; 0 without one
	detail string
	said   string        // the header that the check asks for
	near   time.Duration // until the connection stood; 0 when it never did
	took   time.Duration
	at     time.Time
}

// short is what the result says without how long it took.
func (r result) short() string {
	s := r.code
	if r.status != 0 {
		s += fmt.Sprintf("/%d", r.status)
	}
	if r.detail != "" {
		s += ": " + r.detail
	}
	return s
}

// String is the result as operators know it from HAProxy: L7OK/200 in 3ms.
func (r result) String() string {
	if r.code == "" {
		return ""
	}
	s := r.code
	if r.status != 0 {
		s += fmt.Sprintf("/%d", r.status)
	}
	if r.took > 0 {
		s += fmt.Sprintf(" in %dms", r.took.Milliseconds())
	}
	if r.detail != "" {
		s += ": " + r.detail
	}
	return s
}

func (m *Monitor) probe(ctx context.Context, t Target, timeout time.Duration) result {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var near time.Duration
	r := m.attempt(ctx, t, &near)
	r.near = near
	r.took = time.Since(start)
	r.at = m.o.Now()
	return r
}

func (m *Monitor) attempt(ctx context.Context, t Target, near *time.Duration) result {
	c := t.Check
	if c.breaksLine() {
		return result{code: "INI", detail: "the check cannot be sent: a line end or a space stands where HTTP allows none"}
	}
	start := time.Now()
	conn, err := m.o.Dial(ctx, network(t.Address), t.Address)
	if err != nil {
		return failure("L4", "CON", err)
	}
	*near = time.Since(start)
	defer func() { _ = conn.Close() }() // a check's connection is of no further use
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(deadline)
	}
	bare := conn
	stop := context.AfterFunc(ctx, func() { _ = bare.SetDeadline(time.Unix(1, 0)) }) // so that the end of Run ends a check
	defer stop()
	if err == nil && c.SendProxy {
		_, err = conn.Write(proxyHeader(conn, c.ProxyV2))
	}
	if err != nil {
		return failure("L4", "CON", err)
	}
	if c.Type == TypeTCP {
		return result{ok: true, code: "L4OK"}
	}

	if c.Type == TypeTLS || c.Type == TypeHTTPS {
		secure := tls.Client(conn, c.tlsConfig(t.Address))
		err = secure.HandshakeContext(ctx)
		if err != nil {
			return failure("L6", "RSP", err)
		}
		conn = secure
	}
	if c.Type == TypeTLS {
		return result{ok: true, code: "L6OK"}
	}
	return c.request(conn, t.Address)
}

// failure names what went wrong on a layer: a time-out, or else what.
func failure(layer, otherwise string, err error) result {
	if nerr, ok := errors.AsType[net.Error](err); ok && nerr.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return result{code: layer + "TOUT"}
	}
	detail := err.Error()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		detail = errno.Error() // without the ports of this one connection, so that the same failure has the same text
	}
	return result{code: layer + otherwise, detail: detail}
}

// tlsConfig returns the configuration of the check, or one that shows only whether somebody speaks TLS there.
func (c Check) tlsConfig(address string) *tls.Config {
	if c.TLS == nil {
		return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // nothing is sent that must stay secret, and requests verify
	}
	cfg := c.TLS.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = host(address)
	}
	return cfg
}

// request sends the HTTP request and judges the answer.
func (c Check) request(conn net.Conn, address string) result {
	var b bytes.Buffer
	to := c.Host
	if to == "" {
		to = host(address)
		if network(address) == "unix" {
			to = "localhost"
		} else if strings.Contains(to, ":") {
			to = "[" + to + "]"
		}
	}
	fmt.Fprintf(&b, "%s %s HTTP/%s\r\nHost: %s\r\n", c.Method, c.Path, c.HTTPVersion, to)
	for name, values := range c.Headers {
		if strings.EqualFold(name, "Host") {
			continue
		}
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	if c.Headers.Get("User-Agent") == "" {
		b.WriteString("User-Agent: troupe-edge\r\n")
	}
	b.WriteString("Connection: close\r\n\r\n")
	_, err := conn.Write(b.Bytes())
	if err != nil {
		return failure("L7", "RSP", err)
	}

	answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHead+maxBody)), &http.Request{Method: c.Method})
	if err != nil {
		return failure("L7", "RSP", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if c.DrainOn404 && answer.StatusCode == http.StatusNotFound {
		return result{ok: true, drain: true, code: "L7OKC", status: answer.StatusCode}
	}
	if !slices.ContainsFunc(c.Status, func(r StatusRange) bool { return r.From <= answer.StatusCode && answer.StatusCode <= r.To }) {
		return result{code: "L7STS", status: answer.StatusCode}
	}
	if c.Body != nil {
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
		if !c.Body.Match(body) {
			if err != nil {
				return failure("L7", "RSP", err)
			}
			return result{code: "L7RSP", status: answer.StatusCode, detail: "the body does not match " + c.Body.String()}
		}
	}
	r := result{ok: true, code: "L7OK", status: answer.StatusCode}
	if c.Header != "" {
		r.said = answer.Header.Get(c.Header)
	}
	return r
}

// proxyHeader says in the PROXY protocol that the connection speaks for itself: with its own addresses in version 1, LOCAL in version 2.
func proxyHeader(conn net.Conn, v2 bool) []byte {
	if v2 {
		return append([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00"), binary.BigEndian.AppendUint16(nil, 0)...)
	}
	from, err1 := netip.ParseAddrPort(conn.LocalAddr().String())
	to, err2 := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err1 != nil || err2 != nil {
		return []byte("PROXY UNKNOWN\r\n")
	}
	family := "TCP6"
	if from.Addr().Unmap().Is4() {
		family = "TCP4"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, from.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone(""), from.Port(), to.Port())
}
