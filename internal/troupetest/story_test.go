package troupetest

// This file has what the stories share.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

// site is the folder of environments that most stories serve.
const site = "testdata/environments"

func (r Result) want(t *testing.T, exit int, what string) {
	t.Helper()
	if r.Exit != exit {
		t.Fatalf("%s: exit %d, want %d\n%s", what, r.Exit, exit, r.Output)
	}
}

func (r Result) wantText(t *testing.T, text string) {
	t.Helper()
	if !strings.Contains(r.Output, text) {
		t.Errorf("the agent did not say %q:\n%s", text, r.Output)
	}
}

func wantFile(t *testing.T, path, content string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if !bytes.Equal(got, []byte(content)) {
		t.Errorf("%s is %.200q, want %.200q", path, got, content)
	}
}

// enrolled returns an agent whose first run has succeeded on a server that signs everything.
func enrolled(t *testing.T, s *Server, g Generation, certname string) *Agent {
	t.Helper()
	a := NewAgent(t, g, certname, s.Addr)
	if r := a.Run(); r.Exit != 0 && r.Exit != 2 {
		t.Fatalf("first run of %s: exit %d\n%s", certname, r.Exit, r.Output)
	}
	return a
}

// csr makes a certificate request for a name.
func csr(t *testing.T, certname string, dnsNames ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: certname}, DNSNames: dnsNames}, key)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
