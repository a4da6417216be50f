package parity

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"troupe/internal/troupetest"
	"troupe/parity/corpus"
)

// This file asks a server for the catalogs of nodes, as their agents do.

func TestMain(m *testing.M) { os.Exit(troupetest.Main(m)) }

const serverName = "puppet.example.test"

// peer is a server, troupe or the real one.
type peer struct {
	name  string
	addr  string          // by a name that its certificate has: Jetty compares it with what TLS asked for
	key   *rsa.PrivateKey // of all nodes
	roots *x509.CertPool
	certs map[string]tls.Certificate // by certname
}

func newPeer(t *testing.T, name, addr string) *peer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{name: name, addr: net.JoinHostPort("localhost", port), key: key, roots: x509.NewCertPool(), certs: map[string]tls.Certificate{}}
	first := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // a first request cannot know the CA
	}}
	bundle := p.do(t, first, http.MethodGet, "/puppet-ca/v1/certificate/ca", nil, "")
	if !p.roots.AppendCertsFromPEM(bundle.body) {
		t.Fatalf("%s: no certificate in the bundle of the CA", name)
	}
	return p
}

// answer is what a server said.
type answer struct {
	status      int
	contentType string
	body        []byte
}

func (p *peer) do(t *testing.T, client *http.Client, method, path string, header []string, body string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "https://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/plain")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	got, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{got.StatusCode, got.Header.Get("Content-Type"), text}
}

// client is that of a node, whose certificate is requested when it is first needed.
func (p *peer) client(t *testing.T, n corpus.Node) *http.Client {
	t.Helper()
	pair, ok := p.certs[n.Certname]
	if !ok {
		pair = p.enroll(t, n)
		p.certs[n.Certname] = pair
	}
	return &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: p.roots, Certificates: []tls.Certificate{pair}},
		DisableCompression: true, DisableKeepAlives: true,
	}}
}

// enroll requests a certificate with the node's role in an extension.
func (p *peer) enroll(t *testing.T, n corpus.Node) tls.Certificate {
	t.Helper()
	role, err := asn1.MarshalWithParams(n.Role, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: n.Certname},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 1, 13}, Value: role}}, // pp_role
	}, p.key)
	if err != nil {
		t.Fatal(err)
	}
	anyone := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.roots}, DisableKeepAlives: true,
	}}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	if put := p.do(t, anyone, http.MethodPut, "/puppet-ca/v1/certificate_request/"+n.Certname, nil, string(text)); put.status != http.StatusOK {
		t.Fatalf("%s: requesting a certificate for %s: %d\n%s", p.name, n.Certname, put.status, put.body)
	}
	signed := p.do(t, anyone, http.MethodGet, "/puppet-ca/v1/certificate/"+n.Certname, nil, "")
	block, _ := pem.Decode(signed.body)
	if block == nil {
		t.Fatalf("%s: no certificate for %s: %d\n%s", p.name, n.Certname, signed.status, signed.body)
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: p.key}
}

// ofAgent is what an agent of 7 or 8 accepts that has no msgpack.
const ofAgent = "application/vnd.puppet.rich+json, application/json, text/pson"

// agentFormat is the format that ofAgent asks for.
const agentFormat = "an agent of 7 or 8"

// formats are the ways to ask for a catalog: what an agent accepts, by name.
var formats = []struct{ name, accept string }{
	{"rich json", "application/vnd.puppet.rich+json"},
	{"json", "application/json"},
	{"pson", "text/pson"},
	{"msgpack", "application/x-msgpack"},
	{"rich msgpack", "application/vnd.puppet.rich+msgpack"},
	{agentFormat, ofAgent},
	{"an agent with msgpack", "application/vnd.puppet.rich+msgpack, application/vnd.puppet.rich+json, application/x-msgpack, application/json, text/pson"},
}

// v3 asks as an agent does; the facts are escaped twice, as agents do it.
func (p *peer) v3(t *testing.T, n corpus.Node, accept string) answer {
	t.Helper()
	facts, err := n.Facts()
	if err != nil {
		t.Fatal(err)
	}
	form := strings.Join([]string{
		"environment=" + n.Environment, "configured_environment=" + n.Environment, "check_environment=true",
		"facts_format=application%2Fjson", "facts=" + url.QueryEscape(url.QueryEscape(string(facts))),
		"transaction_uuid=00000000-0000-0000-0000-000000000000", "static_catalog=true",
		"checksum_type=sha256.sha384.sha512.sha224.md5",
	}, "&")
	return p.do(t, p.client(t, n), http.MethodPost, "/puppet/v3/catalog/"+n.Certname+"?environment="+n.Environment,
		[]string{"Content-Type", "application/x-www-form-urlencoded", "Accept", accept}, form)
}

// normal is the answer in the form that is compared.
func (a answer) normal() []byte {
	return Normalize(bytes.TrimSpace(a.body))
}
