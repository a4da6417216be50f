package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// This file asks an authority, and tells of an answer what must not depend on the serial number and the minute.

// A Row is the story of one certificate request.
type Row struct {
	Name  string
	Steps []Step
}

// A Step is one request of the server's own certificate, which may do everything, and what the real server answered.
type Step struct {
	Method, Path string
	Type         string `json:",omitempty"` // Content-Type
	Body         []byte `json:",omitempty"`
	Answer       Answer
}

// An Answer is what a client sees. In place of a certificate it has what the certificate says.
type Answer struct {
	Status int
	Type   string `json:",omitempty"`
	Body   string `json:",omitempty"`
	Leaf   *Leaf  `json:",omitempty"`
}

// A Leaf is a certificate without its serial number, its dates and its signature: serials of a member are random and have
// 128 bits, those of the real server count.
type Leaf struct {
	Version    int
	Algorithm  string
	Issuer     string // DER
	Subject    string // DER
	Valid      string // how long
	Since      string // before now
	Key        string // hash of the SubjectPublicKeyInfo
	Extensions []string
}

func leafOf(c *x509.Certificate) *Leaf {
	key := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	l := &Leaf{
		Version: c.Version, Algorithm: c.SignatureAlgorithm.String(),
		Issuer: hex.EncodeToString(c.RawIssuer), Subject: hex.EncodeToString(c.RawSubject),
		Valid: c.NotAfter.Sub(c.NotBefore).String(), Since: time.Since(c.NotBefore).Round(time.Hour).String(), Key: hex.EncodeToString(key[:8]),
	}
	for _, e := range c.Extensions {
		critical := ""
		if e.Critical {
			critical = " critical"
		}
		l.Extensions = append(l.Extensions, fmt.Sprintf("%s%s %x", e.Id, critical, e.Value))
	}
	return l
}

// caller asks one server with one certificate.
type caller struct {
	t      *testing.T
	addr   string
	client *http.Client
	dir    string // of the server, which some answers name
}

func newCaller(t *testing.T, addr string, roots *x509.CertPool, as ...tls.Certificate) caller {
	t.Helper()
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", InsecureSkipVerify: roots == nil}
	if len(as) > 0 {
		// Go would keep a certificate back that the server's list of authorities does not announce.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &as[0], nil }
	}
	transport := &http.Transport{TLSClientConfig: config, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return caller{t: t, addr: addr, client: &http.Client{Timeout: time.Minute, Transport: transport}}
}

// ask sends one request whose path is taken as it is.
func (c caller) ask(s Step) Answer {
	c.t.Helper()
	a, err := c.try(s)
	if err != nil {
		c.t.Fatalf("%s %s: %v", s.Method, s.Path, err)
	}
	return a
}

func (c caller) try(s Step) (Answer, error) {
	c.t.Helper()
	response, body, err := c.exchange(s)
	if err != nil {
		return Answer{}, err
	}
	return c.tell(s, response, body), nil
}

// exchange returns the answer with its body, which has been read.
func (c caller) exchange(s Step) (*http.Response, []byte, error) {
	_, port, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, nil, err
	}
	request, err := http.NewRequestWithContext(c.t.Context(), s.Method, "https://localhost:"+port, bytes.NewReader(s.Body))
	if err != nil {
		return nil, nil, err
	}
	path, query, _ := strings.Cut(s.Path, "?")
	request.URL = &url.URL{Scheme: "https", Host: "localhost:" + port, Opaque: "//localhost:" + port + path, RawQuery: query}
	if s.Type != "" {
		request.Header.Set("Content-Type", s.Type)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

// What changes from run to run: hashes of certificates, serial numbers and dates of a status.
var changing = regexp.MustCompile(`("(?:SHA1|SHA256|SHA512|default|fingerprint)":"|"serial_number":|"not_(?:before|after)":")([0-9A-FT:UTC-]+)`)

// Java names a file that it cannot make by a random number.
var temporary = regexp.MustCompile(`\d+(tmp: File name too long)`)

func (c caller) tell(s Step, response *http.Response, body []byte) Answer {
	c.t.Helper()
	a := Answer{Status: response.StatusCode, Type: response.Header.Get("Content-Type"), Body: string(body)}
	block, _ := pem.Decode(body)
	if block == nil || block.Type != "CERTIFICATE" || strings.HasSuffix(s.Path, "/ca") {
		a.Body = temporary.ReplaceAllString(changing.ReplaceAllString(a.Body, "${1}X"), "X$1")
		if c.dir != "" {
			a.Body = strings.ReplaceAll(a.Body, c.dir, "/DIR")
		}
		return a
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.t.Fatalf("%s: %v", s.Path, err)
	}
	a.Body, a.Leaf = "", leafOf(cert)
	return a
}
