//go:build long

package troupetest

// These stories do to members behind an edge, again and again, what must cost no run.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// bothSites has requests go to both members, also while that of the edge's own site is up.
const bothSites = "listeners:\n  - listen: %LISTEN%\npools: {members: {members: true, local_first: false}}\n"

// number is what the environment says, or something else.
func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number", variable, text)
	}
	return n
}

// toll counts the runs of each agent, and how many of them ended badly.
type toll struct {
	mu                                      sync.Mutex
	runs, failed, cached, unreported, waits int
	sent                                    map[string]map[string]bool // certname: transactions
	worst                                   time.Duration
}

func newToll() *toll { return &toll{sent: map[string]map[string]bool{}} }

func (o *toll) note(r fakeagent.RunResult, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sent[r.Certname] == nil {
		o.sent[r.Certname] = map[string]bool{}
	}
	o.sent[r.Certname][r.TransactionUUID] = r.ReportSent
	o.worst = max(o.worst, r.Took)
	for _, q := range r.Requests {
		if q.Status == 503 || q.Status == 429 {
			o.waits++
		}
	}
}

// add judges a round; every run that is not well is an error of the test.
func (o *toll) add(t *testing.T, what string, got fakeagent.FleetResult) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.runs += got.Runs
	o.failed += got.Failed
	o.cached += got.Cached
	o.unreported += got.Unreported
	if got.Failed != 0 || got.Cached != 0 || got.Unreported != 0 {
		t.Errorf("%s: %d of %d runs failed, %d on a cached catalog, %d without report: %v", what, got.Failed, got.Runs, got.Cached, got.Unreported, got.Problems)
	}
}

func (o *toll) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("%d runs, %d failed, %d on a cached catalog, %d without report, %d answers told to come back, the longest run took %v",
		o.runs, o.failed, o.cached, o.unreported, o.waits, o.worst.Round(time.Millisecond))
}

// stored waits until each report that was sent is at each member, and once.
func (o *toll) stored(t *testing.T, members ...*Server) {
	t.Helper()
	for name, sent := range o.sent {
		taken := 0
		for _, acknowledged := range sent {
			if acknowledged {
				taken++
			}
		}
		for _, m := range members {
			var list []Report
			Eventually(t, Patience, fmt.Sprintf("the %d reports of %s are at %s", taken, name, m.Certname), func() bool {
				list = m.Reports(name)
				return len(list) >= taken
			})
			seen := map[string]bool{}
			for _, r := range list {
				if seen[r.TransactionUUID] {
					t.Errorf("%s has the report of %s of %s twice", m.Certname, r.TransactionUUID, name)
				}
				if _, known := sent[r.TransactionUUID]; !known {
					t.Errorf("%s has a report of %s that nobody sent: %s", m.Certname, name, r.TransactionUUID)
				}
				seen[r.TransactionUUID] = true
			}
		}
	}
}

// TestNoRunOfTwoThousandFailsWhileMembersDieBehindAnEdge is goal G1 of the edge.
func TestNoRunOfTwoThousandFailsWhileMembersDieBehindAnEdge(t *testing.T) {
	east, west := troupeOfTwo(t)
	edge := StartEdge(t, EdgeOptions{Troupe: east, Site: "east", Config: bothSites})
	edge.AwaitUp("members", 2)
	fleet := fleetAt(t, edge.Addr, 24, "many")
	book := newToll()
	fleet.Observe = book.note
	book.add(t, "before anything died", fleet.Run(t.Context()))

	wanted := number(t, "RUNS", 2000)
	seed := uint64(number(t, "SEED", int(rand.Uint32())))
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	died := make(chan int, 1)
	go func() {
		n := 0
		defer func() { died <- n }()
		for {
			victim, pause, away := []*Server{east, west}[chance.IntN(2)], time.Duration(500+chance.IntN(3500))*time.Millisecond, time.Duration(chance.IntN(2000))*time.Millisecond
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			victim.Kill()
			n++
			select {
			case <-ctx.Done():
			case <-time.After(away):
			}
			victim.Start()
			edge.AwaitUp("members", 2)
		}
	}()
	began := time.Now()
	for book.runs < wanted && !t.Failed() {
		book.add(t, "while members died", fleet.Run(t.Context()))
	}
	cancel()
	kills := <-died
	t.Logf("seed %d, %v, %d kills: %v", seed, time.Since(began).Round(time.Second), kills, book)
	if kills == 0 {
		t.Error("nobody was killed")
	}
	book.stored(t, east, west)
}

// TestAMemberThatHangsCostsNoRunBehindAnEdge is goal G2: it is found out in the middle of runs.
func TestAMemberThatHangsCostsNoRunBehindAnEdge(t *testing.T) {
	east, west := troupeOfTwo(t)
	edge := StartEdge(t, EdgeOptions{Troupe: east, Site: "east", Config: bothSites})
	edge.AwaitUp("members", 2)
	fleet := fleetAt(t, edge.Addr, 12, "hang")
	book := newToll()
	fleet.Observe = book.note
	book.add(t, "before anything hung", fleet.Run(t.Context()))

	for i, victim := range []*Server{east, west, east} {
		fleet.Duration = 20 * time.Second // as fast as they can: requests are under way at both
		fleet.AtOnce = len(fleet.Agents)
		done := make(chan fakeagent.FleetResult, 1)
		go func() { done <- fleet.Run(t.Context()) }()
		before := edge.Backends("members")[victim.Certname].Total
		Eventually(t, Patience, "the victim is asked", func() bool { return edge.Backends("members")[victim.Certname].Total > before+10 })
		victim.Pause()
		stopped := time.Now()
		Eventually(t, Patience, "the edge finds out", func() bool { return edge.Backends("members")[victim.Certname].State != "up" })
		found := time.Since(stopped)
		total := edge.Backends("members")[victim.Certname].Total
		reason := edge.Backends("members")[victim.Certname].Reason
		got := <-done
		if now := edge.Backends("members")[victim.Certname].Total; now != total {
			t.Errorf("%d requests went to a member that was down", now-total)
		}
		victim.Resume()
		book.add(t, "while a member hung", got)
		t.Logf("hang %d: no request goes there after %v (%s); the longest of %d runs took %v", i+1, found.Round(10*time.Millisecond), reason, got.Runs, got.Run.Max.Round(10*time.Millisecond))
		edge.AwaitUp("members", 2)
	}
	t.Logf("all hangs: %v", book)
	book.stored(t, east, west)
}

// TestEdgesAndMembersAreRestartedUnderLoadWithoutAFailedRun is goals G3 and G4.
func TestEdgesAndMembersAreRestartedUnderLoadWithoutAFailedRun(t *testing.T) {
	east, west := troupeOfTwo(t)
	edge := StartEdge(t, EdgeOptions{Troupe: east, Site: "east", Config: bothSites})
	edge.AwaitUp("members", 2)
	fleet := fleetAt(t, edge.Addr, 12, "roll")
	book := newToll()
	fleet.Observe = book.note
	book.add(t, "before", fleet.Run(t.Context()))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			book.add(t, "under restarts", fleet.Run(t.Context()))
		}
	}()
	rounds := number(t, "ROUNDS", 6)
	for range rounds {
		edge.Start("--takeover")
		for _, m := range []*Server{east, west} {
			edge.AwaitUp("members", 2)
			m.Stop()
			m.Start()
		}
		edge.AwaitUp("members", 2)
	}
	cancel()
	<-done
	t.Logf("%d take-overs of the edge, %d restarts of members: %v", rounds, 2*rounds, book)
	book.stored(t, east, west)
}
