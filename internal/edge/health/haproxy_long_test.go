//go:build long

package health

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// This file sets the judge beside a real HAProxy: both see the same, and must say the same.

// startHAProxy runs HAProxy with one server, until the test ends. It returns the path of its admin socket, and a channel of its log lines.
func startHAProxy(t *testing.T, server string) (socket string, lines <-chan string) {
	t.Helper()
	bin, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("%v: run tools/packages.sh haproxy", err)
	}
	syslog, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syslog.Close() })
	said := make(chan string, 10_000)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, _, err := syslog.ReadFrom(buf)
			if err != nil {
				return
			}
			select {
			case said <- string(buf[:n]):
			default:
			}
		}
	}()

	dir := t.TempDir()
	socket = filepath.Join(dir, "admin")
	conf := fmt.Sprintf(`
global
	stats socket %s level admin
	log %s local0
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
	timeout check 60s
backend pool
	option httpchk GET /status/v1/simple
	option log-health-checks
	log global
	server a %s
frontend in
	bind %s
	default_backend pool
`, socket, syslog.LocalAddr(), server, filepath.Join(dir, "in"))
	path := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "-db", "-f", path)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out)
		}
	})
	return socket, said
}

// TestTheCounterIsHAProxys lets both check a server whose answers are drawn, and compares how they count after each of them.
func TestTheCounterIsHAProxys(t *testing.T) {
	const checks = 400
	for _, c := range []struct{ rise, fall int }{{2, 3}, {1, 1}, {3, 2}, {5, 4}} {
		t.Run(fmt.Sprintf("rise %d fall %d", c.rise, c.fall), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			passes := make([]bool, checks)
			for i := range passes {
				passes[i] = r.IntN(5) > 1
			}
			judge := newJudge(Target{ID: "pool/a", Check: Check{Type: TypeHTTP, Rise: c.rise, Fall: c.fall, Initial: InitialUp}.withDefaults()}, time.Now())
			var want []string
			for i, ok := range passes {
				before := judge.counter
				judge.checked(result{ok: ok, code: "L7"})
				if judge.counter == before && i > 0 {
					continue // HAProxy tells of the first check, and of changes
				}
				if judge.counter >= c.rise {
					want = append(want, fmt.Sprintf("%d/%d UP", judge.counter-c.rise+1, c.fall))
				} else {
					want = append(want, fmt.Sprintf("%d/%d DOWN", judge.counter, c.rise))
				}
			}

			var n atomic.Int64
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{ReadHeaderTimeout: troupetest.Patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if i := n.Add(1) - 1; i < checks && !passes[i] {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			})}
			go func() { _ = s.Serve(ln) }()
			defer func() { _ = s.Close() }()

			_, lines := startHAProxy(t, fmt.Sprintf("%s check inter 20ms rise %d fall %d", ln.Addr(), c.rise, c.fall))
			status := regexp.MustCompile(`status: (\d+/\d+ (?:UP|DOWN))\.`)
			deadline := time.After(troupetest.Patience)
			for i := 0; i < len(want); {
				select {
				case line := <-lines:
					m := status.FindStringSubmatch(line)
					if m == nil {
						continue
					}
					if m[1] != want[i] {
						t.Fatalf("change %d: HAProxy says %s, the judge %s, after %v", i, m[1], want[i], passes[:n.Load()])
					}
					i++
				case <-deadline:
					t.Fatalf("HAProxy told of %d of %d changes", i, len(want))
				}
			}
			t.Logf("%d checks, %d changes, all alike", checks, len(want))
		})
	}
}

// TestHAProxyHeedsOurAgent has a real HAProxy and the judge ask the same AgentResponder.
func TestHAProxyHeedsOurAgent(t *testing.T) {
	alive, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: troupetest.Patience, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = s.Serve(alive) }()
	defer func() { _ = s.Close() }()

	agentPort, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var line atomic.Value
	line.Store("up ready 100%")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		err := AgentResponder(ctx, agentPort, func() string { said, _ := line.Load().(string); return said })
		if err != nil {
			t.Error(err)
		}
	}()

	_, port, _ := net.SplitHostPort(agentPort.Addr().String())
	socket, _ := startHAProxy(t, fmt.Sprintf("%s weight 100 maxconn 100 check inter 50ms agent-check agent-port %s agent-inter 50ms", alive.Addr(), port))
	m := New(Options{})
	m.Watch([]Target{{ID: "pool/a", Address: alive.Addr().String(), Weight: 100, Check: Check{
		Type: TypeHTTP, Interval: 50 * time.Millisecond, Timeout: 10 * time.Second, AgentAddress: agentPort.Addr().String(), AgentInterval: 50 * time.Millisecond,
	}}})
	go func() { _ = m.Run(ctx) }()

	theirs := func() string {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err.Error() // it is starting
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "show stat\n")
		rows, err := csv.NewReader(conn).ReadAll()
		if err != nil && len(rows) == 0 {
			return err.Error()
		}
		col := map[string]int{}
		for i, name := range rows[0] {
			col[strings.TrimPrefix(name, "# ")] = i
		}
		for _, row := range rows[1:] {
			if row[col["svname"]] == "a" {
				status := strings.Fields(row[col["status"]])[0]
				if status == "UP" && row[col["weight"]] == "0" {
					status = "DRAIN" // as its page for people says; the table for programs does not
				}
				return fmt.Sprintf("%s weight %s limit %s", status, row[col["weight"]], row[col["slim"]])
			}
		}
		return "no server"
	}
	ours := func() string {
		v := m.Verdict("pool/a")
		limit := v.MaxConns
		if limit == 0 {
			limit = 100
		}
		return fmt.Sprintf("%s weight %.0f limit %d", strings.ToUpper(string(v.State)), 100*v.Share, limit)
	}
	for _, c := range []struct{ line, want string }{
		{"up ready 100%", "UP weight 100 limit 100"},
		{AgentLine(Verdict{State: Up, Share: 0.5, MaxConns: 7}), "UP weight 50 limit 7"},
		{"25%", "UP weight 25 limit 7"},
		{"80%,nonsense", "UP weight 80 limit 7"},
		{"maxconn:12", "UP weight 80 limit 12"},
		{AgentLine(Verdict{State: Drain, Share: 1, Reason: "deploy"}), "DRAIN weight 100 limit 12"},
		{"0%", "DRAIN weight 0 limit 12"},
		{"100%", "DRAIN weight 100 limit 12"},
		{"ready", "UP weight 100 limit 12"},
		{"0%", "DRAIN weight 0 limit 12"},
		{"100%", "UP weight 100 limit 12"},
		{AgentLine(Verdict{State: Maint, Share: 1}), "MAINT weight 100 limit 12"},
		{"ready", "UP weight 100 limit 12"},
		{AgentLine(Verdict{State: Down, Share: 1, Reason: "no worker is free"}), "DOWN weight 100 limit 12"},
		{"up", "UP weight 100 limit 12"},
		{"stopped #by hand", "DOWN weight 100 limit 12"},
		{"up,ready,60%", "UP weight 60 limit 12"},
	} {
		line.Store(c.line)
		for who, says := range map[string]func() string{"HAProxy": theirs, "the judge": ours} {
			var got string
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
				if got = says(); got == c.want {
					break
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-t.Context().Done():
				}
			}
			if got != c.want {
				t.Errorf("after %q %s says %q, want %q", c.line, who, got, c.want)
			}
		}
	}
}

// TestErrorsOfRequestsCountAsInHAProxy sends requests whose answers are drawn through HAProxy, hands the judge the same outcomes, and
// compares the counters after each request. Checks stay away: they are an hour apart.
func TestErrorsOfRequestsCountAsInHAProxy(t *testing.T) {
	for _, mode := range []string{OnErrorFastInter, OnErrorFailCheck, OnErrorSuddenDeath, OnErrorMarkDown} {
		for _, layer := range []int{4, 7} {
			t.Run(fmt.Sprintf("%s layer %d", mode, layer), func(t *testing.T) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				s := &http.Server{ReadHeaderTimeout: troupetest.Patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/500" {
						w.WriteHeader(http.StatusInternalServerError)
					}
				})}
				go func() { _ = s.Serve(ln) }()
				defer func() { _ = s.Close() }()
				socket, _ := startHAProxy(t, fmt.Sprintf("%s check inter 1h rise 2 fall 4 observe layer%d error-limit 3 on-error %s", ln.Addr(), layer, mode))
				counter := func() string { return serverState(socket, "srv_check_health") }
				troupetest.Eventually(t, troupetest.Patience, "HAProxy has checked the server", func() bool { return counter() == "5" })

				judge := newJudge(Target{ID: "pool/a", Check: Check{
					Type: TypeHTTP, Rise: 2, Fall: 4, Interval: time.Hour, Observe: true, Layer: layer, ErrorLimit: 3, OnError: mode,
				}.withDefaults()}, time.Now())
				judge.checked(result{ok: true, code: "L7OK"})
				client := &http.Client{Timeout: troupetest.Patience, Transport: &http.Transport{
					DisableKeepAlives: true,
					DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(filepath.Dir(socket), "in"))
					},
				}}
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				r := rand.New(rand.NewPCG(seed, 0))
				sent := 0
				for ; sent < 200 && judge.counter >= 2; sent++ {
					path, ok := "/200", r.IntN(4) == 0
					if !ok {
						path = "/500"
					}
					answer, err := client.Get("http://pool" + path)
					if err != nil {
						t.Fatal(err)
					}
					_ = answer.Body.Close()
					judge.observed(Outcome{OK: true, Layer: 4}, time.Now())
					judge.observed(Outcome{OK: ok, Layer: 7, Err: answer.Status}, time.Now())
					if got, want := counter(), fmt.Sprint(judge.counter); got != want {
						t.Fatalf("after %d requests, the last with ok=%v, HAProxy counts %s, the judge %s", sent+1, ok, got, want)
					}
				}
				t.Logf("%d requests, counters alike, %d at the end", sent, judge.counter)
			})
		}
	}
}

// serverState asks HAProxy for one field of what it knows of the server.
func serverState(socket, field string) string {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "show servers state pool\n")
	all, err := io.ReadAll(conn)
	lines := strings.Split(string(all), "\n")
	if err != nil || len(lines) < 3 {
		return string(all)
	}
	names, values := strings.Fields(strings.TrimPrefix(lines[1], "#")), strings.Fields(lines[2])
	for i, name := range names {
		if name == field && i < len(values) {
			return values[i]
		}
	}
	return "no field " + field
}
