package fakeagent_test

// This file is a small server that answers like a Puppet Server: a CA that signs everything, files, one catalog.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is a request as the stub received it.
type seen struct {
	Method, Target string
	Header         http.Header
	Body           string
}

// stub is the server. The maps may be changed between runs.
type stub struct {
	t      *testing.T
	server *httptest.Server
	caKey  *ecdsa.PrivateKey
	caCert *x509.Certificate

	mu      sync.Mutex
	files   map[string]string // mount/path: content
	catalog string
	signed  map[string][]byte
	asked   []seen
	// intercept answers a request itself when it returns true.
	intercept func(w http.ResponseWriter, r *http.Request) bool
	unsigned  bool // keep certificates back
	leafLife  time.Duration
}

func newStub(t *testing.T) *stub {
	t.Helper()
	s := &stub{
		t: t, files: map[string]string{}, catalog: `{"environment":"production","catalog_uuid":"c1","resources":[]}`,
		signed: map[string][]byte{}, leafLife: 365 * 24 * time.Hour,
	}
	s.makeCA()
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	pool := x509.NewCertPool()
	pool.AddCert(s.caCert)
	s.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{s.serverCertificate()}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	return s
}

// address names the server as its certificate does.
func (s *stub) address() string {
	_, port, err := net.SplitHostPort(s.server.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	return "localhost:" + port
}

func (s *stub) makeCA() {
	var err error
	if s.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, caTemplate(), caTemplate(), s.caKey.Public(), s.caKey)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.caCert, err = x509.ParseCertificate(der); err != nil {
		s.t.Fatal(err)
	}
}

func caTemplate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Puppet CA: test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	}
}

func (s *stub) issue(name string, public any) []byte {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		s.t.Error(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(s.leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.caCert, public, s.caKey)
	if err != nil {
		s.t.Error(err)
	}
	return der
}

func (s *stub) serverCertificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{s.issue("localhost", key.Public())}, PrivateKey: key}
}

func (s *stub) crl(revoked ...*big.Int) []byte {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, s.caCert, s.caKey)
	if err != nil {
		s.t.Error(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// requests returns what was asked since the last call.
func (s *stub) requests() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *stub) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // a cut request
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.mu.Lock()
	header := r.Header.Clone()
	header.Set("Host", r.Host)
	s.asked = append(s.asked, seen{r.Method, r.RequestURI, header, string(body)})
	intercept := s.intercept
	s.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("X-Puppet-Version", "7.23.0")
	kind, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/puppet-ca/v1/"), "/puppet/v3/"), "/")
	switch kind {
	case "certificate", "certificate_request", "certificate_revocation_list", "certificate_renewal":
		w.Header().Set("Content-Type", "text/plain")
		s.serveCA(w, r, kind, rest, body)
	case "node":
		answerJSON(w, map[string]string{"name": rest, "environment": "production"})
	case "file_metadatas":
		s.search(w, rest, r.URL.Query())
	case "file_metadata":
		if _, ok := s.files[rest]; !ok {
			http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
			return
		}
		answerJSON(w, s.entry(rest, "", r.URL.Query()))
	case "file_content", "static_file_content":
		content, ok := s.files[strings.Replace(rest, "/files/", "/", 1)]
		if !ok {
			http.Error(w, "no "+rest, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, content)
	case "catalog":
		w.Header().Set("Content-Type", "application/vnd.puppet.rich+json; charset=utf-8")
		_, _ = io.WriteString(w, s.catalog)
	case "report", "facts":
		answerJSON(w, []string{"store"})
	case "file_bucket_file":
		w.WriteHeader(map[string]int{http.MethodHead: http.StatusNotFound}[r.Method] | map[string]int{http.MethodPut: http.StatusOK}[r.Method])
	default:
		http.NotFound(w, r)
	}
}

func (s *stub) serveCA(w http.ResponseWriter, r *http.Request, kind, name string, body []byte) {
	switch {
	case kind == "certificate_revocation_list":
		_, _ = w.Write(s.crl())
	case kind == "certificate_renewal":
		_, _ = w.Write(encodeCertificate(s.issue(r.TLS.PeerCertificates[0].Subject.CommonName, r.TLS.PeerCertificates[0].PublicKey)))
	case kind == "certificate" && name == "ca":
		_, _ = w.Write(encodeCertificate(s.caCert.Raw))
	case kind == "certificate" && s.signed[name] != nil && !s.unsigned:
		_, _ = w.Write(encodeCertificate(s.signed[name]))
	case kind == "certificate_request" && r.Method == http.MethodPut:
		block, _ := pem.Decode(body)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if s.signed[name] != nil {
			http.Error(w, "there is one already", http.StatusBadRequest)
			return
		}
		s.signed[name] = s.issue(name, request.PublicKey)
	default:
		http.Error(w, "Could not find "+kind+" "+name, http.StatusNotFound)
	}
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *stub) search(w http.ResponseWriter, path string, query url.Values) {
	found := []map[string]any{}
	if query.Get("recurse") == "true" {
		for name := range s.files {
			if below, ok := strings.CutPrefix(name, path+"/"); ok {
				found = append(found, s.entry(name, below, query))
			}
		}
	}
	slices.SortFunc(found, func(a, b map[string]any) int {
		return strings.Compare(a["relative_path"].(string), b["relative_path"].(string))
	})
	answerJSON(w, found)
}

func (s *stub) entry(name, relative string, query url.Values) map[string]any {
	kind := query.Get("checksum_type")
	sum := fmt.Sprintf("%x", md5.Sum([]byte(s.files[name])))
	if kind == "sha256" {
		digest := sha256.Sum256([]byte(s.files[name]))
		sum = hex.EncodeToString(digest[:])
	}
	return map[string]any{
		"path": "/code/" + name, "relative_path": relative, "type": "file",
		"checksum": map[string]string{"type": kind, "value": "{" + kind + "}" + sum},
	}
}
