package troupetest

// These stories send an edge what no agent sends. docs/bad-input.md has the table.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// besieged is an edge before a member with one well node.
type besieged struct {
	*afflicted

	edge    *Edge
	metrics string
	through *http.Client // of the well node
}

func besiege(t *testing.T) *besieged {
	t.Helper()
	_, port := MemberPort(t)
	m := afflict(t, ServerOptions{Config: port})
	m.MustCLI("init", "--site", "east")
	b := &besieged{afflicted: m, metrics: freePort(t)}
	b.edge = StartEdge(t, EdgeOptions{Troupe: m.Server, Site: "east", Config: "listeners:\n  - listen: %LISTEN%\n    names: [{sni: [\"*.old.example.test\"], mode: passthrough}]\nmetrics: " + b.metrics + "\n"})
	b.edge.AwaitUp("members", 1)
	b.through = m.Client(m.pair)
	return b
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// count reads a counter of the edge, all its labels together.
func (b *besieged) count(t *testing.T, name string) (sum float64) {
	t.Helper()
	all, err := scrape(t.Context(), b.metrics)
	if err != nil {
		t.Fatal(err)
	}
	for series, n := range all {
		if base, _, _ := strings.Cut(series, "{"); base == name {
			sum += n
		}
	}
	return sum
}

// counted shows that something makes a counter grow by n at least, and that the well node is served afterwards.
func (b *besieged) counted(t *testing.T, name string, n float64, what func()) {
	t.Helper()
	before := b.count(t, name)
	what()
	Eventually(t, Patience, fmt.Sprintf("%s grows by %v", name, n), func() bool { return b.count(t, name) >= before+n })
	b.serves(t)
}

// serves shows that the well node gets its catalog and can report, through the edge.
func (b *besieged) serves(t *testing.T) {
	t.Helper()
	for _, e := range []Exchange{catalogOf(wellNode, "production"), reportOf(wellNode, time.Now().Format("20060102150405.000000000"))} {
		got, err := askAt(t, "https://"+b.edge.Addr, b.through, e)
		if err != nil || got.status != http.StatusOK {
			t.Fatalf("afterwards the well node: %d %v %.500s", got.status, err, got.body)
		}
	}
}

func (b *besieged) open(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", b.edge.Addr, Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // again, for those that the test has closed
	return conn
}

func (b *besieged) openTLS(t *testing.T, pair ...tls.Certificate) *tls.Conn {
	t.Helper()
	conn := tls.Client(b.open(t), &tls.Config{RootCAs: b.roots, ServerName: "localhost", Certificates: pair})
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestAnEdgeServesWhileOthersSendItRubbish(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	b.serves(t)
	const handshakes, forged = "troupe_edge_handshake_errors_total", "troupe_edge_forged_total"

	t.Run("no TLS", func(t *testing.T) {
		for _, text := range []string{"GET / HTTP/1.1\r\nHost: puppet\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\x00\x00\x00\x00", strings.Repeat("\xff", 40<<10), "\x16\x03\x01\xff\xff" + strings.Repeat("A", 70_000)} {
			b.counted(t, handshakes, 1, func() {
				conn := b.open(t)
				_, _ = io.WriteString(conn, text) // it may be closed in the middle
				cut(t, conn, Patience)
			})
		}
	})
	t.Run("half a hello", func(t *testing.T) {
		b.counted(t, handshakes, 2, func() {
			for _, text := range []string{"\x16", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
				conn := b.open(t)
				say(t, conn, "%s", text)
				if err := conn.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
	t.Run("a hello that does not end", func(t *testing.T) {
		b.counted(t, handshakes, 1, func() {
			conn := b.open(t)
			say(t, conn, "\x16\x03\x01\x02\x00\x01")
			b.serves(t)
			cut(t, conn, Patience)
		})
	})
	t.Run("a PROXY header from anybody", func(t *testing.T) {
		b.counted(t, handshakes, 1, func() {
			conn := b.open(t)
			say(t, conn, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 8140\r\n")
			cut(t, conn, Patience)
		})
	})
	t.Run("an identity in headers", func(t *testing.T) {
		b.counted(t, forged, 2, func() {
			conn := b.openTLS(t)
			say(t, conn, "GET /puppet/v3/node/%s?environment=production HTTP/1.1\r\nHost: puppet\r\nAccept: application/json\r\nX-Client-Verify: SUCCESS\r\nX-Client-DN: CN=%s\r\nConnection: close\r\n\r\n", wellNode, wellNode)
			if said := cut(t, conn, Patience); !strings.HasPrefix(said, "HTTP/1.1 403 ") {
				t.Errorf("the answer is %.200q", said)
			}
		})
	})
	t.Run("certificates that are not good", func(t *testing.T) {
		b.counted(t, handshakes, 1, func() {
			stranger := foreign(t, wellNode)
			conn := tls.Client(b.open(t), &tls.Config{RootCAs: b.roots, ServerName: "localhost", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }})
			_ = conn.HandshakeContext(t.Context()) // with TLS 1.3 the refusal comes later
			_, err := conn.Read(make([]byte, 1))
			if _, alert := errors.AsType[tls.AlertError](err); err == nil || !alert && !strings.Contains(err.Error(), "remote error: tls: ") {
				t.Errorf("it heard %v, want a TLS alert", err)
			}
		})
	})
	t.Run("a header beyond the limit", func(t *testing.T) {
		conn := b.openTLS(t, b.pair)
		go func() {
			_, _ = io.WriteString(conn, "GET /"+strings.Repeat("x", 600<<10)+" HTTP/1.1\r\nHost: puppet\r\n\r\n")
		}() // it is answered before all is sent
		if said := cut(t, conn, Patience); said != "" && !strings.HasPrefix(said, "HTTP/1.1 431 ") {
			t.Errorf("the answer is %.200q", said)
		}
		b.serves(t)
	})
	t.Run("a header that does not end", func(t *testing.T) {
		conn := b.openTLS(t)
		say(t, conn, "GET /status/v1/simple HTTP/1.1\r\nHost: pup")
		b.serves(t)
		cut(t, conn, Patience)
		b.serves(t)
	})
	t.Run("a large body from a stranger", func(t *testing.T) {
		conn := b.openTLS(t)
		say(t, conn, "PUT /puppet-ca/v1/certificate_request/new.example.test HTTP/1.1\r\nHost: puppet\r\nContent-Type: text/plain\r\nContent-Length: 999999999\r\n\r\n")
		go func() { _, _ = io.WriteString(conn, strings.Repeat("x", 4<<20)) }()
		if said := cut(t, conn, Patience); said != "" && !strings.HasPrefix(said, "HTTP/1.1 413 ") {
			t.Errorf("the answer is %.200q", said)
		}
		b.serves(t)
	})
}

func TestAnEdgeHoldsThousandsOfSilentConnections(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	b.serves(t)
	const silent = 5000
	before := b.count(t, "process_resident_memory_bytes")
	for range silent {
		b.open(t)
	}
	b.serves(t)
	with := b.count(t, "process_resident_memory_bytes")
	t.Logf("%d silent connections: %.1f MiB more, %.1f KiB each", silent, (with-before)/(1<<20), (with-before)/silent/(1<<10))
	if with-before > silent*32<<10 {
		t.Errorf("%d connections that said nothing cost %.0f MiB", silent, (with-before)/(1<<20))
	}
	Eventually(t, Patience, "who says nothing is let go", func() bool { return b.count(t, "process_open_fds") < silent/10 })
	b.serves(t)
}

func TestAnEdgeRefusesAConfigurationThatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"an unknown key":          {"listeners:\n  - listen: 127.0.0.1:0\n    pol: members\n", "pol"},
		"a circle of pools":       {"pools:\n  a: {servers: [{address: \"127.0.0.1:1\"}], overflow: {pool: b}}\n  b: {servers: [{address: \"127.0.0.1:2\"}], overflow: {pool: a}}\nlisteners: [{listen: \"127.0.0.1:0\", pool: a}]\n", "circle"},
		"a pool that is nowhere":  {"listeners: [{listen: \"127.0.0.1:0\", pool: nobody}]\n", `there is no pool "nobody"`},
		"an identity that is not": {"tls: {certificate: /nowhere/c.pem}\n", "belong together"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := TempDir(t)
			file := filepath.Join(dir, "edge.yaml")
			writeFile(t, file, "data: "+filepath.Join(dir, "data")+"\n"+c.text)
			out, err := exec.CommandContext(t.Context(), Binary(t), "edge", "run", "--config", file).CombinedOutput()
			if _, ended := errors.AsType[*exec.ExitError](err); !ended || !strings.Contains(string(out), c.says) || !strings.Contains(string(out), file) {
				t.Errorf("%v: %s", err, out)
			}
			if _, err := os.Stat(filepath.Join(dir, "data")); !os.IsNotExist(err) {
				t.Errorf("a data folder was made: %v", err)
			}
		})
	}
}
