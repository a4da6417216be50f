//go:build bench

package bench

// This file has the phases that are more than one request sent again and again.

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
	"troupe/internal/troupetest"
)

// codeChanges measures the time from a change of the code until the first catalog that has it, for each role.
func (b *bench) codeChanges(catalogs map[string]request) {
	product, change := 1.0, 0
	for _, role := range roles {
		took := make([][]float64, len(b.peers))
		for range b.rounds {
			for i, p := range b.peers {
				change++
				took[i] = append(took[i], b.codeChange(p, change, role, catalogs[role]).Seconds())
			}
		}
		times := b.row(fmt.Sprintf("change of the code to the first catalog that has it (%s), s", role),
			fmt.Sprintf("%d changes each; the cache of Puppet Server is flushed", b.rounds), 0, false, took)
		product *= math.Pow(times, 1/float64(len(roles)))
	}
	b.add(fmt.Sprintf("| change of the code to the first catalog, geometric mean over %s | – | – | %.1f× | ≥ 10×: %s | |",
		strings.Join(roles, ", "), product, verdict(product >= 10)))
}

func (b *bench) codeChange(p *peer, n int, role string, r request) time.Duration {
	at := time.Now()
	if err := release(p.code, n); err != nil {
		b.t.Fatal(err)
	}
	p.flush()
	asked := 0
	for !bytes.Contains(p.body(b.t, role, r), fmt.Appendf(nil, "release %d", n)) {
		if asked++; time.Since(at) > 2*time.Minute {
			b.t.Fatalf("%s: still no catalog with release %d", p.name, n)
		}
	}
	b.t.Logf("%s: release %d for %s after %v, %d catalogs without it", p.name, n, role, time.Since(at), asked)
	return time.Since(at)
}

// body is one answer.
func (p *peer) body(t *testing.T, role string, r request) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), r.method, "https://localhost"+r.target, bytes.NewReader(r.body()))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(r.header); i += 2 {
		request.Header.Set(r.header[i], r.header[i+1])
	}
	client := p.client(role, false)
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %v: %.500s", p.name, answer.Status, err, text)
	}
	return text
}

// fleet makes simulated nodes of the peer, with certificates signed here by its CA.
func (p *peer) fleet(t *testing.T, nodes int, role string, o fakeagent.Options) []*fakeagent.Agent {
	t.Helper()
	issuer, err := p.issuer()
	if err != nil {
		t.Fatal(err)
	}
	template, err := fakeagent.NewFactsTemplate([]byte(facts(t, role)))
	if err != nil {
		t.Fatal(err)
	}
	var agents []*fakeagent.Agent
	for i := range nodes {
		name := fmt.Sprintf("%s%04d.example.test", role, i+1)
		o.ServerName, o.NoCacheOnFail, o.MakeFacts = "localhost", true, func() []byte { return template.For(name) }
		a, err := fakeagent.New(name, p.addr, o)
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, a)
	}
	if err := (fakeagent.Muster{Issuer: issuer, Plugin: true}).Prepare(t.Context(), agents); err != nil {
		t.Fatal(err)
	}
	return agents
}

// firstPluginsync is the whole of it: lists and every file, one after the other as agents do.
func (b *bench) firstPluginsync() {
	agents := map[*peer]*fakeagent.Agent{}
	for _, p := range b.peers { // making the fleet has fetched all plugins once
		agents[p] = p.fleet(b.t, 1, "tiny", fakeagent.Options{FreshPlugins: true})[0]
	}
	files := 0
	b.turns("first pluginsync of a new agent", targets{cost: 5}, func(p *peer) result {
		before, own, at := p.cpu(b.t), ownCPU(b.t), time.Now()
		got, err := agents[p].SyncPlugins(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		files = got.Count("content")
		took := time.Since(at)
		return result{n: 1, wall: took, cpu: p.cpu(b.t) - before, own: ownCPU(b.t) - own, p50: took, p90: took}
	})
	b.add(fmt.Sprintf("| (files of that pluginsync) | %d | %d | | | |", files, files))
}

// collectors adds the roles that collect to a copy of the code, and what every node of the role member exports for them.
// What the balancer collects are defines, as in most modules: their evaluation takes further rounds, in each of which
// Puppet Server asks PuppetDB again.
func collectors(t *testing.T) string {
	t.Helper()
	code := environments(t)
	manifest := filepath.Join(code, "production", "manifests", "site.pp")
	text := `# Nodes of the role member export an entry for each role that collects.
case $facts['role'] {
  'member': {
    @@notify { "member ${trusted['certname']}": message => $facts['networking']['ip'], tag => 'farm' }
    @@concat::fragment { "member ${trusted['certname']}":
      target  => '/etc/haproxy/haproxy.cfg',
      content => "  server ${trusted['certname']} ${facts['networking']['ip']}:8140 check",
      order   => '50',
      tag     => 'farm',
    }
  }
  'collector': { Notify <<| tag == 'farm' |>> }
  'balancer': {
    include profile::base
    package { 'haproxy': ensure => installed }
    concat { '/etc/haproxy/haproxy.cfg': require => Package['haproxy'] }
    Concat::Fragment <<| tag == 'farm' |>>
  }
  default: {}
}
`
	if err := os.WriteFile(manifest, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return code
}

// collect fills both sides with nodes that export, and compiles the catalog of one that collects.
func (b *bench) collect() {
	members := 1000
	if testing.Short() {
		members = 30
	}
	code := collectors(b.t)
	if *only != "puppetserver" {
		b.peers = append(b.peers, startTroupe(b.t, code, 1))
	}
	if *only != "troupe" {
		database := troupetest.NewPuppetDB(b.t)
		p := startPuppetServerWith(b.t, troupetest.PuppetServerOptions{Environments: code, PuppetDB: database.URL()}, 1)
		database.Start(b.t, p.server())
		p.more = []string{database.Dir}
		b.peers = append(b.peers, p)
	}
	for _, p := range b.peers {
		p.awaitReady(b.t)
		p.enroll(b.t)
		fleet := fakeagent.Fleet{Agents: p.fleet(b.t, members, "member", fakeagent.Options{}), AtOnce: 4}
		r := fleet.Run(b.t.Context())
		b.t.Logf("%s: %d of %d members have exported after %v: %v", p.name, r.Succeeded, members, r.Took, r.Problems)
		if r.Succeeded != members {
			b.t.Fatalf("%s: %d of %d members did not run", p.name, members-r.Succeeded, members)
		}
	}

	n := 12
	if testing.Short() {
		n = 2
	}
	for _, role := range []string{"collector", "balancer"} {
		gather := catalog(facts(b.t, role), role)
		for _, p := range b.peers { // PuppetDB stores in its own time
			troupetest.Eventually(b.t, 5*time.Minute, p.name+" collects all members", func() bool {
				return bytes.Count(p.body(b.t, role, gather), []byte(`"title":"member `)) >= members
			})
			if p.name != "troupe" && !testing.Short() {
				p.measure(b.t, role, load{workers: 1, n: 60}, gather)
			}
		}
		b.alternate(fmt.Sprintf("catalog of the %s, from %d nodes", role, members), role, load{workers: 1, n: n}, targets{cost: 5, rate: 5}, gather)
	}
}

// pairOfWorkers is the shorter set with two workers on each side.
func (b *bench) pairOfWorkers(code string, catalogs map[string]request) {
	for _, start := range makers() {
		p := start(b.t, code, 2)
		p.awaitReady(b.t)
		p.enroll(b.t)
		b.peers = append(b.peers, p)
		warm := load{workers: 2, n: 320}
		if testing.Short() || p.name == "troupe" {
			warm.n = 8
		}
		b.t.Logf("%s: warm-up with two: %v", p.name, p.measure(b.t, "web", warm, catalogs["web"]))
	}
	b.alternate("catalog web, two workers, c=8", "web", load{workers: 8, n: 40}, targets{cost: 1.5, rate: 1.5}, catalogs["web"])
	b.alternate("report of 1 MB, two workers, c=8", "web", load{workers: 8, d: b.slice}, targets{rate: 20}, report(b.t, "web"))
	b.memory("memory with two workers", 4)
}
