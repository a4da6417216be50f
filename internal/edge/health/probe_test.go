package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// probe performs one check of a real server.
func probe(t *testing.T, address string, c Check) result {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = troupetest.Patience
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return New(Options{}).probe(t.Context(), Target{ID: "pool/a", Address: address, Check: c.withDefaults()}, c.Timeout)
}

func TestChecksOfHTTP(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/status/v1/simple":
			_, _ = io.WriteString(w, "running")
		case "/told":
			_, _ = fmt.Fprintf(w, "%s %s %s %s %s %v", r.Method, r.Proto, r.Host, r.Header.Get("X-Site"), r.UserAgent(), r.Close)
		case "/long":
			_, _ = io.WriteString(w, strings.Repeat("x", maxBody)+"end")
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		default:
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	address := s.Listener.Addr().String()
	for _, c := range []struct {
		name  string
		check Check
		want  string // of the result without its time; empty: it passes
	}{
		{"defaults", Check{}, ""},
		{"body", Check{Body: regexp.MustCompile("^running$")}, ""},
		{"other body", Check{Body: regexp.MustCompile("starting")}, "L7RSP/200: the body does not match starting"},
		{"other status", Check{Path: "/absent"}, "L7STS/503"},
		{"status that is wanted", Check{Path: "/absent", Status: []StatusRange{{200, 200}, {500, 599}}}, ""},
		{"redirects pass, and are not followed", Check{Path: "/moved", Body: regexp.MustCompile("Found")}, ""},
		{"head", Check{Method: "HEAD"}, ""},
		{
			"what is sent",
			Check{
				Path: "/told", Method: "OPTIONS", HTTPVersion: "1.0", Host: "puppet.example.com",
				Headers: http.Header{"X-Site": {"east"}, "User-Agent": {"check"}, "Host": {"ignored"}},
				Body:    regexp.MustCompile(`^OPTIONS HTTP/1\.0 puppet\.example\.com east check true$`),
			},
			"",
		},
		{"what is sent else", Check{Path: "/told", Body: regexp.MustCompile(`^GET HTTP/1\.1 127\.0\.0\.1  troupe-edge true$`)}, ""},
		{"only the first 64 KiB count", Check{Path: "/long", Body: regexp.MustCompile("end")}, "L7RSP/200: the body does not match end"},
		{"plain HTTP is no TLS", Check{Type: TypeTLS}, "L6RSP: tls: first record does not look like a TLS handshake"},
		{"the port is open", Check{Type: TypeTCP}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.check.Type == "" {
				c.check.Type = TypeHTTP
			}
			r := probe(t, address, c.check)
			if r.ok != (c.want == "") || !r.ok && r.short() != c.want {
				t.Errorf("%s, want %q", r.short(), c.want)
			}
		})
	}
}

func TestChecksOfTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "no certificate", http.StatusForbidden)
		}
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	address := s.Listener.Addr().String()
	known := x509.NewCertPool()
	known.AddCert(s.Certificate())
	for _, c := range []struct {
		name  string
		check Check
		want  string
	}{
		{"a handshake", Check{Type: TypeTLS}, ""},
		{"who answers does not matter", Check{Type: TypeHTTPS, Status: []StatusRange{{403, 403}}}, ""},
		{"who answers matters", Check{Type: TypeTLS, TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, "L6RSP: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		{"known by its address", Check{Type: TypeTLS, TLS: &tls.Config{RootCAs: known}}, ""},
		{"known by another name", Check{Type: TypeTLS, TLS: &tls.Config{RootCAs: known, ServerName: "example.com"}}, ""},
		{"not by that name", Check{Type: TypeTLS, TLS: &tls.Config{RootCAs: known, ServerName: "puppet"}}, "L6RSP: tls: failed to verify certificate: x509: certificate is valid for example.com, *.example.com, not puppet"},
		{"without a certificate", Check{Type: TypeHTTPS}, "L7STS/403"},
		{"with one", Check{Type: TypeHTTPS, TLS: &tls.Config{RootCAs: known, Certificates: s.TLS.Certificates}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := probe(t, address, c.check)
			if r.ok != (c.want == "") || !r.ok && r.short() != c.want {
				t.Errorf("%s, want %q", r.short(), c.want)
			}
		})
	}
}

func TestChecksSayWhatIsWrongWithAConnection(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	if r := probe(t, free.Addr().String(), Check{Type: TypeTCP}); r.short() != "L4CON: connection refused" {
		t.Errorf("a closed port: %s", r.short())
	}
	if r := probe(t, filepath.Join(t.TempDir(), "absent"), Check{Type: TypeTCP}); r.short() != "L4CON: no such file or directory" {
		t.Errorf("a socket that is not there: %s", r.short())
	}

	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	said := make(chan string, 1)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			said <- line
			_, _ = io.WriteString(conn, "nonsense\r\n\r\n")
			_ = conn.Close()
		}
	}()
	r := probe(t, ln.Addr().String(), Check{Type: TypeHTTP})
	if got := <-said; got != "GET /status/v1/simple HTTP/1.1\r\n" || r.code != "L7RSP" {
		t.Errorf("%q was asked, and the answer is %s", got, r.short())
	}
	if r := probe(t, ln.Addr().String(), Check{Type: TypeHTTP, SendProxy: true}); <-said != "PROXY UNKNOWN\r\n" {
		t.Errorf("the PROXY header of a socket: %s", r.short())
	}
	for _, c := range []Check{{Path: "/ HTTP/1.1\r\nX: y"}, {Headers: http.Header{"X": {"a\nb"}}}, {Headers: http.Header{"": {"a"}}}, {Host: "a b"}} {
		c.Type = TypeHTTP
		if c.Validate() == nil {
			t.Errorf("%+v is valid", c)
		}
		if r := New(Options{}).attempt(t.Context(), Target{Address: ln.Addr().String(), Check: c.withDefaults()}, new(time.Duration)); r.ok || r.code != "INI" {
			t.Errorf("%+v was sent: %s", c, r.short())
		}
	}
}

func TestChecksSpeakTheProxyProtocol(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	got := make(chan [2]string, 1)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(conn)
			got <- [2]string{string(all), strings.ReplaceAll(fmt.Sprint(conn.RemoteAddr(), " ", conn.LocalAddr()), ":", " ")}
			_ = conn.Close()
		}
	}()
	if r := probe(t, ln.Addr().String(), Check{Type: TypeTCP, SendProxy: true}); !r.ok {
		t.Error(r.short())
	}
	seen := <-got
	var a, b string
	var ap, bp int
	if _, err := fmt.Sscanf(seen[1], "%s %d %s %d", &a, &ap, &b, &bp); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("PROXY TCP4 %s %s %d %d\r\n", a, b, ap, bp); seen[0] != want {
		t.Errorf("version 1: %q, want %q", seen[0], want)
	}
	if r := probe(t, ln.Addr().String(), Check{Type: TypeTCP, SendProxy: true, ProxyV2: true}); !r.ok {
		t.Error(r.short())
	}
	if seen = <-got; seen[0] != "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" {
		t.Errorf("version 2: %q, want LOCAL without addresses", seen[0])
	}
}

func TestValidateNamesAllThatIsWrong(t *testing.T) {
	err := Check{Type: "ping", OnError: "panic", Initial: "maybe", HTTPVersion: "2", Spread: 0.6, Rise: -1, Interval: -1, Layer: 5, Status: []StatusRange{{300, 200}}}.Validate()
	for _, part := range []string{`"ping"`, `"panic"`, `"maybe"`, `version "2"`, "spread 0.6", "rise", "time", "layer 5", "300-200"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want it to name %s", err, part)
		}
	}
	if err := (Check{}).Validate(); err != nil {
		t.Error(err)
	}
}

// TestMain also is the server that is stopped: this binary, started again.
func TestMain(m *testing.M) {
	if os.Getenv("TROUPE_TEST_SERVER") == "" {
		os.Exit(m.Run())
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	fmt.Println(s.Listener.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
}

// TestAStoppedServerIsSeen holds goal G2 of the edge: a server that hangs (SIGSTOP) is taken out by what requests show, long before its
// checks would, and comes back when it goes on. Its kernel still accepts connections, so that only a handshake shows it.
func TestAStoppedServerIsSeen(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TROUPE_TEST_SERVER=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Process.Signal(syscall.SIGCONT)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(line)

	m := New(Options{})
	m.Watch([]Target{{ID: "pool/a", Address: address, Check: Check{
		Type: TypeHTTPS, Path: "/", Interval: time.Minute, FastInterval: 200 * time.Millisecond, DownInterval: 200 * time.Millisecond, Timeout: 30 * time.Second,
		Suspicion: 700 * time.Millisecond, Observe: true, ErrorLimit: 3, OnError: OnErrorMarkDown,
	}}, {ID: "pool/b"}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	is := func(s State) func() bool { return func() bool { return m.Verdict("pool/a").State == s } }
	troupetest.Eventually(t, troupetest.Patience, "it is up", is(Up))

	stop := func() {
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		troupetest.Eventually(t, troupetest.Patience, "all its threads stand still", func() bool {
			threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", cmd.Process.Pid))
			return err == nil && !slices.ContainsFunc(threads, func(path string) bool {
				stat, err := os.ReadFile(path)
				return err != nil || !strings.Contains(string(stat), ") T ")
			})
		})
	}
	stop()
	stopped := time.Now()
	requests := make(chan error, 3) // three requests of agents, each of which gives up on the handshake after 300 ms
	for range cap(requests) {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address)
			if err == nil {
				_ = conn.Close()
				requests <- errors.New("a stopped server shook hands")
				return
			}
			m.Observe("pool/a", Outcome{Layer: 4, Took: time.Since(stopped), Err: err.Error()})
			requests <- nil
		}()
	}
	for range cap(requests) {
		if err := <-requests; err != nil {
			t.Error(err)
		}
	}
	if !is(Down)() {
		t.Errorf("%+v, want it down as soon as the third request failed", m.Verdict("pool/a"))
	}
	t.Logf("seen %v after SIGSTOP, with checks a minute apart", time.Since(stopped).Round(time.Millisecond))

	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	troupetest.Eventually(t, troupetest.Patience, "it is up again", is(Up))

	// A request on an old connection shows nothing at all. Whoever waits for it suspects.
	stop()
	stopped = time.Now()
	m.Suspect("pool/a")
	troupetest.Eventually(t, troupetest.Patience, "a suspicion shows that it hangs", is(Down))
	t.Logf("seen about %v after SIGSTOP by a suspicion", time.Since(stopped).Round(10*time.Millisecond))
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	troupetest.Eventually(t, troupetest.Patience, "it is up a third time", is(Up))
}

func TestAgentResponderAnswersAndEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- AgentResponder(ctx, ln, func() string { return AgentLine(Verdict{State: Drain, Share: 0.4}) })
	}()
	for range 3 {
		line, err := New(Options{}).hear(t.Context(), Target{Check: Check{AgentAddress: ln.Addr().String(), AgentSend: "who is it\n"}.withDefaults()})
		if err != nil || line != "up drain 40%" {
			t.Errorf("%q, %v", line, err)
		}
	}
	silent, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(silent); err != nil || string(all) != "up drain 40%\n" {
		t.Errorf("%q, %v", all, err)
	}
	_ = silent.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}
