package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/adminapi"
	"troupe/internal/troupetest"
)

// This file shows who gets through TLS, and as whom.

// handshake returns the state of one connection. A server of TLS 1.3 refuses a
// client after the client's handshake, so the connection is read once.
func (m *member) handshake(t *testing.T, c *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 20 * time.Second}, Config: c}
	conn, err := d.DialContext(t.Context(), "tcp", m.addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("HEAD /status/v1/simple HTTP/1.1\r\nHost: puppet\r\nConnection: close\r\n\r\n")); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.(*tls.Conn).ConnectionState(), nil
}

func names(t *testing.T, m *member) {
	state, err := m.handshake(t, m.tls(nil))
	if err != nil {
		t.Fatal(err)
	}
	cert := state.PeerCertificates[0]
	if cert.Subject.CommonName != "one.example.test" {
		t.Errorf("common name = %q, want the member's own", cert.Subject.CommonName)
	}
	for _, want := range []string{"puppet", "one.example.test", "alias.example.test"} {
		if !slices.Contains(cert.DNSNames, want) {
			t.Errorf("names %v lack %s", cert.DNSNames, want)
		}
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key = %T, want one of EC P-256", cert.PublicKey)
	}
}

func protocols(t *testing.T, m *member) {
	old := m.tls(nil)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := m.handshake(t, old); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := m.tls(nil)
		c.MinVersion, c.MaxVersion, c.NextProtos = version, version, []string{"h2", "http/1.1"}
		state, err := m.handshake(t, c)
		if err != nil {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if state.NegotiatedProtocol != "http/1.1" {
			t.Errorf("%s: negotiated %q, want http/1.1", tls.VersionName(version), state.NegotiatedProtocol)
		}
	}
}

func anonymous(t *testing.T, m *member) {
	c := m.client(t, nil)
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/puppet-ca/v1/certificate/ca":                 {200, "BEGIN CERTIFICATE"},
		"/puppet-ca/v1/certificate_revocation_list/ca": {200, "BEGIN X509 CRL"},
		"/status/v1/simple/server":                     {200, "running"},
		"/status/v1/simple":                            {200, "running"},
		"/metrics":                                     {403, "Forbidden request: /metrics (method :get)"},
		"/puppet/v3/node/first.example.test?environment=production":  {403, "Forbidden request: /puppet/v3/node/first.example.test (method :get)"},
		"/puppet-ca/v1/certificate_status/first.example.test":        {403, "Forbidden request"},
		"/puppet/v3/file_metadatas/plugins?environment=production":   {403, "Forbidden request"},
		"/puppet/v3/../../puppet-ca/v1/certificate_status/first.com": {400, ""},
	} {
		if code, body := get(t, c, path); code != want.code || !strings.Contains(body, want.text) {
			t.Errorf("%s: %d %.200s\nwant %d %s", path, code, body, want.code, want.text)
		}
	}
}

func agent(t *testing.T, m *member) {
	c := m.client(t, m.identity(t, "web1.example.test"))
	code, body, err := try(t.Context(), c, http.MethodPost, "/puppet/v3/catalog/web1.example.test?environment=production", catalogForm("web1.example.test"))
	if err != nil {
		t.Fatal(err)
	}
	if code != http.StatusOK || !strings.Contains(body, "hello web1.example.test") {
		t.Errorf("own catalog: %d %.300s, want 200 and the greeting", code, body)
	}
	if code, _ := get(t, c, "/puppet/v3/node/one.example.test?environment=production"); code != http.StatusForbidden {
		t.Errorf("another's node: %d, want 403", code)
	}
	if code, _ := get(t, c, "/puppet-ca/v1/certificate_statuses/all"); code != http.StatusForbidden {
		t.Errorf("the list of certificates: %d, want 403", code)
	}
	operator := m.client(t, keyPair(t, m.issue(t, adminapi.GenerateRequest{Certname: "cli.example.test", CAClient: true})))
	if code, body := get(t, operator, "/puppet-ca/v1/certificate_statuses/all"); code != http.StatusOK || !strings.Contains(body, "web1.example.test") {
		t.Errorf("the list, with pp_cli_auth: %d %.200s, want 200", code, body)
	}
}

// catalogForm is an agent's request for a catalog.
func catalogForm(certname string) *strings.Reader {
	facts := fmt.Sprintf(`{"name":%q,"values":{"os":{"family":"Debian"}},"timestamp":%q}`, certname, time.Now().Format(time.RFC3339))
	return strings.NewReader(url.Values{
		"environment": {"production"}, "facts_format": {"application/json"}, "facts": {url.QueryEscape(facts)}, "transaction_uuid": {"7c2b9d0e-3f51-4a8a-9c1e-2b60f7d0a001"},
	}.Encode())
}

func strangers(t *testing.T, m *member) {
	if _, err := m.handshake(t, m.tls(selfMade(t))); err == nil {
		t.Error("a certificate of another CA, with a name that ours has given, was accepted")
	}

	short := keyPair(t, m.issue(t, adminapi.GenerateRequest{Certname: "short.example.test", TTL: 3 * time.Second}))
	if _, err := m.handshake(t, m.tls(short)); err != nil {
		t.Errorf("while it is valid: %v", err)
	}
	// A client of its own for each: no session may carry it over the end.
	troupetest.Eventually(t, troupetest.Patience, "the expired certificate is refused", func() bool {
		_, err := m.handshake(t, m.tls(short))
		return err != nil
	})
}

// selfMade is a certificate that nobody has asked our CA for.
func selfMade(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "first.example.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func revoked(t *testing.T, m *member) {
	const path = "/puppet/v3/node/gone.example.test?environment=production"
	cert := m.identity(t, "gone.example.test")
	resumable := m.tls(cert)
	resumable.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	open := m.client(t, cert)
	if code, body := get(t, open, path); code != http.StatusOK {
		t.Fatalf("before: %d %.200s, want 200", code, body)
	}
	for _, want := range []bool{false, true} {
		state, err := m.handshake(t, resumable)
		if err != nil || state.DidResume != want {
			t.Fatalf("before: resumed %t (%v), want %t", state.DidResume, err, want)
		}
	}

	if _, err := m.admin.Revoke(t.Context(), adminapi.CertificateRequest{Certnames: []string{"gone.example.test"}}); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	reused := connectionReuse()
	for _, p := range []string{path, "/puppet-ca/v1/certificate/ca"} { // the second is open to all but to them
		code, body, err := try(reused.watch(t.Context()), open, http.MethodGet, p, nil)
		if err != nil || code != http.StatusForbidden || !strings.Contains(body, "was revoked") {
			t.Errorf("on the open connection, %s: %d %.200s (%v), want 403 that says so", p, code, body, err)
		}
	}
	if !reused.all() {
		t.Error("the connection was not kept open, so this showed nothing")
	}
	if _, err := m.handshake(t, m.tls(cert)); err == nil {
		t.Error("a new connection was accepted")
	}
	if _, err := m.handshake(t, resumable); err == nil {
		t.Error("a resumed session was accepted")
	}
	if took := time.Since(since); took > time.Second {
		t.Errorf("all that took %v after the revocation, want less than a second", took)
	}
}

// reuse notes whether requests came over a connection that was open before.
type reuse struct{ conns []bool }

func connectionReuse() *reuse { return &reuse{} }

func (r *reuse) all() bool { return len(r.conns) > 0 && !slices.Contains(r.conns, false) }

func (r *reuse) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { r.conns = append(r.conns, i.Reused) }})
}
