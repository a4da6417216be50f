//go:build long

package troupetest

// This file strikes a troupe of two sites with every fault, one after the other, while nodes work without pause. docs/faults.md has the
// record of a run; make faults repeats it.

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/failpoint"
)

// failpointBinary builds the binary that can kill itself.
func failpointBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "troupe")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "failpoint", "-o", path, "troupe/cmd/troupe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, build)
	return path
}

// A theatre is the troupe that all faults strike.
type theatre struct {
	*Sites

	east1, east2, west1, west2 *SiteMember
	disk                       string // of west2
	rows                       []string
	equal                      []time.Duration
	acts                       int
}

func (th *theatre) members() []*SiteMember {
	return []*SiteMember{th.east1, th.east2, th.west1, th.west2}
}

// An act is one fault under load. It returns what it did and saw; afterwards all must be healed.
func (th *theatre) act(t *testing.T, name string, strike func(t *testing.T, l *load) string) {
	t.Helper()
	th.acts++
	tag := fmt.Sprintf("act%d", th.acts)
	t.Run(name, func(t *testing.T) {
		book := newAcknowledged()
		l := th.startLoad(t, book, tag, 2, th.members()...)
		pause(t, 2*time.Second)
		saw := strike(t, l)
		healed := time.Now()
		l.end()
		equal := equalAfter(t, healed, th.members()...)
		th.equal = append(th.equal, equal)
		for _, failure := range book.failures {
			t.Errorf("a node saw a failure: %s", failure)
		}
		book.check(t, th.Sites, th.members()...)
		found := "nothing lost, nothing twice, lists good"
		if t.Failed() {
			found = "SEE THE LOG"
		}
		th.rows = append(th.rows, fmt.Sprintf("| %s | %s | %s | %.1f | %s |", name, saw, book.summary(), equal.Seconds(), found))
	})
}

// pause lets the load go on for a while.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestFaults(t *testing.T) {
	th := &theatre{Sites: NewSites(t, "east", "west"), disk: smallDisk(t, "256m")}
	o := SiteOptions{Binary: failpointBinary(t)}
	th.east1 = th.Start("east", nil, o)
	th.east2 = th.Start("east", th.east1, o)
	th.west1 = th.Start("west", th.east1, o)
	o.Data = filepath.Join(th.disk, "data")
	th.west2 = th.Start("west", th.east1, o)
	for _, m := range th.members() {
		m.WriteCode("production/manifests/site.pp", greeting)
	}
	awaitConnected(t, th.members()...)
	t.Cleanup(func() {
		slices.Sort(th.equal)
		if n := len(th.equal); n > 0 {
			t.Logf("%d acts; seconds until equal: median %.1f, most %.1f\n%s", n, th.equal[n/2].Seconds(), th.equal[n-1].Seconds(), strings.Join(th.rows, "\n"))
		}
	})

	th.cuts(t)
	th.deaths(t)
	th.failpoints(t)
	th.fullDisk(t)
	th.joins(t, o)
	th.agents(t)
	th.lostForGood(t)
	for _, m := range th.members()[:2] {
		m.Stop()
		t.Logf("%s: %d certificates in the journal, each with its own serial number", m.Certname, checkSerials(t, m))
	}
}

func (th *theatre) cuts(t *testing.T) {
	for _, cut := range []struct {
		name string
		cut  func()
	}{
		{"both ways", func() { th.Cut("east", "west") }},
		{"east to west only", func() { th.CutOneWay("east", "west") }},
		{"west to east only", func() { th.CutOneWay("west", "east") }},
	} {
		th.act(t, "sites cut, "+cut.name, func(t *testing.T, l *load) string {
			cut.cut()
			since := time.Now()
			east := l.serves(t, "east", since)
			since = time.Now()
			west := l.serves(t, "west", since)
			revoked := "late-" + l.probes["east"].certname
			th.east1.MustCLI("ca", "generate", "--certname", revoked, "--to", t.TempDir())
			th.east1.MustCLI("ca", "revoke", "--certname", revoked)
			pause(t, 15*time.Second)
			if known := th.west1.Certificates()[revoked]; known.State != "" {
				t.Errorf("west knows what east did after the cut: %+v", known)
			}
			th.Heal()
			return fmt.Sprintf("15 s; a new node had certificate, catalog and report stored %.1f s (east) and %.1f s (west) after asking", east.Seconds(), west.Seconds())
		})
	}
	th.act(t, "line that flaps", func(t *testing.T, _ *load) string {
		for range 10 {
			th.Cut("east", "west")
			pause(t, 700*time.Millisecond)
			th.Heal()
			pause(t, 700*time.Millisecond)
		}
		return "10 cuts of 0.7 s"
	})
}

func (th *theatre) deaths(t *testing.T) {
	for _, dead := range [][]*SiteMember{{th.east1}, {th.west2}, {th.east1, th.west1}, {th.west1, th.west2}} {
		var names []string
		for _, m := range dead {
			names = append(names, strings.TrimSuffix(m.Certname, ".example.test"))
		}
		th.act(t, "kill -9 of "+strings.Join(names, " and "), func(t *testing.T, l *load) string {
			for _, m := range dead {
				m.Kill()
			}
			since := time.Now()
			served := l.serves(t, "east", since)
			pause(t, 5*time.Second)
			for _, m := range dead {
				m.Start()
			}
			return fmt.Sprintf("away for 5 s; east served everything %.1f s after the death", served.Seconds())
		})
	}
	th.act(t, "SIGSTOP of east1", func(t *testing.T, _ *load) string {
		th.east1.Pause()
		pause(t, 25*time.Second)
		th.east1.Resume()
		return "stopped for 25 s; who waited for it went on after 20 s"
	})
}

// failpoints kills east1 at each place that the load passes.
func (th *theatre) failpoints(t *testing.T) {
	for _, place := range []string{
		"journal.written:40", "journal.committed:40", "journal.import-written:20", "journal.import-committed:20",
		"ca.signed:10", "ca.issued:10", "ca.list-signed:2", "store.folded:30", "agentapi.report-stored:15", "carrier.fetched:20", "vault.staged:1",
	} {
		th.act(t, "kill -9 at "+place, func(t *testing.T, l *load) string {
			m := th.east1
			m.Stop()
			m.env = []string{failpoint.Variable + "=" + place}
			m.spawn()
			if strings.HasPrefix(place, "ca.list") {
				th.listsUntilDeath(t, l)
			}
			m.AwaitDeath()
			m.env = nil
			log := filepath.Join(filepath.Dir(m.Environments), "server.log")
			text, err := os.ReadFile(log)
			if name, _, _ := strings.Cut(place, ":"); err != nil || !strings.Contains(string(text), "failpoint "+name+": ") {
				t.Errorf("the member died elsewhere (%v):\n%s", err, tail(log, 20))
			}
			m.Start()
			return "started again at once"
		})
	}
}

// listsUntilDeath revokes at east2 and asks east1 for the list until that is gone.
func (th *theatre) listsUntilDeath(t *testing.T, l *load) {
	t.Helper()
	c := th.Client("east", l.roots)
	defer c.Close()
	n := 0
	Eventually(t, Patience, "east1 dies while it signs a list", func() bool {
		n++
		name := fmt.Sprintf("listed%d-%s", n, l.probes["east"].certname)
		th.east2.MustCLI("ca", "generate", "--certname", name, "--to", t.TempDir())
		th.east2.MustCLI("ca", "revoke", "--certname", name)
		_, _, err := c.Do(t.Context(), th.east1, http.MethodGet, "/puppet-ca/v1/certificate_revocation_list/ca", "", "")
		return err != nil && th.east1.proc.ended()
	})
}

func (th *theatre) fullDisk(t *testing.T) {
	th.act(t, "disk of west2 full", func(t *testing.T, _ *load) string {
		ballast := fill(t, th.disk)
		pause(t, 10*time.Second)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		return "for 10 s; writes went to the other member"
	})
}

// joins kills the member that admits, and the machine that joins, at each place; the same command goes on afterwards.
func (th *theatre) joins(t *testing.T, o SiteOptions) {
	th.act(t, "kill -9 of the admitting member, and of the joining machine at every file", func(t *testing.T, _ *load) string {
		th.west1.Stop()
		th.west1.env = []string{failpoint.Variable + "=cluster.admitted:1"}
		th.west1.Start()
		m := th.machine("west", "recruit", "recruit.example.test")
		file := filepath.Join(TempDir(t), "troupe.yaml")
		writeFile(t, file, fmt.Sprintf("cluster: {listen: '%s:8143', address: '%s:8143'}\n", m.IP, m.IP))
		data := filepath.Join(TempDir(t), "data")
		invitation := invite(t, th.west1.Server, "west")
		join := func(env string) ([]byte, error) {
			cmd := joining(t, m.Within(), invitation, data, file, "recruit.example.test")
			cmd.Args[slices.Index(cmd.Args, Binary(t))] = o.Binary
			cmd.Env = append(os.Environ(), failpoint.Variable+"="+env)
			return cmd.CombinedOutput()
		}
		if out, err := join(""); err == nil {
			t.Errorf("joined, although the member that admits was to die:\n%s", out)
		}
		th.west1.AwaitDeath()
		th.west1.env = nil
		th.west1.Start()
		deaths := 0
		for _, place := range []string{"atomicfile.written", "atomicfile.renamed", "vault.staged", "journal.import-written", "journal.import-committed"} {
			for n := 1; ; n++ {
				out, err := join(fmt.Sprintf("%s:%d", place, n))
				if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == -1 {
					deaths++
					if n < 6 && place != "journal.import-committed" {
						continue
					}
					break
				}
				if err != nil {
					t.Errorf("join with %s:%d: %v\n%s", place, n, err, out)
				}
				break
			}
			if _, err := os.Stat(filepath.Join(data, "cluster", "joining")); err != nil {
				break // it is a member
			}
		}
		if _, err := os.Stat(filepath.Join(data, "cluster", "joining")); err == nil {
			if out, err := join(""); err != nil {
				t.Errorf("the last join: %v\n%s", err, out)
			}
		}
		recruit := StartServer(t, ServerOptions{
			Certname: "recruit.example.test", Data: data, Autosign: true, Listen: m.IP + ":8140", Within: m.Within(), Binary: o.Binary,
			Config: fmt.Sprintf("cluster: {listen: '%s:8143', address: '%s:8143'}\n", m.IP, m.IP),
		})
		Eventually(t, Patience, "the recruit is connected", func() bool { return th.east1.members()["recruit.example.test"].State == "connected" })
		th.east1.MustCLI("remove", "recruit.example.test")
		recruit.Stop()
		return fmt.Sprintf("the admitting member died once, the joining machine %d times; one token, one member", deaths)
	})
}

// agents are real: they enrol at one site and run at the other, during the cut and after it, and with a list of servers of which one is dead.
func (th *theatre) agents(t *testing.T) {
	th.act(t, "real agents 7.23 at both sites during a cut", func(t *testing.T, _ *load) string {
		before := th.Agent("east", "before.example.test", th.east1)
		before.Run().want(t, 2, "first run at east, before the cut")
		th.Cut("east", "west")
		before.Within, before.Server = th.Agents("west").Within(), th.west1.Certname+":8140"
		before.Run().want(t, 2, "a run at west during the cut")
		during := th.Agent("east", "during.example.test", th.east2)
		during.Run().want(t, 2, "a node that enrols at east during the cut")
		during.Within, during.Server = th.Agents("west").Within(), th.west2.Certname+":8140"
		during.Run().want(t, 2, "its run at west, which has never heard of it")
		th.east1.MustCLI("ca", "revoke", "--certname", "before.example.test")
		th.Heal()
		Eventually(t, Patience, "west knows the revocation", func() bool {
			return th.west1.Certificates()["before.example.test"].State == "revoked"
		})
		before.Run().want(t, 1, "a run at west after it was revoked at east")
		during.Run().want(t, 2, "a run at west after the cut")

		th.west1.Kill()
		listed := during.Run(ServerList(th.west1, th.west2, th.east1)...)
		listed.want(t, 2, "a run that starts after the first server of its list died")
		th.west1.Start()
		return fmt.Sprintf("enrolled at east, run at west during and after the cut; revoked at east, refused at west; a run with a dead server in its server_list took %.1f s", listed.Took.Seconds())
	})
}

// lostForGood ends a site. Whoever is left goes on, and another site takes its place.
func (th *theatre) lostForGood(t *testing.T) {
	t.Run("site west lost for good", func(t *testing.T) {
		book := newAcknowledged()
		l := th.startLoad(t, book, "lost", 2, th.members()...)
		pause(t, 3*time.Second)
		th.west1.Kill()
		th.west2.Kill()
		lost := time.Now()
		served := l.serves(t, "east", lost)
		pause(t, 5*time.Second)
		th.east1.MustCLI("remove", th.west1.Certname)
		th.east1.MustCLI("remove", th.west2.Certname)
		l.end()
		rest := th.members()[:2]
		equal := equalAfter(t, time.Now(), rest...)
		for _, failure := range book.failures {
			t.Errorf("a node saw a failure: %s", failure)
		}
		// A report is answered after it is on the disk of one member: with the disks of a site go those of its last moments.
		gone := book.withoutReportsThatWent(rest[0])
		book.check(t, th.Sites, rest...)
		north := th.Start("west", th.east1, SiteOptions{})
		filled := equalAfter(t, time.Now(), th.east1, th.east2, north)
		book.check(t, th.Sites, north)
		th.rows = append(th.rows, fmt.Sprintf("| site west lost for good | both members killed, removed, their disks never read again; east served everything %.1f s after; %d reports of the last moment went with them, no certificate; a new member of the site was equal %.1f s after its start | %s | %.1f | %s |",
			served.Seconds(), gone, filled.Seconds(), book.summary(), equal.Seconds(), map[bool]string{true: "SEE THE LOG", false: "nothing lost, nothing twice, lists good"}[t.Failed()]))
		north.Stop()
	})
}

// TestFaultsOfTwoMembers measures what the smallest troupe waits for in the first seconds of a cut.
func TestFaultsOfTwoMembers(t *testing.T) {
	s := NewSites(t, "east", "west")
	east := s.Start("east", nil, SiteOptions{})
	west := s.Start("west", east, SiteOptions{})
	for _, m := range []*SiteMember{east, west} {
		m.WriteCode("production/manifests/site.pp", greeting)
	}
	awaitConnected(t, east, west)
	book := newAcknowledged()
	l := s.startLoad(t, book, "pair", 2, east, west)
	pause(t, 3*time.Second)
	s.Cut("east", "west")
	cut := time.Now()
	var took []string
	for range 8 {
		begun := time.Now()
		at := begun.Sub(cut)
		took = append(took, fmt.Sprintf("%.1f s after the cut: %.2f s", at.Seconds(), l.serves(t, "west", begun).Seconds()))
		pause(t, 1500*time.Millisecond)
	}
	s.Heal()
	healed := time.Now()
	l.end()
	t.Logf("a node that needs everything at west, begun %s; equal %v after the healing; %s", strings.Join(took, ", "), equalAfter(t, healed, east, west), book.summary())
	for _, failure := range book.failures {
		t.Errorf("a node saw a failure: %s", failure)
	}
	book.check(t, s, east, west)
}
