//go:build bench

package bench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// This file measures an authority with 100,000 certificates, as clients of its API see it.

const enough = time.Second // for each operation

// bigSite is the folder of a Puppet Server that has signed many certificates, and the member that goes on with it.
type bigSite struct {
	certificates, revoked int

	dir, data string
	cert      *x509.Certificate
	key       *rsa.PrivateKey
	leaf      *ecdsa.PrivateKey // of all certificates
	admin     tls.Certificate
	member    *troupetest.Server
	client    *http.Client
	rows      strings.Builder
}

func TestHundredThousandCertificates(t *testing.T) {
	prefer(t)
	s := &bigSite{certificates: 100_000, revoked: 10_000, dir: filepath.Join(troupetest.TempDir(t), "ca"), data: filepath.Join(troupetest.TempDir(t), "data")}
	if testing.Short() {
		s.certificates, s.revoked = 2000, 200
	}
	began := time.Now()
	s.writeFolder(t)
	t.Logf("the folder was written in %v", time.Since(began).Round(time.Second))
	imported := took(func() {
		run(t, troupetest.Binary(t), "ca", "import", "--cadir", s.dir, "--data", s.data, "--confdir", "none")
	})
	s.member = troupetest.StartServer(t, troupetest.ServerOptions{Data: s.data})
	s.client = s.member.Client(s.admin)

	s.lists(t)
	s.changes(t)
	s.starts(t)
	record(t, "certificate authority", fmt.Sprintf("%s\n%d certificates, %d of them revoked, of one folder in the form of Puppet Server (RSA 2048), which `troupe ca import` took over in %v. "+
		"Each figure is one request over mutual TLS on a kept connection, by one client: the median, in parentheses the lowest and the highest. CPU is that of the member.\n\n"+
		"| what | ms | CPU ms each | n | target: < %v |\n|---|---|---|---|---|\n%s",
		conditions(t), s.certificates, s.revoked, imported.Round(time.Millisecond), enough, s.rows.String()))
}

// lists asks for many names at once.
func (s *bigSite) lists(t *testing.T) {
	t.Helper()
	for _, each := range []struct {
		what, query string
		names       int
	}{
		{"list of all", "", s.certificates},
		{"list of signed", "?state=signed", s.certificates - s.revoked},
		{"list of revoked", "?state=revoked", s.revoked},
		{"list of requested", "?state=requested", 0},
	} {
		s.repeat(t, each.what, 5, func(int) { s.list(t, each.query, each.names) })
	}
}

// changes lets names come and go.
func (s *bigSite) changes(t *testing.T) {
	t.Helper()
	const n = 30
	requests := make([][]byte, n)
	for i := range requests {
		requests[i] = s.request(t, newName(i))
	}
	state := func(name, state string) {
		s.ask(t, "PUT", "certificate_status/"+name, "application/json", fmt.Appendf(nil, `{"desired_state":%q}`, state))
	}
	s.repeat(t, "request", n, func(i int) { s.ask(t, "PUT", "certificate_request/"+newName(i), "text/plain", requests[i]) })
	s.repeat(t, "status of one", n, func(i int) { s.ask(t, "GET", "certificate_status/"+oldName(i), "", nil) })
	s.repeat(t, "sign", n, func(i int) { state(newName(i), "signed") })
	s.repeat(t, "revoke", n, func(i int) { state(oldName(s.revoked+i), "revoked") })
	s.repeat(t, "revoke, and the whole CRL with it", n, func(i int) {
		state(oldName(s.revoked+n+i), "revoked")
		s.crl(t, s.revoked+n+i+1)
	})
	s.repeat(t, "CRL again", n, func(int) { s.crl(t, s.revoked+2*n) })
	s.repeat(t, "clean", n, func(i int) {
		s.ask(t, "PUT", "clean", "application/json", fmt.Appendf(nil, `{"certnames":[%q]}`, oldName(2*s.revoked+i)))
	})
}

// starts ends the member, and waits until it serves the list again.
func (s *bigSite) starts(t *testing.T) {
	t.Helper()
	const n = 5
	var all []time.Duration
	var used time.Duration
	for range n {
		s.member.Stop()
		all = append(all, took(func() {
			s.member.Start()
			s.crl(t, s.revoked)
		}))
		used += cpu(t, s.data)
	}
	s.row(t, "start until the first CRL", used/n, all)
}

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func (s *bigSite) repeat(t *testing.T, what string, n int, f func(n int)) {
	t.Helper()
	var all []time.Duration
	before := cpu(t, s.data)
	for i := range n {
		all = append(all, took(func() { f(i) }))
	}
	s.row(t, what, (cpu(t, s.data)-before)/time.Duration(n), all)
}

// row tells how long an operation took, and that this is short enough.
func (s *bigSite) row(t *testing.T, what string, cpu time.Duration, all []time.Duration) {
	t.Helper()
	slices.Sort(all)
	median := all[len(all)/2]
	fmt.Fprintf(&s.rows, "| %s | %.1f (%.1f–%.1f) | %.1f | %d | %s |\n", what, ms(median), ms(all[0]), ms(all[len(all)-1]), ms(cpu), len(all), verdict(median < enough))
	if median >= enough {
		t.Errorf("%s takes %v, want less than %v", what, median, enough)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func oldName(n int) string { return fmt.Sprintf("node%06d.example.test", n) }
func newName(n int) string { return fmt.Sprintf("new%06d.example.test", n) }

func (s *bigSite) ask(t *testing.T, method, path, kind string, body []byte) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.member.URL("/puppet-ca/v1/"+path), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return answer
}

func (s *bigSite) list(t *testing.T, query string, least int) {
	t.Helper()
	answer := s.ask(t, "GET", "certificate_statuses/any_key"+query, "", nil)
	if got := bytes.Count(answer, []byte(`"state":`)); got < least || least == 0 && got > 0 {
		t.Fatalf("%d names, want %d", got, least)
	}
}

func (s *bigSite) crl(t *testing.T, least int) {
	t.Helper()
	block, _ := pem.Decode(s.ask(t, "GET", "certificate_revocation_list/ca", "", nil))
	if block == nil || len(block.Bytes) < 20*least {
		t.Fatal("the revocation list is too short")
	}
}

func (s *bigSite) request(t *testing.T, name string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, s.leaf)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// writeFolder lays a folder out as puppetserver does. All certificates have one key: making 100,000 would measure nothing.
func (s *bigSite) writeFolder(t *testing.T) {
	t.Helper()
	var err error
	if s.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if s.leaf, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Puppet CA: " + troupeName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(5, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"signed", "requests"} {
		run(t, "mkdir", "-p", filepath.Join(s.dir, dir))
	}
	s.writeCertificates(t)

	var revoked []x509.RevocationListEntry
	var inventory strings.Builder
	const stamp = "2006-01-02T15:04:05UTC"
	for n := range s.certificates {
		if n < s.revoked {
			revoked = append(revoked, x509.RevocationListEntry{SerialNumber: serialOf(n), RevocationTime: now, ReasonCode: 1})
		}
		fmt.Fprintf(&inventory, "0x%04X %s %s /CN=%s\n", serialOf(n), template.NotBefore.UTC().Format(stamp), template.NotAfter.UTC().Format(stamp), oldName(n))
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(int64(s.revoked)), ThisUpdate: now.AddDate(0, 0, -1), NextUpdate: now.AddDate(5, 0, 0), RevokedCertificateEntries: revoked,
	}, s.cert, s.key)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "ca_crt.pem", "CERTIFICATE", s.cert.Raw)
	s.write(t, "ca_key.pem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(s.key))
	s.write(t, "ca_crl.pem", "X509 CRL", crl)
	for name, text := range map[string]string{"inventory.txt": inventory.String(), "serial": fmt.Sprintf("%04X", serialOf(s.certificates+1))} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const troupeName = "puppet.example.test"

// serialOf has three bytes for every n.
func serialOf(n int) *big.Int { return big.NewInt(int64(1<<20 + n)) }

func (s *bigSite) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Error(err)
	}
}

// writeCertificates writes the certificates of all names. One is signed; the others are that one with another name and
// serial number of the same length. Their signatures are wrong, and nobody looks at them: an authority knows its own.
func (s *bigSite) writeCertificates(t *testing.T) {
	t.Helper()
	value, err := asn1.MarshalWithParams("true", "utf8")
	if err != nil {
		t.Fatal(err)
	}
	cli := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 39}, Value: value}}
	s.admin = tls.Certificate{Certificate: [][]byte{s.sign(t, "admin.example.test", serialOf(s.certificates), cli)}, PrivateKey: s.leaf}

	model := s.sign(t, oldName(0), serialOf(0), nil)
	number := func(n int) []byte { return append([]byte{asn1.TagInteger, 3}, serialOf(n).Bytes()...) }
	for n := range s.certificates {
		der := bytes.ReplaceAll(model, []byte(oldName(0)), []byte(oldName(n)))
		s.write(t, filepath.Join("signed", oldName(n)+".pem"), "CERTIFICATE", bytes.Replace(der, number(0), number(n), 1))
	}
}

func (s *bigSite) sign(t *testing.T, name string, serial *big.Int, extra []pkix.Extension) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, ExtraExtensions: extra,
		NotBefore: s.cert.NotBefore, NotAfter: s.cert.NotAfter, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, s.cert, s.leaf.Public(), s.key)
	if err != nil {
		t.Error(err)
	}
	return der
}
