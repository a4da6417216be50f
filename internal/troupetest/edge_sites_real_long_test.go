//go:build long

package troupetest

// This file has real agents, of two generations, run through an address that a router sends to one site or the other.

import (
	"sync"
	"testing"
	"time"
)

func TestEdgeSitesRealAgents(t *testing.T) {
	s := NewEdgeSites(t, EdgeSitesOptions{Sites: []string{"east", "west"}, BGP: "  up_after: 1s\n  rejoin: 3s\n"})
	a := &actor{EdgeSites: s, t: t, tr: &traffic{s: s}}
	agents := []*Agent{
		NewAgent(t, Puppet7, "real7.example.test", serviceAddress+":8140"),
		NewAgent(t, Puppet8, "real8.example.test", serviceAddress+":8140"),
	}
	for _, one := range agents {
		one.Outside, one.Limit = []string{"ip", "netns", "exec", s.Clients.ns}, Patience
	}
	// all runs, while something happens some time after their beginning.
	all := func(what string, happens func()) {
		t.Helper()
		var runs sync.WaitGroup
		for _, one := range agents {
			runs.Go(func() {
				r := one.Run("--waitforcert", "1", "--no-usecacheonfailure")
				t.Logf("%s: %s ended with %d after %v", what, one.Certname, r.Exit, r.Took.Round(10*time.Millisecond))
				if r.Exit != 0 && r.Exit != 2 {
					t.Errorf("%s: %s ended with %d:\n%s", what, one.Certname, r.Exit, r.Output)
				}
			})
		}
		happens()
		runs.Wait()
	}
	nothing := func() {}
	all("first runs", nothing)

	gone, _ := a.main()
	s.Blackhole(gone)
	s.awaitNoRoute(gone)
	all("a site is black-holed", nothing)
	all("it comes back during the runs", func() {
		pause(t, 2*time.Second)
		s.Restore()
		s.awaitRoute(gone)
	})

	dead, _ := a.main()
	dead.Kill()
	s.awaitNoRoute(dead)
	all("an edge was killed", func() {
		dead.Start()
		s.awaitRoute(dead)
	})
	for i, m := range s.Members {
		all("a member is killed during the runs", func() {
			pause(t, 2*time.Second)
			m.Kill()
		})
		m.Start()
		for _, e := range s.Edges {
			e.AwaitUp("members", len(s.Members))
		}
		t.Logf("member %d is back", i)
	}
	for _, one := range agents {
		for _, m := range s.Members {
			if n := len(m.Reports(one.Certname)); n != 6 {
				t.Errorf("%s has %d reports of %s, want 6", m.Certname, n, one.Certname)
			}
		}
	}
}
