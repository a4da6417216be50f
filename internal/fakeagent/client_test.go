package fakeagent

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestAConnectionThatTheServerClosedIsNotUsedAgain(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	address := server.Listener.Addr().String()
	o := Options{KeepAlive: time.Hour, ConnectTimeout: time.Minute, ReadTimeout: time.Minute, Dial: (&net.Dialer{}).DialContext}
	c := &client{o: o, record: func(Request) {}}
	defer c.close()
	anyone := &trust{}

	first, err := c.borrow(t.Context(), address, anyone)
	if err != nil {
		t.Fatal(err)
	}
	c.release(first)
	again, err := c.borrow(t.Context(), address, anyone)
	if err != nil || again != first {
		t.Fatalf("an open connection was not used again (error %v)", err)
	}

	c.release(again)
	server.CloseClientConnections()
	waitUntil(t, first.closedByPeer)
	second, err := c.borrow(t.Context(), address, anyone)
	if err != nil {
		t.Fatal(err)
	}
	defer c.drop(second)
	if second.number != 2 {
		t.Errorf("got connection %d, want a new one", second.number)
	}
}

func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatal("still waiting after 10 s")
		case <-tick.C:
		}
	}
}

func TestRetryAfterIsANumberOrADate(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"0":                               0,
		"30":                              30 * time.Second,
		"Fri, 20 Nov 2026 10:01:00 +0000": time.Minute,
		"Fri, 20 Nov 2026 10:01:00 GMT":   time.Minute,
		"Fri, 20 Nov 2026 09:00:00 GMT":   0,
	} {
		if got, err := retryAfter(header, now); err != nil || got != want {
			t.Errorf("retryAfter(%q) = %v, %v; want %v", header, got, err, want)
		}
	}
	if _, err := retryAfter("soon", now); err == nil {
		t.Error("retryAfter(soon) is no error")
	}
}

func TestPathsAndQueriesAreEscapedAsPuppetDoes(t *testing.T) {
	if got, want := escapePath("/modules/a b+c/ä[1]%?#"), "/modules/a%20b+c/%C3%A4[1]%25%3F%23"; got != want {
		t.Errorf("escapePath: %s, want %s", got, want)
	}
	if got, want := escapeQuery("a b+c/*.pot&~"), "a%20b%2Bc%2F%2A.pot%26~"; got != want {
		t.Errorf("escapeQuery: %s, want %s", got, want)
	}
}

func TestAConnectionThatTheServerWillCloseIsNotUsedAgain(t *testing.T) {
	closing := false
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if closing {
			w.Header().Set("Connection", "close")
		}
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	o := Options{ServerName: "example.com", KeepAlive: time.Hour, ConnectTimeout: time.Minute, ReadTimeout: time.Minute, Dial: (&net.Dialer{}).DialContext}
	c := &client{o: o, record: func(Request) {}}
	defer c.close()
	known := &trust{roots: roots}
	for i, kept := range []int{1, 0} {
		closing = kept == 0
		if _, err := c.do(t.Context(), server.Listener.Addr().String(), known, request{method: http.MethodGet, target: "/"}, nil); err != nil {
			t.Fatal(err)
		}
		if len(c.idle) != kept {
			t.Errorf("after request %d, %d connections are kept, want %d", i+1, len(c.idle), kept)
		}
	}
}
