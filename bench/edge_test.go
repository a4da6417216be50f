//go:build bench

package bench

// This file sets an edge beside the real HAProxy: the same servers, the same agents, one run.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

func TestEdge(t *testing.T) {
	prefer(t)
	var b strings.Builder
	section := func(name string, what func(*testing.T, *strings.Builder)) {
		if !t.Run(name, func(t *testing.T) { what(t, &b) }) {
			t.FailNow()
		}
	}
	section("CPU", measureCPU)
	section("Handshakes", measureHandshakes)
	section("Latency", measureLatency)
	section("FailedRuns", measureFailures)
	record(t, "edge", conditions(t, "haproxy")+"\n"+b.String())
}

// How long and how much; a trial is short.
func brief[T any](trial, real T) T {
	if testing.Short() {
		return trial
	}
	return real
}

// ---- failed runs

func measureFailures(t *testing.T, b *strings.Builder) {
	s := newStage(t)
	s.cast(3, "puppet")
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	length := length(t, brief(10*time.Second, 60*time.Second))
	fronts := []front{
		s.edge("edge, mode puppet", "puppet", true, ""),
		s.edge("edge, mode passthrough", "passthrough", true, ""),
		s.haproxy("HAProxy, mode tcp", "tcp", true, ""),
		s.haproxy("HAProxy, mode http", "http", true, ""),
	}
	ids := s.identities(fronts[1].addr, brief(30, 60))
	fmt.Fprintf(b, "### Agent runs while servers die\n\n%d agents of versions 7.23, 8.10 and 9 that run every 3 s for %v; three servers, one of which is killed with SIGKILL 2 to 4 s "+
		"after all were up, and started again after 0.5 to 1.5 s (seed %d, the same moments for all). A run is 12 to 15 requests over TLS with the agent's certificate, a catalog of 300 kB after 200 to 400 ms. "+
		"Checks every 200 ms, down after 2, up after 1, sessions of a server that is down are cut; HAProxy with leastconn, redispatch, retries 3, in mode http "+
		"with retry-on all-retryable-errors, option http-buffer-request and tune.bufsize 256 kB.\n\n"+
		"| front | runs | failed | of these on a cached catalog | without report | %% failed | kills | p50 of a run | p99 |\n|---|---|---|---|---|---|---|---|---|\n",
		len(ids), length, seed)
	for _, f := range fronts {
		got, kills := s.killsWhile(seed, func() fakeagent.FleetResult {
			fleet := fakeagent.Fleet{Agents: s.agents(ids, f.addr), Duration: length, Interval: 3 * time.Second}
			return fleet.Run(t.Context())
		})
		failed := got.Runs - got.Succeeded
		t.Logf("%s: %d runs, %d failed, %d missed, %d kills, %d told to come back: %v", f.name, got.Runs, failed, got.Missed, kills, got.Refused, got.Problems)
		fmt.Fprintf(b, "| %s | %d | %d | %d | %d | %.2f | %d | %v | %v |\n", f.name, got.Runs, failed, got.Cached, got.Unreported,
			100*float64(failed)/float64(max(got.Runs, 1)), kills, got.Run.P50.Round(time.Millisecond), got.Run.P99.Round(time.Millisecond))
	}
	b.WriteString("\n")
}

// identities gives agents their certificates once, for all fronts.
func (s *stage) identities(addr string, n int) []fakeagent.Identity {
	s.t.Helper()
	issuer, err := fakeagent.OpenIssuer(s.folder)
	must(s.t, err)
	agents := s.agents(make([]fakeagent.Identity, n), addr)
	must(s.t, fakeagent.Muster{Issuer: issuer}.Prepare(s.t.Context(), agents))
	var ids []fakeagent.Identity
	for _, a := range agents {
		ids = append(ids, a.Identity())
	}
	return ids
}

func (s *stage) agents(ids []fakeagent.Identity, addr string) (all []*fakeagent.Agent) {
	s.t.Helper()
	facts := []byte(`{"padding":"` + strings.Repeat("facts of a node ", 1600) + `"}`) // 40 kB as a form
	for i, id := range ids {
		a, err := fakeagent.New(fmt.Sprintf("node%d.example.test", i), addr, fakeagent.Options{
			Generation: []fakeagent.Generation{fakeagent.Puppet7, fakeagent.Puppet8, fakeagent.OpenVox9}[i%3], ServerName: "localhost", Facts: facts,
		})
		must(s.t, err)
		a.SetIdentity(id)
		all = append(all, a)
	}
	return all
}

// killsWhile kills servers at random while something runs.
func (s *stage) killsWhile(seed uint64, what func() fakeagent.FleetResult) (fakeagent.FleetResult, int) {
	s.t.Helper()
	chance := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	type end struct {
		kills int
		err   error
	}
	ended := make(chan end, 1)
	go func() {
		var e end
		defer func() { ended <- e }()
		for {
			pause, victim, away := 2*time.Second+time.Duration(chance.IntN(2000))*time.Millisecond, s.actors[chance.IntN(len(s.actors))], time.Duration(500+chance.IntN(1000))*time.Millisecond
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			err := victim.kill()
			<-time.After(away)
			if e.err = errors.Join(err, victim.start()); e.err != nil {
				return
			}
			e.kills++
		}
	}()
	got := what()
	cancel()
	e := <-ended
	must(s.t, e.err)
	<-time.After(2 * time.Second) // checks find all servers up
	return got, e.kills
}

// ---- latency

func measureLatency(t *testing.T, b *strings.Builder) {
	s := newStage(t)
	s.cast(2, "puppet")
	s.agentKeys("p256")
	fronts := []front{
		{name: "directly", addr: s.actors[0].address},
		s.haproxy("HAProxy, mode tcp", "tcp", true, ""),
		s.edge("edge, mode passthrough", "passthrough", true, ""),
		s.haproxy("HAProxy, mode http", "http", true, ""),
		s.edge("edge, mode puppet", "puppet", true, ""),
	}
	kept, fresh := make([][]time.Duration, len(fronts)), make([][]time.Duration, len(fronts))
	for range brief(1, 8) {
		for i, f := range fronts {
			kept[i] = append(kept[i], s.times(f, brief(50, 400), false)...)
			fresh[i] = append(fresh[i], s.times(f, brief(10, 80), true)...)
		}
	}
	fmt.Fprintf(b, "### Added latency\n\nGET of 1 kB over mutual TLS (P-256), one after the other, fronts in turn, n = %d over kept connections and %d over new ones. Added is what a percentile is above the direct one.\n\n"+
		"| way | kept: p50 | p99 | added p50 | added p99 | new: p50 | p99 | added p50 | added p99 |\n|---|---|---|---|---|---|---|---|---|\n", len(kept[0]), len(fresh[0]))
	for i := range fronts {
		slices.Sort(kept[i])
		slices.Sort(fresh[i])
	}
	us := func(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
	at := func(sorted []time.Duration, q float64) time.Duration { return sorted[int(q*float64(len(sorted)-1))] }
	for i, f := range fronts {
		fmt.Fprintf(b, "| %s ", f.name)
		for _, all := range [][][]time.Duration{kept, fresh} {
			fmt.Fprintf(b, "| %s | %s | %s | %s ", us(at(all[i], .5)), us(at(all[i], .99)), us(at(all[i], .5)-at(all[0], .5)), us(at(all[i], .99)-at(all[0], .99)))
		}
		b.WriteString("|\n")
	}
	b.WriteString("\n")
}

func (s *stage) times(f front, n int, fresh bool) (all []time.Duration) {
	s.t.Helper()
	roots, err := rootsOf(s.folder)
	must(s.t, err)
	pairs, err := agentPairs(s.folder, "p256")
	must(s.t, err)
	tr := &http.Transport{TLSClientConfig: asAgents(pairs[0], roots), DisableKeepAlives: fresh, DialContext: (&net.Dialer{}).DialContext}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: time.Minute}
	for i := range n + 5 {
		began := time.Now()
		answer, err := client.Get("https://" + f.addr + oneKB)
		must(s.t, err)
		got, err := io.Copy(io.Discard, answer.Body)
		must(s.t, errors.Join(err, answer.Body.Close()))
		if answer.StatusCode != http.StatusOK || got != 1024 {
			s.t.Fatalf("%s: %s, %d bytes", f.name, answer.Status, got)
		}
		if i >= 5 {
			all = append(all, time.Since(began))
		}
	}
	return all
}

// ---- CPU

// alone is how a process gets CPU 1, and rest how all others get CPU 0.
var (
	alone = []string{"env", "GOMAXPROCS=1", "taskset", "-c", "1"}
	rest  = []string{"env", "GOMAXPROCS=1", "taskset", "-c", "0"}
)

// spent is the CPU time of a front while somebody puts load on it, for each of n.
func (f front) spent(t *testing.T, n int, who string, env ...string) time.Duration {
	t.Helper()
	cmd := role(rest, who, append(env, roleAddress+"="+f.addr, fmt.Sprint(roleCount, "=", n))...)
	before := f.cpu(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("load on %s: %v\n%s", f.name, err, out)
	}
	return (f.cpu(t) - before) / time.Duration(n)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func measureCPU(t *testing.T, b *strings.Builder) {
	s := newStage(t)
	s.cast(1, "bytes", rest...)
	const logged = "  log stdout format raw local0 info\n  option tcplog\n"
	pairs := [][2]front{
		{s.haproxy("HAProxy", "tcp", false, "", alone...), s.edge("edge", "passthrough", false, "log: {level: warn}\n", alone...)},
		{s.haproxy("HAProxy, a line of log for each", "tcp", false, logged, alone...), s.edge("edge, a line of log for each", "passthrough", false, "", alone...)},
		{s.haproxy("HAProxy, splice-auto and splice-response", "tcp", false, "  option splice-auto\n  option splice-response\n", alone...), front{}},
	}
	short, long, rounds := brief(1000, 10000), brief(8, 48), brief(1, 5)
	connection, gigabyte := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range rounds {
		for i, pair := range pairs {
			for _, f := range pair {
				if f.name == "" {
					continue
				}
				connection[f.name] = append(connection[f.name], f.spent(t, short, "connections", roleKind+"=short"))
				if i != 1 {
					gigabyte[f.name] = append(gigabyte[f.name], f.spent(t, long, "connections", roleKind+"=long")*(1<<30/longReply))
				}
			}
		}
	}
	fmt.Fprintf(b, "### CPU of carried bytes\n\nThe front alone on CPU 1 (one thread, GOMAXPROCS=1), load and server on CPU 0, without TLS; user and system time of the front's process, median of %d rounds in turn, lowest and highest.\n\n"+
		"| front | µs for a connection with 1 kB (n = %d) | s for a GB in answers of 64 MB |\n|---|---|---|\n", rounds, short)
	for _, pair := range pairs {
		for _, f := range pair {
			if f.name == "" {
				continue
			}
			all := connection[f.name]
			m := median(all)
			line := fmt.Sprintf("| %s | %.1f (%.1f to %.1f) ", f.name, us(m), us(all[0]), us(all[len(all)-1]))
			if g := gigabyte[f.name]; len(g) > 0 {
				m := median(g)
				line += fmt.Sprintf("| %.3f (%.3f to %.3f) |\n", m.Seconds(), g[0].Seconds(), g[len(g)-1].Seconds())
			} else {
				line += "| |\n"
			}
			b.WriteString(line)
		}
	}
	bare := ratio(connection["edge"], connection["HAProxy"])
	both := ratio(connection["edge, a line of log for each"], connection["HAProxy, a line of log for each"])
	spliced := ratio(gigabyte["edge"], gigabyte["HAProxy, splice-auto and splice-response"])
	copied := ratio(gigabyte["edge"], gigabyte["HAProxy"])
	fmt.Fprintf(b, "\n| target | measured | |\n|---|---|---|\n| CPU of a short connection ≤ 1.7× HAProxy | %.2f×; %.2f× where both write a line for each | %s |\n| CPU of a GB ≤ 1.1× HAProxy | %.2f× with splicing, %.2f× without | %s |\n\n",
		bare, both, verdict(bare <= 1.7), spliced, copied, verdict(spliced <= 1.1))
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func ratio(a, b []time.Duration) float64 { return float64(median(a)) / float64(median(b)) }

// ---- handshakes

func measureHandshakes(t *testing.T, b *strings.Builder) {
	s := newStage(t)
	s.cast(1, "bytes", rest...)
	kinds := []string{"p256", "rsa4096"}
	for _, kind := range kinds {
		s.agentKeys(kind)
	}
	fronts := []front{s.edge("edge, mode puppet", "puppet", false, "log: {level: warn}\n", alone...), s.haproxy("HAProxy, mode http", "http", false, "", alone...)}
	many, rounds := map[string]int{"p256": brief(200, 2000), "rsa4096": brief(100, 500)}, brief(1, 4)
	each := map[string][]time.Duration{}
	for range rounds {
		for _, kind := range kinds {
			for _, f := range fronts {
				each[f.name+kind] = append(each[f.name+kind], f.spent(t, many[kind], "handshakes", roleKind+"="+kind, roleFolder+"="+s.folder))
			}
		}
	}
	fmt.Fprintf(b, "### Full mutual handshakes\n\nThe front alone on CPU 1, its certificate of P-256, an authority of RSA 4096, %d certificates of agents, X25519 and no resumption; each connection has one "+
		"GET /status/v1/simple, which the front answers. Median of %d rounds of %d (P-256) and %d (RSA 4096) in turn, lowest and highest.\n\n| front | agents' keys | handshakes per CPU second | |\n|---|---|---|---|\n", agentCerts, rounds, many["p256"], many["rsa4096"])
	rate := func(d time.Duration) float64 { return 1 / d.Seconds() }
	for _, kind := range kinds {
		for i, f := range fronts {
			all := each[f.name+kind]
			m := median(all)
			judged := ""
			if i == 0 {
				judged = "target ≥ 1,000: " + verdict(rate(m) >= 1000)
			}
			fmt.Fprintf(b, "| %s | %s | %.0f (%.0f to %.0f) | %s |\n", f.name, map[string]string{"p256": "P-256", "rsa4096": "RSA 4096"}[kind], rate(m), rate(all[len(all)-1]), rate(all[0]), judged)
		}
	}
	b.WriteString("\n")
}
