//go:build long

package troupetest

// This file has the roll-over of the issuer with unmodified agents of every generation.

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoGenerationFailsARunWhileTheIssuerRollsOver goes through every step of docs/security.md with agents that were enrolled
// before, and with others that come in between. Every run after every step must succeed, at whichever member.
func TestNoGenerationFailsARunWhileTheIssuerRollsOver(t *testing.T) {
	east, west := twoSites(t, "")
	both := []*Server{east, west}
	generations := []Generation{Puppet5, Puppet7, Puppet8, OpenVox9}
	var agents []*Agent
	// Two at a time, since each spends its time with loading Ruby.
	together := func(when string, all []*Agent, each func(*testing.T, int, *Agent)) {
		t.Helper()
		t.Run(when, func(t *testing.T) {
			for i, a := range all {
				t.Run(a.Certname, func(t *testing.T) {
					t.Parallel()
					a.t = t
					each(t, i, a)
				})
			}
		})
		for _, a := range all {
			a.t = t
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	enrol := func(at *Server, when string, of []Generation) {
		t.Helper()
		var recruits []*Agent
		for _, g := range of {
			a := NewAgent(t, g, when+"-"+string(g)+".example.test", at.Addr)
			a.Limit = 3 * Patience
			recruits = append(recruits, a)
		}
		together(when+" enrol", recruits, func(t *testing.T, _ int, a *Agent) {
			if r := a.Run(); r.Exit != 0 && r.Exit != 2 {
				t.Fatalf("exit %d\n%s", r.Exit, r.Output)
			}
		})
		agents = append(agents, recruits...)
	}
	// Agents go from member to member, the next time the other way round. With want 2 a run may change something.
	turn := 0
	everyoneRuns := func(when string, want int) {
		t.Helper()
		turn++
		together(when, agents, func(t *testing.T, i int, a *Agent) {
			at := both[(i/2+i+turn)%2]
			a.Server = at.Addr
			r := a.Run()
			if r.Exit != 0 && r.Exit != want {
				t.Fatalf("at %s: exit %d\n%s", at.Certname, r.Exit, r.Output)
			}
			t.Logf("at %s: exit %d", at.Certname, r.Exit)
		})
	}
	between, late := generations, generations
	if testing.Short() { // on a busy machine: those who were there before, and the one that found a mistake
		between, late = nil, generations[:1]
	}
	enrol(east, "veteran", generations)
	oldCA := strings.TrimSpace(readFile(t, filepath.Join(agents[0].Dir, "ssl", "certs", "ca.pem"))) // 5.5 keeps the issuer alone

	west.MustCLI("ca", "rollover", "begin")
	for _, s := range both {
		Eventually(t, Patience, "the new issuer signs at "+s.Certname, func() bool { return s.rollover().Signs })
	}
	old := east.rollover().issuer(t, "old").Name
	fresh := west.rollover().issuer(t, "new").Name
	enrol(east, "between", between)
	for _, a := range agents[len(generations):] {
		if got := a.Identity().Leaf.Issuer.CommonName; got != fresh {
			t.Errorf("%s was signed by %s, not by the new issuer", a.Certname, got)
		}
	}
	everyoneRuns("after begin", 0)

	module := func(when string) {
		for _, s := range both {
			s.MustCLI("ca", "rollover", "module", "--to", s.Environments+"/production/modules/troupe_rollover")
			s.WriteCode("production/manifests/rollover.pp", "include troupe_rollover\n")
		}
		everyoneRuns(when, 2)
	}
	stranger := agents[0].Identity() // with the certificate of the old issuer
	module("with the module")
	for _, a := range agents { // also those that were enrolled between, whose first certificate was of the new issuer
		if got := a.Identity().Leaf.Issuer.CommonName; got != fresh {
			t.Errorf("%s still has a certificate of %s", a.Certname, got)
		}
	}

	if status, _, words := west.CLI("ca", "rollover", "finish"); status == 0 {
		t.Errorf("finish before show was not refused: %s", words)
	}
	east.MustCLI("ca", "rollover", "show")
	for _, s := range both {
		Eventually(t, Patience, s.Certname+" shows the new issuer", func() bool { return s.shown() == fresh })
	}
	enrol(west, "late", late)
	everyoneRuns("after show", 0)

	east.MustCLI("ca", "rollover", "show", "--old")
	for _, s := range both {
		Eventually(t, Patience, s.Certname+" shows the old issuer again", func() bool { return s.shown() == old })
	}
	everyoneRuns("after show was taken back", 0)
	east.MustCLI("ca", "rollover", "show")
	for _, s := range both {
		Eventually(t, Patience, s.Certname+" shows the new issuer", func() bool { return s.shown() == fresh })
	}

	status := west.rollover()
	if status.Names != 0 || status.Accept < len(generations) {
		t.Errorf("before finish: %+v", status)
	}
	west.MustCLI("ca", "rollover", "finish")
	for _, s := range both {
		Eventually(t, Patience, s.Certname+" has one issuer", func() bool { return len(s.rollover().Issuers) == 1 })
		answer, err := s.Client(stranger).Get(s.URL("/puppet/v3/node/" + agents[0].Certname))
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode != http.StatusForbidden {
				t.Errorf("%s answers %s to a certificate of the old issuer", s.Certname, answer.Status)
			}
		}
	}
	module("after finish, with the module")
	for _, a := range agents {
		if ca := readFile(t, filepath.Join(a.Dir, "ssl", "certs", "ca.pem")); strings.Contains(ca, oldCA) {
			t.Errorf("%s still trusts the old issuer", a.Certname)
		}
	}
	enrol(east, "last", between)
	for _, s := range both {
		s.MustCLI("journal", "verify")
	}
}
