package balance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/edge/health"
)

// judgement is a judge for tests: every server is up until it is said otherwise.
type judgement struct {
	mu    sync.Mutex
	known map[string]health.Verdict
}

func (j *judgement) say(server string, s health.State) {
	j.verdict(server, health.Verdict{State: s, Share: 1})
}

func (j *judgement) verdict(server string, v health.Verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.known == nil {
		j.known = map[string]health.Verdict{}
	}
	j.known[server] = v
}

func (j *judgement) Verdict(server string) health.Verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	if v, ok := j.known[server]; ok {
		return v
	}
	return health.Verdict{State: health.Up, Share: 1}
}

// newPool returns a pool and its judge. The draws of random methods are the same in each test.
func newPool(o Options, servers ...Server) (*Pool, *judgement) {
	j := &judgement{}
	o.Verdict = j.Verdict
	if o.Name == "" {
		o.Name = "compile"
	}
	if o.Rand == nil {
		state := uint64(1)
		o.Rand = func() float64 { // called with the pool's lock held
			state = state*6364136223846793005 + 1442695040888963407
			return float64(state>>11) / (1 << 53)
		}
	}
	p := New(o)
	p.Set(servers)
	return p, j
}

func three() []Server { return []Server{{Name: "a"}, {Name: "b"}, {Name: "c"}} }

// acquire takes a place that must be there at once.
func acquire(t *testing.T, p *Pool, ask Ask) *Lease {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, lease, err := p.enter(ask)
	if err != nil {
		t.Fatal(err)
	}
	if w != nil {
		_, _ = p.leave(w, ctx.Err())
		t.Fatalf("no server has room for %+v", ask)
	}
	return lease
}

// names takes n places and returns on which servers they were; it gives them back if asked to.
func names(t *testing.T, p *Pool, n int, ask Ask, giveBack bool) string {
	t.Helper()
	var got []string
	for range n {
		l := acquire(t, p, ask)
		got = append(got, l.Server().Name)
		if giveBack {
			l.Done(time.Second, true)
		}
	}
	return strings.Join(got, "")
}

func TestRoundRobinSpreadsTheTurnsOfAHeavyServer(t *testing.T) {
	p, _ := newPool(Options{}, Server{Name: "a", Weight: 400}, Server{Name: "b", Weight: 200}, Server{Name: "c", Weight: 100})
	if got, want := names(t, p, 14, Ask{}, true), "abacabaabacaba"; got != want {
		t.Errorf("turns %s, want %s", got, want)
	}
}

func TestLeastConnectionsFollowsWeight(t *testing.T) {
	p, _ := newPool(Options{Method: LeastConnections}, Server{Name: "a", Weight: 200}, Server{Name: "b"})
	got := names(t, p, 9, Ask{}, false)
	if a := strings.Count(got, "a"); a != 6 {
		t.Errorf("%d of 9 places are on the server with two thirds of the weight (%s), want 6", a, got)
	}
}

func TestEqualServersTakeTurnsByLeastConnections(t *testing.T) {
	p, _ := newPool(Options{Method: LeastConnections}, three()...)
	if got := names(t, p, 6, Ask{}, true); got != "abcabc" {
		t.Errorf("idle servers got %s, want turns", got)
	}
}

func TestFirstFillsOneServerAfterTheOther(t *testing.T) {
	p, _ := newPool(Options{Method: First}, Server{Name: "a", MaxConns: 2}, Server{Name: "b", MaxConns: 2}, Server{Name: "c"})
	if got := names(t, p, 6, Ask{}, false); got != "aabbcc" {
		t.Errorf("places %s, want one server full before the next", got)
	}
}

func TestTwoChoicesKeepsLoadEven(t *testing.T) {
	p, _ := newPool(Options{Method: Random}, three()...)
	got := names(t, p, 300, Ask{}, false)
	for _, s := range three() {
		if n := strings.Count(got, s.Name); n < 90 || n > 110 {
			t.Errorf("%s has %d of 300, want about 100", s.Name, n)
		}
	}
}

func TestLeastWorkPlacesByCostNotByCount(t *testing.T) {
	p, _ := newPool(Options{Method: LeastWork}, Server{Name: "a"}, Server{Name: "b"})
	acquire(t, p, Ask{Cost: time.Minute}) // on a
	if got := names(t, p, 10, Ask{Cost: time.Second}, false); got != strings.Repeat("b", 10) {
		t.Errorf("ten short requests went to %s, want all beside the long one", got)
	}
}

func TestLeastWorkAvoidsAServerThatIsSlowerThanExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newPool(Options{Method: LeastWork}, Server{Name: "a"}, Server{Name: "b"})
		for range 64 {
			var some []*Lease
			for range 6 {
				some = append(some, acquire(t, p, Ask{Cost: time.Second}))
			}
			for _, l := range some {
				took := time.Second
				if l.Server().Name == "a" {
					took = 4 * time.Second
				}
				l.Done(took, true)
			}
		}
		got := names(t, p, 100, Ask{Cost: time.Second}, false)
		if a := strings.Count(got, "a"); a < 10 || a > 30 {
			t.Errorf("the server that takes four times as long got %d of 100, want about 20", a)
		}
	})
}

func TestHashKeepsKeysTogetherAndMovesOnlyThoseOfALostServer(t *testing.T) {
	p, j := newPool(Options{Method: Hash, HashBy: "environment"}, three()...)
	where := func() map[string]string {
		m := map[string]string{}
		for i := range 300 {
			env := fmt.Sprintf("env%d", i)
			m[env] = names(t, p, 1, Ask{Environment: env}, true)
		}
		return m
	}
	before := where()
	if diff := cmp.Diff(before, where()); diff != "" {
		t.Errorf("the same keys went elsewhere:\n%s", diff)
	}
	share := map[string]int{}
	for _, s := range before {
		share[s]++
	}
	for _, s := range three() {
		if share[s.Name] < 70 || share[s.Name] > 130 {
			t.Errorf("%s has %d of 300 keys, want about 100", s.Name, share[s.Name])
		}
	}
	j.say("b", health.Down)
	for env, s := range where() {
		if before[env] != "b" && s != before[env] {
			t.Errorf("%s moved from %s to %s, though only b is down", env, before[env], s)
		}
	}
	j.say("b", health.Up)
	if diff := cmp.Diff(before, where()); diff != "" {
		t.Errorf("not all keys came back with b:\n%s", diff)
	}
}

func TestHashIsBounded(t *testing.T) {
	p, _ := newPool(Options{Method: Hash, Bound: 1.25}, three()...)
	got := names(t, p, 300, Ask{Key: "one"}, false)
	for _, s := range three() {
		if n := strings.Count(got, s.Name); n > 126 { // 1.25 × 300/3, rounded up as it grew
			t.Errorf("%s has %d of 300 requests with one key, want at most 126", s.Name, n)
		}
	}
}

func TestAFullPoolQueuesByClassThenByArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newPool(Options{}, Server{Name: "a", MaxConns: 1})
		held := acquire(t, p, Ask{})
		var order []string
		var wg sync.WaitGroup
		for _, who := range []struct {
			name  string
			class int
		}{{"new1", 1}, {"in1", 0}, {"new2", 1}, {"in2", 0}} {
			wg.Go(func() {
				l, err := p.Acquire(t.Context(), Ask{Class: who.class})
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, who.name) // one at a time: there is one place
				l.Done(time.Second, true)
			})
			synctest.Wait()
		}
		if q, avg := p.Queue(), p.AverageQueue(); q != 4 || avg != 4 {
			t.Errorf("queue %d, average %v, want 4 and 4", q, avg)
		}
		held.Done(time.Second, true)
		wg.Wait()
		if diff := cmp.Diff([]string{"in1", "in2", "new1", "new2"}, order); diff != "" {
			t.Errorf("order of service (-want +got):\n%s", diff)
		}
	})
}

func TestAFullQueueRefusesNewRunsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newPool(Options{MaxQueue: 2}, Server{Name: "a", MaxConns: 1})
		held := acquire(t, p, Ask{})
		held.Done(2*time.Second, true) // two seconds is what a request takes
		held = acquire(t, p, Ask{})
		errs := map[string]error{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		enter := func(name string, class int) {
			wg.Go(func() {
				l, err := p.Acquire(t.Context(), Ask{Class: class})
				mu.Lock()
				defer mu.Unlock()
				errs[name] = err
				if l != nil {
					l.Done(time.Second, true)
				}
			})
			synctest.Wait()
		}
		enter("new1", 1)
		enter("new2", 1)
		enter("new3", 1)
		enter("in1", 0)
		if !errors.Is(errs["new3"], ErrQueueFull) || !errors.Is(errs["new2"], ErrQueueFull) {
			t.Errorf("new3: %v, new2: %v; want both refused, the second for a request inside a run", errs["new3"], errs["new2"])
		}
		busy, ok := errors.AsType[*BusyError](errs["new3"])
		if !ok || busy.Wait != 6*time.Second || busy.Queue != 2 {
			t.Errorf("%+v, want a wait of 6 s behind 2 others", busy)
		}
		held.Done(2*time.Second, true)
		wg.Wait()
		if errs["in1"] != nil || errs["new1"] != nil {
			t.Errorf("in1: %v, new1: %v; want both served", errs["in1"], errs["new1"])
		}
	})
}

func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, j := newPool(Options{QueueTimeout: time.Minute}, Server{Name: "a", MaxConns: 1})
		held := acquire(t, p, Ask{})

		start := time.Now()
		_, err := p.Acquire(t.Context(), Ask{})
		if !errors.Is(err, ErrQueueTimeout) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v, want %v after a minute", err, time.Since(start), ErrQueueTimeout)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = p.Acquire(ctx, Ask{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the caller's own deadline", err)
		}

		var wg sync.WaitGroup
		var patient *Lease
		var patientErr error
		wg.Go(func() { _, err = p.Acquire(t.Context(), Ask{}) })
		wg.Go(func() { patient, patientErr = p.Acquire(t.Context(), Ask{Patient: true}) })
		synctest.Wait()
		j.verdict("a", health.Verdict{State: health.Down, Reason: "L4CON: connection refused"})
		p.Refresh()
		synctest.Wait()
		if !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "a is down: L4CON: connection refused") {
			t.Errorf("%v, want an end of waiting that names what is down", err)
		}
		held.Done(time.Second, false)
		j.say("a", health.Up)
		p.Refresh()
		wg.Wait()
		if patientErr != nil || patient.Server().Name != "a" {
			t.Errorf("%v, want the patient one served when the server is back", patientErr)
		}
		patient.Done(time.Second, true)
		patient.Done(time.Second, true)
		if s := p.Stats(); s.Queue != 0 || s.Servers[0].Current != 0 {
			t.Errorf("%+v, want nothing left", s)
		}
	})
}

func TestAPlaceForSomebodyWhoIsGoneGoesToTheNext(t *testing.T) {
	p, _ := newPool(Options{}, Server{Name: "a", MaxConns: 1})
	held := acquire(t, p, Ask{})
	gone, _, err := p.enter(Ask{})
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := p.enter(Ask{})
	if err != nil {
		t.Fatal(err)
	}
	held.Done(time.Second, true) // gone is served, in the moment in which it gives up
	if l, err := p.leave(gone, context.Canceled); l != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("who is gone got %v, %v", l, err)
	}
	if next.lease == nil || p.Stats().Servers[0].Current != 1 {
		t.Errorf("the next one has %v with %d places taken, want the place", next.lease, p.Stats().Servers[0].Current)
	}
	last, _, err := p.enter(Ask{})
	if err != nil {
		t.Fatal(err)
	}
	next.lease.Done(time.Second, true)
	if l, err := p.leave(last, ErrQueueTimeout); l == nil || err != nil {
		t.Errorf("who was served in the moment of its time-out got %v, %v, want the place", l, err)
	}
}

func TestTheSmallerLimitCounts(t *testing.T) {
	for _, c := range []struct{ configured, said, want int }{{0, 0, 0}, {5, 0, 5}, {0, 3, 3}, {5, 3, 3}, {3, 5, 3}} {
		p, j := newPool(Options{}, Server{Name: "a", MaxConns: c.configured})
		j.verdict("a", health.Verdict{State: health.Up, Share: 1, MaxConns: c.said})
		if got := p.Stats().Servers[0].Limit; got != c.want {
			t.Errorf("configured %d, said %d: the limit is %d, want %d", c.configured, c.said, got, c.want)
		}
	}
}

// A request can wait because its key sticks to nothing that has room, and be served because another request of that key went elsewhere.
func TestAKeyThatMovesServesWhoWaitsForIt(t *testing.T) {
	for _, waits := range []bool{false, true} { // whether the one that moves the key was in the queue, too
		p, _ := newPool(Options{Stick: "certname"}, Server{Name: "a", Backup: true, MaxConns: 2}, Server{Name: "b", Backup: true, MaxConns: 1})
		first := []*Lease{acquire(t, p, Ask{}), acquire(t, p, Ask{})} // a, the first backup, is full
		second := acquire(t, p, Ask{Exclude: []string{"a"}})          // so is b
		inRun, _, err := p.enter(Ask{Key: "web1", Run: true, Patient: true})
		if err != nil {
			t.Fatal(err)
		}
		p.servers[1].MaxConns = 3
		if !waits {
			second.Done(time.Second, true)
			names(t, p, 1, Ask{Key: "web1", Exclude: []string{"a"}}, false)
		} else {
			p.servers[1].MaxConns = 1
			mover, _, err := p.enter(Ask{Key: "web1", Exclude: []string{"a"}})
			if err != nil {
				t.Fatal(err)
			}
			p.servers[1].MaxConns = 3
			second.Done(time.Second, true)
			if mover.lease == nil {
				t.Fatal("the one that moves the key waits on")
			}
		}
		if inRun.lease == nil || inRun.lease.Server().Name != "b" {
			t.Errorf("waits=%v: the request inside the run has %v, want a place where its key went", waits, inRun.lease)
		}
		for _, l := range first {
			l.Done(time.Second, true)
		}
	}
}

func TestVerdictsDecideWhoTakesWork(t *testing.T) {
	for _, c := range []struct {
		state health.State
		run   bool
		want  string
	}{
		{health.Down, true, "b"},
		{health.Drain, false, "b"},
		{health.Drain, true, "a"},
		{health.Maint, true, "b"},
		{health.Up, false, "a"},
	} {
		t.Run(fmt.Sprintf("%s run=%v", c.state, c.run), func(t *testing.T) {
			p, j := newPool(Options{Stick: "certname"}, Server{Name: "a"}, Server{Name: "b"})
			if first := names(t, p, 1, Ask{Key: "web1"}, true); first != "a" {
				t.Fatalf("the first request went to %s", first)
			}
			j.say("a", c.state)
			if got := names(t, p, 1, Ask{Key: "web1", Run: c.run}, true); got != c.want {
				t.Errorf("went to %s, want %s", got, c.want)
			}
		})
	}
}

func TestBackupsAreUsedOnlyWhenNothingElseIs(t *testing.T) {
	servers := []Server{{Name: "a"}, {Name: "x", Backup: true}, {Name: "y", Backup: true}}
	p, j := newPool(Options{}, servers...)
	if got := names(t, p, 3, Ask{}, true); got != "aaa" {
		t.Errorf("%s, want no backup", got)
	}
	if got := names(t, p, 2, Ask{Exclude: []string{"a"}}, true); got != "xx" {
		t.Errorf("%s, want a backup for what the only server has failed", got)
	}
	j.say("a", health.Down)
	if got := names(t, p, 3, Ask{}, true); got != "xxx" || p.Usable() != 1 {
		t.Errorf("%s with %d usable, want the first backup alone", got, p.Usable())
	}
	all, j2 := newPool(Options{AllBackups: true}, servers...)
	j2.say("a", health.Down)
	if got := names(t, all, 4, Ask{}, true); got != "xyxy" {
		t.Errorf("%s, want all backups", got)
	}
}

func TestExplainSaysWhyForEachServer(t *testing.T) {
	p, j := newPool(Options{Method: LeastConnections, LocalFirst: true, Site: "east"},
		Server{Name: "a", Site: "east", MaxConns: 1}, Server{Name: "b", Site: "east", MaxConns: 4}, Server{Name: "c", Site: "east"},
		Server{Name: "d", Site: "east"}, Server{Name: "far", Site: "west"}, Server{Name: "z", Site: "east", Backup: true})
	acquire(t, p, Ask{})
	j.verdict("c", health.Verdict{State: health.Maint, Reason: "by an operator", Share: 1})
	got := map[string]string{}
	for _, r := range p.Explain(Ask{Exclude: []string{"d"}}) {
		got[r.Server] = fmt.Sprintf("%v: %s", r.Taken, r.Why)
	}
	want := map[string]string{
		"a":   "false: is full: 1 of 1 requests, weight 100",
		"b":   "true: chosen by least-connections: 0 of 4 requests, weight 100",
		"c":   "false: is in maintenance: by an operator",
		"d":   "false: has failed this request",
		"far": "false: is in tier 1, and earlier ones take all",
		"z":   "false: is a backup, and others are up",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("explanations (-want +got):\n%s", diff)
	}
}
