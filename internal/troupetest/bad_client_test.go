package troupetest

// This file lets clients hold on to a member: slow ones, ones that go away, too many, and ones with certificates that are
// not, or no longer, good.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// dial opens a connection over which a test says what it likes.
func (m *afflicted) dial(t *testing.T, pair ...tls.Certificate) *tls.Conn {
	t.Helper()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: Patience}, Config: &tls.Config{RootCAs: m.roots, ServerName: "localhost", Certificates: pair}}
	conn, err := d.DialContext(t.Context(), "tcp", m.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // again, for those that the test has closed
	return conn.(*tls.Conn)
}

func say(t *testing.T, conn net.Conn, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(conn, format, args...); err != nil {
		t.Fatal(err)
	}
}

// cut waits until the member ends the connection, and returns what it said before.
func cut(t *testing.T, conn net.Conn, limit time.Duration) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %v the connection is still open", limit)
	}
	return string(said)
}

func TestClientsThatAreSlowOrLeaveAreCutAndHoldNobodyUp(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{Config: "http: {header_timeout: 2s, read_timeout: 3s, write_timeout: 4s}\n"})
	const size = 64 << 20
	m.WriteCode("production/modules/site/files/big", noise(size))
	m.serves(t)
	const facts = "PUT /puppet/v3/facts/" + wellNode + "?environment=production HTTP/1.1\r\nHost: puppet\r\nContent-Type: application/json\r\nAccept: application/json\r\n"

	t.Run("a header that does not end", func(t *testing.T) {
		conn := m.dial(t, m.pair)
		say(t, conn, "GET /status/v1/simple HTTP/1.1\r\nHost: pup")
		m.serves(t)
		cut(t, conn, 10*time.Second)
	})
	t.Run("a body that does not end", func(t *testing.T) {
		m.forget(t)
		conn := m.dial(t, m.pair)
		say(t, conn, "%sContent-Length: 1000\r\n\r\n{\"name\":", facts)
		m.serves(t)
		if said := cut(t, conn, 10*time.Second); said != "" && !strings.HasPrefix(said, "HTTP/1.1 400 ") {
			t.Errorf("the answer is %q", said)
		}
		m.said(t, "INFO", "The body could not be read")
	})
	t.Run("a client that leaves within its body", func(t *testing.T) {
		m.forget(t)
		conn := m.dial(t, m.pair)
		say(t, conn, "%sContent-Length: 1000\r\n\r\n{\"name\":", facts)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		m.said(t, "INFO", "The body ends too early")
	})
	t.Run("a body that lies about its length", func(t *testing.T) {
		m.forget(t)
		conn := m.dial(t, m.pair)
		say(t, conn, "%sContent-Length: 99999999999\r\n\r\n", facts)
		if said := cut(t, conn, 10*time.Second); !strings.HasPrefix(said, "HTTP/1.1 413 ") {
			t.Errorf("the answer is %.100q", said)
		}
		m.said(t, "INFO", "The body is larger than")
	})
	t.Run("a client that does not read", func(t *testing.T) {
		m.forget(t)
		conn := m.dial(t, m.pair)
		say(t, conn, "GET /puppet/v3/file_content/modules/site/big?environment=production HTTP/1.1\r\nHost: puppet\r\nAccept: application/octet-stream\r\n\r\n")
		m.serves(t)
		m.said(t, "WARN", `^the client left, or was too slow, after \d+ of 67108864 bytes`)
		if n := len(cut(t, conn, 30*time.Second)); n >= size {
			t.Errorf("it got all %d bytes: the answer was not cut", n)
		}
	})
	t.Run("a header beyond the limit", func(t *testing.T) {
		got := ask(t, m, m.node, get("", "", "/puppet/v3/file_content/modules/"+strings.Repeat("x", 300<<10)))
		got.want(t, http.StatusRequestHeaderFieldsTooLarge, "")
		m.serves(t)
	})
}

func TestCertificatesThatAreNotGoodAreRefusedAndToldOnce(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{})
	refuse := func(t *testing.T, pair tls.Certificate, log string) {
		t.Helper()
		m.forget(t)
		client := &http.Client{Timeout: Patience, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{
				RootCAs: m.roots, ServerName: "localhost",
				// Like an agent: Go's own choice leaves out what the server's list of authorities does not have.
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
			},
		}}
		got, err := tryAsk(t, m, client, get("", "", own("node"), acceptJSON))
		if _, alert := errors.AsType[tls.AlertError](err); err == nil || !alert && !strings.Contains(err.Error(), "remote error: tls: ") {
			t.Errorf("it was answered %d %.200s (%v), want a TLS alert", got.status, got.body, err)
		}
		m.said(t, "WARN", log)
	}
	t.Run("of another CA", func(t *testing.T) { refuse(t, foreign(t, wellNode), "signed by unknown authority") })
	t.Run("expired", func(t *testing.T) {
		short := m.Generate("short.example.test", "--ttl", "2s")
		leaf, err := x509.ParseCertificate(short.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		Eventually(t, Patience, "the certificate expires", func() bool { return time.Now().After(leaf.NotAfter.Add(time.Second)) })
		refuse(t, short, "certificate has expired")
	})
	t.Run("revoked", func(t *testing.T) {
		gone := m.Generate("gone.example.test")
		m.MustCLI("ca", "revoke", "--certname", "gone.example.test")
		refuse(t, gone, `certificate [0-9A-F]+ of "gone.example.test" is revoked`)
	})
}

// foreign is a certificate that another CA gave to the name.
func foreign(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestMoreConnectionsThanAllowedWaitAndFilesAreLeftForCompiles(t *testing.T) {
	t.Parallel()
	const files = 256 // half of them for connections, by the rule for small limits
	m := afflict(t, ServerOptions{Files: files, Config: "engine: {workers: 1}\n"})
	m.serves(t)
	m.forget(t)

	var idle []*tls.Conn
	for range files/2 - 1 { // the well node has one
		conn := m.dial(t)
		say(t, conn, "GET /status/v1/simple HTTP/1.1\r\nHost: puppet\r\n\r\n")
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	m.serves(t) // on its open connection, with a worker and files of its own

	waiting := make(chan error, 1)
	go func() {
		late := &http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: m.roots, ServerName: "localhost"}}}
		got, err := tryAsk(t, m, late, get("", "", "/status/v1/simple"))
		if err == nil && got.status != http.StatusOK {
			err = fmt.Errorf("status %d", got.status)
		}
		waiting <- err
	}()
	m.said(t, "WARN", "all connections are taken, further ones wait")
	select {
	case err := <-waiting:
		t.Errorf("one connection more than allowed was served (%v)", err)
	default:
	}
	for _, conn := range idle {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-waiting; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
	m.serves(t)
}
