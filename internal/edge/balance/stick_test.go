package balance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestATableForgetsWhatIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(10*time.Minute, 3, time.Now)
		table.Put("web1", "a")
		time.Sleep(9 * time.Minute)
		table.Put("web2", "b")
		time.Sleep(time.Minute)
		if _, ok := table.Get("web1"); ok {
			t.Error("web1 still sticks after ten minutes without use")
		}
		if s, ok := table.Get("web2"); !ok || s != "b" {
			t.Errorf("web2 sticks to %q", s)
		}
		for i := range 5 {
			time.Sleep(time.Second)
			table.Put(fmt.Sprintf("db%d", i), "c")
		}
		var keys []string
		for _, e := range table.Entries() {
			keys = append(keys, e.Key)
		}
		if got := strings.Join(keys, " "); got != "db4 db3 db2" || table.Len() != 3 {
			t.Errorf("%s are kept, want the three used last", got)
		}
	})
}

func TestEdgesLearnFromEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := NewTable(time.Hour, 0, nil), NewTable(time.Hour, 0, nil)
		one.Put("web1", "a")
		changes, version := one.Changes(0)
		two.Merge(changes)
		if s, _ := two.Get("web1"); s != "a" {
			t.Errorf("web1 sticks to %q at the other edge", s)
		}
		if more, _ := one.Changes(version); len(more) != 0 {
			t.Errorf("%v changed, want nothing", more)
		}
		time.Sleep(time.Minute)
		one.Put("web1", "a") // that it is used is news only after a while
		if more, _ := one.Changes(version); len(more) != 0 {
			t.Errorf("%v changed, want nothing after a minute", more)
		}
		time.Sleep(7 * time.Minute)
		one.Put("web1", "a")
		if more, _ := one.Changes(version); len(more) != 1 {
			t.Errorf("%v changed, want that it is still used", more)
		}

		// What is older does not win, whoever tells it last.
		time.Sleep(time.Minute)
		two.Put("web1", "b")
		old, _ := one.Changes(0)
		if n := two.Merge(old); n != 0 {
			t.Errorf("%d old entries were taken over", n)
		}
		time.Sleep(time.Minute)
		if !two.Delete("web1") || two.Delete("web1") {
			t.Error("a key is deleted once")
		}
		changes, _ = two.Changes(0)
		one.Merge(changes)
		if s, ok := one.Get("web1"); ok {
			t.Errorf("web1 still sticks to %s after another edge deleted it", s)
		}
	})
}

func TestAnEdgeThatRestartsTellsAllAgain(t *testing.T) {
	for name, step := range map[string]time.Duration{"time went on": time.Second, "the clock was set back": -time.Hour} {
		now := time.Unix(1_000_000, 0)
		clock := func() time.Time { return now }
		before := NewTable(10*time.Hour, 0, clock)
		for i := range 100 {
			before.Put(fmt.Sprintf("web%d", i), "a")
		}
		_, since := before.Changes(0)
		now = now.Add(step)
		after := NewTable(10*time.Hour, 0, clock)
		after.Put("web1", "b")
		changes, _ := after.Changes(since)
		if len(changes) != 1 {
			t.Errorf("%s: a peer that remembers version %d of the life before hears %v, want what is new", name, since, changes)
		}
	}
}

func TestWhatPeersSayIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(time.Hour, 2, nil)
		n := table.Merge([]Entry{
			{Key: strings.Repeat("k", maxKey+1), Server: "a", Used: time.Now()},
			{Key: "", Server: "a", Used: time.Now()},
			{Key: "long ago", Server: "a", Used: time.Now().Add(-time.Hour)},
			{Key: "future", Server: "a", Used: time.Now().Add(24 * time.Hour)},
		})
		if n != 1 || table.Len() != 1 {
			t.Errorf("%d of 4 entries were taken over, want the one with the clock that is ahead", n)
		}
		time.Sleep(2 * time.Minute)
		table.Merge([]Entry{{"future", "b", time.Now()}})
		if s, _ := table.Get("future"); s != "b" {
			t.Errorf("an entry from a clock that is a day ahead still wins: %s", s)
		}
		table.Merge([]Entry{{"x", "a", time.Now()}, {"y", "a", time.Now()}, {"z", "a", time.Now()}})
		if table.Len() != 2 {
			t.Errorf("%d entries, want 2", table.Len())
		}
		table.Put(strings.Repeat("k", maxKey+1), "a")
		if _, ok := table.Get(strings.Repeat("k", maxKey+1)); ok {
			t.Error("a key that is too long sticks")
		}
	})
}

func TestATableSurvivesARestart(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	path := filepath.Join(t.TempDir(), "stick.json")
	table := NewTable(time.Hour, 0, clock)
	if err := table.Load(path); err != nil {
		t.Errorf("a first start: %v", err)
	}
	for i := range 100 {
		now = now.Add(time.Second)
		table.Put(fmt.Sprintf("web%d", i), "a")
	}
	table.Delete("web7")
	if err := table.Save(path); err != nil {
		t.Fatal(err)
	}
	again := NewTable(time.Hour, 0, clock)
	if err := again.Load(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table.Entries(), again.Entries()); diff != "" || len(again.Entries()) != 99 {
		t.Errorf("%d entries after a restart (-want +got):\n%s", len(again.Entries()), diff)
	}

	if err := os.WriteFile(path, []byte(`[{"key": "web1", "ser`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.Load(path); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("half a file: %v, want an error with the next step", err)
	}
}

func TestPoolsShareATable(t *testing.T) {
	shared := NewTable(0, 0, nil)
	one, _ := newPool(Options{Stick: "certname", Table: shared}, three()...)
	two, _ := newPool(Options{Stick: "certname", Table: shared, Name: "ca"}, three()...)
	names(t, one, 1, Ask{}, true) // so that it is not a's turn
	first := names(t, one, 1, Ask{Key: "web1"}, true)
	if got := names(t, two, 3, Ask{Key: "web1"}, true); got != strings.Repeat(first, 3) {
		t.Errorf("the second pool chose %s, want %s as the first did", got, first)
	}
}

func TestCostsAreLearnt(t *testing.T) {
	var c Costs
	if got := c.Expect("web1", "production"); got != 0 {
		t.Errorf("%v before there was any", got)
	}
	for range 20 {
		c.Observe("web1", "production", 4*time.Second)
		c.Observe("db1", "production", 2*time.Second)
		c.Observe("web1", "test", 500*time.Millisecond)
	}
	for _, e := range []struct {
		certname, env string
		min, max      time.Duration
	}{
		{"web1", "production", 3990 * time.Millisecond, 4 * time.Second},
		{"web1", "test", 490 * time.Millisecond, 500 * time.Millisecond},
		{"new", "production", 2900 * time.Millisecond, 3100 * time.Millisecond},
		{"new", "other", 2 * time.Second, 2300 * time.Millisecond},
	} {
		if got := c.Expect(e.certname, e.env); got < e.min || got > e.max {
			t.Errorf("%s in %s: %v, want between %v and %v", e.certname, e.env, got, e.min, e.max)
		}
	}
	for range 6 {
		c.Observe("web1", "production", time.Second)
	}
	if got := c.Expect("web1", "production"); got > 1300*time.Millisecond {
		t.Errorf("after six faster ones %v, want about a second", got)
	}
}

func TestCostsAreBounded(t *testing.T) {
	c := Costs{Size: 10}
	for i := range 5000 {
		c.Observe(fmt.Sprintf("web%d", i), fmt.Sprintf("env%d", i), time.Second)
		c.Observe("web0", "env0", 3*time.Second)
	}
	c.Observe(strings.Repeat("x", maxKey+1), "", time.Second)
	c.Observe("web1", "", -time.Second)
	if len(c.known) != 10 || c.byUse.Len() != 10 || len(c.envs) != maxEnvs {
		t.Errorf("%d nodes and %d environments are kept, want 10 and %d", len(c.known), len(c.envs), maxEnvs)
	}
	if got := c.Expect("web0", "env0"); got < 2900*time.Millisecond {
		t.Errorf("who is seen all the time was forgotten: %v", got)
	}
}
