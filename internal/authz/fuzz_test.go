package authz

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file fuzzes who asks, and for what: the headers of a proxy, and paths.

func FuzzIdentityHeaders(f *testing.F) {
	text, err := os.ReadFile("../ca/testdata/puppetserver/leaf.pem")
	if err != nil {
		f.Fatal(err)
	}
	leaf := url.PathEscape(string(text))
	for _, dn := range []string{"CN=agent1.example.com,O=x", "/O=x/CN=agent1.example.com", `CN="a,b"`, `CN=a\,CN=b`, "O=x+CN=a;CN=b"} {
		f.Add("SUCCESS", dn, leaf)
	}
	f.Add("FAILED", "CN=a", "-----BEGIN%20CERTIFICATE-----%0A")
	rules, err := Parse("auth.conf", []byte(strings.Replace(string(defaultConf), "version: 1", "version: 1, allow-header-cert-info: true", 1)))
	if err != nil {
		f.Fatal(err)
	}
	g := NewGuard(GuardOptions{Rules: rules})
	f.Fuzz(func(t *testing.T, verify, dn, cert string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/puppet/v3/node/agent1.example.com", http.NoBody)
		r.Header = http.Header{http.CanonicalHeaderKey(headerVerify): {verify}, http.CanonicalHeaderKey(headerDN): {dn}, http.CanonicalHeaderKey(headerCert): {cert}}
		id, err := g.identifyByHeaders(r, nil)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid || len(fault.Message(err)) > 1<<10 {
				t.Errorf("refused with %.2000v", err)
			}
			return
		}
		if id.Authenticated && (verify != "SUCCESS" || !strings.Contains(strings.ToLower(dn), string(id.Certname))) {
			t.Errorf("%q and %q made %q", verify, dn, id.Certname)
		}
		if id.Certname != "" {
			if _, err := puppet.ParseCertname(string(id.Certname)); err != nil {
				t.Errorf("%q is no certname: %v", id.Certname, err)
			}
		}
		if id.Certificate != nil && pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Certificate.Raw}) == nil {
			t.Error("a certificate without content")
		}
	})
}

// What comes out of normalization is what is judged: it has no relative part, no double slash and no control
// character, and normalizing it again changes nothing.
func FuzzNormalPath(f *testing.F) {
	for _, p := range []string{"/puppet/v3/node/a", "//puppet//v3", "/a;b=c/d;e", "/a/%2e%2e/b", "/a%3bb/c", "/a/%00", "/a%2fb", `/a\..\b`, "/é\u2028"} {
		f.Add(p)
	}
	rules := Default()
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		path, err := normalPath(u)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		if checkPath(path) != nil || strings.Contains(path, "//") {
			t.Errorf("%q became %q", raw, path)
		}
		again, err := normalPath(&url.URL{Path: path})
		if err == nil && !strings.Contains(path, ";") && again != path {
			t.Errorf("%q became %q and then %q", raw, path, again)
		}
		if v := rules.Check(Request{Method: "GET", Path: path}, Identity{Certname: "a.b", Authenticated: true}); v.Allowed && v.Rule == "" {
			t.Errorf("%q is allowed by no rule", path)
		}
	})
}
