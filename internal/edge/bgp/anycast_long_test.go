//go:build long

package bgp

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file measures what clients notice: two edges with one address, a router that spreads connections over them, and a client
// that opens a new connection every 5 ms. Its figures are in docs/anycast.md.

const (
	answersEnv = "TROUPE_BGP_ANSWERS" // the name that a server answers with
	clientEnv  = "TROUPE_BGP_CLIENT"  // the address that a client asks
)

func init() { //nolint:gochecknoinits // the test binary is server and client, too
	if name := os.Getenv(answersEnv); name != "" {
		l, err := net.Listen("tcp", "62.217.126.165:8140")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			conn, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, name)
			}()
		}
	}
	if address := os.Getenv(clientEnv); address != "" {
		out := make(chan try, 10000)
		go func() {
			for range time.Tick(5 * time.Millisecond) {
				go func() { out <- attempt(address) }()
			}
		}()
		for encoder := json.NewEncoder(os.Stdout); ; {
			if err := encoder.Encode(<-out); err != nil {
				os.Exit(0)
			}
		}
	}
}

// A try is one connection of the client.
type try struct {
	Begin time.Time
	Name  string // of the edge that answered; "" if none did
	Err   string
}

func attempt(address string) try {
	t := try{Begin: time.Now()}
	conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
	if err != nil {
		t.Err = err.Error()
		return t
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Err = err.Error()
		return t
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Err = err.Error()
	}
	t.Name = strings.TrimSpace(string(text))
	return t
}

// tries are those of a client that runs.
type tries struct {
	mu  sync.Mutex
	all []try
}

func (m *machine) client() *tries {
	m.t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := m.self(clientEnv + "=62.217.126.165:8140")
	cmd.Stdout = writer
	m.start("client", cmd)
	writer.Close()
	c := &tries{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			var one try
			if json.Unmarshal(lines.Bytes(), &one) == nil {
				c.mu.Lock()
				c.all = append(c.all, one)
				c.mu.Unlock()
			}
		}
	})
	m.t.Cleanup(func() { reader.Close(); wg.Wait() })
	return c
}

func (m *machine) self(env string) *exec.Cmd {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", m.ns, self)
	cmd.Env = append(os.Environ(), env)
	return cmd
}

// since are the tries that began after a time.
func (c *tries) since(begin time.Time) []try {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []try
	for _, one := range c.all {
		if one.Begin.After(begin) {
			all = append(all, one)
		}
	}
	return all
}

// shared reports whether of the last tries all succeeded, and these names answered, and no other.
func (c *tries) shared(names ...string) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.all) < 100 {
			return false
		}
		var seen []string
		for _, one := range c.all[len(c.all)-100:] {
			if one.Err != "" || one.Name == "" {
				return false
			}
			if !slices.Contains(seen, one.Name) {
				seen = append(seen, one.Name)
			}
		}
		slices.Sort(seen)
		return slices.Equal(seen, names)
	}
}

// damage is how many connections failed since a time, and until when.
func (c *tries) damage(begin time.Time) (failed int, window time.Duration) {
	for _, one := range c.since(begin) {
		if one.Err != "" || one.Name == "" {
			failed++
			window = max(window, one.Begin.Sub(begin))
		}
	}
	return failed, window
}

// TestWhatClientsNotice breaks one of two edges in every way that there is.
func TestWhatClientsNotice(t *testing.T) {
	l := newLab(t)
	router, client := l.machine("router"), l.machine("client")
	edges := []*machine{l.machine("edge1"), l.machine("edge2")}
	l.wire(client, "eth0", []string{"10.9.0.2/24"}, router, "clients", []string{"10.9.0.1/24"})
	client.in("ip", "route", "add", "default", "via", "10.9.0.1")
	router.in("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.fib_multipath_hash_policy=1")
	config := document(t, "router")
	config = strings.Replace(config, "protocol bgp edge1 from puppet { neighbor 62.217.126.167 as 65500; }", "", 1)
	servers := make([]*process, 2)
	speakers := make([]*speaker, 2)
	options := make([]Options, 2)
	for i, edge := range edges {
		n := i + 1
		own, other := fmt.Sprintf("10.9.%d.2", n), fmt.Sprintf("10.9.%d.1", n)
		l.wire(edge, "to-router", []string{own + "/24"}, router, fmt.Sprintf("to-edge%d", n), []string{other + "/24"})
		edge.in("ip", "route", "add", "default", "via", other)
		edge.in("ip", "address", "add", service, "dev", "lo")
		config += fmt.Sprintf("protocol bgp edge%d from puppet { neighbor %s as 65500; }\n", n, own)
		options[i] = Options{
			ASN: 65500, RouterID: netip.MustParseAddr(own), Prefixes: []netip.Prefix{netip.MustParsePrefix(service)},
			Neighbors: []Neighbor{{Address: netip.MustParseAddr(other), ASN: 5408, BFD: &BFD{}}},
			UpAfter:   -1, MinFlap: time.Second, Grace: time.Second,
		}
	}
	b := router.bird(config)
	serve := func(i int) {
		servers[i] = edges[i].start("server", edges[i].self(fmt.Sprintf("%s=edge%d", answersEnv, i+1)))
		eventually(t, "the server to listen", func() bool { return strings.Contains(edges[i].in("ss", "-ltn"), ":8140") })
	}
	speak := func(i int) {
		speakers[i] = edges[i].speaker(options[i])
		speakers[i].tell("serve")
	}
	for i := range edges {
		serve(i)
		speak(i)
	}
	c := client.client()
	ready := func() {
		t.Helper()
		eventually(t, "both edges to answer", c.shared("edge1", "edge2"))
		for _, s := range speakers {
			s.until("BFD", func(st Status) bool { return established(st) && st.Neighbors[0].BFD == "up" })
		}
	}
	// one breaks edge 1, waits until edge 2 answers all, mends it, and waits until both do.
	one := func(name string, harm, mend func()) {
		t.Helper()
		ready()
		begin := time.Now()
		harm()
		b.has(service, "-edge1")
		eventually(t, "edge 2 alone to answer", c.shared("edge2"))
		failed, window := c.damage(begin)
		begin = time.Now()
		mend()
		eventually(t, "both edges to answer", c.shared("edge1", "edge2"))
		back := time.Since(begin)
		again, _ := c.damage(begin)
		t.Logf("%-60s %4d connections failed within %7v; back after %6v with %d failed", name, failed, window.Round(time.Millisecond),
			back.Round(10*time.Millisecond), again)
	}

	one("the site fails: the server is killed, and the judge says so",
		func() {
			servers[0].signal(syscall.SIGKILL)
			speakers[0].tell("fail no server")
		},
		func() {
			serve(0)
			speakers[0].tell("serve")
		})
	one("planned: drain", func() { speakers[0].tell("drain") }, func() { speakers[0].tell("ready") })
	one("planned: the speaker is stopped", func() { speakers[0].signal(syscall.SIGTERM) }, func() { speak(0) })
	one("the speaker is killed, the server lives", func() { speakers[0].signal(syscall.SIGKILL) }, func() { speak(0) })
	one("black hole: all packets of the edge vanish", func() { edges[0].cut("to-router") }, func() { edges[0].heal() })
	one("hang: speaker and server are stopped (SIGSTOP)",
		func() {
			servers[0].signal(syscall.SIGSTOP)
			speakers[0].signal(syscall.SIGSTOP)
		},
		func() {
			servers[0].signal(syscall.SIGCONT)
			speakers[0].signal(syscall.SIGCONT)
		})
}
