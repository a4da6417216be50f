package dns_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"

	"troupe/internal/edge/dns"
	"troupe/internal/troupetest"
)

// This file lets real resolvers ask: those of agents, and dig.

// climb lets the resolver class of an agent's Puppet library climb a ladder a number of times.
func climb(t *testing.T, g troupetest.Generation, address, domain, service, times string) (lines [][]string) {
	t.Helper()
	dir := troupetest.TempDir(t)
	script, err := os.ReadFile("testdata/climb.rb")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "climb.rb")
	if err := os.WriteFile(path, script, 0o644); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
	defer cancel()
	cmd := g.Command(ctx, t, []string{dir}, "ruby", path, host, port, domain, service, times)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the resolver of agent %s: %v\n%s", g, err, problems.String())
	}
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// climbs is what must hold for the resolver of any generation.
func climbs(t *testing.T, g troupetest.Generation) {
	s := twoSites()
	address := serveZone(t, options(s))
	const m1, m2, b = "master-1.site-a.example.com:8140", "master-2.site-a.example.com:8140", "master.site-b.example.com:8140"

	lines := climb(t, g, address, "site-a.example.com", "puppet", "400")
	first := 0
	for _, line := range lines {
		if slices.Equal(line, []string{m1, m2, b}) {
			first++
		} else if !slices.Equal(line, []string{m2, m1, b}) {
			t.Fatalf("agent %s climbs %v; the local site comes first, then the other", g, line)
		}
	}
	// Three of four begin with the one that has three quarters of the capacity.
	if share := float64(first) / 400; len(lines) != 400 || share < 0.65 || share > 0.85 {
		t.Errorf("agent %s: %d of %d begin with the larger server, want 3 of 4", g, first, len(lines))
	}
	for _, service := range []string{"ca", "report", "fileserver"} {
		if lines = climb(t, g, address, "site-b.example.com", service, "1"); len(lines) != 1 || len(lines[0]) != 3 || lines[0][0] != b {
			t.Errorf("agent %s climbs %v for %s, want the local server and two others", g, lines, service)
		}
	}

	// A CA that is down somewhere leaves the ladder of the CA alone.
	s.edge("b1", func(e *dns.Edge) { e.Services = map[dns.Service]bool{dns.Puppet: true} })
	if lines = climb(t, g, address, "site-b.example.com", "ca", "1"); len(lines) != 1 || len(lines[0]) != 2 || slices.Contains(lines[0], b) {
		t.Errorf("agent %s climbs %v for the CA, want the two of the other site", g, lines)
	}
	s.edge("a1", kill)
	if lines = climb(t, g, address, "site-a.example.com", "puppet", "1"); len(lines) != 1 || !slices.Equal(lines[0], []string{m2, b}) {
		t.Errorf("agent %s climbs %v after a death, want the two that live", g, lines)
	}

	// A ladder that does not fit into a packet comes over TCP.
	if lines = climb(t, g, serveZone(t, options(manyEdges(60))), "site-b.example.com", "puppet", "1"); len(lines) != 1 || len(lines[0]) != 63 {
		t.Errorf("agent %s climbs %v, want 63 steps", g, lines)
	}
}

func TestResolversOfAgentsClimbAsMeant(t *testing.T) {
	climbs(t, troupetest.Puppet7)
	climbs(t, troupetest.Puppet8)
}

// dig runs dig against an address and returns what it prints.
func dig(t *testing.T, address string, args ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "dig", append([]string{"@" + host, "-p", port, "+norecurse", "+time=60", "+tries=2"}, args...)...).CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatalf("dig: %v (tools/packages.sh installs bind9-dnsutils)", err)
	}
	return string(out)
}

func TestDigUnderstandsEverything(t *testing.T) {
	o := options(twoSites())
	o.Trusted = nil
	address := serveZone(t, o)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"_x-puppet._tcp.site-a.example.com SRV", []string{
			"status: NOERROR", "flags: qr aa;", "ANSWER: 3", "SRV\t0 75 8140 master-1.site-a.example.com.", "SRV\t1 5 8140 master.site-b.example.com.", "master-2.site-a.example.com. 5\tIN\tA\t192.0.2.2",
		}},
		{"example.com SOA +short", []string{"ns1.example.com. hostmaster.example.com. 1795309200 60 10 604800 5"}},
		{"example.com NS", []string{"ANSWER: 2", "ns1.example.com.\t3600\tIN\tA\t192.0.2.53"}},
		{"nothing.example.com A", []string{"status: NXDOMAIN", "AUTHORITY: 1", "SOA\tns1.example.com."}},
		{"_tcp.site-a.example.com SRV", []string{"status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"}},
		{"puppet.example.com ANY", []string{"HINFO\t\"RFC8482\" \"\""}},
		{"example.org A", []string{"status: REFUSED"}},
		{"version.bind CH TXT", []string{"status: REFUSED"}},
		{"example.com AXFR", []string{"Transfer failed."}},
		{"puppet.example.com A +edns=1 +noednsneg", []string{"BADVERS"}},
		{"puppet.example.com A +cookie +nsid +dnssec", []string{"status: NOERROR", "flags: do;", "ANSWER: 2"}},
		{"puppet.example.com A +tcp +noedns", []string{"status: NOERROR", "ANSWER: 2"}},
	} {
		out := dig(t, address, strings.Fields(c.args)...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("dig %s does not show %q:\n%s", c.args, want, out)
			}
		}
		if strings.Contains(out, "WARNING") || strings.Contains(out, "Malformed") {
			t.Errorf("dig %s complains:\n%s", c.args, out)
		}
	}
	large := serveZone(t, options(manyEdges(60)))
	if out := dig(t, large, "_x-puppet._tcp.site-b.example.com", "SRV"); !strings.Contains(out, "Truncated, retrying in TCP mode") || !strings.Contains(out, "ANSWER: 63") {
		t.Errorf("dig does not come back over TCP:\n%s", out)
	}
	if r := exchange(t, "udp", address, ask("puppet.example.com", wire.TypeA)); r.Rcode != wire.RcodeSuccess {
		t.Errorf("afterwards: %s", wire.RcodeToString[r.Rcode])
	}
}
