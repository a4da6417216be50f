//go:build long

package troupetest

// This file puts an edge before each of some sites, and a router with a real bird before the edges.
//
//	                        ┌── uplink ── edge east ── lan of east ── members of east
//	agents ── backbone ─────┤                               │
//	          (bird)        │                        lines between sites
//	                        │                               │
//	                        └── uplink ── edge west ── lan of west ── members of west
//
// All edges have the same service address. Agents reach it where the router's table says.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

const (
	serviceAddress = "10.99.0.1"
	servicePrefix  = serviceAddress + "/32"
	serviceName    = "puppet.example.test"
)

// EdgeSites are sites with members and edges, and agents that know one address.
type EdgeSites struct {
	*Sites

	Clients *Machine
	Members []*SiteMember
	Edges   []*SiteEdge

	bird  *bird
	fleet []*fakeagent.Agent
}

// A SiteEdge is an edge on a machine of its own.
type SiteEdge struct {
	*Edge

	Site    string
	Machine *Machine
	Serial  string // of its certificate for agents, by which clients know it

	label  string
	uplink string // address of the router on the line to the edge
	own    string // its own address there
}

// EdgeSitesOptions chooses what differs between stories.
type EdgeSitesOptions struct {
	Sites  []string
	Spread bool                     // the router spreads agents over edges that are equally good (ECMP)
	BGP    string                   // further lines of the section bgp of all edges, indented by two
	Config func(e *SiteEdge) string // further sections of edge.yaml
	Local  bool                     // the edge only puts the address on an interface, and a bird on its machine announces it
}

// NewEdgeSites starts a member and an edge at each site, and waits until the router knows all edges.
func NewEdgeSites(t *testing.T, o EdgeSitesOptions) *EdgeSites {
	t.Helper()
	for _, tool := range []string{"bird", "birdc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: run tools/packages.sh bird2", err)
		}
	}
	s := &EdgeSites{Sites: NewSites(t, o.Sites...)}
	s.in("backbone", "sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1")
	s.Clients = &Machine{s: s.Sites, ns: s.namespace("clients"), IP: "10.79.0.2"}
	s.wire("clients", "eth0", s.Clients.IP+"/24", "to-clients", "10.79.0.1/24")
	s.in("clients", "ip", "route", "add", "default", "via", "10.79.0.1")

	for _, site := range o.Sites {
		var first *SiteMember
		if len(s.Members) > 0 {
			first = s.Members[0]
		}
		m := s.Start(site, first, SiteOptions{})
		m.WriteCode("production/manifests/site.pp", greeting)
		s.Members = append(s.Members, m)
	}
	awaitConnected(t, s.Members...)

	config := routerConfig(o.Spread)
	for i, site := range o.Sites {
		e := s.place(site, i+1)
		config += fmt.Sprintf("protocol bgp %s from puppet { neighbor %s as 65500; }\n", site, e.own)
	}
	s.bird = s.startBird("backbone", config)
	for _, e := range s.Edges {
		s.startEdge(e, o)
	}
	for _, e := range s.Edges {
		e.AwaitUp("members", len(s.Members))
		s.awaitRoute(e)
	}
	return s
}

// place makes the machine of an edge with its uplink.
func (s *EdgeSites) place(site string, number int) *SiteEdge {
	s.t.Helper()
	e := &SiteEdge{Site: site, label: site + "-edge", uplink: fmt.Sprintf("10.78.%d.1", number), own: fmt.Sprintf("10.78.%d.2", number)}
	e.Machine = s.machine(site, "edge", "")
	s.wire(e.label, "uplink", e.own+"/24", "to-edge"+fmt.Sprint(number), e.uplink+"/24")
	s.in(e.label, "ip", "route", "add", "10.79.0.0/24", "via", e.uplink)
	s.in(e.label, "nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add chain inet cut out { type filter hook output priority 0; }")
	s.Edges = append(s.Edges, e)
	return e
}

func (s *EdgeSites) startEdge(e *SiteEdge, o EdgeSitesOptions) {
	s.t.Helper()
	text := "name: edge." + e.Site + ".example.test\nlisteners:\n  - listen: 0.0.0.0:8140\n"
	if o.Local {
		text += "bgp:\n  mode: address\n  interface: announce0\n  prefixes: [" + servicePrefix + "]\n"
		s.in(e.label, "ip", "link", "add", "announce0", "type", "bridge")
		s.in(e.label, "ip", "link", "set", "announce0", "up")
		s.startBird(e.label, birdOfEdge(e))
	} else {
		s.in(e.label, "ip", "address", "add", servicePrefix, "dev", "lo")
		text += fmt.Sprintf("bgp:\n  as: 65500\n  router_id: %s\n  prefixes: [%s]\n  neighbors:\n    - {address: %s, as: 5408, bfd: {interval: 300ms, multiplier: 3}}\n",
			e.own, servicePrefix, e.uplink)
	}
	text += o.BGP
	if o.Config != nil {
		text += o.Config(e)
	}
	member := s.Members[0]
	for _, m := range s.Members {
		if m.Site == e.Site {
			member = m
		}
	}
	e.Edge = StartEdge(s.t, EdgeOptions{
		Config: text, Troupe: member.Server, Site: e.Site, Names: serviceName + ",IP:" + serviceAddress, Within: append([]string{"chrt", "--rr", "1"}, e.Machine.Within()...), Listen: e.own + ":8140",
	})
	Eventually(s.t, Patience, "the edge of "+e.Site+" shows its certificate", func() bool {
		one := s.ask(e.own + ":8140")
		e.Serial = one.serial
		return one.err == nil
	})
}

// wire is a line from a machine to the router.
func (s *EdgeSites) wire(label, name, address, routerName, routerAddress string) {
	s.t.Helper()
	s.ip("link", "add", name, "netns", s.ns(label), "type", "veth", "peer", "name", routerName, "netns", s.ns("backbone"))
	s.in(label, "ip", "address", "add", address, "dev", name)
	s.in(label, "ip", "link", "set", name, "up")
	s.in("backbone", "ip", "address", "add", routerAddress, "dev", routerName)
	s.in("backbone", "ip", "link", "set", routerName, "up")
}

// Blackhole takes a whole site from the rest of the world: its uplink and its lines to other sites swallow every packet.
func (s *EdgeSites) Blackhole(e *SiteEdge) {
	s.t.Helper()
	s.Deafen(e)
	s.Mute(e)
	s.Isolate(e.Site)
}

// Deafen has the uplink of an edge swallow what comes to it; what it says arrives.
func (s *EdgeSites) Deafen(e *SiteEdge) {
	s.t.Helper()
	s.in(e.label, "nft", `add rule inet cut in iifname "uplink" drop`)
}

// Mute has the uplink of an edge swallow what it says.
func (s *EdgeSites) Mute(e *SiteEdge) {
	s.t.Helper()
	s.in(e.label, "nft", `add rule inet cut out oifname "uplink" drop`)
}

// Isolate takes the lines of a site to all others; agents still reach its edge.
func (s *EdgeSites) Isolate(site string) {
	s.t.Helper()
	for other := range s.sites {
		if other != site {
			s.Cut(site, other)
		}
	}
}

// Restore mends all lines.
func (s *EdgeSites) Restore() {
	s.t.Helper()
	for _, e := range s.Edges {
		s.in(e.label, "nft", "flush table inet cut")
	}
	s.Heal()
}

// routerConfig is the router's side of docs/anycast.md.
func routerConfig(spread bool) string {
	merge := ""
	if spread {
		merge = "merge paths on; "
	}
	return `
router id 10.79.0.1;
log stderr all;
debug protocols { states };
protocol device { scan time 1; }
filter only_puppet {
	if net = ` + servicePrefix + ` then accept;
	reject;
}
protocol bfd { interface "to-edge*" { interval 300 ms; multiplier 3; }; }
template bgp puppet {
	local as 5408;
	bfd on;
	prefer older ` + map[bool]string{true: "off", false: "on"}[spread] + `;
	error wait time 1, 5; error forget time 10; connect delay time 1; connect retry time 2;
	ipv4 { import filter only_puppet; import limit 2 action block; export none; };
}
protocol kernel { ` + merge + `ipv4 { import none; export all; }; }
`
}

// birdOfEdge is the bird on the machine of an edge in mode address.
func birdOfEdge(e *SiteEdge) string {
	return `
router id ` + e.own + `;
log stderr all;
protocol device { scan time 1; }
protocol direct service { interface "announce0"; check link no; ipv4; }
filter to_router {
	if net = ` + servicePrefix + ` then accept;
	reject;
}
protocol bfd { interface "uplink" { interval 300 ms; multiplier 3; }; }
protocol bgp upstream {
	local as 65500;
	neighbor ` + e.uplink + ` as 5408;
	bfd on;
	error wait time 1, 5; error forget time 10; connect delay time 1; connect retry time 2;
	ipv4 { import none; export filter to_router; };
}
`
}

// A bird is a real bird on a machine.
type bird struct {
	t      *testing.T
	socket string
}

func (s *EdgeSites) startBird(label, config string) *bird {
	s.t.Helper()
	dir := TempDir(s.t)
	b := &bird{t: s.t, socket: filepath.Join(dir, "bird.ctl")}
	file := filepath.Join(dir, "bird.conf")
	writeFile(s.t, file, config)
	p := startProcess(s.t, "bird on "+label, filepath.Join(dir, "bird.log"), exec.Command("chrt", "--rr", "1", "ip", "netns", "exec", s.ns(label), "bird", "-f", "-c", file, "-s", b.socket))
	Eventually(s.t, Patience, "bird on "+label+" answers", func() bool {
		if p.ended() {
			s.t.Fatalf("bird on %s ended: %v", label, p.err)
		}
		return exec.CommandContext(s.t.Context(), "birdc", "-s", b.socket, "show", "status").Run() == nil
	})
	return b
}

// route is all that the router knows of the service address; "" if nothing.
func (b *bird) route() string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "birdc", "-r", "-s", b.socket, "show", "route", "all", servicePrefix).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Network not found") {
		b.t.Fatalf("birdc: %v\n%s", err, out)
	}
	return string(out)
}

func (s *EdgeSites) awaitRoute(e *SiteEdge) time.Duration {
	s.t.Helper()
	begin := time.Now()
	Eventually(s.t, Patience, "the router knows the edge of "+e.Site, func() bool { return strings.Contains(s.bird.route(), "via "+e.own+" ") })
	return time.Since(begin)
}

func (s *EdgeSites) awaitNoRoute(e *SiteEdge) time.Duration {
	s.t.Helper()
	begin := time.Now()
	Eventually(s.t, Patience, "the router forgets the edge of "+e.Site, func() bool { return !strings.Contains(s.bird.route(), "via "+e.own+" ") })
	return time.Since(begin)
}

// A watch is what the kernel of the router says of its routes, with the time of each change.
type watch struct {
	t   *testing.T
	log string
}

func (s *EdgeSites) watchRoutes() *watch {
	s.t.Helper()
	w := &watch{t: s.t, log: filepath.Join(TempDir(s.t), "routes.log")}
	startProcess(s.t, "ip monitor", w.log, exec.Command("ip", "netns", "exec", s.ns("backbone"), "ip", "-ts", "-o", "monitor", "route"))
	return w
}

// lines are the changes of the route to the service address since the beginning.
func (w *watch) lines() (all []string) {
	w.t.Helper()
	text, err := os.ReadFile(w.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, serviceAddress) {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}
