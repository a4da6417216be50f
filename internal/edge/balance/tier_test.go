package balance

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"troupe/internal/edge/health"
)

func twoSites() []Server {
	var all []Server
	for i := range 4 {
		all = append(all, Server{Name: fmt.Sprintf("e%d", i), Site: "east"}, Server{Name: fmt.Sprintf("w%d", i), Site: "west"})
	}
	return all
}

// share is how much of n requests goes to servers with the prefix.
func share(t *testing.T, p *Pool, prefix string, n int) float64 {
	t.Helper()
	got := 0
	for range n {
		l := acquire(t, p, Ask{})
		if strings.HasPrefix(l.Server().Name, prefix) {
			got++
		}
		l.Done(time.Second, true)
	}
	return float64(got) / float64(n)
}

func TestWorkSpillsToTheOtherSiteAsTheLocalOneLosesServers(t *testing.T) {
	p, j := newPool(Options{Site: "east", LocalFirst: true}, twoSites()...)
	// 1.4 × the healthy share stays local: with three of four that is 105 %, with two 70 %, with one 35 %.
	for lost, want := range []float64{1, 1, 0.7, 0.35, 0} {
		if lost > 0 {
			j.say(fmt.Sprintf("e%d", lost-1), health.Down)
		}
		if got := share(t, p, "e", 2000); math.Abs(got-want) > 0.03 {
			t.Errorf("with %d of 4 local servers down %.2f of the work stays local, want %.2f", lost, got, want)
		}
	}
}

func TestThreeTiersSpillInOrder(t *testing.T) {
	p, j := newPool(Options{}, Server{Name: "a1"}, Server{Name: "a2"}, Server{Name: "b1", Tier: 1}, Server{Name: "b2", Tier: 1}, Server{Name: "c1", Tier: 2})
	j.say("a1", health.Down)
	j.say("b1", health.Down)
	// a has 70 %; b takes all of the rest, though it has room for 70 % too.
	for prefix, want := range map[string]float64{"a": 0.7, "b": 0.3, "c": 0} {
		if got := share(t, p, prefix, 2000); math.Abs(got-want) > 0.03 {
			t.Errorf("tier %s gets %.2f, want %.2f", prefix, got, want)
		}
	}
}

func TestAFullTierKeepsItsQueueUntilThatIsLong(t *testing.T) {
	p, _ := newPool(Options{Site: "east", LocalFirst: true, Spill: 2}, Server{Name: "e", Site: "east", MaxConns: 1}, Server{Name: "w", Site: "west"})
	acquire(t, p, Ask{})
	first, l, err := p.enter(Ask{})
	if l != nil || err != nil || p.Queue() != 1 {
		t.Fatalf("%v, %v with %d in the queue, want the request to wait for the local server", l, err, p.Queue())
	}
	second, l, err := p.enter(Ask{}) // two wait for one server, and the other site helps
	if l != nil || err != nil || p.Queue() != 1 {
		t.Fatalf("%v, %v with %d in the queue, want one to wait", l, err, p.Queue())
	}
	if first.lease == nil || first.lease.Server().Name != "w" || second.lease != nil {
		t.Errorf("%v and %v, want the first one at the other site", first.lease, second.lease)
	}
}

func TestPanicUsesAllOrNone(t *testing.T) {
	for _, none := range []bool{false, true} {
		t.Run(fmt.Sprintf("none=%v", none), func(t *testing.T) {
			p, j := newPool(Options{Panic: 0.5, PanicNone: none}, append(three(), Server{Name: "m"})...)
			j.say("m", health.Maint)
			j.say("a", health.Down)
			if got := names(t, p, 4, Ask{}, true); got != "bcbc" || p.Stats().Panic {
				t.Errorf("with two of three up: %s, want no panic", got)
			}
			j.say("b", health.Down)
			if !p.Stats().Panic {
				t.Error("with one of three up there is no panic")
			}
			if none {
				_, _, err := p.enter(Ask{})
				if !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "too few servers of the pool are up") {
					t.Errorf("%v, want no server, and why", err)
				}
				return
			}
			got := names(t, p, 6, Ask{}, true)
			for _, s := range three() {
				if strings.Count(got, s.Name) != 2 {
					t.Errorf("in a panic the turns are %s, want all that are not in maintenance", got)
				}
			}
		})
	}
}

func TestSlowStartRampsWeightAndLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, j := newPool(Options{SlowStart: 100 * time.Second}, Server{Name: "a", MaxConns: 50}, Server{Name: "b", MaxConns: 50})
		if s := p.Stats().Servers[0]; s.Weight != 100 || s.Limit != 50 {
			t.Errorf("when the pool begins, a server has weight %v and limit %d, want all of both", s.Weight, s.Limit)
		}
		comesBack := func(from health.State) {
			j.say("a", from)
			p.Refresh()
			time.Sleep(time.Second)
			j.say("a", health.Up)
			p.Refresh()
		}
		comesBack(health.Down)
		for _, want := range []struct {
			after  time.Duration
			weight float64
			limit  int
		}{{0, 1, 1}, {20 * time.Second, 20, 10}, {30 * time.Second, 50, 25}, {50 * time.Second, 100, 50}} {
			time.Sleep(want.after)
			if s := p.Stats().Servers[0]; s.Weight != want.weight || s.Limit != want.limit {
				t.Errorf("weight %v and limit %d, want %v and %d", s.Weight, s.Limit, want.weight, want.limit)
			}
		}
		comesBack(health.Drain)
		if s := p.Stats().Servers[0]; s.Weight != 100 {
			t.Errorf("after a drain the weight is %v, want 100: the server is still warm", s.Weight)
		}
		time.Sleep(100 * time.Second)
		p.Set([]Server{{Name: "a"}, {Name: "b"}, {Name: "joined"}})
		if s := p.Stats().Servers[2]; s.Weight != 1 {
			t.Errorf("a server that joins begins with the weight %v, want 1", s.Weight)
		}
	})
}

func TestSlowStartNeverAtTheStartOfTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, j := newPool(Options{SlowStart: 100 * time.Second})
		j.say("a", health.Down) // not checked yet
		j.say("b", health.Down)
		p.Set([]Server{{Name: "a"}, {Name: "b"}})
		time.Sleep(time.Second)
		j.say("a", health.Up)
		p.Refresh()
		time.Sleep(time.Second)
		j.say("b", health.Up)
		p.Refresh()
		for _, s := range p.Stats().Servers {
			if s.Weight != 100 {
				t.Errorf("%s begins with the weight %v, want 100", s.Name, s.Weight)
			}
		}
	})
}

func TestWhatStoodInGoesBackWithTheNextRun(t *testing.T) {
	servers := []Server{{Name: "a"}, {Name: "x", Backup: true}, {Name: "far", Tier: 1}}
	for _, standIn := range []string{"x", "far"} {
		for _, keep := range []bool{false, true} {
			p, j := newPool(Options{Stick: "certname", StickToBackups: keep}, servers...)
			exclude := []string{"x", "far"}
			exclude = append([]string{"a"}, strings.Split(strings.Replace(strings.Join(exclude, ","), standIn, "", 1), ",")...)
			j.say("a", health.Down)
			if got := names(t, p, 1, Ask{Key: "web1", Exclude: exclude}, true); got != standIn {
				t.Fatalf("went to %s, want %s", got, standIn)
			}
			j.say("a", health.Up)
			if got := names(t, p, 1, Ask{Key: "web1", Run: true}, true); got != standIn {
				t.Errorf("the run went on at %s, want %s", got, standIn)
			}
			want := "a"
			if keep {
				want = standIn
			}
			if got := names(t, p, 1, Ask{Key: "web1"}, true); got != want {
				t.Errorf("with keep=%v the next run went from %s to %s, want %s", keep, standIn, got, want)
			}
		}
	}
}

func TestWhatSticksGoesElsewhereWhileItsServerIsFull(t *testing.T) {
	p, _ := newPool(Options{Stick: "certname"}, Server{Name: "a", MaxConns: 1}, Server{Name: "b", MaxConns: 1})
	held := acquire(t, p, Ask{Key: "web1"})
	if got := names(t, p, 1, Ask{Key: "web1"}, true); got != "b" {
		t.Errorf("went to %s, want the server that is free", got)
	}
	held.Done(time.Second, true)
	if got := names(t, p, 3, Ask{Key: "web1"}, true); got != "aaa" {
		t.Errorf("went to %s afterwards, want its own server", got)
	}
}

// Sticky requests are not turns: a server that many stick to must not starve of new ones for as long afterwards.
func TestStickyRequestsDoNotCountAsTurns(t *testing.T) {
	p, _ := newPool(Options{Stick: "certname"}, Server{Name: "a"}, Server{Name: "b"})
	names(t, p, 1000, Ask{Key: "web1"}, true)
	if got := names(t, p, 4, Ask{}, true); strings.Count(got, "a") != 2 {
		t.Errorf("the turns after that are %s, want both servers", got)
	}
}

func TestPreferCountsBeforeTheTable(t *testing.T) {
	p, j := newPool(Options{Stick: "certname"}, three()...)
	p.Table().Put("web1", "b")
	if got := names(t, p, 1, Ask{Key: "web1", Prefer: "c", Run: true}, true); got != "c" {
		t.Errorf("went to %s, want the server of the run", got)
	}
	j.say("c", health.Drain)
	if got := names(t, p, 2, Ask{Key: "web1", Prefer: "c", Run: true}, true); got != "cc" {
		t.Errorf("went to %s, want the server of the run though it is in drain", got)
	}
}

// TestRequestsOfEqualCostAreSharedFairly holds Jain's index of fairness, which is 1 when all get the same, for each method.
func TestRequestsOfEqualCostAreSharedFairly(t *testing.T) {
	for _, method := range []string{RoundRobin, LeastConnections, Random, LeastWork, Hash} {
		p, _ := newPool(Options{Method: method}, append(three(), Server{Name: "d"})...)
		var held []*Lease
		for i := range 4000 {
			held = append(held, acquire(t, p, Ask{Key: fmt.Sprintf("web%d", i%500)}))
			if len(held) == 40 {
				held[0].Done(time.Second, true)
				held = held[1:]
			}
		}
		sum, squares := 0.0, 0.0
		for _, s := range p.Stats().Servers {
			sum += float64(s.Total)
			squares += float64(s.Total) * float64(s.Total)
		}
		if jain := sum * sum / (4 * squares); jain < 0.98 {
			t.Errorf("%s: Jain's index %.3f, want 0.98", method, jain)
		}
	}
}
