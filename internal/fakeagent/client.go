package fakeagent

// This file sends requests with the habits of Puppet's HTTP client: http/client.rb, http/pool.rb and
// http/retry_after_handler.rb of Puppet 7.23.

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	retryLimit    = 100      // answers with Retry-After obeyed for one request
	redirectLimit = 10       // redirects followed for one request
	maxBody       = 64 << 20 // of an answer that is kept in memory
)

// client keeps idle connections. All requests of a run go through one client, one after the other.
type client struct {
	dialect dialect
	o       Options
	record  func(Request)

	idle   []*connection // most recently used last
	opened int
}

// connection is one TLS connection; it may be used again only with the same trust, for which it was made.
type connection struct {
	net.Conn

	raw     net.Conn // below TLS
	number  int
	address string
	trust   *trust
	reader  *bufio.Reader
	expires time.Time
}

// response is an answer whose body has been read.
type response struct {
	status int
	header http.Header
	body   []byte
	closes bool // the server closes the connection; net/http takes that header away
}

// StatusError is an answer other than 2xx.
type StatusError struct {
	Method, Target string
	Status         int
	Body           string // its first kilobyte
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.Target, e.Status, e.Body)
}

// ErrCut is the cause of errors of requests whose connection ended before the answer was complete.
var ErrCut = errors.New("the connection was cut")

// ErrTooManyRetries is the cause when a server asked to come back later a hundred times.
var ErrTooManyRetries = errors.New("too many Retry-After answers")

// ErrClosedEarly is the cause of errors of requests that a server asked to send again later: agents with PUP-11853
// close the connection and sleep while the answer is still unread.
var ErrClosedEarly = errors.New("attempt to read body out of block")

// do sends r and obeys redirects and Retry-After. Content of a 2xx answer goes to sink if there is one.
func (c *client) do(ctx context.Context, address string, t *trust, r request, sink io.Writer) (response, error) {
	for retries, redirects := 0, 0; ; {
		r.retries = retries
		answer, err := c.attempt(ctx, address, t, r, sink)
		if err != nil {
			return response{}, err
		}

		switch answer.status {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect:
			if redirects++; redirects > redirectLimit {
				return response{}, fmt.Errorf("%s %s: more than %d redirects", r.method, r.target, redirectLimit)
			}
			if address, r.target, err = redirected(answer, address, r.target); err != nil {
				return response{}, err
			}
			continue
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			if retries >= retryLimit {
				return response{}, fmt.Errorf("%s %s: %w", r.method, r.target, ErrTooManyRetries)
			}
			retries++
			header := answer.header.Get("Retry-After")
			if header == "" {
				break // a plain error
			}
			pause, err := retryAfter(header, time.Now())
			if err != nil {
				return response{}, err
			}
			c.close() // the agent closes before it sleeps, and reconnects
			if err := sleep(ctx, min(pause, c.o.RunInterval)); err != nil {
				return response{}, err
			}
			if c.dialect.diesOfRetryAfter {
				return response{}, fmt.Errorf("%s %s: %w", r.method, r.target, ErrClosedEarly)
			}
			continue
		}
		if answer.status < 200 || answer.status > 299 {
			text := string(answer.body[:min(len(answer.body), 1024)])
			return answer, &StatusError{Method: r.method, Target: r.target, Status: answer.status, Body: text}
		}
		return answer, nil
	}
}

// attempt sends r once. Only the net/http of 5.x sends a request again whose connection was cut, once, if its method
// is idempotent (PUP-3905 switched that off in 6.5).
func (c *client) attempt(ctx context.Context, address string, t *trust, r request, sink io.Writer) (response, error) {
	answer, err := c.exchange(ctx, address, t, r, sink)
	if c.dialect.legacy && r.method != http.MethodPost && errors.Is(err, ErrCut) {
		return c.exchange(ctx, address, t, r, sink)
	}
	return answer, err
}

func (c *client) exchange(ctx context.Context, address string, t *trust, r request, sink io.Writer) (response, error) {
	start := time.Now()
	noted := Request{Kind: r.kind, Method: r.method, Target: r.target, Start: start, Sent: len(r.body), Retries: r.retries}
	answer, err := func() (response, error) {
		conn, err := c.borrow(ctx, address, t)
		if err != nil {
			return response{}, fmt.Errorf("%s %s: %w", r.method, r.target, err)
		}
		noted.Connection = conn.number

		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
		defer stop()
		answer, received, err := c.roundTrip(conn, r, sink)
		noted.Received = received
		if err != nil {
			c.drop(conn)
			if ctx.Err() != nil {
				return response{}, ctx.Err()
			}
			return response{}, fmt.Errorf("%s %s after %v: %w", r.method, r.target, time.Since(start).Round(time.Millisecond), err)
		}
		if answer.closes || r.closes || !conn.trust.verifies() {
			c.drop(conn)
		} else {
			c.release(conn)
		}
		return answer, nil
	}()

	noted.Status, noted.Took, noted.Err = answer.status, time.Since(start), err
	c.record(noted)
	return answer, err
}

// roundTrip writes r and reads the whole answer.
func (c *client) roundTrip(conn *connection, r request, sink io.Writer) (response, int64, error) {
	if err := conn.SetDeadline(time.Now().Add(c.o.ReadTimeout)); err != nil {
		return response{}, 0, fmt.Errorf("set deadline: %w", err)
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\n", r.method, r.target)
	for _, f := range c.dialect.headers(r, hostHeader(c.o.ServerName, conn.address), strconv.Itoa(len(r.body))) {
		fmt.Fprintf(&head, "%s: %s\r\n", f.name, f.value)
	}
	head.WriteString("\r\n")
	if _, err := conn.Write(append(head.Bytes(), r.body...)); err != nil {
		return response{}, 0, cut(err)
	}

	raw, err := http.ReadResponse(conn.reader, &http.Request{Method: r.method})
	if err != nil {
		return response{}, 0, cut(err)
	}
	defer raw.Body.Close()
	if raw.StatusCode < 200 || raw.StatusCode > 299 {
		sink = nil
	}
	answer := response{status: raw.StatusCode, header: raw.Header, closes: raw.Close}
	var kept bytes.Buffer
	counted := &countingReader{r: raw.Body}
	if err := copyDecoded(&kept, sink, counted, raw.Header.Get("Content-Encoding")); err != nil {
		return response{}, counted.n, err
	}
	answer.body = kept.Bytes()
	return answer, counted.n, nil
}

// copyDecoded undoes the content coding. What goes to memory is bounded, what goes to a sink is not.
func copyDecoded(kept, sink io.Writer, body io.Reader, coding string) error {
	buffered := bufio.NewReader(body)
	if _, err := buffered.Peek(1); errors.Is(err, io.EOF) {
		return nil // an empty body has no coding, as in answers to HEAD
	}
	var from io.Reader = buffered
	var err error
	switch coding {
	case "gzip":
		from, err = gzip.NewReader(buffered)
	case "deflate":
		from, err = zlib.NewReader(buffered)
	}
	if err != nil {
		return cut(err)
	}
	if sink != nil {
		_, err = io.Copy(sink, from) //nolint:gosec // sinks are hashes and bounded buffers: nothing grows
		return cut(err)
	}
	n, err := io.Copy(kept, io.LimitReader(from, maxBody+1))
	if err == nil && n > maxBody {
		return fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	return cut(err)
}

func cut(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrCut, err)
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// connect makes sure that a connection exists, as an agent does when it resolves a service.
func (c *client) connect(ctx context.Context, address string, t *trust) error {
	conn, err := c.borrow(ctx, address, t)
	if err != nil {
		return err
	}
	if t.verifies() {
		c.release(conn)
	} else {
		c.drop(conn)
	}
	return nil
}

// borrow takes the most recently used connection that has neither expired nor been closed by the server, or opens one.
func (c *client) borrow(ctx context.Context, address string, t *trust) (*connection, error) {
	now := time.Now()
	c.idle = slices.DeleteFunc(c.idle, func(conn *connection) bool {
		expired := !now.Before(conn.expires)
		if expired {
			c.drop(conn)
		}
		return expired
	})
	for i, conn := range slices.Backward(c.idle) {
		if conn.address != address || conn.trust != t {
			continue
		}
		c.idle = slices.Delete(c.idle, i, i+1)
		if !conn.closedByPeer() {
			return conn, nil
		}
		c.drop(conn) // net/http notices before it sends, and connects again
		break
	}

	ctx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout)
	defer cancel()
	c.opened++
	raw, err := c.o.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	secure := tls.Client(raw, t.config(c.o.ServerName))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return &connection{
		Conn: secure, raw: raw, number: c.opened, address: address, trust: t, reader: bufio.NewReader(secure),
	}, nil
}

// closedByPeer is what Ruby's net/http asks before it uses a connection again (Net::HTTP#begin_transport): is there
// something to read, and is it the end?
func (c *connection) closedByPeer() bool {
	if socket, ok := c.raw.(syscall.Conn); ok && !readable(socket) {
		return false
	}
	if c.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return true
	}
	_, err := c.reader.Peek(1)
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// readable looks without waiting and without taking anything.
func readable(socket syscall.Conn) bool {
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	waiting := true
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		waiting = !errors.Is(err, syscall.EAGAIN)
		return true
	})
	return waiting || err != nil
}

func (c *client) release(conn *connection) {
	conn.expires = time.Now().Add(c.o.KeepAlive)
	c.idle = append(c.idle, conn)
}

func (c *client) drop(conn *connection) { _ = conn.Close() } // the peer's view of the close does not matter

// close closes every idle connection.
func (c *client) close() {
	for _, conn := range c.idle {
		c.drop(conn)
	}
	c.idle = nil
}

// hostHeader names the server as the agent was told to, with the port that it connects to.
func hostHeader(name, address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return name
	}
	return net.JoinHostPort(name, port)
}

func redirected(answer response, address, target string) (newAddress, newTarget string, err error) {
	location := answer.header.Get("Location")
	if location == "" {
		return "", "", fmt.Errorf("redirect of %s without Location", target)
	}
	base, err := url.Parse("https://" + address + target)
	if err != nil {
		return "", "", fmt.Errorf("redirect of %s: %w", target, err)
	}
	to, err := base.Parse(location)
	if err != nil {
		return "", "", fmt.Errorf("redirect of %s: %w", target, err)
	}
	host := to.Host
	if to.Port() == "" {
		host = net.JoinHostPort(to.Hostname(), "443")
	}
	return host, to.RequestURI(), nil
}

// retryAfter reads an integer or an RFC 2822 date; a date in the past means at once.
func retryAfter(header string, now time.Time) (time.Duration, error) {
	if seconds, err := strconv.Atoi(strings.TrimSpace(header)); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second, nil
	}
	for _, layout := range []string{time.RFC1123Z, time.RFC1123} {
		if at, err := time.Parse(layout, header); err == nil {
			return max(at.Sub(now).Truncate(time.Second), 0), nil
		}
	}
	return 0, fmt.Errorf("Retry-After %q is neither a number nor a date", header)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
