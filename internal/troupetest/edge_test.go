package troupetest

// These stories have an edge between agents and members.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// troupeOfTwo starts a member at each of two sites, with the same code.
func troupeOfTwo(t *testing.T) (east, west *Server) {
	t.Helper()
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east = StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort, Autosign: true, Environments: site})
	east.MustCLI("init", "--site", "east")
	data := Join(t, east, "west", "west.example.test", westPort)
	west = StartServer(t, ServerOptions{Certname: "west.example.test", Data: data, Config: westPort, Autosign: true, Environments: site})
	return east, west
}

func fleetAt(t *testing.T, addr string, n int, prefix string) *fakeagent.Fleet {
	t.Helper()
	f := &fakeagent.Fleet{}
	for i := range n {
		g := []fakeagent.Generation{fakeagent.Puppet7, fakeagent.Puppet8, fakeagent.OpenVox9}[i%3]
		a, err := fakeagent.New(fmt.Sprintf("%s%d.example.test", prefix, i), addr, fakeagent.Options{
			Generation: g, ServerName: "localhost", Facts: []byte(`{"sandbox":"/nowhere","site_custom":"x"}`), WaitForCert: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		f.Agents = append(f.Agents, a)
	}
	return f
}

func TestNoRunFailsWhileMembersDieBehindAnEdge(t *testing.T) {
	t.Parallel()
	east, west := troupeOfTwo(t)
	edge := StartEdge(t, EdgeOptions{Troupe: east, Site: "east"})
	edge.AwaitUp("members", 2)

	// Real agents enrol and run through the edge; what manifests see of them is as without one.
	for _, g := range []Generation{Puppet7, Puppet8} {
		a := NewAgent(t, g, "real-"+string(g)+".example.test", edge.Addr)
		a.Run().want(t, 2, "first run through the edge")
		wantSite(t, a, "hello")
		a.Run().want(t, 0, "second run through the edge")
	}

	// An operator's certificate counts at a member, not through an edge: whoever steals an edge could bring it.
	admin := east.Generate("admin.example.test", "--ca-client")
	for addr, want := range map[string]int{east.Addr: http.StatusOK, edge.Addr: http.StatusForbidden} {
		answer, err := east.Client(admin).Get("https://" + addr + "/puppet-ca/v1/certificate_statuses/all")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s answers an operator %s, want %d", addr, answer.Status, want)
		}
	}

	fleet := fleetAt(t, edge.Addr, 12, "fake")
	if got := fleet.Run(t.Context()); got.Failed != 0 {
		t.Fatalf("before anything died %d of %d runs failed: %v", got.Failed, got.Runs, got.Problems)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithCancel(t.Context())
	died := make(chan int, 1)
	go func() {
		n := 0
		defer func() { died <- n }()
		for ctx.Err() == nil {
			victim := []*Server{east, west}[chance.IntN(2)]
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(1000+chance.IntN(2000)) * time.Millisecond):
			}
			victim.Kill()
			victim.Start()
			edge.AwaitUp("members", 2)
			n++
		}
	}()
	runs := 0
	for begin := time.Now(); time.Since(begin) < 30*time.Second; {
		got := fleet.Run(t.Context())
		runs += got.Runs
		if got.Failed != 0 || got.Cached != 0 || got.Unreported != 0 {
			t.Errorf("%d of %d runs failed, %d on a cached catalog, %d without report: %v", got.Failed, got.Runs, got.Cached, got.Unreported, got.Problems)
		}
	}
	cancel()
	t.Logf("%d runs while members died %d times", runs, <-died)

	// Every report is stored, at every member, and once.
	for i := range 12 {
		name := fmt.Sprintf("fake%d.example.test", i)
		Eventually(t, Patience, "all reports of "+name+" are at both members", func() bool {
			return len(east.Reports(name)) == runs/12+1 && len(west.Reports(name)) == runs/12+1
		})
	}

	// Another process takes over while agents run; no connection is reset.
	done := make(chan fakeagent.FleetResult, 1)
	go func() { done <- fleet.Run(t.Context()) }()
	edge.Start("--takeover")
	if got := <-done; got.Failed != 0 || got.Cached != 0 || got.Unreported != 0 {
		t.Errorf("during a take-over %d of %d runs failed: %v", got.Failed, got.Runs, got.Problems)
	}

	// Revoked at a member, refused at the edge.
	a := NewAgent(t, Puppet7, "revoked.example.test", edge.Addr)
	a.Run().want(t, 2, "run before its certificate is revoked")
	west.MustCLI("ca", "revoke", "--certname", a.Certname)
	Eventually(t, Patience, "the edge refuses a revoked certificate", func() bool { return a.Run().Exit == 1 })

	// An edge that is removed is not served.
	var removed struct{ Roles []string }
	name := edgeName(t, edge)
	east.JSON(&removed, "remove", name)
	Eventually(t, Patience, "members refuse the removed edge", func() bool { return edge.Backends("members")["east.example.test"].State == "down" })
}

func edgeName(t *testing.T, e *Edge) string {
	t.Helper()
	var s struct{ Name string }
	e.JSON(&s, "status")
	return s.Name
}
