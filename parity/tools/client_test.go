//go:build parity

package tools

import (
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// This file sends requests as the HTTP library of Ruby does, for tools that Debian does not have.

// A client asks one server as the admin.
type client struct {
	t    *testing.T
	peer peer
	http *http.Client
	ssl  string // the admin's ssldir
	dir  string // of the admin's agent, masked
}

// admin is the certificate that services have; openToAdmin names it.
const admin = "admin.example.test"

func asAdmin(t *testing.T, p peer) *client {
	t.Helper()
	a := enrolled(t, p, admin)
	ssl := filepath.Join(a.Dir, "ssl")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(ssl, "certs", "ca.pem"))))
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{a.Identity()}},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, peer: p, ssl: ssl, dir: a.Dir, http: &http.Client{Timeout: 5 * time.Minute, Transport: transport}}
}

// on returns the client for a subtest.
func (c *client) on(t *testing.T) *client {
	same := *c
	same.t = t
	return &same
}

// An answered request is what the client of an API looks at.
type answered struct {
	What   string
	Status int
	Type   string
	Tagged bool   // there is an Etag
	JSON   any    // the body, where it is JSON
	Text   string // the body, where it is not
}

func whatAnswered(a answered) string { return a.What }

// Net::HTTP sends these headers if it is told nothing. A header that is added, as the smart proxy does with Accept, comes
// after the value that is there.
const (
	acceptsAnything = "Accept: */*"
	acceptsJSON     = "Accept: */*, application/json"
	acceptsFile     = "Accept: application/octet-stream"
	sendsJSON       = "Content-Type: application/json"
)

// send sends one request; header holds "Name: value".
func (c *client) send(method, target, body string, header ...string) (*http.Response, string) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), method, "https://localhost"+c.peer.port()+target, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, line := range append([]string{"Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3", "User-Agent: Ruby"}, header...) {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Set(name, value)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer answer.Body.Close()
	content := io.Reader(answer.Body)
	if answer.Header.Get("Content-Encoding") == "gzip" && answer.StatusCode != http.StatusNotModified {
		if content, err = gzip.NewReader(content); err != nil {
			c.t.Fatalf("%s %s: %v", method, target, err)
		}
	}
	text, err := io.ReadAll(content)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer, string(text)
}

func (c *client) ask(what, method, target, body string, header ...string) answered {
	c.t.Helper()
	answer, text := c.send(method, target, body, header...)
	return c.answered(what, answer, text)
}

func (c *client) answered(what string, answer *http.Response, text string) answered {
	a := answered{
		What: what, Status: answer.StatusCode, Type: answer.Header.Get("Content-Type"), Tagged: answer.Header.Get("Etag") != "",
	}
	text = c.peer.mask(text, c.dir)
	if json.Unmarshal([]byte(text), &a.JSON) != nil {
		a.Text = text
	}
	return a
}
