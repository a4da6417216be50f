//go:build long

package edge

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"troupe/internal/config"
)

// edgeEnv has this test binary be an edge of the configuration that it names: for processes that follow each other.
const (
	edgeEnv     = "TROUPE_TEST_EDGE"
	takeoverEnv = "TROUPE_TEST_TAKEOVER"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(edgeEnv); path != "" {
		os.Exit(edgeMain(path))
	}
	os.Exit(m.Run())
}

func edgeMain(path string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conf, err := config.LoadEdge(path)
	if err == nil {
		err = Run(ctx, conf, Options{Log: log, Version: os.Getenv(takeoverEnv), Takeover: os.Getenv(takeoverEnv) != ""})
	}
	if err != nil {
		log.Error("edge", "err", err)
		return 1
	}
	return 0
}

// begin starts a program whose log is in a file.
func begin(t *testing.T, log string, env []string, args ...string) (cmd *exec.Cmd, ended chan error) {
	t.Helper()
	out, err := os.Create(log)
	check(t, err)
	defer out.Close()
	cmd = exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), out, out
	check(t, cmd.Start())
	ended = make(chan error, 1)
	done := make(chan struct{})
	go func() { ended <- cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
		if text, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("%s:\n%s", filepath.Base(log), text[max(0, len(text)-8000):])
		}
	})
	return cmd, ended
}

// TestATakeoverWithdrawsNothingWithGracefulRestart: the session passes from one process to the next, and a real bird has the route all the
// time.
func TestATakeoverWithdrawsNothingWithGracefulRestart(t *testing.T) {
	dir, ns := t.TempDir(), "edge-"+strings.ToLower(rand.Text()[:6])
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v (tools/packages.sh iproute2 bird2)\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("ip", "netns", "add", ns)
	t.Cleanup(func() { run("ip", "netns", "delete", ns) })
	run("ip", "-n", ns, "link", "set", "lo", "up")
	run("ip", "-n", ns, "address", "add", "192.0.2.1/24", "dev", "lo")
	run("ip", "-n", ns, "address", "add", "192.0.2.7/24", "dev", "lo")
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	socket, router := filepath.Join(dir, "bird.ctl"), filepath.Join(dir, "bird.log")
	begin(t, router, nil, "ip", "netns", "exec", ns, "bird", "-f", "-s", socket, "-c", file("bird.conf", `
router id 192.0.2.1;
log stderr all;
debug protocols { states, routes };
protocol device { }
protocol bgp edge {
	local 192.0.2.1 as 64496;
	neighbor 192.0.2.7 as 65500;
	multihop 2; passive on;
	graceful restart aware;
	ipv4 { import all; export none; };
}
`))
	conf := file("edge.yaml", `
data: `+dir+`
listeners: [{listen: "127.0.0.1:8140", mode: passthrough}]
pools: {workers: {check: {type: none}, servers: [{address: "192.0.2.1:8140"}]}}
bgp:
  as: 65500
  router_id: 192.0.2.7
  prefixes: [203.0.113.1/32]
  up_after: 10ms
  neighbors: [{address: 192.0.2.1, as: 64496, local_address: 192.0.2.7, multihop: 2, graceful_restart: 20s, hold_time: 90s}]
`)
	self, err := os.Executable()
	check(t, err)
	edge := func(name string, env ...string) (*exec.Cmd, chan error) {
		return begin(t, filepath.Join(dir, name+".log"), append(env, edgeEnv+"="+conf), "ip", "netns", "exec", ns, self)
	}
	has := func() bool {
		out, err := exec.Command("birdc", "-r", "-s", socket, "show", "route").CombinedOutput()
		return err == nil && strings.Contains(string(out), "203.0.113.1/32")
	}
	_, ended := edge("first")
	await(t, "the route", has)

	next, nextEnded := edge("next", takeoverEnv+"=next")
	var since time.Time
	await(t, "the session of the next process to be some seconds old", func() bool {
		if !has() {
			t.Fatal("the router has forgotten the route")
		}
		client, err := Dial(t.Context(), dir)
		if err != nil {
			return false
		}
		s, err := client.Status(t.Context())
		if err != nil || s.Version != "next" || s.BGP == nil || len(s.BGP.Neighbors) == 0 {
			return false
		}
		n := s.BGP.Neighbors[0]
		if n.Downs > 0 {
			t.Fatalf("the session of the next process ended: %s", n.LastError)
		}
		if since.IsZero() && n.State == "established" {
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) > 8*time.Second // the first one would have taken it back
	})
	check(t, <-ended)
	text, err := os.ReadFile(router)
	check(t, err)
	if strings.Contains(string(text), "removed") {
		t.Error("the router has removed a route")
	}
	check(t, next.Process.Signal(syscall.SIGTERM))
	check(t, <-nextEnded)
	await(t, "the route of an edge that was stopped to go", func() bool { return !has() })
}
