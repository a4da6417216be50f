package troupetest

// This file cuts two sites from each other, as every change is tested; sites_long_test.go has all faults.

import (
	"testing"
	"time"
)

// A manifest that no worker of Ruby needs long for.
const greeting = "notify { \"hello from ${server_facts['servername']}\": }\n"

// twoByTwo are two sites of two members each.
func twoByTwo(t *testing.T, o SiteOptions) (s *Sites, members []*SiteMember) {
	t.Helper()
	s = NewSites(t, "east", "west")
	for _, site := range []string{"east", "east", "west", "west"} {
		var first *SiteMember
		if len(members) > 0 {
			first = members[0]
		}
		m := s.Start(site, first, o)
		m.WriteCode("production/manifests/site.pp", greeting)
		members = append(members, m)
	}
	awaitConnected(t, members...)
	return s, members
}

func awaitConnected(t *testing.T, members ...*SiteMember) {
	t.Helper()
	for _, m := range members {
		Eventually(t, Patience, m.Certname+" hears all others", func() bool {
			known := m.members()
			for _, other := range members {
				if state := known[other.Certname].State; state != "connected" && state != "self" {
					return false
				}
			}
			return true
		})
	}
}

func TestTwoSitesThatAreCutOffBothServeAndAreEqualAfterwards(t *testing.T) {
	t.Parallel()
	s, members := twoByTwo(t, SiteOptions{})
	book := newAcknowledged()
	l := s.startLoad(t, book, "node", 2, members...)
	l.serves(t, "east", time.Now())

	s.Cut("east", "west")
	cut := time.Now()
	for _, site := range []string{"east", "west"} {
		t.Logf("site %s has done everything %v after the cut", site, l.serves(t, site, cut))
	}
	members[0].MustCLI("ca", "revoke", "--certname", "node-west-probe.example.test")
	Eventually(t, Patience, "each site knows that the other cannot be heard", func() bool {
		return members[0].members()["west1.example.test"].State == "unknown" && members[3].members()["east2.example.test"].State == "unknown"
	})
	if known := members[2].Certificates()["node-west-probe.example.test"]; known.State != "signed" {
		t.Errorf("west knows already what was revoked at east: %+v; so nothing was cut", known)
	}
	l.end()

	s.Heal()
	t.Logf("equal %v after the healing; %s", equalAfter(t, time.Now(), members...), book.summary())
	for _, failure := range book.failures {
		t.Errorf("a node saw a failure: %s", failure)
	}
	book.check(t, s, members...)
	for _, m := range members {
		if known := m.Certificates()["node-west-probe.example.test"]; known.State != "revoked" {
			t.Errorf("%s does not know what east revoked: %+v", m.Certname, known)
		}
		m.Stop()
	}
	t.Logf("%d certificates, each with its own serial number", checkSerials(t, members[3]))
}
