package troupetest

// This file runs the built binary as a member, and asks it through its own command line.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binaryVariable names the binary under test. Main sets it; set before, it spares the build.
const binaryVariable = "TROUPE_TEST_BINARY"

// Main builds the binary, runs the tests of a package and removes it. A package with stories calls it from TestMain.
func Main(m *testing.M) int {
	if os.Getenv(binaryVariable) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "troupetest-")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(dir)

	path := filepath.Join(dir, "troupe")
	build := exec.Command("go", "build", "-o", path, "troupe/cmd/troupe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return complain(err)
	}
	if err := os.Setenv(binaryVariable, path); err != nil {
		return complain(err)
	}
	return m.Run()
}

func complain(err error) int {
	_, _ = os.Stderr.WriteString("build the binary for the stories: " + err.Error() + "\n")
	return 1
}

// Binary returns the path of the binary under test.
func Binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv(binaryVariable)
	if path == "" {
		t.Fatalf("no binary: call troupetest.Main from TestMain, or set %s", binaryVariable)
	}
	return path
}

// ServerOptions chooses what differs between stories.
type ServerOptions struct {
	Certname     string // "" means puppet.example.test
	Environments string // a folder of environments, copied; "" means one empty environment, production
	Data         string // an existing data folder; "" makes a new one
	Config       string // text of the YAML file
	Autosign     bool   // sign every request
	Files        int    // the limit of open files; 0 means the machine's
	Listen       string // "" means a free port of the loopback address

	Within []string // words before every command of the binary, such as those that enter a network namespace
	Binary string   // "" means that of [Binary]
}

// Server is one member. Its certificate is valid for localhost.
type Server struct {
	Data         string
	Environments string
	Certname     string
	Addr         string // address:port; stays the same over restarts

	t      *testing.T
	args   []string
	files  int
	within []string
	binary string
	env    []string // of the next start, beyond that of the test
	proc   *process
}

// Patience is how long whatever must happen may take: a member starts, an agent loads its facts, a file closes. It ends a
// test that hangs and measures nothing: beside the other tests on two slow cores four agents need over a minute.
const Patience = 4 * time.Minute

// StartServer starts a member and waits until it serves.
func StartServer(t *testing.T, o ServerOptions) *Server {
	t.Helper()
	s := &Server{t: t, Data: o.Data, Certname: o.Certname, Addr: cmp.Or(o.Listen, "127.0.0.1:0"), files: o.Files, within: o.Within, binary: o.Binary}
	if s.Certname == "" {
		s.Certname = "puppet.example.test"
	}
	if s.Data == "" {
		s.Data = filepath.Join(TempDir(t), "data")
	}
	work := TempDir(t)
	s.Environments = filepath.Join(work, "environments")
	mkdir(t, filepath.Join(s.Environments, "production", "manifests"))
	if o.Environments != "" {
		copyTree(t, o.Environments, s.Environments)
	}

	s.args = []string{"--confdir", "none", "--certname", s.Certname, "--dns-alt-names", "localhost", "--environmentpath", s.Environments}
	if o.Autosign {
		s.args = append(s.args, "--autosign", "true")
	}
	if o.Config != "" {
		file := filepath.Join(work, "troupe.yaml")
		writeFile(t, file, o.Config)
		s.args = append(s.args, "--config", file)
	}
	s.Start()
	return s
}

// Start starts the member again after Kill or Stop, at the same address.
func (s *Server) Start() {
	s.t.Helper()
	s.spawn()
	Eventually(s.t, Patience, "troupe writes its address", func() bool {
		if s.proc.ended() {
			s.t.Fatalf("troupe ended while it started: %v", s.proc.err)
		}
		text, err := os.ReadFile(s.addrFile())
		if err != nil {
			return false
		}
		s.Addr = strings.TrimSpace(string(text))
		return true
	})
}

// addrFile is where a member says that it serves.
func (s *Server) addrFile() string { return filepath.Join(s.Data, "listen.addr") }

// spawn starts the process and waits for nothing.
func (s *Server) spawn() {
	s.t.Helper()
	if err := os.Remove(s.addrFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err) // a killed member leaves it behind
	}
	args := append([]string{"server", "--data", s.Data, "--listen", s.Addr}, s.args...)
	log := filepath.Join(filepath.Dir(s.Environments), "server.log")
	command := s.command(args...)
	if s.files > 0 {
		command = append([]string{"prlimit", fmt.Sprintf("--nofile=%d:%d", s.files, s.files)}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	s.proc = startProcess(s.t, "troupe "+s.Certname, log, cmd)
}

// command is a command line of this member's binary.
func (s *Server) command(args ...string) []string {
	s.t.Helper()
	binary := s.binary
	if binary == "" {
		binary = Binary(s.t)
	}
	return slices.Concat(s.within, []string{binary}, args)
}

// Stop ends the member as a service manager does.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.proc.signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := s.proc.wait(Patience); err != nil {
		s.t.Fatal(err)
	}
	if s.proc.err != nil {
		s.t.Errorf("troupe ended with %v", s.proc.err)
	}
	if s.hasProcesses() {
		s.t.Error("the stopped member has left processes behind")
	}
}

// Kill ends the process at once, as a power failure of one program. Its workers must notice by themselves.
func (s *Server) Kill() {
	s.t.Helper()
	if err := s.proc.signal(syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.AwaitDeath()
}

// AwaitDeath returns when the process has ended by itself or by somebody else, and its workers, too.
func (s *Server) AwaitDeath() {
	s.t.Helper()
	if err := s.proc.wait(Patience); err != nil {
		s.t.Fatal(err)
	}
	Eventually(s.t, Patience, "the workers of the killed member end", func() bool { return !s.hasProcesses() })
}

// Pause stops the process in its tracks, as a machine that hangs: its connections stay open and nothing answers.
func (s *Server) Pause() { s.t.Helper(); s.must(s.proc.signal(syscall.SIGSTOP)) }

// Resume lets a paused process go on.
func (s *Server) Resume() { s.t.Helper(); s.must(s.proc.signal(syscall.SIGCONT)) }

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// hasProcesses reports whether any process was started with a path below the data folder, as Ruby workers are.
func (s *Server) hasProcesses() bool {
	s.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.ContainsFunc(lines, func(path string) bool {
		line, err := os.ReadFile(path)
		return err == nil && bytes.Contains(line, []byte(s.Data+"/")) // a process may end while we look
	})
}

// CLI runs a command of the binary on this member's data folder.
func (s *Server) CLI(args ...string) (status int, stdout, stderr string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), Patience)
	defer cancel()
	command := s.command(append(args, "--data", s.Data, "--confdir", "none")...)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		s.t.Fatalf("troupe %s: %v\n%s", strings.Join(args, " "), err, words.String())
	}
	return cmd.ProcessState.ExitCode(), out.String(), words.String()
}

// MustCLI runs a command that has to succeed.
func (s *Server) MustCLI(args ...string) string {
	s.t.Helper()
	status, stdout, stderr := s.CLI(args...)
	if status != 0 {
		s.t.Fatalf("troupe %s: exit %d\n%s%s", strings.Join(args, " "), status, stdout, stderr)
	}
	return stdout
}

// JSON runs a command with -o json and decodes what it prints.
func (s *Server) JSON(to any, args ...string) {
	s.t.Helper()
	out := s.MustCLI(append(slices.Clone(args), "-o", "json")...)
	if err := json.Unmarshal([]byte(out), to); err != nil {
		s.t.Fatalf("troupe %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Certificate is a line of `troupe ca list`.
type Certificate struct {
	Name         string `json:"name"`
	State        string `json:"state"`
	Fingerprint  string `json:"fingerprint"`
	SerialNumber string `json:"serial_number"`
}

// Certificates returns all requests and certificates by name.
func (s *Server) Certificates() map[string]Certificate {
	s.t.Helper()
	var list []Certificate
	s.JSON(&list, "ca", "list", "--all")
	byName := map[string]Certificate{}
	for _, c := range list {
		byName[c.Name] = c
	}
	return byName
}

// Report is a line of `troupe report list`.
type Report struct {
	ID              string `json:"id"`
	Certname        string `json:"certname"`
	Status          string `json:"status"`
	Environment     string `json:"environment"`
	TransactionUUID string `json:"transaction_uuid"`
	Noop            bool   `json:"noop"`
	Resources       int    `json:"resources"`
	CachedCatalog   string `json:"cached_catalog_status"`
}

// Reports returns the reports of a node, newest first.
func (s *Server) Reports(certname string) []Report {
	s.t.Helper()
	var list []Report
	s.JSON(&list, "report", "list", "--certname", certname, "--limit", "10000")
	return list
}

// Node is a line of `troupe node list`.
type Node struct {
	Certname         string    `json:"certname"`
	Environment      string    `json:"environment"`
	Status           string    `json:"status"`
	FactsTimestamp   time.Time `json:"facts_timestamp"`
	CatalogTimestamp time.Time `json:"catalog_timestamp"`
	ReportTimestamp  time.Time `json:"report_timestamp"`
	LastCompile      struct {
		Failed bool   `json:"failed"`
		Error  string `json:"error"`
	} `json:"last_compile"`
}

// Node returns what the member knows of a node.
func (s *Server) Node(certname string) Node {
	s.t.Helper()
	var list []Node
	s.JSON(&list, "node", "list")
	i := slices.IndexFunc(list, func(n Node) bool { return n.Certname == certname })
	if i < 0 {
		s.t.Fatalf("troupe node list does not know %s: %+v", certname, list)
	}
	return list[i]
}

// Sign signs the request of a node.
func (s *Server) Sign(certname string) {
	s.t.Helper()
	s.MustCLI("ca", "sign", "--certname", certname)
}

// WriteCode replaces a file below the folder of environments.
func (s *Server) WriteCode(path, text string) {
	s.t.Helper()
	writeFile(s.t, filepath.Join(s.Environments, path), text)
}

// Bundle is the CA bundle as the member publishes it.
func (s *Server) Bundle() *x509.CertPool {
	s.t.Helper()
	pool := x509.NewCertPool()
	client := &http.Client{Timeout: Patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // as an agent's first request
	}}
	answer, err := client.Get("https://" + s.Addr + "/puppet-ca/v1/certificate/ca")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	var pem bytes.Buffer
	if _, err := pem.ReadFrom(answer.Body); err != nil {
		s.t.Fatal(err)
	}
	if !pool.AppendCertsFromPEM(pem.Bytes()) {
		s.t.Fatalf("no certificate in the CA bundle: %s", pem.String())
	}
	return pool
}

// Client returns a client that asks with a certificate, or without one.
func (s *Server) Client(identity ...tls.Certificate) *http.Client {
	s.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Bundle(), ServerName: "localhost", Certificates: identity}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: Patience, Transport: transport}
}

// URL returns the address of a path, by the name that the certificate has.
func (s *Server) URL(path string) string {
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return "https://localhost:" + port + path
}

// Generate makes a certificate on the member and returns it. With extra flags such as --ca-client.
func (s *Server) Generate(certname string, flags ...string) tls.Certificate {
	s.t.Helper()
	ssl := s.t.TempDir()
	s.MustCLI(append([]string{"ca", "generate", "--certname", certname, "--to", ssl}, flags...)...)
	return loadPair(s.t, ssl, certname)
}

// Identity is the certificate that the agent has.
func (a *Agent) Identity() tls.Certificate {
	a.t.Helper()
	return loadPair(a.t, filepath.Join(a.Dir, "ssl"), a.Certname)
}

func loadPair(t *testing.T, ssl, certname string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(
		filepath.Join(ssl, "certs", certname+".pem"), filepath.Join(ssl, "private_keys", certname+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
