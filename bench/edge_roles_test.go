//go:build bench

package bench

// This file is what runs in processes of their own beside an edge: servers that are killed, servers of bytes, and those who make
// the load. The test starts its own binary again, with the role in the environment.

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	roleVariable = "TROUPE_BENCH_ROLE"
	roleFolder   = "TROUPE_BENCH_FOLDER"
	roleAddress  = "TROUPE_BENCH_ADDRESS"
	roleCount    = "TROUPE_BENCH_COUNT"
	roleKind     = "TROUPE_BENCH_KIND"
)

// play is a process with a role.
func play(role string) int {
	log.SetOutput(os.Stderr)
	n, _ := strconv.Atoi(os.Getenv(roleCount)) // not every role has one
	folder, address, kind := os.Getenv(roleFolder), os.Getenv(roleAddress), os.Getenv(roleKind)
	var err error
	switch role {
	case "puppet":
		err = playPuppet(folder, address)
	case "bytes":
		err = playBytes(address)
	case "connections":
		err = playConnections(address, n, kind)
	case "handshakes":
		err = playHandshakes(folder, address, n, kind)
	default:
		err = fmt.Errorf("there is no role %q", role)
	}
	if err != nil {
		log.Print(role, ": ", err)
		return 1
	}
	return 0
}

// A stand-in answers what agents ask for without a compiler behind it, so that many runs go through few cores: a catalog of 300 kB
// after 200 to 400 ms, ten files with a source, reports.
type standIn struct {
	catalog []byte
	folder  string
}

const (
	sourced  = 10
	smallest = 200 * time.Millisecond // of a compile
	oneKB    = "/puppet/v3/file_content/modules/site/one_kb"
)

func playPuppet(folder, address string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "server.pem"), filepath.Join(folder, "server.key"))
	if err != nil {
		return err
	}
	s := &standIn{folder: folder, catalog: padded()}
	server := &http.Server{
		Addr: address, Handler: s, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}},
	}
	return server.ListenAndServeTLS("", "")
}

func padded() []byte {
	type resource struct {
		Type       string            `json:"type"`
		Title      string            `json:"title"`
		Parameters map[string]string `json:"parameters"`
	}
	var all []resource
	for i := range sourced {
		all = append(all, resource{"File", fmt.Sprintf("/srv/f%d", i), map[string]string{"source": fmt.Sprintf("puppet:///modules/site/f%d", i)}})
	}
	for i := range 280 {
		all = append(all, resource{"Notify", strconv.Itoa(i), map[string]string{"message": strings.Repeat("what a catalog says ", 50)}})
	}
	text, err := json.Marshal(map[string]any{"environment": "production", "version": 1, "catalog_uuid": "c", "resources": all})
	if err != nil {
		panic(err) // strings always marshal
	}
	return text
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return // a cut request
	}
	w.Header().Set("X-Puppet-Version", "8.10.0")
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	kind := ""
	if len(parts) > 2 {
		kind = parts[2]
	}
	asJSON := func(text []byte) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(text)
	}
	content := func() []byte {
		if strings.HasSuffix(r.URL.Path, "/one_kb") {
			return []byte(strings.Repeat("k", 1024))
		}
		return []byte(strings.Repeat(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/'):], 300))
	}
	switch kind {
	case "simple":
		_, _ = io.WriteString(w, "running")
	case "certificate", "certificate_revocation_list":
		file := map[string]string{"certificate": "ca_crt.pem", "certificate_revocation_list": "ca_crl.pem"}[kind]
		http.ServeFile(w, r, filepath.Join(s.folder, file))
	case "node":
		asJSON([]byte(`{"name":"` + parts[len(parts)-1] + `","environment":"production"}`))
	case "file_metadatas":
		asJSON([]byte(`[]`))
	case "file_metadata":
		asJSON(fmt.Appendf(nil, `{"path":"/code","relative_path":null,"type":"file","checksum":{"type":"sha256","value":"{sha256}%x"}}`, sha256.Sum256(content())))
	case "file_content":
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(content())
	case "catalog":
		select {
		case <-time.After(smallest + rand.N(smallest)):
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Content-Type", "application/vnd.puppet.rich+json; charset=utf-8")
		_, _ = w.Write(s.catalog)
	case "report", "facts":
		asJSON([]byte(`[]`))
	default:
		http.NotFound(w, r)
	}
}

// playBytes serves whoever says in eight bytes how many it wants.
func playBytes(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	chunk := make([]byte, 256<<10)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			var want [8]byte
			if _, err := io.ReadFull(conn, want[:]); err != nil {
				return // a check
			}
			for left := binary.BigEndian.Uint64(want[:]); left > 0; {
				n, err := conn.Write(chunk[:min(left, uint64(len(chunk)))])
				if err != nil {
					return
				}
				left -= uint64(n)
			}
		}()
	}
}

const (
	shortReply = 1 << 10
	longReply  = 64 << 20
)

// each calls what eight workers do until n are done.
func each(n, workers int, what func() error) error {
	var turn atomic.Int64
	failed := make(chan error, workers)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for turn.Add(1) <= int64(n) {
				if err := what(); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// playConnections opens n connections, each for one answer.
func playConnections(address string, n int, kind string) error {
	size, workers := shortReply, 8
	if kind == "long" {
		size, workers = longReply, 2
	}
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], uint64(size))
	return each(n, workers, func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write(want[:]); err != nil {
			return err
		}
		got, err := io.Copy(io.Discard, conn)
		if err == nil && got != int64(size) {
			err = fmt.Errorf("got %d of %d bytes", got, size)
		}
		return err
	})
}

// asAgents is TLS as agents with OpenSSL 3.0 speak it.
func asAgents(pair *tls.Certificate, roots *x509.CertPool) *tls.Config {
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
	if pair != nil {
		c.Certificates = []tls.Certificate{*pair}
	}
	return c
}

// playHandshakes opens n connections with a full handshake each, and sends one request over each, for with TLS 1.3 a client knows
// only from an answer that its certificate was taken.
func playHandshakes(folder, address string, n int, kind string) error {
	roots, err := rootsOf(folder)
	if err != nil {
		return err
	}
	pairs, err := agentPairs(folder, kind)
	if err != nil {
		return err
	}
	var turn atomic.Int64
	return each(n, 4, func() error {
		pair := pairs[int(turn.Add(1))%len(pairs)]
		conn, err := tls.Dial("tcp", address, asAgents(pair, roots))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /status/v1/simple HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		text, err := io.ReadAll(conn)
		if err == nil && !strings.HasPrefix(string(text), "HTTP/1.1 200") {
			err = fmt.Errorf("answered %.80q", text)
		}
		return err
	})
}

func rootsOf(folder string) (*x509.CertPool, error) {
	text, err := os.ReadFile(filepath.Join(folder, "ca_crt.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("the CA has no certificate")
	}
	return roots, nil
}

// agentPairs are the certificates of a kind of key that the test has made.
func agentPairs(folder, kind string) ([]*tls.Certificate, error) {
	files, err := filepath.Glob(filepath.Join(folder, "agent-"+kind+"-*.pem"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no certificates of %s in %s", kind, folder))
	}
	var pairs []*tls.Certificate
	for _, file := range files {
		pair, err := tls.LoadX509KeyPair(file, filepath.Join(folder, "agent-"+kind+".key"))
		if err != nil {
			return nil, err
		}
		if _, ec := pair.PrivateKey.(*ecdsa.PrivateKey); ec != (kind == "p256") {
			return nil, fmt.Errorf("%s is not of kind %s", file, kind)
		}
		pairs = append(pairs, &pair)
	}
	return pairs, nil
}
