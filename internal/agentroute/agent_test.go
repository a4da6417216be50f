package agentroute_test

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/agentroute"
	"troupe/internal/config"
	"troupe/internal/edge/dns"
	"troupe/internal/troupetest"
)

// This file lets the classes of real agents choose servers, and compares.

// serveLadders runs a zone with three sites, whose ladders leave nothing to chance: one edge in each.
func serveLadders(t *testing.T) string {
	t.Helper()
	sites := []dns.Site{{Name: "a", Order: map[string]float64{"b": 1, "c": 2}}, {Name: "b", Order: map[string]float64{"c": 1, "a": 2}}, {Name: "c"}}
	for i := range sites {
		sites[i].Edges = []dns.Edge{{
			Name: "edge-" + sites[i].Name, Target: "edge-" + sites[i].Name + ".example.com", Port: uint16(8140 + i),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})},
			Services:  map[dns.Service]bool{dns.Puppet: true, dns.CA: i != 0, dns.Report: true, dns.Fileserver: true}, Weight: 10,
		}}
	}
	ready := make(chan []netip.AddrPort, 1)
	z, err := dns.New(dns.Options{
		Zone: "example.com", View: func() []dns.Site { return sites }, NS: []dns.NameServer{{Name: "ns.example.net"}},
		SRVDomains: map[string]string{"site-a.example.com": "a", "site-b.example.com": "b"},
		Listen:     []string{"127.0.0.1:0"}, Ready: func(l []netip.AddrPort) { ready <- l },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- z.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the zone ended with %v", err)
		}
	})
	select {
	case l := <-ready:
		return l[0].String()
	case <-time.After(troupetest.Patience):
		t.Fatal("the zone does not start")
		return ""
	}
}

// told is what the classes of an agent say.
type told struct {
	Version  string                                     `json:"version"`
	Routes   map[agentroute.Failure]map[string][]string `json:"routes"` // by failure and service
	Settings map[string]string                          `json:"settings"`
}

// askAgent lets the classes of an agent choose with each of several files of settings.
func askAgent(t *testing.T, g troupetest.Generation, confs []string, nameserver string) (all []told) {
	t.Helper()
	dir := troupetest.TempDir(t)
	put := func(from, to string) {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("testdata/routes.rb", filepath.Join(dir, "routes.rb"))
	host, port, err := net.SplitHostPort(nameserver)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"ruby", filepath.Join(dir, "routes.rb"), "web1.example.com", host, port}
	for _, conf := range confs {
		folder := filepath.Join(dir, strings.TrimSuffix(filepath.Base(conf), ".conf"))
		put(conf, filepath.Join(folder, "puppet.conf"))
		args = append(args, folder)
	}
	ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
	defer cancel()
	cmd := g.Command(ctx, t, []string{dir}, args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the classes of agent %s: %v\n%s", g, err, problems.String())
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "{") { // what the library itself prints about a broken file
			continue
		}
		var one told
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, one)
	}
	if len(all) != len(confs) {
		t.Fatalf("agent %s said %d things of %d files:\n%s", g, len(all), len(confs), out)
	}
	return all
}

// planOf is what we say of the same agent and the same file.
func planOf(t *testing.T, version, conf, nameserver string) *agentroute.Plan {
	t.Helper()
	v, err := agentroute.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	read, err := config.ReadAgentConf(conf, v.Sections(), map[string]string{"server": "puppet"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := agentroute.New(v, read, agentroute.Options{Certname: "web1.example.com", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resolve(t.Context(), agentroute.Resolver{Servers: []string{nameserver}, Timeout: troupetest.Patience}); err != nil {
		t.Fatal(err)
	}
	return p
}

// plain writes a setting as Puppet's own values are written: times in seconds, nothing for never.
func plain(value string) string {
	value, _, _ = strings.Cut(value, ":")
	switch value = strings.TrimSuffix(value, " (none)"); value {
	case "never", "unlimited":
		return ""
	}
	digits := strings.TrimRight(value, "smhdy")
	if n, err := strconv.Atoi(digits); err == nil {
		unit := map[string]int{"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "y": 31536000}[value[len(digits):]]
		return strconv.Itoa(n * unit)
	}
	return value
}

func compare(t *testing.T, generations ...troupetest.Generation) {
	nameserver := serveLadders(t)
	confs, err := filepath.Glob("testdata/confs/*.conf")
	if err != nil || len(confs) < 6 {
		t.Fatalf("%d files of settings, %v", len(confs), err)
	}
	for _, g := range generations {
		for i, real := range askAgent(t, g, confs, nameserver) {
			conf := confs[i]
			p := planOf(t, real.Version, conf, nameserver)
			routes := map[agentroute.Failure]map[string][]string{}
			for _, f := range []agentroute.Failure{agentroute.Refused, agentroute.Silent, agentroute.Unresolved, agentroute.Mistrusted} {
				routes[f] = map[string][]string{}
				for _, s := range p.Services {
					routes[f][s.Name] = p.Attempts(s.Name, f)
				}
			}
			if diff := cmp.Diff(real.Routes, routes); diff != "" {
				t.Errorf("agent %s with %s goes another way (-the agent +we):\n%s", real.Version, conf, diff)
			}
			ours := map[string]string{}
			for _, trait := range p.Traits {
				if _, ok := real.Settings[trait.Name]; ok {
					ours[trait.Name] = plain(trait.Value)
				}
			}
			if diff := cmp.Diff(real.Settings, ours); diff != "" {
				t.Errorf("agent %s with %s has other settings (-the agent +we):\n%s", real.Version, conf, diff)
			}
			if !slices.ContainsFunc(p.Breaks, func(s string) bool { return s != "" }) {
				t.Errorf("agent %s with %s: nothing breaks, which cannot be", real.Version, conf)
			}
		}
	}
}

func TestRealAgentsGoWhereThePlanSays(t *testing.T) {
	compare(t, troupetest.Puppet7, troupetest.Puppet8)
}
