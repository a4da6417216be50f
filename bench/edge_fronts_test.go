//go:build bench

package bench

// This file starts what stands before the servers: edges and HAProxy, with the same servers, the same checks, the same certificates.

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// A stage has an authority like Puppet's, servers, and fronts before them.
type stage struct {
	t      *testing.T
	folder string
	cert   *x509.Certificate
	key    *rsa.PrivateKey
	actors []*actor
}

const agentCerts = 64 // of each kind of key

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, folder: troupetest.TempDir(t)}
	var err error
	s.key, err = rsa.GenerateKey(rand.Reader, 4096)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Puppet CA: bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, s.key.Public(), s.key)
	must(t, err)
	s.cert, err = x509.ParseCertificate(der)
	must(t, err)
	s.file("ca_crt.pem", "CERTIFICATE", der)
	s.keyFile("ca_key.pem", s.key)
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}, s.cert, s.key)
	must(t, err)
	s.file("ca_crl.pem", "X509 CRL", crl)
	for _, name := range []string{"server", "edge"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		s.keyFile(name+".key", key)
		s.file(name+".pem", "CERTIFICATE", s.sign("localhost", key.Public()))
	}
	both := append(s.read("edge.pem"), s.read("edge.key")...)
	must(t, os.WriteFile(filepath.Join(s.folder, "haproxy.pem"), both, 0o600))
	return s
}

// agentKeys makes certificates of agents; those of one kind share a key, since RSA keys take long to make.
func (s *stage) agentKeys(kind string) {
	s.t.Helper()
	var key crypto.Signer
	var err error
	if kind == "p256" {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	}
	must(s.t, err)
	s.keyFile("agent-"+kind+".key", key)
	for i := range agentCerts {
		s.file(fmt.Sprintf("agent-%s-%d.pem", kind, i), "CERTIFICATE", s.sign(fmt.Sprintf("%s%d.example.test", kind, i), key.Public()))
	}
}

func (s *stage) sign(name string, public any) []byte {
	s.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(s.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, s.cert, public, s.key)
	must(s.t, err)
	return der
}

func (s *stage) file(name, kind string, der []byte) {
	s.t.Helper()
	must(s.t, os.WriteFile(filepath.Join(s.folder, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func (s *stage) keyFile(name string, key crypto.Signer) {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(s.t, err)
	s.file(name, "PRIVATE KEY", der)
}

func (s *stage) read(name string) []byte {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.folder, name))
	must(s.t, err)
	return text
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An actor is a server in a process of its own, which can be killed and started again at its address.
type actor struct {
	address string
	role    string
	folder  string
	pinned  []string

	mu  sync.Mutex
	cmd *exec.Cmd
}

// role is a command that plays it.
func role(pinned []string, name string, env ...string) *exec.Cmd {
	words := append(append([]string{}, pinned...), os.Args[0])
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), append(env, roleVariable+"="+name)...)
	return cmd
}

func (s *stage) cast(n int, name string, pinned ...string) {
	s.t.Helper()
	for range n {
		a := &actor{address: freeAddress(s.t), role: name, folder: s.folder, pinned: pinned}
		must(s.t, a.start())
		s.t.Cleanup(func() {
			if err := a.kill(); err != nil {
				s.t.Error(err)
			}
		})
		s.actors = append(s.actors, a)
	}
}

// start starts the process and waits until it takes connections.
func (a *actor) start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cmd = role(a.pinned, a.role, roleFolder+"="+a.folder, roleAddress+"="+a.address)
	a.cmd.Stderr = os.Stderr
	if err := a.cmd.Start(); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(troupetest.Patience); time.Now().Before(end); <-tick.C {
		if conn, err := net.DialTimeout("tcp", a.address, time.Second); err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("nobody listens at %s", a.address)
}

func (a *actor) kill() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return nil
	}
	err := a.cmd.Process.Signal(syscall.SIGKILL)
	_ = a.cmd.Wait() // it was killed
	a.cmd = nil
	return err
}

// A front is one way to the servers.
type front struct {
	name   string
	addr   string
	folder string // processes started with a path below it are the front's; "" for none
}

func (f front) cpu(t *testing.T) time.Duration {
	t.Helper()
	return cpu(t, f.folder)
}

// checks are the same on both sides: every 200 ms, down after two, up after one.
func (s *stage) pool(checked bool) string {
	var b strings.Builder
	check := "{interval: 200ms, fast_interval: 200ms, down_interval: 200ms, timeout: 2s, fall: 2, rise: 1}"
	if !checked {
		check = "{type: none}"
	}
	fmt.Fprintf(&b, "pools:\n  servers:\n    balance: least-connections\n    tls: {server_name: localhost, ca: %s}\n    check: %s\n    servers:\n", filepath.Join(s.folder, "ca_crt.pem"), check)
	for i, a := range s.actors {
		fmt.Fprintf(&b, "      - {name: s%d, address: %q}\n", i+1, a.address)
	}
	return b.String()
}

// edge starts an edge in front of the servers.
func (s *stage) edge(name, mode string, checked bool, more string, within ...string) front {
	s.t.Helper()
	config := fmt.Sprintf("listeners:\n  - {listen: %%LISTEN%%, mode: %s}\n%s%s", mode, s.pool(checked), more)
	if mode == "puppet" {
		config += fmt.Sprintf("tls: {certificate: %[1]s/edge.pem, key: %[1]s/edge.key, ca: %[1]s/ca_crt.pem, crl: %[1]s/ca_crl.pem}\nruns: {linger: 100ms}\n", s.folder)
	}
	e := troupetest.StartEdge(s.t, troupetest.EdgeOptions{Config: config, Within: within})
	if checked {
		e.AwaitUp("servers", len(s.actors))
	}
	return front{name: name, addr: e.Addr, folder: filepath.Dir(e.Data)}
}

// haproxy starts Debian's HAProxy in front of the same servers, in mode tcp or http.
func (s *stage) haproxy(name, mode string, checked bool, more string, within ...string) front {
	s.t.Helper()
	f := front{name: name, addr: freeAddress(s.t), folder: troupetest.TempDir(s.t)}
	var b bytes.Buffer
	fmt.Fprintf(&b, "global\n  maxconn 4000\n  nbthread %d\n", map[bool]int{true: 2, false: 1}[len(within) == 0])
	if mode == "http" {
		b.WriteString("  tune.bufsize 262144\n  tune.ssl.default-dh-param 2048\n")
	}
	fmt.Fprintf(&b, "defaults\n  mode %s\n  timeout connect 2s\n  timeout client 300s\n  timeout server 300s\n  retries 3\n  option redispatch 1\n%s", mode, more)
	bind, server := "", ""
	if mode == "http" {
		bind = fmt.Sprintf(" ssl crt %s ca-file %s crl-file %s verify optional", filepath.Join(s.folder, "haproxy.pem"), filepath.Join(s.folder, "ca_crt.pem"), filepath.Join(s.folder, "ca_crl.pem"))
		server = " ssl verify required verifyhost localhost ca-file " + filepath.Join(s.folder, "ca_crt.pem")
		b.WriteString("  option http-buffer-request\n  retry-on all-retryable-errors\n")
	}
	fmt.Fprintf(&b, "frontend agents\n  bind %s%s\n", f.addr, bind)
	if mode == "http" && !checked { // the edge, too, answers this itself
		b.WriteString("  http-request return status 200 content-type text/plain string running if { path_beg /status/v1/simple }\n")
	}
	b.WriteString("  default_backend servers\nbackend servers\n  balance leastconn\n")
	if checked {
		check := " check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions"
		if mode == "tcp" {
			check += " check-ssl verify none"
		}
		b.WriteString("  option httpchk GET /status/v1/simple\n")
		server += check
	}
	for i, a := range s.actors {
		fmt.Fprintf(&b, "  server s%d %s%s\n", i+1, a.address, server)
	}
	file := filepath.Join(f.folder, "haproxy.cfg")
	must(s.t, os.WriteFile(file, b.Bytes(), 0o600))
	words := append(append([]string{}, within...), "haproxy", "-f", file, "-db")
	cmd := exec.Command(words[0], words[1:]...)
	out, err := os.Create(filepath.Join(f.folder, "log"))
	must(s.t, err)
	cmd.Stdout, cmd.Stderr = out, out
	must(s.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed at the end
		close(ended)
	}()
	s.t.Cleanup(func() {
		err := cmd.Process.Signal(syscall.SIGKILL)
		<-ended
		if errors.Is(err, os.ErrProcessDone) {
			s.t.Errorf("%s had ended", name)
			err = nil
		}
		if err = errors.Join(err, out.Close()); err != nil {
			s.t.Error(err)
		}
		if s.t.Failed() {
			text, _ := os.ReadFile(out.Name())
			s.t.Logf("log of %s:\n%s\n%s", name, b.String(), text[:min(len(text), 4000)])
		}
	})
	troupetest.Eventually(s.t, troupetest.Patience, name+" takes connections", func() bool {
		select {
		case <-ended:
			s.t.Fatalf("%s ended while it started", name)
		default:
		}
		conn, err := net.DialTimeout("tcp", f.addr, time.Second)
		return err == nil && conn.Close() == nil
	})
	return f
}
