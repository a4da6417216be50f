//go:build bench

package bench

// This file starts the two servers on the same code, and gives each the same nodes.

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/fakeagent"
	"troupe/internal/troupetest"
)

// peer is one server under load.
type peer struct {
	name   string
	addr   string
	folder string // processes started with a path below it are the server's
	roots  *x509.CertPool
	nodes  map[string]tls.Certificate // by role

	code   string // its folder of environments
	issuer func() (*fakeagent.Issuer, error)
	server func() *troupetest.PuppetServer // nil for troupe
	more   []string                        // folders of further processes whose CPU counts: PuppetDB and PostgreSQL

	stop    func()
	flush   func() // lets it see that code has changed
	restart func() // on the CA that it has
}

// environments is a folder with the code of testdata and Debian's modules.
func environments(t *testing.T) string {
	t.Helper()
	dir := troupetest.TempDir(t)
	modules := filepath.Join(dir, "production", "modules")
	run(t, "cp", "-R", "testdata/.", dir)
	for _, module := range []string{"apache", "concat", "stdlib"} {
		run(t, "cp", "-RL", "/usr/share/puppet/modules/"+module, modules)
	}
	files := filepath.Join(modules, "profile", "files")
	run(t, "dd", "if=/dev/urandom", "of="+filepath.Join(files, "archive"), "bs=1000", "count=200", "status=none")
	run(t, "chmod", "-R", "a+rX", dir)
	return dir
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// startTroupe starts a member with as many Ruby workers as the real server has JRuby instances.
func startTroupe(t *testing.T, code string, workers int) *peer {
	t.Helper()
	rules, err := os.ReadFile("/etc/puppet/puppetserver/conf.d/auth.conf")
	if err != nil {
		t.Fatalf("%v: install puppetserver", err)
	}
	file := filepath.Join(troupetest.TempDir(t), "auth.conf")
	if err := os.WriteFile(file, append(rules, flushRule...), 0o644); err != nil {
		t.Fatal(err)
	}
	s := troupetest.StartServer(t, troupetest.ServerOptions{
		Environments: code, Autosign: true, Config: fmt.Sprintf("engine: { workers: %d }\nauth_conf: %s\n", workers, file),
	})
	p := &peer{name: "troupe", addr: s.Addr, folder: s.Data, code: s.Environments}
	p.stop, p.restart = s.Stop, s.Start
	p.issuer = sync.OnceValues(func() (*fakeagent.Issuer, error) {
		folder := filepath.Join(troupetest.TempDir(t), "ca")
		s.MustCLI("ca", "export", "--to", folder)
		return fakeagent.OpenIssuer(folder)
	})
	p.flush = func() { p.flushCache(t) } // it watches the folder, but a deploy says that it has ended
	return p
}

// flushRule lets every node flush the environment cache, which by default nobody may.
const flushRule = `
authorization.rules += {
	match-request: { path: "/puppet-admin-api/v1/environment-cache", type: path, method: delete }
	allow: "*", sort-order: 200, name: "flush for the benchmark"
}
`

// startPuppetServer starts the real one, with a heap of at most 1 GiB.
func startPuppetServer(t *testing.T, code string, workers int) *peer {
	t.Helper()
	return startPuppetServerWith(t, troupetest.PuppetServerOptions{Environments: code}, workers)
}

func startPuppetServerWith(t *testing.T, o troupetest.PuppetServerOptions, workers int) *peer {
	t.Helper()
	o.Autosign = true
	o.Settings = []string{"environment_timeout = unlimited"}
	o.Conf = map[string]string{
		"auth.conf": flushRule, "puppetserver.conf": fmt.Sprintf("\njruby-puppet: { max-active-instances: %d }\n", workers),
	}
	s := troupetest.StartPuppetServer(t, o)
	p := &peer{name: "puppetserver"}
	use := func() { p.addr, p.folder, p.code = s.Addr, s.Dir, s.Code() }
	use()
	p.server = func() *troupetest.PuppetServer { return s }
	p.stop = func() { s.Stop(t) }
	p.restart = func() {
		o.CA, o.SSL = s.CA(), s.SSL()
		s = troupetest.StartPuppetServer(t, o)
		use()
	}
	p.issuer = func() (*fakeagent.Issuer, error) { return fakeagent.OpenIssuer(s.CA()) }
	p.flush = func() { p.flushCache(t) }
	return p
}

// flushCache is what deploy tools do where environment_timeout is unlimited.
func (p *peer) flushCache(t *testing.T) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete,
		"https://localhost/puppet-admin-api/v1/environment-cache?environment=production", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := p.client("web", true).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Fatalf("flush the environment cache: %s", answer.Status)
	}
}

// cpu is the time that all its processes have used.
func (p *peer) cpu(t *testing.T) time.Duration {
	t.Helper()
	sum := cpu(t, p.folder)
	for _, folder := range p.more {
		sum += cpu(t, folder)
	}
	return sum
}

// client returns a client of the node of a role. Every request has a connection of its own if fresh.
func (p *peer) client(role string, fresh bool) *http.Client {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{Timeout: 3 * time.Minute, Transport: &http.Transport{
		// Requests are for localhost, a name that the certificates have: Jetty compares it with what TLS asked for.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, p.addr)
		},
		TLSClientConfig: &tls.Config{
			RootCAs: p.roots, ServerName: "localhost", Certificates: []tls.Certificate{p.nodes[role]},
		},
		DisableKeepAlives: fresh, DisableCompression: true, MaxIdleConnsPerHost: 8,
	}}
}

// enroll requests a certificate for the node of each role, as agents do.
func (p *peer) enroll(t *testing.T) {
	t.Helper()
	// The first request of an agent cannot know the CA either.
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	p.roots, p.nodes = x509.NewCertPool(), map[string]tls.Certificate{}
	if !p.roots.AppendCertsFromPEM(p.exchange(t, client, http.MethodGet, "certificate/ca", "")) {
		t.Fatalf("%s: no certificate in the bundle of the CA", p.name)
	}
	for _, role := range append([]string{"collector", "balancer"}, roles...) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject: pkix.Name{CommonName: certname(role)},
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
		p.exchange(t, client, http.MethodPut, "certificate_request/"+certname(role), string(text))

		block, _ := pem.Decode(p.exchange(t, client, http.MethodGet, "certificate/"+certname(role), ""))
		if block == nil {
			t.Fatalf("%s: no certificate for %s", p.name, role)
		}
		p.nodes[role] = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	}
}

func (p *peer) exchange(t *testing.T, client *http.Client, method, path, body string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "https://"+p.addr+"/puppet-ca/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/plain")
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, answer.Body); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s: %s\n%s", p.name, method, path, answer.Status, text.String())
	}
	return text.Bytes()
}

// awaitReady waits until the server's own service says that it runs.
func (p *peer) awaitReady(t *testing.T) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // readiness only
	}}
	troupetest.Eventually(t, time.Minute, p.name+" is ready", func() bool {
		answer, err := client.Get("https://" + p.addr + "/status/v1/simple/server")
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
}

func certname(role string) string { return fmt.Sprintf("%s.example.test", role) }
