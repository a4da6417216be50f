//go:build long

package troupetest

// This file has an agent that finds its servers by SRV records of the edge's own zone.

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/edge/dns"
)

// nameServer is where the zone of the story listens. Agents ask at port 53 only.
const nameServer = "127.53.0.1:53"

// TestAnAgentFollowsTheLadderPastAMemberThatHangs has a member that takes connections and says nothing, which costs an agent two minutes
// for each service that it looks up there. It is in no answer, so the agent does not meet it.
func TestAnAgentFollowsTheLadderPastAMemberThatHangs(t *testing.T) {
	east, west, _ := twoMembers(t)
	east.WriteCode("production/manifests/site.pp", "notify { 'hello from east': }\n")
	west.WriteCode("production/manifests/site.pp", "notify { 'hello from west': }\n")
	var eastHangs atomic.Bool
	serveLadder(t, func() []dns.Site {
		up := func(up bool) map[dns.Service]bool {
			return map[dns.Service]bool{dns.Puppet: up, dns.CA: up, dns.Report: up, dns.Fileserver: up}
		}
		return []dns.Site{
			{Name: "east", Edges: []dns.Edge{{Name: "east", Target: "localhost", Port: netip.MustParseAddrPort(east.Addr).Port(), Services: up(!eastHangs.Load()), Weight: 10}}},
			{Name: "west", Edges: []dns.Edge{{Name: "west", Target: "localhost", Port: netip.MustParseAddrPort(west.Addr).Port(), Services: up(true), Weight: 10}}},
		}
	})

	agent := NewAgent(t, Puppet7, "web1.example.test", "localhost:1") // nobody is there: what it finds, it finds by SRV records
	resolver := filepath.Join(agent.Dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.53.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent.Within = []string{"unshare", "--mount", "sh", "-c", "mount --bind " + resolver + " /etc/resolv.conf && exec \"$@\"", "sh"}
	srv := []string{"--use_srv_records", "--srv_domain", "east.example.test", "--debug"}

	first := agent.Run(srv...)
	first.want(t, 2, "a run by SRV records")
	first.wantText(t, "hello from east")
	for _, service := range []string{"ca", "puppet", "fileserver", "report"} {
		first.wantText(t, "Resolved service '"+service+"' to https://localhost:"+port(east))
	}

	east.Pause()
	defer east.Resume()
	eastHangs.Store(true)
	second := agent.Run(srv...)
	second.want(t, 2, "a run while the member of its site hangs")
	second.wantText(t, "hello from west")
	if strings.Contains(second.Output, "localhost:"+port(east)) {
		t.Errorf("the agent met the member that hangs:\n%s", second.Output)
	}
}

func port(s *Server) string { return s.Addr[strings.LastIndexByte(s.Addr, ':')+1:] }

func serveLadder(t *testing.T, view dns.View) {
	t.Helper()
	ready := make(chan struct{})
	z, err := dns.New(dns.Options{
		Zone: "example.test", View: view, NS: []dns.NameServer{{Name: "ns.example.net"}}, SRVDomains: map[string]string{"east.example.test": "east"},
		Listen: []string{nameServer}, Ready: func([]netip.AddrPort) { close(ready) },
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
	case <-ready:
	case <-time.After(Patience):
		t.Fatal("the zone does not start")
	}
}
