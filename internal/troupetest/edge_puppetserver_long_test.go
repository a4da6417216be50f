//go:build long

package troupetest

// This file puts an edge in front of two real puppetservers, as docs/edge.md says it: first carrying bytes, then in mode puppet. Real
// agents run through it while servers are killed. make edge-puppetserver repeats it.

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A shop is what somebody has who comes from Puppet: a server with the CA, a compile server, and agents of two generations.
type shop struct {
	t       *testing.T
	servers []*PuppetServer // the first has the CA
	agents  []*Agent
	marks   string // where compiles say that they go on
	runs    int
}

// shopSite has a catalog that takes a while, with what a run usually has: plugins, files, a template, facts of the certificate.
const shopSite = `node default {
  include site
  $slowly = generate('%s', $trusted['certname'])
  file { "${facts['sandbox']}/trusted":
    content => "${trusted['authenticated']} ${trusted['certname']} ${trusted['extensions']['pp_role']}\n",
  }
}
`

// slowly says that a compile goes on, and in which server: the script's parent.
const slowly = "#!/bin/sh\nmark=%s/$PPID.$$\n: > $mark\nsleep 3\nrm $mark\n"

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, marks: TempDir(t)}
	script := filepath.Join(TempDir(t), "slowly")
	writeFile(t, script, fmt.Sprintf(slowly, s.marks))
	for _, path := range []string{script, s.marks} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	code := Environments(t, "production")
	writeFile(t, filepath.Join(code, "production", "manifests", "site.pp"), fmt.Sprintf(shopSite, script))

	names := func(name, text string) string {
		if name == "ca.conf" {
			return strings.Replace(text, "# allow-subject-alt-names: false", "allow-subject-alt-names: true", 1)
		}
		return text
	}
	first := StartPuppetServer(t, PuppetServerOptions{Certname: "puppet1.example.test", Environments: code, Autosign: true, Rewrite: names})
	first.Pair(t, edgeCertname, "puppet", "localhost")
	second := StartPuppetServer(t, PuppetServerOptions{Certname: "puppet2.example.test", Environments: code, Authority: first})
	s.servers = []*PuppetServer{first, second}
	for i, g := range []Generation{Puppet7, Puppet8, Puppet7, Puppet8} {
		a := NewAgent(t, g, fmt.Sprintf("agent%d.example.test", i+1), "")
		a.describe()
		s.agents = append(s.agents, a)
	}
	return s
}

// describe has the request for a certificate carry an extension, which manifests see.
func (a *Agent) describe() {
	a.t.Helper()
	a.Limit = 4 * Patience // a JVM that starts leaves little of two cores
	writeFile(a.t, filepath.Join(a.Dir, "conf", "csr_attributes.yaml"), "extension_requests:\n  pp_role: web\n")
}

// all lets the agents run at the same time, as a service does: other than with -t they may fall back on the catalog that they had last.
func (s *shop) all(addr string, args ...string) []Result {
	s.t.Helper()
	results := make([]Result, len(s.agents))
	var done sync.WaitGroup
	for i, a := range s.agents {
		done.Go(func() {
			a.Server = addr
			// Each at an address of its own, as agents are: an edge may tell them apart by it.
			results[i] = a.Puppet(append([]string{
				"agent", "--onetime", "--no-daemonize", "--verbose", "--detailed-exitcodes", "--sourceaddress", fmt.Sprintf("127.0.0.%d", 11+i),
			}, args...)...)
		})
	}
	done.Wait()
	s.runs += len(results)
	return results
}

// broken is why a run did not go well; "" if it did.
func (s *shop) broken(a *Agent, r Result) string {
	s.t.Helper()
	report, err := os.ReadFile(filepath.Join(a.Dir, "state", "last_run_report.yaml"))
	if err != nil {
		return "no report: " + err.Error()
	}
	uuid := transaction.FindSubmatch(report)
	switch {
	case r.Exit != 0 && r.Exit != 2:
		return fmt.Sprintf("exit %d", r.Exit)
	case !strings.Contains(string(report), "cached_catalog_status: not_used"), strings.Contains(r.Output, "cached catalog"):
		return "a cached catalog was used"
	case uuid == nil:
		return "a report without transaction_uuid"
	case !s.stored(a.Certname, string(uuid[1])):
		return "its report is at no server"
	}
	return ""
}

var transaction = regexp.MustCompile(`(?m)^transaction_uuid: (\S+)`)

// stored says that a server has the report of a run.
func (s *shop) stored(certname, uuid string) bool {
	s.t.Helper()
	for _, server := range s.servers {
		files, err := filepath.Glob(filepath.Join(server.Dir, "var", "reports", certname, "*.yaml"))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, file := range files {
			if strings.Contains(readFile(s.t, file), uuid) {
				return true
			}
		}
	}
	return false
}

// well says that all runs went well, and what the longest took.
func (s *shop) well(what string, exit int, results []Result) {
	s.t.Helper()
	longest := time.Duration(0)
	for i, r := range results {
		longest = max(longest, r.Took)
		if why := s.broken(s.agents[i], r); why != "" {
			s.t.Errorf("%s: run of %s: %s\n%s", what, s.agents[i].Certname, why, r.Output)
		} else if exit >= 0 && r.Exit != exit {
			s.t.Errorf("%s: run of %s ended with %d, want %d\n%s", what, s.agents[i].Certname, r.Exit, exit, r.Output)
		}
	}
	s.t.Logf("%s: %d runs, the longest took %v", what, len(results), longest.Round(time.Second/10))
}

// compiling waits until a server is in the middle of a catalog.
func (s *shop) compiling(which ...*PuppetServer) (found *PuppetServer) {
	s.t.Helper()
	Eventually(s.t, Patience, "a server compiles", func() bool {
		marks, err := os.ReadDir(s.marks)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, mark := range marks {
			parent, _, _ := strings.Cut(mark.Name(), ".")
			for _, server := range which {
				if parent == strconv.Itoa(server.proc.cmd.Process.Pid) {
					found = server
				}
			}
		}
		return found != nil
	})
	return found
}

// killInTheMiddle lets all agents run and ends one server while it compiles.
func (s *shop) killInTheMiddle(addr string, which ...*PuppetServer) (victim *PuppetServer, results []Result) {
	s.t.Helper()
	done := make(chan []Result, 1)
	go func() { done <- s.all(addr) }()
	victim = s.compiling(which...)
	victim.Kill(s.t)
	return victim, <-done
}

func TestAnEdgeInFrontOfTwoPuppetServers(t *testing.T) {
	s := newShop(t)
	ca := filepath.Join(s.servers[0].CA(), "ca_crt.pem")
	s.carryingBytes(ca)
	s.changeOver()
	s.modePuppet(ca)
	t.Logf("%d runs of real agents", s.runs)
}

// backends is the list of servers in edge.yaml.
func (s *shop) backends() string {
	text := "    servers:\n"
	for i, server := range s.servers {
		_, port, _ := strings.Cut(server.Addr, ":")
		text += fmt.Sprintf("      - {name: puppet%d, address: \"localhost:%s\", max_connections: 8}\n", i+1, port)
	}
	return text
}

// carryingBytes is "First: in front of puppetservers, carrying bytes". Requests to the CA go past the edge, as ca_server has them.
func (s *shop) carryingBytes(ca string) {
	t := s.t
	edge := StartEdge(t, EdgeOptions{Config: "listeners:\n  - {listen: \"%LISTEN%\", mode: passthrough}\npools:\n  workers:\n    stick: source\n    tls: {ca: " + ca + "}\n" + s.backends()})
	edge.AwaitUp("workers", 2)
	_, port, _ := strings.Cut(s.servers[0].Addr, ":")
	caServer := []string{"--ca_server", "localhost", "--ca_port", port}

	s.well("passthrough, from request to catalog", 2, s.all(edge.Addr, caServer...))
	for _, a := range s.agents {
		s.wantAll(a)
	}
	s.well("passthrough, nothing to do", 0, s.all(edge.Addr))
	for name, b := range edge.Backends("workers") {
		if b.Total == 0 {
			t.Errorf("%s had no connection", name)
		}
	}

	victim, results := s.killInTheMiddle(edge.Addr, s.servers[1])
	lost := 0
	for i, r := range results {
		if why := s.broken(s.agents[i], r); why != "" {
			lost++
			t.Logf("passthrough, %s killed: run of %s after %v: %s: %s", victim.o.Certname, s.agents[i].Certname, r.Took.Round(time.Second/10), why, complaints(r.Output))
		}
	}
	t.Logf("passthrough: kill -9 of a server that compiles breaks %d of %d runs", lost, len(results))
	if lost == 0 {
		t.Error("no run broke: the server had none in the middle, or docs/edge.md is wrong about mode passthrough")
	}
	s.well("passthrough, the run after, with one server", -1, s.all(edge.Addr))
}

// complaints are what an agent says of errors.
func complaints(output string) string {
	var all []string
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "Error: ") || strings.HasPrefix(line, "Warning: ") || strings.Contains(line, "cached catalog") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return strings.Join(all, " | ")
}

func (s *shop) wantAll(a *Agent) {
	s.t.Helper()
	wantSite(s.t, a, "hello")
	wantFile(s.t, a.Sandbox("trusted"), "remote "+a.Certname+" web\n")
}

// changeOver has both servers believe what the edge says of a client. The second one is down already.
func (s *shop) changeOver() {
	s.t.Helper()
	s.servers[0].Stop(s.t)
	for _, server := range s.servers {
		file := filepath.Join(server.Dir, "conf.d", "auth.conf")
		before := readFile(s.t, file)
		after := strings.Replace(before, "authorization: {", "authorization: {\n    allow-header-cert-info: true", 1)
		if after == before {
			s.t.Fatalf("%s begins otherwise than the test believes", file)
		}
		writeFile(s.t, file, after)
		server.spawn(s.t)
	}
	for _, server := range s.servers {
		server.await(s.t)
	}
}

// modePuppet is "Then: mode puppet", with the CA chosen by a rule of paths.
func (s *shop) modePuppet(ca string) {
	t := s.t
	first := s.servers[0]
	files := TempDir(t)
	// The command line of the CA asks as the server, over the server's own port, and is a stranger there now. The edge tells who it is.
	if status, out := first.CLI().Run(t, "list", "--all"); status == 0 {
		t.Errorf("puppetserver ca list is served past the edge:\n%s", out)
	}
	s.identity(files)
	crl := filepath.Join(files, "ca_crl.pem")
	writeFile(t, crl, readFile(t, filepath.Join(first.CA(), "ca_crl.pem")))
	_, port, _ := strings.Cut(first.Addr, ":")
	edge := StartEdge(t, EdgeOptions{Config: fmt.Sprintf(`tls:
  certificate: %[1]s/edge.pem
  key: %[1]s/edge.key
  ca: %[2]s
  crl: %[3]s
listeners:
  - listen: "%%LISTEN%%"
    mode: puppet
    pool: workers
    rules:
      - {path: [/puppet-ca/], pool: ca}
pools:
  ca:
    servers: [{name: puppet1, address: "localhost:%[4]s"}]
  workers:
    balance: least-work
%[5]s`, files, ca, crl, port, s.backends())})
	edge.AwaitUp("workers", 2)

	newcomers := []*Agent{NewAgent(t, Puppet7, "late7.example.test", ""), NewAgent(t, Puppet8, "late8.example.test", "")}
	for _, a := range newcomers {
		a.describe()
	}
	s.agents = append(s.agents, newcomers...)
	s.well("mode puppet, two of six from request to catalog", -1, s.all(edge.Addr))
	for _, a := range s.agents {
		s.wantAll(a)
	}
	s.well("mode puppet, nothing to do", 0, s.all(edge.Addr))
	s.spoof(edge)
	s.killTwice(edge)
	s.throughTheEdge(edge, crl)
}

// identity makes the edge's own certificate, as docs/edge.md says.
func (s *shop) identity(files string) {
	t := s.t
	t.Helper()
	first := s.servers[0]
	for from, to := range map[string]string{"certs": "edge.pem", "private_keys": "edge.key"} {
		text := readFile(t, filepath.Join(first.SSL(), from, edgeCertname+".pem"))
		if err := os.WriteFile(filepath.Join(files, to), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const edgeCertname = "edge1.example.test"

// killTwice ends a server while it compiles, then the other one: that with the CA. No run may notice.
func (s *shop) killTwice(edge *Edge) {
	t := s.t
	for _, which := range []*PuppetServer{s.servers[1], s.servers[0]} {
		failed := edge.Backends("workers")[s.name(which)].Failed
		victim, results := s.killInTheMiddle(edge.Addr, which)
		s.well("mode puppet, "+victim.o.Certname+" killed while it compiles", 0, results)
		b := edge.Backends("workers")[s.name(victim)]
		if b.Failed == failed {
			t.Errorf("the edge lost no request with %s: %+v", victim.o.Certname, b)
		}
		t.Logf("%s: %s, %d requests lost with it", victim.o.Certname, b.State, b.Failed-failed)
		s.well("mode puppet, with one server", 0, s.all(edge.Addr))

		victim.Start(t)
		edge.AwaitUp("workers", 2)
		before := edge.Backends("workers")[s.name(victim)].Total
		s.well("mode puppet, with both again", 0, s.all(edge.Addr))
		if after := edge.Backends("workers")[s.name(victim)].Total; after == before {
			t.Errorf("%s serves nothing after its return", victim.o.Certname)
		}
	}
}

// name is what the edge calls a server.
func (s *shop) name(of *PuppetServer) string {
	if of == s.servers[0] {
		return "puppet1"
	}
	return "puppet2"
}

// spoof says that nobody is another one by headers, through the edge. Past the edge everybody is: the docs say to close that network.
func (s *shop) spoof(edge *Edge) {
	t := s.t
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(s.servers[0].CA(), "ca_crt.pem")))) {
		t.Fatal("no certificate in the CA bundle")
	}
	victim := s.agents[0].Certname
	ask := func(addr string, identity ...tls.Certificate) int {
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: identity}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+strings.Replace(addr, "127.0.0.1", "localhost", 1)+"/puppet/v3/node/"+victim+"?environment=production", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "application/json")
		r.Header.Set("X-Client-Verify", "SUCCESS")
		r.Header.Set("X-Client-DN", "CN="+victim)
		answer, err := (&http.Client{Timeout: Patience, Transport: transport}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode
	}
	for what, got := range map[string]int{
		"another agent":            ask(edge.Addr, s.agents[1].Identity()),
		"nobody (no identity)":     ask(edge.Addr),
		"the compile server":       ask(edge.Addr, loadPair(t, s.servers[1].SSL(), s.servers[1].o.Certname)),
		"another agent, to the CA": ask(edge.Addr, s.agents[3].Identity()),
	} {
		if got != http.StatusForbidden {
			t.Errorf("%s says through the edge that it is %s and is answered %d", what, victim, got)
		}
	}
	if got := ask(edge.Addr, s.agents[0].Identity()); got != http.StatusOK {
		t.Errorf("%s itself is answered %d", victim, got)
	}
	if got := ask(s.servers[1].Addr); got != http.StatusOK {
		t.Errorf("a client past the edge is answered %d: puppetserver does not believe the header, so this test proves nothing", got)
	}
}

// throughTheEdge has the command line of the CA ask through the edge, and revokes an agent.
func (s *shop) throughTheEdge(edge *Edge, crl string) {
	t := s.t
	t.Helper()
	first, gone := s.servers[0], s.agents[len(s.agents)-1]
	_, was, _ := strings.Cut(first.Addr, ":")
	_, port, _ := strings.Cut(edge.Addr, ":")
	conf := filepath.Join(TempDir(t), "puppet.conf")
	writeFile(t, conf, strings.Replace(readFile(t, first.CLI().Config), "serverport = "+was, "serverport = "+port, 1))
	cli := CACLI{Config: conf}
	if out := cli.MustRun(t, "list", "--all"); !strings.Contains(out, gone.Certname) {
		t.Errorf("puppetserver ca list through the edge does not know %s:\n%s", gone.Certname, out)
	}
	cli.MustRun(t, "revoke", "--certname", gone.Certname)
	writeFile(t, crl+".new", readFile(t, filepath.Join(first.CA(), "ca_crl.pem")))
	if err := os.Rename(crl+".new", crl); err != nil {
		t.Fatal(err)
	}
	Eventually(t, Patience, "the edge refuses the revoked agent", func() bool {
		return gone.Run().Exit == 1 && strings.Contains(readFile(t, edge.proc.log), "of \\\""+gone.Certname+"\\\" is revoked")
	})
	s.agents = s.agents[:len(s.agents)-1]
	s.well("mode puppet, the others after a revocation", 0, s.all(edge.Addr))
}
