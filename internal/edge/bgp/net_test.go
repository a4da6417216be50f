package bgp

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file makes machines for tests: network namespaces, wires between them, real birds and speakers on them.

// A lab is some machines, which go with the test.
type lab struct {
	t  *testing.T
	id string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	for _, tool := range []string{"ip", "nft", "bird", "birdc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: run tools/packages.sh iproute2 nftables bird2", err)
		}
	}
	return &lab{t: t, id: "bgp-" + strings.ToLower(rand.Text()[:6])}
}

func (l *lab) run(args ...string) string {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A machine is a network namespace.
type machine struct {
	*lab

	ns string
}

func (l *lab) machine(name string) *machine {
	l.t.Helper()
	m := &machine{l, l.id + "-" + name}
	l.run("ip", "netns", "add", m.ns)
	l.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", m.ns).CombinedOutput(); err != nil {
			l.t.Errorf("ip netns delete %s: %v\n%s", m.ns, err, out)
		}
	})
	m.in("ip", "link", "set", "lo", "up")
	m.in("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add chain inet cut out { type filter hook output priority 0; }")
	return m
}

func (m *machine) in(args ...string) string {
	m.t.Helper()
	return m.run(append([]string{"ip", "netns", "exec", m.ns}, args...)...)
}

// wire connects two machines. The interface of each is called after the other one; it gets these addresses.
func (l *lab) wire(a *machine, aName string, aAddresses []string, b *machine, bName string, bAddresses []string) {
	l.t.Helper()
	l.run("ip", "link", "add", aName, "netns", a.ns, "type", "veth", "peer", "name", bName, "netns", b.ns)
	for _, end := range []struct {
		*machine

		name      string
		addresses []string
	}{{a, aName, aAddresses}, {b, bName, bAddresses}} {
		for _, address := range end.addresses {
			args := []string{"ip", "address", "add", address, "dev", end.name}
			if strings.Contains(address, ":") {
				args = append(args, "nodad") // or it is no source for a second or two
			}
			end.in(args...)
		}
		end.in("ip", "link", "set", end.name, "up")
	}
}

// cut lets packets vanish on an interface, both ways.
func (m *machine) cut(name string) {
	m.t.Helper()
	m.in("nft", fmt.Sprintf(`add rule inet cut in iifname "%s" drop; add rule inet cut out oifname "%s" drop`, name, name))
}

func (m *machine) heal() {
	m.t.Helper()
	m.in("nft", "flush table inet cut")
}

// A process is a child that is killed when the test ends, at the latest.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

func (m *machine) start(name string, cmd *exec.Cmd) *process {
	m.t.Helper()
	log := filepath.Join(m.t.TempDir(), name+".log")
	out, err := os.Create(log)
	if err != nil {
		m.t.Fatal(err)
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	p := &process{t: m.t, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	m.t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if m.t.Failed() {
			m.t.Logf("log of %s on %s:\n%s", name, m.ns, p.text())
		}
	})
	return p
}

func (p *process) text() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8000):])
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %v: %v", s, err)
	}
}

// A bird is bird 2 on a machine.
type bird struct {
	*process

	m      *machine
	config string
	socket string
}

func (m *machine) bird(config string) *bird {
	m.t.Helper()
	dir := m.t.TempDir()
	b := &bird{m: m, config: filepath.Join(dir, "bird.conf"), socket: filepath.Join(dir, "bird.ctl")}
	if err := os.WriteFile(b.config, []byte(config), 0o600); err != nil {
		m.t.Fatal(err)
	}
	b.run()
	return b
}

func (b *bird) run() {
	b.m.t.Helper()
	b.process = b.m.start("bird", exec.Command("ip", "netns", "exec", b.m.ns, "bird", "-f", "-c", b.config, "-s", b.socket))
	eventually(b.m.t, "bird to answer", func() bool {
		select {
		case <-b.done:
			b.m.t.Fatalf("bird ended: %v\n%s", b.err, b.text())
		default:
		}
		return exec.Command("birdc", "-s", b.socket, "show", "status").Run() == nil
	})
}

func (b *bird) ask(words ...string) string {
	b.m.t.Helper()
	return b.m.run(append([]string{"birdc", "-r", "-s", b.socket}, words...)...)
}

// route is all that bird knows of a prefix, from a protocol; "" if nothing.
func (b *bird) route(prefix string) string {
	b.m.t.Helper()
	ctx, cancel := context.WithTimeout(b.m.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "birdc", "-r", "-s", b.socket, "show", "route", "all", prefix).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Network not found") {
		b.m.t.Fatalf("birdc: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), prefix) {
		return ""
	}
	return string(out)
}

// has waits for a route with all of these words, none of which begins with a minus.
func (b *bird) has(prefix string, words ...string) time.Duration {
	b.m.t.Helper()
	begin := time.Now()
	defer func() {
		if b.m.t.Failed() {
			b.m.t.Logf("bird knows %s, want %q", b.ask("show", "route", "all"), words)
		}
	}()
	eventually(b.m.t, fmt.Sprintf("bird to know %s with %q", prefix, words), func() bool {
		route := b.route(prefix)
		for _, w := range words {
			word, without := strings.CutPrefix(w, "-")
			if strings.Contains(route, word) == without {
				return false
			}
		}
		return route != ""
	})
	return time.Since(begin)
}

func (b *bird) lacks(prefix string) time.Duration {
	b.m.t.Helper()
	begin := time.Now()
	eventually(b.m.t, "bird to forget "+prefix, func() bool { return b.route(prefix) == "" })
	return time.Since(begin)
}

// A speaker is a process that runs [Speaker.Run] on a machine.
type speaker struct {
	*process

	in  io.WriteCloser
	out *bufio.Scanner
	mu  sync.Mutex
}

func (m *machine) speaker(o Options) *speaker {
	m.t.Helper()
	text, err := json.Marshal(map[string]any{ // the fields that are no functions
		"Mode": o.Mode, "Prefixes": o.Prefixes, "ASN": o.ASN, "RouterID": o.RouterID, "Neighbors": o.Neighbors, "Interface": o.Interface,
		"Lifetime": o.Lifetime, "File": o.File, "Bird": o.Bird, "Prepend": o.Prepend, "MED": o.MED, "UpAfter": o.UpAfter,
		"DownAfter": o.DownAfter, "Rejoin": o.Rejoin, "MinFlap": o.MinFlap, "Grace": o.Grace,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", m.ns, self)
	cmd.Env = append(os.Environ(), helperEnv+"="+string(text))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { reader.Close() })
	cmd.Stdout = writer
	s := &speaker{process: m.start("speaker", cmd), in: stdin, out: bufio.NewScanner(reader)}
	s.out.Buffer(nil, 1<<20)
	writer.Close()
	return s
}

func (s *speaker) tell(command string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, s.text())
	}
}

func (s *speaker) ask(command string) string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(command)
	if !s.out.Scan() {
		s.t.Fatalf("no answer to %s: %v\n%s", command, s.out.Err(), s.text())
	}
	return s.out.Text()
}

func (s *speaker) status() Status {
	s.t.Helper()
	var st Status
	if err := json.Unmarshal([]byte(s.ask("status")), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// until waits for a status.
func (s *speaker) until(what string, done func(Status) bool) time.Duration {
	s.t.Helper()
	begin := time.Now()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("status %s", s.ask("status"))
		}
	}()
	eventually(s.t, what, func() bool { return done(s.status()) })
	return time.Since(begin)
}

func established(st Status) bool {
	for _, n := range st.Neighbors {
		if n.State != "established" {
			return false
		}
	}
	return len(st.Neighbors) > 0
}

// alarmed waits for an alarm with these words.
func alarmed(words ...string) func(Status) bool {
	return func(st Status) bool {
		all := strings.Join(st.Alarms, "\n")
		for _, w := range words {
			if !strings.Contains(all, w) {
				return false
			}
		}
		return true
	}
}

// pair is an edge and its router, in the places that the slides of GRNET have: the service address of all edges, the edge, the
// router. docs/anycast.md shows their configurations.
type pair struct {
	*lab
	edge, router *machine
}

const (
	service, service6 = "62.217.126.165/32", "2001:db8:165::1/128"
)

func newPair(t *testing.T) *pair {
	t.Helper()
	l := newLab(t)
	p := &pair{l, l.machine("edge"), l.machine("router")}
	l.wire(p.edge, "to-router", []string{"62.217.126.167/28", "2001:db8:126::167/64"}, p.router, "to-edge", []string{"62.217.126.166/28", "2001:db8:126::166/64"})
	return p
}

// options are those of the edge, quick ones.
func (p *pair) options(change func(*Options)) Options {
	o := Options{
		ASN: 65500, RouterID: netip.MustParseAddr("62.217.126.167"), Prefixes: []netip.Prefix{netip.MustParsePrefix(service)},
		Neighbors: []Neighbor{{Address: netip.MustParseAddr("62.217.126.166"), ASN: 5408}},
		UpAfter:   -1, MinFlap: time.Second,
	}
	change(&o)
	return o
}

// routerConfig is bird's side of a session. More comes into the protocol.
func routerConfig(more string) string {
	return `
router id 62.217.126.166;
log stderr all;
debug protocols { states, routes };
protocol device { scan time 1; }
protocol bfd { interface "to-*" { interval 300 ms; multiplier 3; }; }
template bgp edges {
	local as 5408;
	error wait time 1, 5; error forget time 10; connect delay time 1; connect retry time 2;
	ipv4 { import all; export none; };
}
protocol bgp edge1 from edges {
	neighbor 62.217.126.167 as 65500;
	` + more + `
}
`
}

// document is a configuration as docs/anycast.md shows it to operators.
func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/anycast.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "<!-- config: "+name+" -->\n```")
	if !found {
		t.Fatalf("docs/anycast.md has no configuration called %q", name)
	}
	_, after, _ = strings.Cut(after, "\n")
	config, _, _ := strings.Cut(after, "\n```")
	return config + "\n"
}
