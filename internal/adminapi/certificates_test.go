package adminapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/adminapi"
	"troupe/internal/ca"
	"troupe/internal/fault"
)

// This file takes certificates through their life, by the operator's client.

// request submits a request for a name, as an agent does.
func (p *parts) request(t *testing.T, name string, extensions ...pkix.Extension) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, ExtraExtensions: extensions}, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.authority.SubmitRequest(t.Context(), name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})); err != nil {
		t.Fatal(err)
	}
}

// extension is one of Puppet's, below the arc for free use.
func extension(t *testing.T, last int, value string) pkix.Extension {
	t.Helper()
	der, err := asn1.MarshalWithParams(value, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 2, last}, Value: der}
}

// states returns the state of each name in the list.
func (p *parts) states(t *testing.T, state string) map[string]string {
	t.Helper()
	list, err := p.client.Certificates(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, c := range list {
		out[c.Name] = c.State
	}
	return out
}

const missing = "there is no such request or certificate (see: troupe ca list --all)"

func TestTheLifeOfACertificate(t *testing.T) {
	p := serve(t)
	for _, name := range []string{"a.example.test", "b.example.test", "c.example.test"} {
		p.request(t, name)
	}
	is := func(state string, want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, p.states(t, state)); diff != "" {
			t.Fatalf("certificates in state %q (-want +got):\n%s", state, diff)
		}
	}
	result := func(got adminapi.CertificateResult, err error, done []string, problems map[string]string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got.Done)
		if diff := cmp.Diff(adminapi.CertificateResult{Done: done, Errors: problems}, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
	is("requested", map[string]string{"a.example.test": "requested", "b.example.test": "requested", "c.example.test": "requested"})

	got, err := p.client.Sign(t.Context(), adminapi.CertificateRequest{Certnames: []string{"a.example.test", "nobody.example.test"}, TTL: time.Hour})
	result(got, err, []string{"a.example.test"}, map[string]string{"nobody.example.test": missing})
	list, err := p.client.Certificates(t.Context(), "signed")
	if err != nil || len(list) != 1 {
		t.Fatalf("%d signed (%v), want one", len(list), err)
	}
	if c := list[0]; c.SerialNumber == "" || c.Fingerprint == "" || c.Fingerprint != c.Fingerprints.SHA256 || time.Until(c.NotAfter) > time.Hour || time.Until(c.NotAfter) < 30*time.Minute {
		t.Errorf("signed: %+v, want a serial, a fingerprint and an hour to live", c)
	}

	got, err = p.client.Sign(t.Context(), adminapi.CertificateRequest{All: true})
	result(got, err, []string{"b.example.test", "c.example.test"}, map[string]string{})
	got, err = p.client.Sign(t.Context(), adminapi.CertificateRequest{All: true})
	result(got, err, []string{}, map[string]string{})

	got, err = p.client.Revoke(t.Context(), adminapi.CertificateRequest{Certnames: []string{"a.example.test", "nobody.example.test"}})
	result(got, err, []string{"a.example.test"}, map[string]string{"nobody.example.test": missing})
	got, err = p.client.Clean(t.Context(), adminapi.CertificateRequest{Certnames: []string{"b.example.test", "nobody.example.test"}})
	result(got, err, []string{"b.example.test"}, map[string]string{"nobody.example.test": missing})
	is("", map[string]string{"a.example.test": "revoked", "c.example.test": "signed"})

	got, err = p.client.Sign(t.Context(), adminapi.CertificateRequest{Certnames: []string{"../x", ""}})
	if err != nil || len(got.Done) != 0 || len(got.Errors) != 2 {
		t.Errorf("names that are none: %+v (%v), want an error for each", got, err)
	}
	p.request(t, "d.example.test")
	got, err = p.client.Sign(t.Context(), adminapi.CertificateRequest{Certnames: []string{"d.example.test"}, TTL: -time.Hour})
	if err != nil || got.Errors["d.example.test"] == "" {
		t.Errorf("with a life that ended before it began: %+v (%v), want a refusal", got, err)
	}
}

func TestGenerateAndRenew(t *testing.T) {
	p := serve(t)
	made, err := p.client.Generate(t.Context(), adminapi.GenerateRequest{Certname: "cli.example.test", AltNames: []string{"alias.example.test"}, TTL: time.Hour, CAClient: true})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(made.Certificate), []byte(made.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(made.Bundle)) || !strings.Contains(made.CRLs, "BEGIN X509 CRL") {
		t.Fatal("the answer lacks the CA's bundle or its revocation lists")
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "alias.example.test", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}

	renewed, err := p.client.Renew(t.Context(), "cli.example.test")
	if err != nil {
		t.Fatal(err)
	}
	again, err := tls.X509KeyPair([]byte(renewed.Certificate), []byte(made.PrivateKey))
	if err != nil {
		t.Fatalf("the renewed certificate is not for the same key: %v", err)
	}
	if again.Leaf.SerialNumber.Cmp(pair.Leaf.SerialNumber) == 0 || renewed.PrivateKey != "" {
		t.Error("renew gave the old certificate, or a key")
	}

	for name, err := range map[string]error{
		"generate for a name that is taken": errOf(p.client.Generate(t.Context(), adminapi.GenerateRequest{Certname: "cli.example.test"})),
		"generate for no name":              errOf(p.client.Generate(t.Context(), adminapi.GenerateRequest{Certname: "Not A Name"})),
		"renew for a stranger":              errOf(p.client.Renew(t.Context(), "nobody.example.test")),
		"renew for no name":                 errOf(p.client.Renew(t.Context(), "")),
	} {
		if err == nil || fault.KindOf(err) == fault.Internal {
			t.Errorf("%s: %v, want a fault of the caller", name, err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestExpirations(t *testing.T) {
	got, err := serve(t).client.Expirations(t.Context())
	if err != nil || len(got.CACerts) == 0 || len(got.CRLs) == 0 {
		t.Errorf("%+v (%v), want dates of certificates and lists", got, err)
	}
}

func TestExport(t *testing.T) {
	p := serveCA(t, ca.RSA2048) // the only kind of key with which a puppetserver signs
	folder := filepath.Join(t.TempDir(), "ca")
	if err := p.client.Export(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca_key.pem", "ca_crt.pem", "ca_crl.pem", "inventory.txt", "serial"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
	if err := p.client.Export(t.Context(), folder); err == nil {
		t.Error("export into a folder that is not empty was accepted")
	}
	if err := serve(t).client.Export(t.Context(), filepath.Join(t.TempDir(), "ca")); fault.KindOf(err) == fault.Internal || !strings.Contains(err.Error(), "RSA") {
		t.Errorf("export of a key that a puppetserver cannot use: %v, want a refusal", err)
	}
}
