package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// openJournal opens a journal that is closed at the test's end.
func openJournal(tb testing.TB, dir string) *journal.Journal {
	tb.Helper()
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := j.Close(); err != nil {
			tb.Error(err)
		}
	})
	return j
}

// testOptions makes authorities quickly: EC keys.
func testOptions() Options {
	return Options{Name: "Puppet CA: puppet.example.test", KeyType: EC256}
}

// A bench is an authority with its folders, which can be closed and opened again.
type bench struct {
	*Authority
	dir  string
	jdir string
	j    *journal.Journal
}

func newBench(tb testing.TB, o Options) *bench {
	tb.Helper()
	b := &bench{dir: tb.TempDir(), jdir: tb.TempDir()}
	b.j = openJournal(tb, b.jdir)
	b.open(tb, o)
	return b
}

func (b *bench) open(tb testing.TB, o Options) {
	tb.Helper()
	a, err := Open(tb.Context(), b.dir, b.j, o)
	if err != nil {
		tb.Fatal(err)
	}
	b.Authority = a
	tb.Cleanup(func() {
		if err := a.Close(); err != nil {
			tb.Error(err)
		}
	})
}

func (b *bench) reopen(tb testing.TB, o Options) {
	tb.Helper()
	if err := b.Close(); err != nil {
		tb.Fatal(err)
	}
	b.open(tb, o)
}

// A csrSpec is a request to be made.
type csrSpec struct {
	cn         string
	key        crypto.Signer // nil means a new EC key
	dns        []string
	ips        []net.IP
	extensions []pkix.Extension
}

func (s csrSpec) pem(tb testing.TB) []byte {
	tb.Helper()
	if s.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		s.key = key
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: s.cn}, DNSNames: s.dns, IPAddresses: s.ips, ExtraExtensions: s.extensions,
	}, s.key)
	if err != nil {
		tb.Fatal(err)
	}
	return requestPEM(der)
}

func textExtension(tb testing.TB, oid asn1.ObjectIdentifier, value string) pkix.Extension {
	tb.Helper()
	der, err := asn1.MarshalWithParams(value, "utf8")
	if err != nil {
		tb.Fatal(err)
	}
	return pkix.Extension{Id: oid, Value: der}
}

func (b *bench) submit(tb testing.TB, cn string) {
	tb.Helper()
	if err := b.SubmitRequest(tb.Context(), cn, csrSpec{cn: cn}.pem(tb)); err != nil {
		tb.Fatalf("submit request of %s: %v", cn, err)
	}
}

func (b *bench) sign(tb testing.TB, cn string) *x509.Certificate {
	tb.Helper()
	b.submit(tb, cn)
	if err := b.Sign(tb.Context(), puppet.Certname(cn), 0); err != nil {
		tb.Fatalf("sign %s: %v", cn, err)
	}
	return b.certificate(tb, cn)
}

func (b *bench) certificate(tb testing.TB, cn string) *x509.Certificate {
	tb.Helper()
	text, err := b.Certificate(tb.Context(), cn)
	if err != nil {
		tb.Fatalf("get certificate of %s: %v", cn, err)
	}
	certs, err := parseCertificates(text)
	if err != nil || len(certs) != 1 {
		tb.Fatalf("certificate of %s: %d blocks, %v", cn, len(certs), err)
	}
	return certs[0]
}

func (b *bench) states(tb testing.TB) map[string]string {
	tb.Helper()
	all, err := b.Statuses(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	states := map[string]string{}
	for _, s := range all {
		states[s.Name+" "+s.State] = s.Fingerprints.Default
	}
	return states
}

func wantFault(tb testing.TB, err error, kind fault.Kind, msg string) {
	tb.Helper()
	if fault.KindOf(err) != kind || fault.Message(err) != msg {
		tb.Errorf("error is kind %d, %q (%v)\nwant kind %d, %q", fault.KindOf(err), fault.Message(err), err, kind, msg)
	}
}

// listed returns the serials of the issuer's published list.
func (b *bench) listed(tb testing.TB) []string {
	tb.Helper()
	block, _ := pem.Decode(b.CRLs())
	l, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	if err := l.CheckSignatureFrom(b.Issuer()); err != nil {
		tb.Fatal(err)
	}
	var all []string
	for _, e := range l.RevokedCertificateEntries {
		all = append(all, serialText(e.SerialNumber))
	}
	return all
}

func TestARequestIsSignedRevokedAndCleaned(t *testing.T) {
	b := newBench(t, testOptions())
	ctx := t.Context()
	b.submit(t, "web1.example.test")
	wantFault(t, b.SubmitRequest(ctx, "web1.example.test", csrSpec{cn: "web1.example.test"}.pem(t)), fault.Invalid,
		"web1.example.test already has a requested certificate; ignoring certificate request")
	wantFault(t, b.Revoke(ctx, "web1.example.test"), fault.Conflict, "Cannot revoke certificate for host web1.example.test without a signed certificate")

	if err := b.Sign(ctx, "web1.example.test", 0); err != nil {
		t.Fatal(err)
	}
	cert := b.certificate(t, "web1.example.test")
	if _, err := cert.Verify(x509.VerifyOptions{Roots: b.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the certificate does not verify: %v", err)
	}
	if n := cert.SerialNumber.BitLen(); n < 64 || n > 128 {
		t.Errorf("serial has %d bits, want a random one of at most 128", n)
	}
	wantFault(t, b.Sign(ctx, "web1.example.test", 0), fault.Conflict, "Cannot sign certificate for host web1.example.test without a certificate request")
	wantFault(t, b.SubmitRequest(ctx, "web1.example.test", csrSpec{cn: "web1.example.test"}.pem(t)), fault.Invalid,
		"web1.example.test already has a signed certificate; ignoring certificate request")

	if b.Revoked(cert) {
		t.Error("the certificate is revoked before anybody revoked it")
	}
	for range 2 {
		if err := b.Revoke(ctx, "web1.example.test"); err != nil {
			t.Fatal(err)
		}
		if !b.Revoked(cert) {
			t.Error("the certificate is not revoked after Revoke")
		}
	}
	if got, want := b.listed(t), []string{serialText(cert.SerialNumber)}; !slices.Equal(got, want) {
		t.Errorf("revocation list has %v, want %v", got, want)
	}
	wantFault(t, b.SubmitRequest(ctx, "web1.example.test", csrSpec{cn: "web1.example.test"}.pem(t)), fault.Invalid,
		"web1.example.test already has a revoked certificate; ignoring certificate request")

	missing, err := b.Clean(ctx, "web1.example.test", "nobody.example.test")
	if err != nil || !slices.Equal(missing, []puppet.Certname{"nobody.example.test"}) {
		t.Errorf("Clean = %v, %v; want nobody.example.test missing", missing, err)
	}
	wantFault(t, b.Revoke(ctx, "web1.example.test"), fault.NotFound, "Invalid certificate subject.")
	wantFault(t, b.Sign(ctx, "web1.example.test", 0), fault.NotFound, "Invalid certificate subject.")
	wantFault(t, b.Delete(ctx, "web1.example.test"), fault.NotFound, "Resource not found.")
	if !b.Revoked(cert) {
		t.Error("the certificate is no longer revoked after Clean")
	}
	b.submit(t, "web1.example.test") // the name is free again
}

func TestTheSameRequestMayComeAgainAfterItsDeletion(t *testing.T) {
	b := newBench(t, testOptions())
	csr := csrSpec{cn: "web1.example.test"}.pem(t)
	for range 3 {
		if err := b.SubmitRequest(t.Context(), "web1.example.test", csr); err != nil {
			t.Fatal(err)
		}
		got, err := b.Request(t.Context(), "web1.example.test")
		if err != nil || !slices.Equal(got, csr) {
			t.Fatalf("Request = %q, %v; want the request", got, err)
		}
		if err := b.DeleteRequest(t.Context(), "web1.example.test"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Request(t.Context(), "web1.example.test")
	wantFault(t, err, fault.NotFound, "Could not find certificate_request web1.example.test")
}

func TestConcurrentSigningsOfOneNameGiveOneCertificate(t *testing.T) {
	b := newBench(t, testOptions())
	b.submit(t, "web1.example.test")
	var signed, refused int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			err := b.Sign(t.Context(), "web1.example.test", 0)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				signed++
			case fault.KindOf(err) == fault.Conflict:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if signed != 1 || refused != 15 {
		t.Errorf("%d signings succeeded and %d were refused, want 1 and 15", signed, refused)
	}
	var certs int
	if err := b.db.read.QueryRowContext(t.Context(), "SELECT count(*) FROM cert").Scan(&certs); err != nil || certs != 1 {
		t.Errorf("%d certificates, %v; want 1", certs, err)
	}
}

func TestConcurrentRequestsOfManyNamesAreAllSigned(t *testing.T) {
	o := testOptions()
	o.Policy.Autosign.All = true
	b := newBench(t, o)
	var wg sync.WaitGroup
	for i := range 50 {
		name := "web" + string(rune('a'+i%25)) + string(rune('a'+i/25)) + ".example.test"
		wg.Go(func() {
			if err := b.SubmitRequest(t.Context(), name, csrSpec{cn: name}.pem(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := b.Statuses(t.Context(), StateSigned)
	if err != nil || len(all) != 50 {
		t.Errorf("%d signed certificates, %v; want 50", len(all), err)
	}
}

func TestStateSurvivesARestartAndALostProjection(t *testing.T) {
	o := testOptions()
	b := newBench(t, o)
	kept := b.sign(t, "kept.example.test")
	gone := b.sign(t, "gone.example.test")
	b.submit(t, "waiting.example.test")
	if err := b.Revoke(t.Context(), "gone.example.test"); err != nil {
		t.Fatal(err)
	}
	states, bundle, lists := b.states(t), b.Bundle(), b.listed(t)

	check := func(what string) {
		t.Helper()
		if diff := cmp.Diff(states, b.states(t)); diff != "" {
			t.Errorf("%s: states differ (-before +after):\n%s", what, diff)
		}
		if !slices.Equal(b.Bundle(), bundle) {
			t.Errorf("%s: the bundle's bytes changed", what)
		}
		if !slices.Equal(b.listed(t), lists) || !b.Revoked(gone) || b.Revoked(kept) {
			t.Errorf("%s: revocations changed", what)
		}
	}
	b.reopen(t, o)
	check("after a restart")

	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"ca.db", "ca.db-wal", "ca.db-shm"} {
		if err := os.RemoveAll(filepath.Join(b.dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	b.open(t, o)
	check("after the projection was lost")

	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "ca.db"), []byte("this is no database at all, but it is long enough to be one"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.open(t, o)
	check("after the projection was damaged")
	b.sign(t, "new.example.test")
}

func TestAnotherHandOnTheJournalIsFollowed(t *testing.T) {
	b := newBench(t, testOptions())
	cert := b.sign(t, "web1.example.test")
	d, err := draft(kindRevoked, keyCA, revokedRecord{Revoked: []revocation{{Serial: serialText(cert.SerialNumber), At: time.Now(), Reason: reasonKey}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	if _, err := b.j.Append(ctx, d); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !b.Revoked(cert); {
		if time.Now().After(deadline) {
			t.Fatal("a revocation that another wrote to the journal is not seen")
		}
		<-time.After(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestALostJournalDoesNotEndInASecondAuthority(t *testing.T) {
	b := newBench(t, testOptions())
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), b.dir, openJournal(t, t.TempDir()), testOptions())
	if fault.KindOf(err) != fault.Conflict {
		t.Errorf("Open with an empty journal beside a sealed key: %v, want a refusal", err)
	}
}

func TestUnknownKindsOfAuthoritiesAreRefused(t *testing.T) {
	for _, o := range []Options{{KeyType: "dsa"}, {KeyType: EC256, Hierarchy: "flat"}, {KeyType: EC256, Policy: Policy{TTL: 60 * year}}} {
		if a, err := Open(t.Context(), t.TempDir(), openJournal(t, t.TempDir()), o); err == nil {
			t.Errorf("Open with %+v succeeded", o)
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestTheKeyIsSealed(t *testing.T) {
	b := newBench(t, testOptions())
	sealed, err := b.vault.Sealed()
	if err != nil || len(sealed) != 2 {
		t.Fatalf("sealed keys: %v, %v; want those of root and issuer", sealed, err)
	}
	for _, path := range append(sealed, filepath.Join(b.dir, "seal.key")) {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", path, info.Mode(), err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "seal.key"), []byte("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), b.dir, b.j, testOptions()); err == nil {
		t.Error("Open with another sealing key succeeded")
	}
	if err := os.Remove(filepath.Join(b.dir, "seal.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), b.dir, b.j, testOptions()); err == nil {
		t.Error("Open made a new sealing key beside sealed keys")
	}
}

func TestTheSealingKeyMayComeFromSystemd(t *testing.T) {
	credentials := t.TempDir()
	writeText(t, filepath.Join(credentials, "troupe-seal"), 0o400, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	b := newBench(t, testOptions())
	if _, err := os.Stat(filepath.Join(b.dir, "seal.key")); err == nil {
		t.Error("a sealing key was made beside systemd's")
	}
	b.reopen(t, testOptions())
	b.sign(t, "web1.example.test")
}

func TestARootIsNotTrustedForClients(t *testing.T) {
	o := testOptions()
	o.Hierarchy = Intermediate
	b := newBench(t, o)
	root := b.trust.Load().force.ancestors()[0]
	key, err := b.key(root.SubjectKeyId)
	if err != nil {
		t.Fatal(err)
	}
	c := &creation{now: time.Now(), lifetime: year, origin: "x"}
	der, err := c.certify("web1.example.test", key.Public(), root.Subject.CommonName, key)
	if err != nil {
		t.Fatal(err)
	}
	sibling, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sibling.Verify(x509.VerifyOptions{Roots: b.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("what the root issued beside the issuer is accepted as a client")
	}
}

func TestStatusesHavePuppetserversKeysAndOrder(t *testing.T) {
	o := testOptions()
	o.Policy.AllowAuthorizationExtensions, o.Policy.AllowSubjectAltNames = true, true
	b := newBench(t, o)
	csr := csrSpec{cn: "web1.example.test", dns: []string{"b.example.test", "web1.example.test"}, ips: []net.IP{net.IPv4(10, 0, 0, 1).To4()}, extensions: []pkix.Extension{
		textExtension(t, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 1}, "a<b"),
		textExtension(t, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 77}, "x"),
	}}
	if err := b.SubmitRequest(t.Context(), "web1.example.test", csr.pem(t)); err != nil {
		t.Fatal(err)
	}
	keys := func() []string {
		s, err := b.Status(t.Context(), "web1.example.test")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return objectKeys(t, raw)
	}
	want := []string{"name", "state", "dns_alt_names", "subject_alt_names", "authorization_extensions", "fingerprint", "fingerprints"}
	if diff := cmp.Diff(want, keys()); diff != "" {
		t.Errorf("keys of a request (-want +got):\n%s", diff)
	}
	if err := b.Sign(t.Context(), "web1.example.test", 0); err != nil {
		t.Fatal(err)
	}
	want = []string{"name", "dns_alt_names", "state", "authorization_extensions", "subject_alt_names", "not_before", "fingerprints", "not_after", "serial_number", "fingerprint"}
	if diff := cmp.Diff(want, keys()); diff != "" {
		t.Errorf("keys of a certificate (-want +got):\n%s", diff)
	}
	s, err := b.Status(t.Context(), "web1.example.test")
	if err != nil {
		t.Fatal(err)
	}
	cert := b.certificate(t, "web1.example.test")
	got := Status{Name: s.Name, State: s.State, DNSAltNames: s.DNSAltNames, AltNames: s.AltNames, Extensions: s.Extensions, Certificate: s.Certificate, NotBefore: s.NotBefore, NotAfter: s.NotAfter}
	wantStatus := Status{
		Name: "web1.example.test", State: StateSigned, Certificate: true, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
		DNSAltNames: []string{"DNS:b.example.test", "DNS:web1.example.test"},
		AltNames:    []string{"IP:10.0.0.1", "DNS:b.example.test", "DNS:web1.example.test"},
		Extensions:  []AuthorizationExtension{{"1.3.6.1.4.1.34380.1.3.77", "x"}, {"pp_authorization", "a<b"}},
	}
	if diff := cmp.Diff(wantStatus, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func objectKeys(tb testing.TB, raw []byte) []string {
	tb.Helper()
	var keys []string
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		tb.Fatal(err)
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			tb.Fatal(err)
		}
		keys = append(keys, k.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			tb.Fatal(err)
		}
	}
	return keys
}
