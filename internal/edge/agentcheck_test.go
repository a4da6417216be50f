package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/miekg/dns"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// freePort is one that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not so in %v: %s", patience, what)
		}
	}
}

// agentSays is what an agent check hears; nothing when nobody answers.
func agentSays(address string) string {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	line, err := io.ReadAll(io.LimitReader(conn, 1<<10))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(line))
}

// TestATakeoverTakesEveryPort: what is not handed over is bound when the process before lets go of it, and is no reason for the new one
// to end.
func TestATakeoverTakesEveryPort(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	agent, metrics, zone, data := freePort(t), freePort(t), freePort(t), t.TempDir()
	read := func() *config.Edge {
		conf, err := config.ParseEdge("edge.yaml", fmt.Appendf(nil, `
data: %s
listeners: [{listen: "127.0.0.1:0", mode: passthrough}]
agent_check: %q
metrics: %q
dns: {zone: puppet.example.com, listen: [%q], name_servers: [{name: ns1.example.org}], sites: {east: {edges: []}}}
runs: {drain: 300ms, linger: 10ms}
pools:
  workers:
    check: {type: tcp, interval: 50ms, rise: 1, fall: 1, observe: false}
    servers: [{name: s, address: %q, max_connections: 4}]
`, data, agent, metrics, zone, server.Addr()))
		check(t, err)
		return conf
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- Run(t.Context(), read(), Options{Log: telemetry.Discard(nil)}) }()
	await(t, "the first edge answers agent checks", func() bool { return agentSays(agent) == "up ready 100%" })

	ctx, stop := context.WithCancel(t.Context())
	go func() { second <- Run(ctx, read(), Options{Log: telemetry.Discard(nil), Takeover: true}) }()
	select {
	case err := <-first:
		check(t, err)
	case err := <-second:
		t.Fatalf("the second edge ended first: %v", err)
	case <-time.After(patience):
		t.Fatal("the first edge goes on")
	}
	await(t, "the second edge answers agent checks", func() bool { return agentSays(agent) == "up ready 100%" })
	await(t, "the second edge serves its metrics", func() bool {
		answer, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return err == nil && bytes.Contains(text, []byte("troupe_edge_pool_usable_servers{pool=\"workers\"} 1"))
	})
	await(t, "the second edge answers for its zone", func() bool {
		m := new(dns.Msg).SetQuestion("puppet.example.com.", dns.TypeSOA)
		answer, err := dns.ExchangeContext(t.Context(), m, zone)
		return err == nil && len(answer.Answer) == 1
	})

	operator, err := Dial(t.Context(), data)
	check(t, err)
	check(t, operator.ChangeEdge(t.Context(), "drain"))
	if says := agentSays(agent); says != "up drain 100% #by an operator" {
		t.Errorf("a drained edge says %q", says)
	}
	stop()
	check(t, <-second)
}

// TestAPortThatIsTakenIsNamed: without a takeover nobody lets go of it.
func TestAPortThatIsTakenIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	e := &Edge{replaced: make(chan struct{})}
	if err := e.beside(t.Context(), "agent_check", taken.Addr().String(), func() { t.Error("it has begun") }, nil); err == nil || err.Error()[:11] != "agent_check" {
		t.Errorf("%v", err)
	}
}
