package authz

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file tests the guard with requests as a handler sees them.

// certificate makes a self-signed certificate with string extensions by OID.
func certificate(t *testing.T, name string, extensions map[string]string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	for oid, text := range extensions {
		id, err := x509.ParseOID(oid)
		if err != nil {
			t.Fatal(err)
		}
		value, err := asn1.MarshalWithParams(text, "utf8")
		if err != nil {
			t.Fatal(err)
		}
		var dotted asn1.ObjectIdentifier
		for part := range strings.SplitSeq(id.String(), ".") {
			n, ok := new(big.Int).SetString(part, 10)
			if !ok {
				t.Fatal(part)
			}
			dotted = append(dotted, int(n.Int64()))
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: dotted, Value: value})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func request(method, path string, cert *x509.Certificate) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.TLS = &tls.ConnectionState{}
	if cert != nil {
		r.TLS.PeerCertificates = []*x509.Certificate{cert}
		r.TLS.VerifiedChains = [][]*x509.Certificate{{cert}}
	}
	return r
}

func TestARefusalHasPuppetserversBodyAndItsCauseForTheLog(t *testing.T) {
	g := NewGuard(GuardOptions{})
	_, err := g.Admit(request("GET", "/metrics/v2/list", certificate(t, "agent1.example.com", nil)))
	if got, want := fault.Message(err), "Forbidden request: /metrics/v2/list (method :get). Please see the server logs for details."; got != want {
		t.Errorf("body %q, want %q", got, want)
	}
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "agent1.example.com(192.0.2.1:1234) (authenticated: true) denied by rule 'puppetlabs deny all'") {
		t.Errorf("kind %v, error %q", fault.KindOf(err), err)
	}
}

func TestOnlyAVerifiedCertificateGivesAnIdentity(t *testing.T) {
	cert := certificate(t, "agent1.example.com", map[string]string{"1.3.6.1.4.1.34380.1.1.13": "web", "1.3.6.1.4.1.34380.1.2.9": "own", "1.2.3.4": "else"})
	g := NewGuard(GuardOptions{CustomOIDs: map[string]string{"1.3.6.1.4.1.34380.1.2.9": "our_key"}})
	const path = "/puppet/v3/node/agent1.example.com"
	id, err := g.Admit(request("GET", path, cert))
	if err != nil {
		t.Fatal(err)
	}
	want := puppet.Trusted{
		Authenticated: "remote", Certname: "agent1.example.com", Hostname: "agent1", Domain: "example.com",
		Extensions: map[string]string{"pp_role": "web", "our_key": "own"},
	}
	if diff := cmp.Diff(want, id.Trusted()); diff != "" {
		t.Errorf("$trusted (-want +got):\n%s", diff)
	}

	unverified := request("GET", path, cert)
	unverified.TLS.VerifiedChains = nil
	if _, err := g.Admit(unverified); fault.KindOf(err) != fault.Denied {
		t.Errorf("an unverified certificate was admitted: %v", err)
	}
	headers := request("GET", path, nil)
	headers.Header.Set("X-Client-Verify", "SUCCESS")
	headers.Header.Set("X-Client-DN", "CN=agent1.example.com")
	if _, err := g.Admit(headers); fault.KindOf(err) != fault.Denied {
		t.Errorf("headers were believed without allow-header-cert-info: %v", err)
	}
}

func TestARevokedCertificateIsRefusedEverywhere(t *testing.T) {
	revoked := false
	g := NewGuard(GuardOptions{Revoked: func(*x509.Certificate) bool { return revoked }})
	r := request("GET", "/status/v1/simple", certificate(t, "agent1.example.com", nil))
	if _, err := g.Admit(r); err != nil {
		t.Fatal(err)
	}
	revoked = true
	if _, err := g.Admit(r); fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Message(err), "revoked") {
		t.Errorf("admitted, or refused without the reason: %v", err)
	}
}

func TestCustomShortNamesWorkInRules(t *testing.T) {
	rules, err := Parse("auth.conf", []byte(`authorization: { version: 1, rules: [
	  { name: short, sort-order: 1, match-request: { path: "/short", type: path }, allow: { extensions: { our_key: own } } }
	  { name: dotted, sort-order: 1, match-request: { path: "/dotted", type: path }, allow: { extensions: { "1.3.6.1.4.1.34380.1.2.9": own } } }
	  { name: foreign, sort-order: 1, match-request: { path: "/foreign", type: path }, allow: { extensions: { "1.2.3.4": else } } }
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(GuardOptions{Rules: rules, CustomOIDs: map[string]string{"1.3.6.1.4.1.34380.1.2.9": "our_key"}})
	cert := certificate(t, "a", map[string]string{"1.3.6.1.4.1.34380.1.2.9": "own", "1.2.3.4": "else"})
	for _, path := range []string{"/short", "/dotted", "/foreign"} {
		if _, err := g.Admit(request("GET", path, cert)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := g.Admit(request("GET", "/foreign", certificate(t, "a", nil))); err == nil {
		t.Error("admitted without the extension")
	}
}

func TestHeadersNameTheClientWhenAuthConfSaysSo(t *testing.T) {
	rules, err := Parse("auth.conf", []byte(`authorization: { version: 1, allow-header-cert-info: true, rules: [
	  { name: own, sort-order: 1, match-request: { path: "^/own/([^/]+)$", type: regex }, allow: "$1" }
	  { name: web, sort-order: 1, match-request: { path: "/web", type: path }, allow: { extensions: { pp_role: web } } }
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, "agent1.example.com", map[string]string{"1.3.6.1.4.1.34380.1.1.13": "web"})
	encoded := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	for _, c := range []struct {
		name, path, verify, dn, cert string
		want                         string
	}{
		{"RFC 2253", "/own/agent1.example.com", "SUCCESS", "CN=agent1.example.com,O=x", "", ""},
		{"OpenSSL's old form", "/own/agent1.example.com", "SUCCESS", "/O=x/CN=agent1.example.com", "", ""},
		{"upper case", "/own/agent1.example.com", "SUCCESS", "CN=AGENT1.example.com", "", ""},
		{"not verified", "/own/agent1.example.com", "NONE", "CN=agent1.example.com", "", "Forbidden request"},
		{"no verification", "/own/agent1.example.com", "", "CN=agent1.example.com", "", "Forbidden request"},
		{"no name", "/own/agent1.example.com", "SUCCESS", "O=agent1.example.com", "", "Forbidden request"},
		{"name inside another attribute", "/own/agent1.example.com", "SUCCESS", `O=x\,CN=agent1.example.com`, "", "Forbidden request"},
		{"quoted name inside another attribute", "/own/agent1.example.com", "SUCCESS", `O="x,CN=agent1.example.com"`, "", "Forbidden request"},
		{"escaped name", "/own/agent1.example.com", "SUCCESS", `CN=agent\31.example.com`, "", "Forbidden request"},
		{"extensions", "/web", "SUCCESS", "CN=agent1.example.com", encoded, ""},
		{"no certificate", "/web", "SUCCESS", "CN=agent1.example.com", "", "Forbidden request"},
		{"bad encoding", "/web", "SUCCESS", "CN=agent1.example.com", "%zz", "Unable to URL decode the x-client-cert header"},
		{"no PEM", "/web", "SUCCESS", "CN=agent1.example.com", "x", "No certs found in PEM read from x-client-cert"},
		{"two PEMs", "/web", "SUCCESS", "CN=agent1.example.com", encoded + encoded, "Only 1 PEM should be supplied for x-client-cert but 2 found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The certificate of the connection is the proxy's and names nobody.
			r := request("GET", c.path, certificate(t, "proxy.example.com", nil))
			for header, value := range map[string]string{"X-Client-Verify": c.verify, "X-Client-DN": c.dn, "X-Client-Cert": c.cert} {
				if value != "" {
					r.Header.Set(header, value)
				}
			}
			_, err := NewGuard(GuardOptions{Rules: rules}).Admit(r)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(fault.Message(err), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestIgnoredIdentityHeadersAreLogged(t *testing.T) {
	var log bytes.Buffer
	g := NewGuard(GuardOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	r := request("GET", "/status/v1/simple", nil)
	r.Header.Set("X-Client-DN", "CN=a")
	if _, err := g.Admit(r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "header=X-Client-DN") {
		t.Errorf("log: %s", &log)
	}
}

func TestPathsThatCouldMeanTwoThingsAreRefused(t *testing.T) {
	g := NewGuard(GuardOptions{})
	for _, path := range []string{"/status/v1/simple/../../../puppet", "/status/v1/./simple", "/status/%2e%2e/x", "/status/v1/simple%0a", "/status/v1/simple%E2%80%A8"} {
		if _, err := g.Admit(request("GET", path, nil)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestHandlersBehindNormalizeSeeTheJudgedPath(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"/puppet/v3/node/a", "/puppet/v3/node/a"},
		{"//puppet//v3/node/a", "/puppet/v3/node/a"},
		{"/puppet/v3/node/a;x=y", "/puppet/v3/node/a"},
		{"/puppet;x/v3/node/a%20b;y", "/puppet/v3/node/a b"},
		{"/puppet/v3/node/a%3Bx", "/puppet/v3/node/a;x"},
		{"/puppet/v3/node/a%2Fb", "/puppet/v3/node/a/b"},
		{"/puppet/..;x/v3", "400"},
		{"/puppet/../v3", "400"},
		{"/puppet/%2e%2e/v3", "400"},
	} {
		w := httptest.NewRecorder()
		h := Normalize(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) }))
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
		got := w.Body.String()
		if w.Code == http.StatusBadRequest {
			got = "400"
		}
		if got != c.want {
			t.Errorf("%s became %q, want %q", c.path, got, c.want)
		}
	}
}

func TestExtensionValuesAreDecodedFromEveryStringType(t *testing.T) {
	for _, c := range []struct {
		name string
		der  []byte
		want string
	}{
		{"UTF8String", []byte{0x0c, 3, 'w', 'e', 'b'}, "web"},
		{"PrintableString", []byte{0x13, 3, 'w', 'e', 'b'}, "web"},
		{"IA5String", []byte{0x16, 3, 'w', 'e', 'b'}, "web"},
		{"BMPString", []byte{0x1e, 4, 0, 'd', 0, 'b'}, "db"},
		{"bare bytes of Puppet 3", []byte("web"), "web"},
		{"empty", []byte{0x0c, 0}, ""},
	} {
		if got := extensionText(pkix.Extension{Value: c.der}); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReloadedRulesHoldForTheNextRequest(t *testing.T) {
	g := NewGuard(GuardOptions{})
	r := request("GET", "/new", nil)
	if _, err := g.Admit(r); err == nil {
		t.Fatal("admitted without a rule")
	}
	rules, err := Parse("auth.conf", []byte(`authorization: { version: 1, rules: [
	  { name: new, sort-order: 1, match-request: { path: "/new", type: path }, allow-unauthenticated: true } ] }`))
	if err != nil {
		t.Fatal(err)
	}
	g.Reload(rules, nil)
	if _, err := g.Admit(r); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(defaultConf)
	f.Fuzz(func(_ *testing.T, src []byte) {
		rules, err := Parse("fuzz", src)
		if err == nil {
			rules.Check(Request{Method: "GET", Path: "/puppet/v3/node/a"}, Identity{Certname: "a", Authenticated: true})
		}
	})
}

func FuzzTranslateJava(f *testing.F) {
	for _, p := range []string{`^/a/([^/]+)$`, `\p{Alpha}`, `[a\]b]+`, `(?i:a)`, `\Qa\E`, `\u0041`} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if p, err := compileJava(src); err == nil {
			if m := p.find("/a/b"); m != nil && !strings.HasPrefix("/a/b", p.prefix) {
				t.Errorf("%q matches although the text does not begin with %q", src, p.prefix)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	rules := Default()
	id := Identity{Certname: "agent1.example.com", Authenticated: true}
	for _, path := range []string{"/puppet/v3/catalog/agent1.example.com", "/puppet/v3/file_metadata/modules/a/b", "/puppet/v3/static_file_content/a", "/nowhere"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rules.Check(Request{Method: "GET", Path: path}, id)
			}
		})
	}
}

func BenchmarkAdmit(b *testing.B) {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "agent1.example.com"}}
	g := NewGuard(GuardOptions{})
	r := request("GET", "/puppet/v3/catalog/agent1.example.com?environment=production", cert)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Admit(r); err != nil {
			b.Fatal(err)
		}
	}
}
