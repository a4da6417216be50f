package edge

import (
	"fmt"
	"testing"
	"time"
)

func TestRunsAreLetInBitByBitAfterAnOutage(t *testing.T) {
	now := time.Now()
	o := &outage{ramp: 30 * time.Second}
	held := func(at time.Time) (n int) {
		for i := range 1000 {
			if _, back := o.holdsBack(fmt.Sprintf("web%d", i), at); back {
				n++
			}
		}
		return n
	}
	o.note(false, now) // it starts
	o.note(true, now.Add(time.Minute))
	if n := held(now.Add(time.Minute)); n != 0 {
		t.Errorf("after the start %d of 1000 are held back", n)
	}
	o.note(false, now.Add(2*time.Minute))
	o.note(true, now.Add(2*time.Minute+time.Second)) // too short for a herd
	if n := held(now.Add(2*time.Minute + time.Second)); n != 0 {
		t.Errorf("after a second %d of 1000 are held back", n)
	}
	o.note(false, now.Add(3*time.Minute))
	o.note(true, now.Add(4*time.Minute))
	for after, want := range map[time.Duration][2]int{0: {990, 1000}, 15 * time.Second: {430, 570}, 31 * time.Second: {0, 0}} {
		if n := held(now.Add(4*time.Minute + after)); n < want[0] || n > want[1] {
			t.Errorf("%v after the outage %d of 1000 are held back, want %v", after, n, want)
		}
	}
}

func TestAHerdThatWasSentAwayComesBackSpread(t *testing.T) {
	times := map[time.Duration]int{}
	for i := range 1000 {
		wait := spread(fmt.Sprintf("web%d.example.com", i), time.Minute, 30*time.Minute)
		if wait < time.Minute || wait > 2*time.Minute {
			t.Fatalf("a wait of %v", wait)
		}
		times[wait]++
	}
	for wait, n := range times {
		if n > 50 {
			t.Errorf("%d of 1000 come back after %v", n, wait)
		}
	}
	if got := spread("web1", time.Hour, 30*time.Minute); got != 30*time.Minute {
		t.Errorf("longer than agents sleep: %v", got)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	b := newBudget(0.1)
	n := 0
	for b.take() {
		n++
	}
	if n != budgetMost {
		t.Errorf("%d replays at once", n)
	}
	for range 100 {
		b.earn()
	}
	for n = 0; b.take(); n++ {
	}
	if n < 9 || n > 10 {
		t.Errorf("100 requests earned %d replays", n)
	}
}

func TestARequestWhoseServersDieIsSetAside(t *testing.T) {
	p := &poison{list: map[string]*suspect{}}
	x := &exchange{client: "web1", verb: verb{name: "catalog"}, environment: "production"}
	p.died(x, 3)
	if p.judge(x) != "" {
		t.Error("set aside by chance")
	}
	p.died(x, 3)
	if p.judge(x) == "" {
		t.Error("not set aside")
	}
	if other := (&exchange{client: "web2", verb: verb{name: "catalog"}, environment: "production"}); p.judge(other) != "" {
		t.Error("another node is set aside")
	}
	p.survived(x)
	if p.judge(x) != "" {
		t.Error("set aside although it was answered")
	}
}
