package endpoints

// This file asks a server, and masks in its answers what belongs to a machine, a minute or a folder.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// clientHeaders are those that agents, tools or proxies act on.
var clientHeaders = []string{
	"Content-Type", "X-Puppet-Version", "X-Puppet-Compiler-Name", "Etag", "Cache-Control", "Retry-After", "Last-Modified",
	"Allow", "Location", "Content-Encoding", "Connection", "Www-Authenticate", "Content-Disposition",
}

// A client asks one server as all identities of a site.
type client struct {
	t       *testing.T
	site    *site
	addr    string
	masks   *strings.Replacer
	clients map[string]*http.Client
}

// newClient asks the server at addr. The pairs of masks are old and new text.
func newClient(t *testing.T, s *site, addr string, masks ...string) *client {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, site: s, addr: "localhost:" + port, clients: map[string]*http.Client{}}
	c.masks = strings.NewReplacer(append(masks, ":"+port, ":PORT")...)
	c.clients[""] = newHTTPClient(t, s.roots, nil)
	for as, pair := range s.identities {
		c.clients[as] = newHTTPClient(t, s.roots, &pair)
	}
	return c
}

func newHTTPClient(t *testing.T, roots *x509.CertPool, pair *tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: tlsConfig(roots, pair), DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Timeout: 2 * time.Minute, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func tlsConfig(roots *x509.CertPool, pair *tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	if pair != nil {
		// Go would keep a certificate back that the server's list of authorities does not announce.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return config
}

// ask sends one request.
func (c *client) ask(q Request) Answer {
	c.t.Helper()
	body := q.Body
	if name, ok := strings.CutPrefix(body, "CSR "); ok {
		body = certificateRequest(c.t, name)
	}
	request, err := http.NewRequestWithContext(c.t.Context(), q.Method, "https://"+c.addr, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body == "" {
		request.Body, request.ContentLength = nil, 0
	}
	path, query, asked := strings.Cut(q.Target, "?")
	request.URL.Opaque = "//" + c.addr + path // as it is, escapes and dots included
	if !strings.HasPrefix(path, "//") {
		request.URL.Opaque = path
	}
	request.URL.RawQuery, request.URL.ForceQuery = query, asked
	for _, line := range q.Header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Add(name, c.site.certificateHeader(value))
	}
	request.Header.Set("X-Puppet-Version", "7.23.0")

	response, err := c.clients[q.As].Do(request)
	if err != nil {
		return Answer{Body: brokenBy(err)}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{Body: brokenBy(err)}
	}
	answer := Answer{Status: response.StatusCode, Header: map[string]string{}, Body: c.mask(plain(response.Header.Get("Content-Encoding"), string(text)))}
	for _, name := range clientHeaders {
		if values := response.Header.Values(name); len(values) > 0 {
			answer.Header[name] = c.mask(strings.Join(values, ", "))
		}
	}
	return answer
}

// brokenBy names what a client sees when a server hangs up. A server that refuses a certificate in TLS 1.3 may close before
// the client has read why, while it is still writing, or before it writes: Go has a dozen texts for these, and all count as
// refused.
func brokenBy(err error) string {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Sprint("no answer: ", err)
	}
	return "refused in the handshake"
}

var (
	uuids    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	dates    = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d|Z|UTC)?`)
	webDates = regexp.MustCompile(`[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (GMT|UTC)`)
	prints   = regexp.MustCompile(`([0-9A-F]{2}:){19,}[0-9A-F]{2}`)
	versions = regexp.MustCompile(`"version":\d{9,}`)
)

// mask takes out what differs between any two runs of the same server: folders, ports, times, fingerprints, random ids, keys.
func (c *client) mask(text string) string {
	if !utf8.ValidString(text) {
		return "base64 " + base64.StdEncoding.EncodeToString([]byte(text)) // the recording is JSON
	}
	if block, ok := strings.CutPrefix(text, "-----BEGIN "); ok {
		kind, _, _ := strings.Cut(block, "-----")
		return fmt.Sprintf("%d PEM %s", strings.Count(text, "-----BEGIN "), kind)
	}
	text = c.masks.Replace(text)
	text = webDates.ReplaceAllString(dates.ReplaceAllString(prints.ReplaceAllString(text, "FINGERPRINT"), "DATE"), "DATE")
	return versions.ReplaceAllString(uuids.ReplaceAllString(text, "UUID"), `"version":VERSION`)
}
