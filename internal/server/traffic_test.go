package server_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// This file shows what the member tells of its requests and of itself, and that
// clients cannot hold on to it.

func observed(t *testing.T, m *member) {
	const path = "/puppet/v3/file_metadata/modules/nosuch/observed"
	agent := m.client(t, m.identity(t, "seen.example.test"))
	count := func(series string) string {
		_, page := get(t, agent, "/metrics")
		for line := range strings.Lines(page) {
			if v, ok := strings.CutPrefix(line, series+" "); ok {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}

	code, body := get(t, agent, path+"?environment=production")
	if code != http.StatusNotFound {
		t.Fatalf("%d %.200s, want 404", code, body)
	}
	if code, _ := get(t, m.client(t, nil), "/nobody/serves/this"); code != http.StatusNotFound {
		t.Fatalf("%d, want 404", code)
	}

	var mine, other []map[string]any
	troupetest.Eventually(t, troupetest.Patience, "both requests are logged", func() bool {
		mine, other = nil, nil
		for _, l := range m.log.lines(t, "request") {
			switch l["path"] {
			case path:
				mine = append(mine, l)
			case "/nobody/serves/this":
				other = append(other, l)
			}
		}
		return len(mine) > 0 && len(other) > 0
	})
	if len(mine) != 1 || len(other) != 1 {
		t.Fatalf("%d and %d lines for two requests, want one each", len(mine), len(other))
	}
	for key, want := range map[string]any{"method": "GET", "status": 404.0, "bytes": float64(len(body)), "peer": "seen.example.test", "level": "INFO"} {
		if got := mine[0][key]; got != want {
			t.Errorf("%s = %v, want %v", key, got, want)
		}
	}
	if remote, _ := mine[0]["remote"].(string); !strings.HasPrefix(remote, "127.0.0.1:") {
		t.Errorf("remote = %q, want an address of loopback", remote)
	}
	if peer, ok := other[0]["peer"]; ok {
		t.Errorf("peer of a client without a certificate = %v", peer)
	}

	if got := count(`troupe_http_request_duration_seconds_count{method="GET",route="/puppet/v3/file_metadata",status="404"}`); got != "1" {
		t.Errorf("observations of the route = %q, want 1", got)
	}
	if got := count(`troupe_http_response_bytes_total{route="/puppet/v3/file_metadata"}`); got != fmt.Sprint(len(body)) {
		t.Errorf("bytes of the route = %q, want %d", got, len(body))
	}
	if got := count(`troupe_http_requests_in_flight`); got != "1" { // this one
		t.Errorf("requests in flight = %q, want 1", got)
	}
	if _, page := get(t, agent, "/metrics"); strings.Contains(page, "nobody") || strings.Contains(page, "nosuch") {
		t.Error("a path from outside became a label")
	}
}

func status(t *testing.T, m *member) {
	c := m.client(t, nil)
	code, body := get(t, c, "/status/v1/services?level=debug")
	var services map[string]struct {
		Version string `json:"service_version"`
		State   string
		Status  struct {
			Environments []string
			Puppet       string `json:"puppet_version"`
			Expirations  struct {
				Certs map[string]string `json:"ca-certs"`
			}
			Experimental struct {
				Metrics struct {
					Workers int `json:"num-jrubies"`
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &services); err != nil || code != http.StatusOK {
		t.Fatalf("%d %.300s (%v), want 200", code, body, err)
	}
	for _, name := range []string{"ca", "server", "master", "jruby-metrics", "puppet-profiler", "status-service"} {
		if s := services[name]; s.State != "running" || s.Version != "1.2.3" {
			t.Errorf("%s = %q %q, want running 1.2.3", name, s.State, s.Version)
		}
	}
	server := services["server"].Status
	if len(server.Environments) != 1 || server.Environments[0] != "production" || server.Puppet == "" {
		t.Errorf("environments %v and Puppet %q, want production and a version", server.Environments, server.Puppet)
	}
	if n := services["jruby-metrics"].Status.Experimental.Metrics.Workers; n != 1 {
		t.Errorf("workers = %d, want 1", n)
	}
	if len(services["ca"].Status.Expirations.Certs) == 0 {
		t.Error("the CA does not tell when its certificates end")
	}
}

// holders connect and then keep the member waiting, each in another way. All of
// them together may take no longer than the longest limit.
func holders(t *testing.T, m *member) {
	const body = "PUT /puppet-ca/v1/certificate_request/half.example.test HTTP/1.1\r\nHost: puppet\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"
	plain := func() (net.Conn, error) { return new(net.Dialer).DialContext(t.Context(), "tcp", m.addr) }
	encrypted := func() (net.Conn, error) {
		return (&tls.Dialer{Config: m.tls(nil)}).DialContext(t.Context(), "tcp", m.addr)
	}
	var wg sync.WaitGroup
	for name, h := range map[string]struct {
		dial  func() (net.Conn, error)
		say   string
		drip  bool // goes on, a byte at a time
		limit time.Duration
	}{
		"says nothing":                 {plain, "", false, 2 * time.Second},
		"begins a handshake":           {plain, "\x16\x03\x01\x02\x00\x01", false, 2 * time.Second},
		"asks nothing":                 {encrypted, "", false, 2 * time.Second},
		"sends half a header":          {encrypted, "GET /status/v1/simple HTTP/1.1\r\nHost: pup", false, 2 * time.Second},
		"sends a header byte by byte":  {encrypted, "GET /status/v1/simple HTTP/1.1\r\nX-Long: ", true, 2 * time.Second},
		"sends half a body":            {encrypted, body + "-----BEGIN", false, 3 * time.Second},
		"sends a body one by one byte": {encrypted, body, true, 3 * time.Second},
	} {
		wg.Go(func() {
			conn, err := h.dial()
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			defer conn.Close()
			took, err := held(t.Context(), conn, h.say, h.drip)
			// The other bound leaves room for a machine that does a lot beside.
			if err != nil || took < h.limit-time.Second || took > h.limit+5*time.Second {
				t.Errorf("who %s was cut after %v (%v), want about %v", name, took, err, h.limit)
			}
		})
	}
	wg.Wait()

	if code, answer := get(t, m.client(t, nil), "/status/v1/simple"); code != http.StatusOK {
		t.Errorf("afterwards: %d %s, want 200", code, answer)
	}
	troupetest.Eventually(t, troupetest.Patience, "the two half requests are logged as the client's fault", func() bool {
		n := 0
		for _, l := range m.log.lines(t, "request") {
			if s, _ := l["status"].(float64); l["path"] == "/puppet-ca/v1/certificate_request/half.example.test" && s >= 400 && s < 500 {
				n++
			}
		}
		return n == 2
	})
}

// held says something and returns after how long the other side closed.
func held(ctx context.Context, conn net.Conn, say string, drip bool) (time.Duration, error) {
	start := time.Now()
	if err := conn.SetDeadline(start.Add(20 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, say); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if drip {
		wg.Go(func() {
			for tick := time.Tick(100 * time.Millisecond); ; {
				select {
				case <-ctx.Done():
					return
				case <-tick:
					if _, err := conn.Write([]byte("x")); err != nil {
						return // cut, as it should be
					}
				}
			}
		})
	}
	_, err := io.Copy(io.Discard, conn)
	cancel()
	wg.Wait()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return time.Since(start), err
	}
	return time.Since(start), nil // at the end or by a reset: both are the other side's doing
}

// leaks compares what is left after many connections with what is left after
// more of them: pools fill once.
func leaks(t *testing.T, m *member) {
	cert := m.identity(t, "many.example.test")
	m.crowd(t, cert)
	troupetest.Eventually(t, troupetest.Patience, "all is quiet again", quiet)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	m.crowd(t, cert)
	troupetest.Eventually(t, troupetest.Patience, fmt.Sprintf("no more than %d goroutines and %d files again", goroutines, files), func() bool {
		return quiet() && runtime.NumGoroutine() <= goroutines+3 && openFiles(t) <= files+3
	})
}

// crowd opens 200 connections, ten at a time, with and without a certificate; some
// do not wait for their answer.
func (m *member) crowd(t *testing.T, cert *tls.Certificate) {
	t.Helper()
	slots := make(chan struct{}, 10)
	var wg sync.WaitGroup
	for i := range 200 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c := m.tls(nil)
			if i%2 == 0 {
				c = m.tls(cert)
			}
			conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", m.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET /status/v1/simple HTTP/1.1\r\nHost: puppet\r\n\r\n"); err != nil {
				t.Error(err)
			}
			if i%3 == 0 {
				return
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// quiet reports whether the member serves no connection at all.
func quiet() bool {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "net/http.(*conn).serve") == 0
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
