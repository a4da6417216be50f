package troupetest

// This file makes sites: real routers, machines and wires, in network namespaces of the kernel.
//
//	  east1 ── bridge ── router east ──┐              ┌── router west ── bridge ── west1
//	  east2 ──────┘                    ├── backbone ──┤                    └────── west2
//	  agents of east ─────┘            │              │             └───── agents of west
//
// Each box is a namespace, each line a veth pair. Sites are cut by rules of nftables in the routers, so that packets vanish
// without a word, as on a broken line. Names are random, and everything goes when the test ends, however it ends.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Sites are some data centres and the lines between them.
type Sites struct {
	t     *testing.T
	id    string
	hosts string // the file /etc/hosts of all machines
	named []string
	sites map[string]*siteNet
}

// A siteNet is the network of one site.
type siteNet struct {
	name     string
	number   int // 10.77.number.0/24
	machines int
	agents   *Machine
}

// A Machine is a network namespace with one address.
type Machine struct {
	IP string

	s  *Sites
	ns string
}

// NewSites makes the networks of sites. It needs root, ip and nft.
func NewSites(t *testing.T, names ...string) *Sites {
	t.Helper()
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: run tools/packages.sh iproute2 nftables", err)
		}
	}
	s := &Sites{t: t, id: "troupe-" + strings.ToLower(rand.Text()[:6]), sites: map[string]*siteNet{}, hosts: filepath.Join(TempDir(t), "hosts")}
	s.writeHosts()
	s.namespace("backbone")
	s.in("backbone", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	for i, name := range names {
		s.addSite(name, i+1)
	}
	return s
}

func (s *Sites) addSite(name string, number int) {
	s.t.Helper()
	n := &siteNet{name: name, number: number}
	s.sites[name] = n
	s.namespace(name)
	s.in(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	gateway, router := fmt.Sprintf("172.31.77.%d", 4*number+1), fmt.Sprintf("172.31.77.%d", 4*number+2)
	s.ip("link", "add", "backbone", "netns", s.ns(name), "type", "veth", "peer", "name", "to-"+name, "netns", s.ns("backbone"))
	s.in(name, "ip", "address", "add", router+"/30", "dev", "backbone")
	s.in("backbone", "ip", "address", "add", gateway+"/30", "dev", "to-"+name)
	s.in(name, "ip", "link", "set", "backbone", "up")
	s.in("backbone", "ip", "link", "set", "to-"+name, "up")
	s.in(name, "ip", "route", "add", "default", "via", gateway)
	s.in("backbone", "ip", "route", "add", n.network(), "via", router)
	s.in(name, "ip", "link", "add", "lan", "type", "bridge")
	s.in(name, "ip", "address", "add", n.address(1)+"/24", "dev", "lan")
	s.in(name, "ip", "link", "set", "lan", "up")
	s.in(name, "nft", "add table inet cut; add chain inet cut forward { type filter hook forward priority 0; policy accept; }")
	n.agents = s.machine(name, "agents", "")
}

func (n *siteNet) network() string           { return fmt.Sprintf("10.77.%d.0/24", n.number) }
func (n *siteNet) address(number int) string { return fmt.Sprintf("10.77.%d.%d", n.number, number) }

// machine puts one more machine on the bridge of a site. Others find it by its name, if it has one.
func (s *Sites) machine(site, label, name string) *Machine {
	s.t.Helper()
	n := s.sites[site]
	n.machines++
	label = site + "-" + label
	m := &Machine{s: s, ns: s.namespace(label), IP: n.address(10 + n.machines)}
	s.ip("link", "add", "eth0", "netns", m.ns, "type", "veth", "peer", "name", fmt.Sprintf("port%d", n.machines), "netns", s.ns(site))
	s.in(site, "ip", "link", "set", fmt.Sprintf("port%d", n.machines), "master", "lan", "up")
	s.in(label, "ip", "address", "add", m.IP+"/24", "dev", "eth0")
	s.in(label, "ip", "link", "set", "eth0", "up")
	s.in(label, "ip", "route", "add", "default", "via", n.address(1))
	if name != "" {
		s.named = append(s.named, m.IP+" "+name)
		s.writeHosts()
	}
	return m
}

// Agents is the machine at which the agents of a site live.
func (s *Sites) Agents(site string) *Machine { return s.sites[site].agents }

func (s *Sites) ns(label string) string { return s.id + "-" + label }

// namespace makes one that goes with the test.
func (s *Sites) namespace(label string) string {
	s.t.Helper()
	ns := s.ns(label)
	s.ip("netns", "add", ns)
	s.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", ns).CombinedOutput(); err != nil {
			s.t.Errorf("ip netns delete %s: %v\n%s", ns, err, out)
		}
	})
	s.in(label, "ip", "link", "set", "lo", "up")
	return ns
}

// writeHosts writes the file in place: machines have it mounted over their own.
func (s *Sites) writeHosts() {
	s.t.Helper()
	f, err := os.OpenFile(s.hosts, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteString("127.0.0.1 localhost\n" + strings.Join(s.named, "\n") + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Sites) ip(args ...string) {
	s.t.Helper()
	run(s.t, exec.CommandContext(s.t.Context(), "ip", args...))
}

func (s *Sites) in(label string, args ...string) {
	s.t.Helper()
	s.ip(append([]string{"netns", "exec", s.ns(label)}, args...)...)
}

// Cut takes the line between two sites: packets vanish both ways.
func (s *Sites) Cut(a, b string) {
	s.t.Helper()
	s.drop(a, "ip daddr "+s.sites[b].network())
	s.drop(a, "ip saddr "+s.sites[b].network())
}

// CutOneWay lets packets vanish that go from one site to the other; those that come back pass.
func (s *Sites) CutOneWay(from, to string) {
	s.t.Helper()
	s.drop(from, "ip daddr "+s.sites[to].network())
}

func (s *Sites) drop(site, match string) {
	s.t.Helper()
	s.in(site, "nft", "add rule inet cut forward "+match+" drop")
}

// Heal mends all lines.
func (s *Sites) Heal() {
	s.t.Helper()
	for name := range s.sites {
		s.in(name, "nft", "flush chain inet cut forward")
	}
}

// Within are the words that run a command on this machine, with names of the other machines in its /etc/hosts. The command
// takes the place of the process that runs them, so that signals reach it.
func (m *Machine) Within() []string {
	return []string{"ip", "netns", "exec", m.ns, "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, m.s.hosts}
}

// Dial opens a connection from this machine to an address, which must not be a name.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return m.dial(ctx, network, address, dialMost)
}

// DialAsAgents is [Machine.Dial] with the patience of agents: it ends with ctx only.
func (m *Machine) DialAsAgents(ctx context.Context, network, address string) (net.Conn, error) {
	return m.dial(ctx, network, address, 0)
}

func (m *Machine) dial(ctx context.Context, network, address string, most time.Duration) (conn net.Conn, err error) {
	// A socket belongs to the namespace of the thread that makes it. For an address that is no name, and only one, the dialer
	// makes it in this goroutine.
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	away, err := os.Open(filepath.Join("/run/netns", m.ns))
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer away.Close()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter %s: %w", m.ns, err)
	}
	conn, err = (&net.Dialer{Timeout: most}).DialContext(ctx, network, address)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return conn, errors.Join(err, fmt.Errorf("leave %s: %w", m.ns, back)) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return conn, err
}

// dialMost is how long a client waits for a machine that may be gone.
const dialMost = time.Second
