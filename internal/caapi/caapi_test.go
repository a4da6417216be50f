package caapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/authz"
	"troupe/internal/ca"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// A site is an authority behind its API, with the default auth.conf.
type site struct {
	authority *ca.Authority
	handler   http.Handler
	admin     *x509.Certificate // bears pp_cli_auth
	agent     *x509.Certificate
}

func newSite(tb testing.TB, p ca.Policy) *site {
	tb.Helper()
	j, err := journal.Open(tb.TempDir(), journal.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	a, err := ca.Open(tb.Context(), tb.TempDir(), j, ca.Options{Name: "Puppet CA: puppet.example.test", KeyType: ca.EC256, Policy: p})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, err := range []error{a.Close(), j.Close()} {
			if err != nil {
				tb.Error(err)
			}
		}
	})
	s := &site{authority: a, handler: New(a, authz.NewGuard(authz.GuardOptions{Revoked: a.Revoked}), Options{Version: "7.23.0"}).Handler()}
	s.admin = s.generate(tb, ca.GenerateRequest{Certname: "admin.example.test", Client: true})
	s.agent = s.generate(tb, ca.GenerateRequest{Certname: "agent.example.test"})
	return s
}

func (s *site) generate(tb testing.TB, g ca.GenerateRequest) *x509.Certificate {
	tb.Helper()
	_, text, err := s.authority.Generate(tb.Context(), g)
	if err != nil {
		tb.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func csr(tb testing.TB, cn string, dns []string, ips ...net.IP) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: dns, IPAddresses: ips}, key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// A call is one request; who is nil for a client without a certificate.
type call struct {
	method, path string
	who          *x509.Certificate
	body         string
	header       map[string]string
}

type reply struct {
	Status int
	Type   string
	Body   string
}

func (s *site) request(c call) *http.Request {
	r := httptest.NewRequest(c.method, "https://puppet.example.test/puppet-ca/v1/"+c.path, strings.NewReader(c.body))
	r.TLS = &tls.ConnectionState{}
	if c.who != nil {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{c.who, s.authority.Issuer()}}
		r.TLS.PeerCertificates = []*x509.Certificate{c.who}
	}
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	return r
}

func (s *site) do(tb testing.TB, c call) (reply, http.Header) {
	tb.Helper()
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, s.request(c))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		tb.Fatal(err)
	}
	return reply{w.Code, w.Header().Get("Content-Type"), string(body)}, w.Header()
}

func (s *site) want(tb testing.TB, c call, want reply) {
	tb.Helper()
	got, header := s.do(tb, c)
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("%s %s (-want +got):\n%s", c.method, c.path, diff)
	}
	if v := header.Get("X-Puppet-Version"); v != "7.23.0" {
		tb.Errorf("%s %s: X-Puppet-Version is %q", c.method, c.path, v)
	}
}

func TestAnAgentsFirstRun(t *testing.T) {
	s := newSite(t, ca.Policy{})
	name := "web1.example.test"
	request := csr(t, name, nil)
	s.want(t, call{"GET", "certificate/ca", nil, "", nil}, reply{200, "text/plain", string(s.authority.Bundle())})
	s.want(t, call{"GET", "certificate_revocation_list/ca", nil, "", map[string]string{"If-Modified-Since": "Fri, 20 Nov 2099 00:00:00 GMT"}},
		reply{200, "text/plain", string(s.authority.CRLs())})
	s.want(t, call{"GET", "certificate_request/" + name, nil, "", nil}, reply{404, "text/plain", "Could not find certificate_request " + name})
	s.want(t, call{"PUT", "certificate_request/" + name, nil, request, nil}, reply{200, "text/plain", ""})
	s.want(t, call{"PUT", "certificate_request/" + name, nil, request, nil},
		reply{400, "text/plain;charset=utf-8", name + " already has a requested certificate; ignoring certificate request"})
	s.want(t, call{"GET", "certificate_request/" + name, nil, "", nil}, reply{200, "text/plain", request})
	s.want(t, call{"GET", "certificate/" + name, nil, "", nil}, reply{404, "text/plain", "Could not find certificate " + name})
	s.want(t, call{"PUT", "certificate_status/" + name, s.admin, `{"desired_state":"signed"}`, map[string]string{"Content-Type": "application/json"}}, reply{204, "text/plain", ""})
	cert, err := s.authority.Certificate(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s.want(t, call{"GET", "certificate/" + name, nil, "", nil}, reply{200, "text/plain", string(cert)})
}

// The cases of one PUT certificate_status and its neighbours, with the answers of
// puppetserver 7.9.5's handlers.
func TestCertificateStatusAnswersAsPuppetserver(t *testing.T) {
	s := newSite(t, ca.Policy{})
	for _, cn := range []string{"pending.example.test", "names.example.test"} {
		var dns []string
		var ips []net.IP
		if cn == "names.example.test" {
			dns, ips = []string{"cli1"}, []net.IP{net.IPv4(10, 0, 0, 1)}
		}
		s.want(t, call{"PUT", "certificate_request/" + cn, nil, csr(t, cn, dns, ips...), nil}, reply{200, "text/plain", ""})
	}
	const liberator, byHand = "text/plain;charset=utf-8", "text/plain;charset=utf-8"
	forbidden := "Forbidden request: /puppet-ca/v1/certificate_status/agent.example.test (method :get). Please see the server logs for details."
	for _, test := range []struct {
		name string
		call call
		want reply
	}{
		{"no body", call{"PUT", "certificate_status/x", s.admin, "", nil}, reply{400, liberator, "Request body is not JSON."}},
		{"no JSON", call{"PUT", "certificate_status/x", s.admin, "{", nil}, reply{400, liberator, "Request body is not JSON."}},
		{"null", call{"PUT", "certificate_status/x", s.admin, "null", nil}, reply{400, liberator, "Request body is not JSON."}},
		{"no state", call{"PUT", "certificate_status/x", s.admin, "{}", nil}, reply{400, liberator, `Missing required parameter "desired_state"`}},
		{"list", call{"PUT", "certificate_status/x", s.admin, "[1]", nil}, reply{400, liberator, `Missing required parameter "desired_state"`}},
		{
			"unknown state",
			call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"lost"}`, nil},
			reply{400, liberator, "State lost invalid; Must specify desired state of 'signed' or 'revoked' for host x."},
		},
		{
			"ttl as text",
			call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"signed","cert_ttl":"1d"}`, nil},
			reply{400, liberator, `cert_ttl specified for host x must be an integer, not "1d"`},
		},
		{
			"ttl below one",
			call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"signed","cert_ttl":0}`, nil},
			reply{400, liberator, "cert_ttl specified for host x must be between 1 and 1576800000 seconds"},
		},
		{"form", call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"signed"}`, map[string]string{"Content-Type": "text/plain"}}, reply{415, liberator, "Unsupported media type."}},
		{
			"PSON",
			call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"signed"}`, map[string]string{"Content-Type": "text/pson; charset=utf-8"}},
			reply{404, byHand, "Invalid certificate subject."},
		},
		{"sign unknown", call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"signed"}`, nil}, reply{404, byHand, "Invalid certificate subject."}},
		{"revoke unknown", call{"PUT", "certificate_status/x", s.admin, `{"desired_state":"revoked"}`, nil}, reply{404, byHand, "Invalid certificate subject."}},
		{
			"sign what is signed",
			call{"PUT", "certificate_status/agent.example.test", s.admin, `{"desired_state":"signed"}`, nil},
			reply{409, byHand, "Cannot sign certificate for host agent.example.test without a certificate request"},
		},
		{
			"revoke what is not signed",
			call{"PUT", "certificate_status/pending.example.test", s.admin, `{"desired_state":"revoked"}`, nil},
			reply{409, byHand, "Cannot revoke certificate for host pending.example.test without a signed certificate"},
		},
		{
			"sign with alternative names",
			call{"PUT", "certificate_status/names.example.test", s.admin, `{"desired_state":"signed"}`, nil},
			reply{409, byHand, "CSR 'names.example.test' contains extra subject alternative names (IP:10.0.0.1, DNS:cli1), which are disallowed. To allow subject alternative names, set allow-subject-alt-names to true in your ca.conf file. Then restart the puppetserver and try signing this certificate again."},
		},
		{"sign for a day", call{"PUT", "certificate_status/pending.example.test", s.admin, `{"desired_state":"signed","cert_ttl":86400}`, nil}, reply{204, "text/plain", ""}},
		{"revoke", call{"PUT", "certificate_status/pending.example.test", s.admin, `{"desired_state":"revoked"}`, nil}, reply{204, "text/plain", ""}},
		{"revoke again", call{"PUT", "certificate_status/pending.example.test", s.admin, `{"desired_state":"revoked"}`, nil}, reply{204, "text/plain", ""}},
		{"delete", call{"DELETE", "certificate_status/pending.example.test", s.admin, "", nil}, reply{204, "", ""}},
		{"delete again", call{"DELETE", "certificate_status/pending.example.test", s.admin, "", nil}, reply{404, liberator, "Resource not found."}},
		{"get unknown", call{"GET", "certificate_status/x", s.admin, "", nil}, reply{404, liberator, "Resource not found."}},
		{"get unknown as JSON", call{"GET", "certificate_status/x", s.admin, "", map[string]string{"Accept": "application/json"}}, reply{404, "application/json;charset=utf-8", "Resource not found."}},
		{"get as text", call{"GET", "certificate_status/x", s.admin, "", map[string]string{"Accept": "text/plain"}}, reply{406, liberator, "No acceptable resource available."}},
		{"an agent asks", call{"GET", "certificate_status/agent.example.test", s.agent, "", nil}, reply{403, "", forbidden}},
		{"nobody asks", call{"GET", "certificate_status/agent.example.test", nil, "", nil}, reply{403, "", forbidden}},
		{"no segment", call{"GET", "certificate_statuses/", s.admin, "", nil}, reply{400, "text/plain;charset=utf-8", "Missing URL Segment"}},
		{"two segments", call{"GET", "certificate_statuses/a/b", s.admin, "", nil}, reply{404, "text/html;charset=utf-8", "Not Found"}},
		{"wildcard in the path", call{"PUT", "certificate_request/%2a.example.test", nil, "", nil}, reply{404, "text/html;charset=utf-8", "Not Found"}},
		{"broken request", call{"PUT", "certificate_request/x", nil, "hello", nil}, reply{400, "text/plain;charset=utf-8", "Request body must hold one certificate request in PEM form, not 0"}},
		{"large request", call{"PUT", "certificate_request/x", nil, strings.Repeat("x", maxCSR+1), nil}, reply{413, "text/plain;charset=utf-8", "The request's body has more than 65536 bytes."}},
		{"wrong name", call{"PUT", "certificate_request/x", nil, csr(t, "y", nil), nil}, reply{400, "text/plain;charset=utf-8", `Instance name "y" does not match requested key "x"`}},
	} {
		t.Run(test.name, func(t *testing.T) { s.want(t, test.call, test.want) })
	}
}

func TestStatusesListAndFilter(t *testing.T) {
	s := newSite(t, ca.Policy{})
	s.want(t, call{"GET", "certificate_statuses/any_key?state=requested", s.admin, "", map[string]string{"Accept": "*/*"}}, reply{200, "*/*;charset=UTF-8", "[]"})
	for _, test := range []struct {
		state, accept, contentType string
		names                      []string
	}{
		{"", "", "application/json;charset=utf-8", []string{"admin.example.test", "agent.example.test"}},
		{"signed", "application/json", "application/json;charset=utf-8", []string{"admin.example.test", "agent.example.test"}},
		{"revoked", "application/json, text/pson", "text/pson;charset=UTF-8", nil},
		{"revoked", "text/pson, application/json", "application/json;charset=utf-8", nil},
		{"revoked", "text/pson", "text/pson;charset=UTF-8", nil},
		{"nonsense", "text/plain, */*", "text/plain, */*;charset=UTF-8", []string{"admin.example.test", "agent.example.test"}},
	} {
		header := map[string]string{}
		if test.accept != "" {
			header["Accept"] = test.accept
		}
		got, _ := s.do(t, call{"GET", "certificate_statuses/all?state=" + test.state, s.admin, "", header})
		var list []ca.Status
		if err := json.Unmarshal([]byte(got.Body), &list); err != nil {
			t.Fatalf("state %q: %v in %s", test.state, err, got.Body)
		}
		var names []string
		for _, st := range list {
			names = append(names, st.Name)
		}
		if got.Status != 200 || got.Type != test.contentType || !cmp.Equal(names, test.names) {
			t.Errorf("state %q: %d %q %v, want 200 %q %v", test.state, got.Status, got.Type, names, test.contentType, test.names)
		}
	}
}

// goneClient takes no byte of an answer's body.
type goneClient struct{ *httptest.ResponseRecorder }

var errGone = errors.New("the client is gone")

func (goneClient) Write([]byte) (int, error) { return 0, errGone }

func TestAListThatIsCutOffCutsTheConnectionAndIsOnTheRequestsLogLineOnce(t *testing.T) {
	s := newSite(t, ca.Policy{})
	ctx, event := telemetry.WithEvent(t.Context())
	r := s.request(call{"GET", "certificate_statuses/all", s.admin, "", nil}).WithContext(ctx)

	var cut any
	func() {
		defer func() { cut = recover() }()
		s.handler.ServeHTTP(goneClient{httptest.NewRecorder()}, r)
	}()
	if cut != http.ErrAbortHandler {
		t.Errorf("the handler ended with %v, want %v", cut, http.ErrAbortHandler)
	}
	var told []error
	for _, attr := range event.Attrs() {
		if err, ok := attr.Value.Any().(error); ok && attr.Key == telemetry.KeyErr {
			told = append(told, err)
		}
	}
	if len(told) != 1 || !errors.Is(told[0], errGone) {
		t.Errorf("the request's log line has the errors %v, want %q once", told, errGone)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := newSite(t, ca.Policy{})
	for _, cn := range []string{"a", "b", "c"} {
		s.want(t, call{"PUT", "certificate_request/" + cn, nil, csr(t, cn, nil), nil}, reply{200, "text/plain", ""})
	}
	s.want(t, call{"PUT", "certificate_request/bad", nil, csr(t, "bad", []string{"extra"}), nil}, reply{200, "text/plain", ""})
	const plain, js = "text/plain", "application/json"
	for _, step := range []struct {
		call call
		want reply
	}{
		{call{"POST", "sign", s.admin, `{"certnames":["a","nobody","bad"]}`, nil}, reply{200, js, `{"signed":["a"],"no-csr":["nobody"],"signing-errors":["bad"]}`}},
		{call{"POST", "sign", s.admin, `{}`, nil}, reply{200, js, `{"signed":[],"no-csr":[],"signing-errors":[]}`}},
		{call{"POST", "sign", s.admin, `{"certnames":["a",1]}`, nil}, reply{422, js, `{"kind":"schema-violation","submitted":["a",1],"error":"[nil (not (instance? java.lang.String 1))]"}`}},
		{call{"POST", "sign", s.admin, `{"certnames":"a"}`, nil}, reply{422, js, `{"kind":"schema-violation","submitted":"a","error":"(not (sequential? \"a\"))"}`}},
		{call{"POST", "sign/all", s.admin, "", nil}, reply{200, js, `{"signed":["b","c"],"no-csr":[],"signing-errors":["bad"]}`}},
		{call{"PUT", "clean", s.admin, `{"certnames":["a","nobody"]}`, nil}, reply{200, plain, `The following certs do not exist and cannot be revoked: ["nobody"]`}},
		{call{"PUT", "clean", s.admin, `{"certnames":["b","c","b"]}`, nil}, reply{200, plain, "Successfully cleaned all certs."}},
		{call{"PUT", "clean", s.admin, `{"certnames":["b","c"]}`, nil}, reply{200, plain, `The following certs do not exist and cannot be revoked: ["b" "c"]`}},
		{call{"PUT", "clean", s.admin, `{"certnames":["b"],"async":true}`, nil}, reply{400, plain, "Async mode is not currently supported."}},
		{call{"PUT", "clean", s.admin, `{}`, nil}, reply{400, plain, "Missing required key: 'certnames'. Please supply the list of certs you want to clean."}},
		{call{"PUT", "clean", s.admin, `nonsense`, nil}, reply{400, plain, "Request body is not JSON."}},
		{call{"PUT", "certificate_revocation_list", s.admin, "", nil}, reply{400, "text/plain;charset=utf-8", "No valid CRLs submitted."}},
		{call{"PUT", "certificate_revocation_list", s.admin, string(s.authority.CRLs()), nil}, reply{200, "text/plain;charset=utf-8", "Successfully updated CRLs."}},
	} {
		s.want(t, step.call, step.want)
	}
}

func TestRenewalNeedsACertificateOfThisAuthority(t *testing.T) {
	s := newSite(t, ca.Policy{AllowAutoRenewal: true})
	other := newSite(t, ca.Policy{})
	got, _ := s.do(t, call{"POST", "certificate_renewal", s.agent, "", nil})
	if got.Status != 200 || got.Type != "text/plain" || !strings.HasPrefix(got.Body, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("renewal answers %+v", got)
	}
	s.want(t, call{"POST", "certificate_renewal", other.agent, "", nil}, reply{403, "text/plain", "Certificate present, but does not match signature"})
	other.want(t, call{"POST", "certificate_renewal", other.agent, "", nil}, reply{404, "text/plain", "Not Found"})
}

func TestExpirationsAreForAnyCertificate(t *testing.T) {
	s := newSite(t, ca.Policy{})
	got, _ := s.do(t, call{"GET", "expirations", s.agent, "", nil})
	var e ca.Expirations
	if err := json.Unmarshal([]byte(got.Body), &e); err != nil || got.Status != 200 || got.Type != "application/json" {
		t.Fatalf("expirations answer %+v, %v", got, err)
	}
	if diff := cmp.Diff(s.authority.Expirations(), e); diff != "" {
		t.Errorf("expirations (-want +got):\n%s", diff)
	}
}

func TestARevokedClientIsRefused(t *testing.T) {
	s := newSite(t, ca.Policy{})
	if err := s.authority.Revoke(t.Context(), "admin.example.test"); err != nil {
		t.Fatal(err)
	}
	got, _ := s.do(t, call{"GET", "certificate_statuses/all", s.admin, "", nil})
	if got.Status != 403 {
		t.Errorf("a revoked client is answered %+v, want 403", got)
	}
}

func TestMethodsThatAPathDoesNotHave(t *testing.T) {
	s := newSite(t, ca.Policy{})
	rules, err := authz.Parse("auth.conf", []byte(`authorization: { version: 1, rules: [ { match-request: { path: "/", type: path }, allow-unauthenticated: true, sort-order: 1, name: all } ] }`))
	if err != nil {
		t.Fatal(err)
	}
	s.handler = New(s.authority, authz.NewGuard(authz.GuardOptions{Rules: rules}), Options{Version: "7.23.0"}).Handler()
	for _, test := range []struct {
		call  call
		want  reply
		allow string
	}{
		{call{"POST", "certificate/ca", nil, "", nil}, reply{404, "text/html;charset=utf-8", "Not Found"}, ""},
		{call{"HEAD", "certificate_request/x", nil, "", nil}, reply{404, "text/html;charset=utf-8", "Not Found"}, ""},
		{call{"GET", "clean", nil, "", nil}, reply{404, "text/html;charset=utf-8", "Not Found"}, ""},
		{call{"GET", "nothing", nil, "", nil}, reply{404, "text/html;charset=utf-8", "Not Found"}, ""},
		{call{"POST", "certificate_status/x", nil, "", nil}, reply{405, "text/plain;charset=utf-8", "Method not allowed."}, "GET, PUT, DELETE"},
		{call{"PUT", "certificate_statuses/x", nil, "", nil}, reply{405, "text/plain;charset=utf-8", "Method not allowed."}, "GET"},
		{call{"POST", "certificate_renewal", nil, "", nil}, reply{404, "text/plain", "Not Found"}, ""},
		{call{"DELETE", "certificate_request/x", nil, "", nil}, reply{404, "text/plain", "No certificate request for x at expected path requests/x.pem"}, ""},
	} {
		s.want(t, test.call, test.want)
		if _, header := s.do(t, test.call); header.Get("Allow") != test.allow {
			t.Errorf("%s %s: Allow is %q, want %q", test.call.method, test.call.path, header.Get("Allow"), test.allow)
		}
	}
}

func TestAcceptIsNegotiatedAsLiberatorDoes(t *testing.T) {
	for accept, want := range map[string]string{
		"*/*": "", "application/json": "application/json", "text/pson": "text/pson", "application/*": "application/json", "text/*": "text/pson",
		"application/json, text/pson;q=0.5": "application/json", "text/pson, application/json": "application/json",
		"application/json;q=0.9, */*;q=0.1": "application/json", "text/plain, */*": "", "application/json; charset=utf-8": "application/json",
		"text/plain": "refused", "application/xml": "refused", "application/json;q=0": "application/json", "s": "", "/": "", ",": "refused",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", accept)
		got, ok := negotiate(r)
		if !ok {
			got = "refused"
		}
		if got != want {
			t.Errorf("Accept: %s gives %q, want %q", accept, got, want)
		}
	}
}
