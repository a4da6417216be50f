package troupetest

// This file has the stories about certificates: revocation, renewal, the real command line, moving a CA here.

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestARevokedAgentIsRefusedWithinASecond(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Autosign: true})
	a := enrolled(t, s, Puppet7, "revoked.example.test")
	client := s.Client(a.Identity())
	ask := func() error {
		request, err := http.NewRequest(http.MethodGet, s.URL("/puppet/v3/node/"+a.Certname+"?environment=production"), nil)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", "application/json")
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("answer %s", answer.Status)
		}
		return nil
	}
	if err := ask(); err != nil {
		t.Fatalf("before the revocation: %v", err)
	}

	s.MustCLI("ca", "revoke", "--certname", a.Certname)
	start := time.Now()
	if !poll(t.Context(), 5*time.Second, func() bool { return ask() != nil }) {
		t.Fatal("the kept connection of a revoked agent is still served")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("refused %v after the revocation, want within a second", took)
	}
	a.Run().want(t, 1, "run after the revocation")
	if got := len(s.Reports(a.Certname)); got != 1 {
		t.Errorf("%d reports, want only that from before the revocation", got)
	}
	if got := s.Certificates()[a.Certname].State; got != "revoked" {
		t.Errorf("the certificate is %s", got)
	}
}

func TestAgentsRenewCertificatesThatEndSoon(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Config: "ca:\n  allow_auto_renewal: true\n  auto_renewal_cert_ttl: 60d\n"})
	a := NewAgent(t, Puppet8, "renewed.example.test", s.Addr)
	a.Run().want(t, 1, "run without a signature")
	s.MustCLI("ca", "sign", "--certname", a.Certname, "--ttl", "10d")
	a.Run().want(t, 0, "run with a certificate that ends in ten days")
	old := s.Certificates()[a.Certname].SerialNumber

	r := a.Run()
	r.want(t, 0, "run that renews")
	if got := s.Certificates()[a.Certname].SerialNumber; got == old {
		t.Errorf("the serial is still %s:\n%s", got, r.Output)
	}
	if left := time.Until(a.Identity().Leaf.NotAfter); left < 50*24*time.Hour {
		t.Errorf("the agent's certificate ends in %v, want about 60 days", left)
	}
	a.Run().want(t, 0, "run with the renewed certificate")
}

func TestTheRealCommandLineDrivesTheCA(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{})
	cli := realCLI(t, s)
	for _, name := range []string{"one", "two", "three"} {
		submit(t, s, name+".example.test")
	}

	wantText(t, cli.MustRun(t, "list"), "Requested Certificates:", "one.example.test", "two.example.test", "three.example.test")
	wantText(t, cli.MustRun(t, "sign", "--certname", "one.example.test"), "Successfully signed certificate request for one.example.test")
	wantText(t, cli.MustRun(t, "sign", "--all"), "Successfully signed certificate request for three.example.test")
	wantText(t, cli.MustRun(t, "list", "--all"), "Signed Certificates:", s.Certname, "alt names")
	wantText(t, cli.MustRun(t, "list", "--all", "--format", "json"), `"name":"one.example.test"`, `"state":"signed"`)
	wantText(t, cli.MustRun(t, "revoke", "--certname", "one.example.test"), "Certificate for one.example.test has been revoked")
	wantText(t, cli.MustRun(t, "list", "--all"), "Revoked Certificates:")
	wantText(t, cli.MustRun(t, "clean", "--certname", "two.example.test"), "Cleaned files related to two.example.test")
	wantText(t, cli.MustRun(t, "generate", "--certname", "made.example.test"), "Successfully saved certificate for made.example.test")
	wantText(t, cli.MustRun(t, "list"), "No certificates to list")

	for _, refusal := range []struct{ verb, certname, text string }{
		{"sign", "nosuch.example.test", "Could not find certificate request for nosuch.example.test"},
		{"revoke", "nosuch.example.test", "Could not find certificate for nosuch.example.test"},
		{"clean", "nosuch.example.test", "Could not find files to clean for nosuch.example.test"},
	} {
		status, out := cli.Run(t, refusal.verb, "--certname", refusal.certname)
		if status != 1 || !strings.Contains(out, refusal.text) {
			t.Errorf("%s: exit %d\n%s\nwant exit 1 and %q", refusal.verb, status, out, refusal.text)
		}
	}
	if got := s.Certificates(); got["one.example.test"].State != "revoked" || got["three.example.test"].State != "signed" || got["two.example.test"].Name != "" {
		t.Errorf("the certificates are %+v", got)
	}
}

// realCLI configures the real command line with a certificate that may use the CA's API.
func realCLI(t *testing.T, s *Server) CACLI {
	t.Helper()
	dir := TempDir(t)
	s.MustCLI("ca", "generate", "--certname", "admin.example.test", "--ca-client", "--to", filepath.Join(dir, "ssl"))
	return CACLI{Config: writeCLIConfig(t, dir, s.Addr, "admin.example.test")}
}

func writeCLIConfig(t *testing.T, dir, addr, certname string) string {
	t.Helper()
	_, port, _ := strings.Cut(addr, ":")
	config := filepath.Join(dir, "puppet.conf")
	writeFile(t, config, strings.Join([]string{
		"[main]", "server = localhost", "serverport = " + port, "certname = " + certname, "keylength = 2048",
		"confdir = " + dir, "ssldir = " + filepath.Join(dir, "ssl"), "cadir = " + filepath.Join(dir, "ca"), "",
	}, "\n"))
	return config
}

// submit leaves a certificate request, as an agent's first run does.
func submit(t *testing.T, s *Server, certname string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPut, s.URL("/puppet-ca/v1/certificate_request/"+certname), strings.NewReader(csr(t, certname)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/plain")
	answer, err := s.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("request of %s: %s", certname, answer.Status)
	}
}

func wantText(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("no %q in:\n%s", text, out)
		}
	}
}

// TestAnImportedCAGoesOnServingItsAgents imports a folder that Puppet's own command line made: a root, an intermediate
// that signs, the server's certificate and one agent's.
func TestAnImportedCAGoesOnServingItsAgents(t *testing.T) {
	t.Parallel()
	old := TempDir(t)
	offline := CACLI{Config: writeCLIConfig(t, old, "localhost:1", "puppet.example.test")}
	offline.MustRun(t, "setup", "--subject-alt-names", "localhost", "--ca-name", "Old CA")
	offline.MustRun(t, "generate", "--ca-client", "--certname", "veteran.example.test")
	inventory := readFile(t, filepath.Join(old, "ca", "inventory.txt"))

	data := filepath.Join(TempDir(t), "data")
	importer := &Server{t: t, Data: data}
	importer.MustCLI("ca", "import", "--cadir", filepath.Join(old, "ca"))
	s := StartServer(t, ServerOptions{Data: data, Environments: site})

	// The veteran keeps its key, certificate and trust; it notices nothing.
	veteran := NewAgent(t, Puppet7, "veteran.example.test", s.Addr)
	copyTree(t, filepath.Join(old, "ssl"), filepath.Join(veteran.Dir, "ssl"))
	before := readFile(t, filepath.Join(veteran.Dir, "ssl", "certs", "veteran.example.test.pem"))
	veteran.Run().want(t, 2, "run of the veteran")
	if after := readFile(t, filepath.Join(veteran.Dir, "ssl", "certs", "veteran.example.test.pem")); after != before {
		t.Error("the veteran has got another certificate")
	}

	// A recruit is signed by the same issuer.
	recruit := NewAgent(t, Puppet8, "recruit.example.test", s.Addr)
	recruit.Run().want(t, 1, "run without a signature")
	s.Sign(recruit.Certname)
	recruit.Run().want(t, 2, "first run of the recruit")
	if got, want := recruit.Identity().Leaf.Issuer.CommonName, veteran.Identity().Leaf.Issuer.CommonName; got != want {
		t.Errorf("the recruit was signed by %q, the veteran by %q", got, want)
	}

	// The folder goes back to a Puppet Server with everything that has happened here.
	s.MustCLI("ca", "revoke", "--certname", veteran.Certname)
	exported := filepath.Join(TempDir(t), "ca")
	s.MustCLI("ca", "export", "--to", exported)
	wantText(t, readFile(t, filepath.Join(exported, "inventory.txt")), append(strings.Split(strings.TrimSpace(inventory), "\n"), "/CN=recruit.example.test")...)
	for _, name := range []string{"ca_crt.pem", "ca_key.pem", "ca_crl.pem", "serial", "signed/recruit.example.test.pem"} {
		if _, err := os.Stat(filepath.Join(exported, name)); err != nil {
			t.Errorf("the exported folder: %v", err)
		}
	}
}
