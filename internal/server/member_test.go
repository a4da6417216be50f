package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/adminapi"
	"troupe/internal/config"
	"troupe/internal/server"
	"troupe/internal/telemetry"
	"troupe/internal/troupetest"
)

// This file runs one member inside the test and lets the stories of this package
// use it one after the other, the last of which stops it.

const manifest = `
node 'slow.example.test' { $waited = generate('/bin/sleep', '3') notify { 'slow': } }
node default { notify { "hello ${trusted['certname']}": } }
`

// settings are the member's file. The limits are short, for those who hold on to
// a connection without using it.
const settings = `
certname: one.example.test
dns_alt_names: [alias.example.test]
listen: 127.0.0.1:0
ca: {key_type: ec256}
engine: {workers: 1}
http: {header_timeout: 2s, read_timeout: 3s}
log: {level: debug}
`

func TestMember(t *testing.T) {
	heard := listenAsServiceManager(t)
	m := startMember(t)
	for _, story := range []struct {
		name string
		tell func(*testing.T, *member)
	}{
		{"the service manager hears that it is ready, and petted its watchdog", heard.ready},
		{"nobody else serves on its port or its folder", alone},
		{"its certificate bears its names and an EC key", names},
		{"TLS 1.1 and HTTP/2 are not spoken", protocols},
		{"who shows no certificate gets the CA and the status", anonymous},
		{"who shows its own certificate gets its catalog", agent},
		{"new code is loaded and warmed before anybody asks for it", newCode},
		{"certificates of others and expired ones are refused", strangers},
		{"a revoked certificate is refused at once, also on an open connection", revoked},
		{"each request is one line in the log and one observation", observed},
		{"status tells what the parts say", status},
		{"clients that hold on to a connection are cut", holders},
		{"connections leave nothing behind", leaks},
		{"a reload changes verdicts and names and keeps connections", reloads},
		{"a reload tells what waits for a restart", waits},
		{"a broken file changes nothing", broken},
		{"the service manager hears of a reload", heard.reloading},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(t, m) })
	}
	t.Run("a stop finishes what runs and refuses what comes", func(t *testing.T) { stops(t, m, heard) })
}

// member is a running member and what its operator holds.
type member struct {
	data, addr string
	file, auth string // its configuration, and the rules that it may name
	admin      *adminapi.Client
	log        *logBuffer
	roots      *x509.CertPool
	level      *slog.LevelVar

	cancel context.CancelFunc
	ended  chan error
}

func startMember(t *testing.T) *member {
	t.Helper()
	work := troupetest.TempDir(t)
	m := &member{
		data: filepath.Join(work, "data"), file: filepath.Join(work, "troupe.yaml"), auth: filepath.Join(work, "auth.conf"),
		log: &logBuffer{}, level: &slog.LevelVar{}, ended: make(chan error, 1),
	}
	write(t, filepath.Join(work, "environments", "production", "manifests", "site.pp"), manifest)
	write(t, m.file, m.settings(settings))

	cfg, err := m.load()
	if err != nil {
		t.Fatal(err)
	}
	m.level.Set(slog.LevelDebug)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	m.cancel = cancel
	go func() {
		m.ended <- server.Run(ctx, cfg, server.Options{Load: m.load, Log: slog.New(slog.NewJSONHandler(m.log, &slog.HandlerOptions{Level: m.level})), Level: m.level, Version: "1.2.3"})
	}()
	t.Cleanup(func() {
		cancel()
		<-m.ended
		if t.Failed() {
			t.Logf("log of the member:\n%s", m.log)
		}
	})
	troupetest.Eventually(t, troupetest.Patience, "the member writes its address", func() bool {
		select {
		case err := <-m.ended:
			m.ended <- err
			t.Fatalf("the member ended while it started: %v\n%s", err, m.log)
		default:
		}
		text, err := os.ReadFile(filepath.Join(m.data, "listen.addr"))
		m.addr = strings.TrimSpace(string(text))
		return err == nil
	})
	if m.admin, err = adminapi.Dial(t.Context(), m.data); err != nil {
		t.Fatal(err)
	}
	m.roots = x509.NewCertPool()
	if !m.roots.AppendCertsFromPEM([]byte(m.issue(t, adminapi.GenerateRequest{Certname: "first.example.test"}).Bundle)) {
		t.Fatal("no certificate in the CA's bundle")
	}
	return m
}

// settings adds to the text of a configuration what only the test knows.
func (m *member) settings(text string) string {
	return fmt.Sprintf("data: %s\nenvironmentpath: %s\n%s", m.data, filepath.Join(filepath.Dir(m.data), "environments"), text)
}

func (m *member) load() (*config.Config, error) {
	return config.Load(config.Sources{File: m.file, ConfDir: "none"})
}

func (m *member) issue(t *testing.T, q adminapi.GenerateRequest) adminapi.KeyPair {
	t.Helper()
	pair, err := m.admin.Generate(t.Context(), q)
	if err != nil {
		t.Fatalf("generate %s: %v", q.Certname, err)
	}
	return pair
}

// identity is a fresh certificate of a node.
func (m *member) identity(t *testing.T, certname string) *tls.Certificate {
	t.Helper()
	return keyPair(t, m.issue(t, adminapi.GenerateRequest{Certname: certname}))
}

func keyPair(t *testing.T, p adminapi.KeyPair) *tls.Certificate {
	t.Helper()
	cert, err := tls.X509KeyPair([]byte(p.Certificate), []byte(p.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return &cert
}

// tls is how a client with this certificate connects; nil shows none. It shows
// the certificate to every server, also one that did not ask for its issuer.
func (m *member) tls(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{RootCAs: m.roots, ServerName: "puppet", MinVersion: tls.VersionTLS12}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// client keeps connections open, as an agent does.
func (m *member) client(t *testing.T, cert *tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: m.tls(cert), MaxIdleConnsPerHost: 1, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", m.addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// get asks for a path, and fails the test when there is no answer.
func get(t *testing.T, c *http.Client, path string) (int, string) {
	t.Helper()
	code, body, err := try(t.Context(), c, http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

func try(ctx context.Context, c *http.Client, method, path string, body io.Reader) (code int, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://puppet"+path, body)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Accept", "application/json, */*")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// logBuffer keeps what a member logs, one JSON object a line.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lines returns the lines with this message.
func (b *logBuffer) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for d := json.NewDecoder(strings.NewReader(b.String())); ; {
		var line map[string]any
		err := d.Decode(&line)
		if errors.Is(err, io.EOF) {
			return slices.DeleteFunc(out, func(l map[string]any) bool { return l["msg"] != msg })
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
}

// alone: a port or a folder that is in use gives an error with the way out.
func alone(t *testing.T, m *member) {
	run := func(data, listen string) error {
		t.Helper()
		cfg, err := m.load()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Data, cfg.Listen = data, listen
		return server.Run(t.Context(), cfg, server.Options{Log: telemetry.Discard(nil)})
	}
	other := filepath.Join(troupetest.TempDir(t), "data")
	for range 2 { // the second time shows that the first let go of the folder
		err := run(other, m.addr)
		if want := "listen on " + m.addr + ": another process has this port; stop it (a puppetserver?) or choose another with --listen"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("on a port in use: %v\nwant %s", err, want)
		}
	}
	err := run(m.data, "127.0.0.1:0")
	if err == nil || !strings.Contains(err.Error(), filepath.Join(m.data, "journal")) || !strings.Contains(err.Error(), "process") {
		t.Errorf("on a folder in use: %v, want an error that names the folder and the other process", err)
	}
	if text, err := os.ReadFile(filepath.Join(m.data, "listen.addr")); err != nil || strings.TrimSpace(string(text)) != m.addr {
		t.Errorf("listen.addr of the member that serves is %q (%v), want %q", text, err, m.addr)
	}
}
