package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A house is where the servers of a test live. Connections are pipes: so time passes only when everybody waits.
type house struct {
	mu    sync.Mutex
	doors map[string]func(net.Conn) // absent: the connection is refused
}

func (h *house) open(address string, serve func(net.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doors == nil {
		h.doors = map[string]func(net.Conn){}
	}
	h.doors[address] = serve
}

func (h *house) Dial(_ context.Context, _, address string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	serve := h.doors[address]
	if serve == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go serve(theirs)
	return ours, nil
}

// accept serves a TCP check: it waits until the other side hangs up.
func accept(c net.Conn) {
	_, _ = c.Read(make([]byte, 1))
	_ = c.Close()
}

// answer serves HTTP with one status.
func answer(status int, body string) func(net.Conn) {
	return func(c net.Conn) {
		defer func() { _ = c.Close() }()
		_, err := c.Read(make([]byte, 4096))
		if err == nil {
			_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), len(body), body)
		}
	}
}

// watch runs a monitor over one target in a bubble.
func watch(t *testing.T, h *house, c Check, also ...Target) *Monitor {
	t.Helper()
	m := New(Options{Dial: h.Dial, Rand: func() float64 { return 0.5 }})
	m.Watch(append([]Target{{ID: "pool/a", Address: "a:8140", Check: c}}, also...))
	run(t, m)
	return m
}

func run(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	synctest.Wait()
}

func wantState(t *testing.T, m *Monitor, id string, want State) {
	t.Helper()
	synctest.Wait()
	if v := m.Verdict(id); v.State != want {
		t.Errorf("%s is %s (%s), want %s", id, v.State, v.Reason, want)
	}
}

func TestTheFirstCheckDecidesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		m := watch(t, h, Check{Type: TypeTCP}, Target{ID: "pool/b", Address: "b:8140", Check: Check{Type: TypeTCP}})
		wantState(t, m, "pool/a", Up)
		wantState(t, m, "pool/b", Down)
		if v := m.Verdict("pool/b"); v.Reason != "L4CON: connection refused" {
			t.Errorf("reason %q, want what the check has shown", v.Reason)
		}
		wantState(t, m, "pool/c", Down) // nobody watches it
	})
}

func TestRiseAndFallCountChecksInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", answer(200, "running"))
		m := watch(t, h, Check{Type: TypeHTTP, Interval: 10 * time.Second, FastInterval: time.Second, DownInterval: 5 * time.Second, Rise: 2, Fall: 3})
		wantState(t, m, "pool/a", Up)

		h.open("a:8140", answer(503, "starting"))
		time.Sleep(10 * time.Second) // the first failure
		wantState(t, m, "pool/a", Up)
		time.Sleep(time.Second) // the second one comes fast
		wantState(t, m, "pool/a", Up)
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Down)
		if s := m.All()[0]; s.Reason != "L7STS/503" || s.Check != "L7STS/503" || s.Downs != 1 || s.Failed != 3 || s.Checks != 4 {
			t.Errorf("%+v, want three of four checks failed with 503", s)
		}

		h.open("a:8140", answer(200, "running"))
		time.Sleep(5 * time.Second) // while it is down it is asked less often
		wantState(t, m, "pool/a", Down)
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Up)
	})
}
