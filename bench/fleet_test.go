//go:build bench

package bench

// This file starts a member with a fleet of simulated nodes that have their certificates.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
	"troupe/internal/troupetest"
)

// site is one member and its nodes.
type site struct {
	*troupetest.Server

	agents  []*fakeagent.Agent
	metrics string // address
}

// startSite starts a member on the code of testdata. The nodes' certificates are signed with the member's own CA, here.
func startSite(t *testing.T, nodes int, role, config string, generations ...fakeagent.Generation) *site {
	t.Helper()
	metrics := freeAddress(t)
	s := &site{metrics: metrics, Server: troupetest.StartServer(t, troupetest.ServerOptions{
		Environments: environments(t), Config: config + "metrics: { listen: \"" + metrics + "\" }\n",
	})}
	folder := filepath.Join(troupetest.TempDir(t), "ca")
	s.MustCLI("ca", "export", "--to", folder)
	issuer, err := fakeagent.OpenIssuer(folder)
	if err != nil {
		t.Fatal(err)
	}

	template := s.template(t, role)
	for i := range nodes {
		name := fmt.Sprintf("node%05d.example.test", i+1)
		a, err := fakeagent.New(name, s.Addr, fakeagent.Options{
			Generation: generations[i%len(generations)], ServerName: "localhost", NoCacheOnFail: true,
			MakeFacts: func() []byte { return template.For(name) },
		})
		if err != nil {
			t.Fatal(err)
		}
		s.agents = append(s.agents, a)
	}
	begin := time.Now()
	if err := (fakeagent.Muster{Issuer: issuer, Plugin: true}).Prepare(t.Context(), s.agents); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes have certificates after %v", nodes, time.Since(begin).Round(time.Millisecond))
	return s
}

func (s *site) template(t *testing.T, role string) fakeagent.FactsTemplate {
	t.Helper()
	template, err := fakeagent.NewFactsTemplate([]byte(facts(t, role)))
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// run lets a part of the fleet run and shows how it went.
func (s *site) run(t *testing.T, what string, f fakeagent.Fleet) fakeagent.FleetResult {
	t.Helper()
	seconds := 0
	f.Progress = func(r fakeagent.FleetResult) {
		if seconds++; seconds%15 == 0 {
			t.Logf("%s: %v: %d runs, %d running, %d did not succeed, %d told to come back",
				what, r.Took.Round(time.Second), r.Runs, r.Running, r.Runs-r.Succeeded, r.Refused)
		}
	}
	r := f.Run(t.Context())
	t.Logf("%s: %d runs in %v (%.2f/s succeeded), p50 %v, p99 %v, max %v; %d failed, %d cached, %d unreported, %d told to come back; %v",
		what, r.Runs, r.Took.Round(time.Millisecond), r.Goodput(), r.Run.P50, r.Run.P99, r.Run.Max,
		r.Failed, r.Cached, r.Unreported, r.Refused, r.Problems)
	return r
}

// gauge reads one metric of the member.
func (s *site) gauge(t *testing.T, name string) float64 {
	t.Helper()
	all, err := readMetrics(s.metrics)
	if err != nil {
		t.Fatal(err)
	}
	value, ok := all[name]
	if !ok {
		t.Fatalf("the member has no metric %s", name)
	}
	return value
}

// readMetrics reads what a member that listens there counts, by names with labels.
func readMetrics(address string) (map[string]float64, error) {
	client := &http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		i := strings.LastIndexByte(lines.Text(), ' ')
		value, err := strconv.ParseFloat(lines.Text()[i+1:], 64)
		if err != nil {
			return nil, err
		}
		all[lines.Text()[:i]] = value
	}
	return all, lines.Err()
}

// processes are the member's own and its Ruby workers, which are the leaves that have a Ruby parent.
func (s *site) processes(t *testing.T) (member int, workers []int) {
	t.Helper()
	all := tree(t, s.Data)
	parents := map[int]bool{}
	for _, p := range all {
		parents[p.parent] = true
	}
	for pid, p := range all {
		parent, inside := all[p.parent]
		_, grandparent := all[parent.parent]
		switch {
		case !inside:
			member = pid
		case !parents[pid] && grandparent:
			workers = append(workers, pid)
		}
	}
	return member, workers
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// folderSize is in MiB; files may go while it is counted.
func folderSize(t *testing.T, folder string) float64 {
	t.Helper()
	sum := int64(0)
	err := filepath.WalkDir(folder, func(_ string, entry os.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if gone(err) {
			return nil
		}
		if err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return float64(sum) / (1 << 20)
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// length is how long a test takes by default, or what the environment says (DURATION=10m).
func length(t *testing.T, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("DURATION")
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("DURATION: %v", err)
	}
	return d
}

// count is a number that the environment may set (NODES=300).
func count(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number", variable, text)
	}
	return n
}

// reports lists the transactions of the stored reports, and how often each is there.
func (s *site) reports(t *testing.T) map[string]int {
	t.Helper()
	var list []troupetest.Report
	if err := json.Unmarshal([]byte(s.MustCLI("report", "list", "--limit", "10000000", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	byTransaction := map[string]int{}
	for _, r := range list {
		byTransaction[r.TransactionUUID]++
	}
	return byTransaction
}

// release changes the code of a folder of environments: the class that every node has gets a resource that names the
// release. The file is replaced in one step.
func release(environments string, n int) error {
	file := filepath.Join(environments, "production", "modules", "profile", "manifests", "base.pp")
	text, err := os.ReadFile("testdata/production/modules/profile/manifests/base.pp")
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), "{\n", "{\n  "+releaseResource(n)+"\n", 1)
	if err := os.WriteFile(file+".new", []byte(changed), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func releaseResource(n int) string { return fmt.Sprintf("notify { 'release %d': }", n) }
