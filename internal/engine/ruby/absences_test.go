package ruby

import (
	"strconv"
	"testing"
	"time"

	"troupe/internal/puppet"
)

// This file sends requests away and lets them come back.

func TestAHerdIsExpectedBackInTurn(t *testing.T) {
	var a absences
	now := time.Unix(1_000_000, 0)
	for i := range 100 {
		a.add(now, puppet.Certname(strconv.Itoa(i)), time.Duration(i)*time.Second)
	}
	for _, tt := range []struct {
		later time.Duration
		want  int
	}{{0, 100}, {10 * time.Second, 90}, {99 * time.Second, 1}, {100 * time.Second, 0}} {
		if got := a.count(now.Add(tt.later)); got != tt.want {
			t.Errorf("after %s: %d still away, want %d", tt.later, got, tt.want)
		}
	}

	a.add(now.Add(time.Hour), "far", 24*time.Hour)
	if got := a.count(now.Add(time.Hour + maxAway - time.Second)); got != 1 {
		t.Errorf("a request sent away for too long: %d away, want it to count for %s", got, maxAway)
	}
	if got := a.count(now); got != 0 {
		t.Errorf("a clock stepped back: %d away, want all forgotten", got)
	}
}

func TestWhoWasSentAwayIsKnownWhenItIsBack(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, tt := range []struct {
		name  string
		later time.Duration
		back  bool
	}{
		{"too early", time.Second, true},
		{"in time", 10 * time.Second, true},
		{"late", 50 * time.Second, true},
		{"in the next run", 30 * time.Minute, false},
	} {
		var a absences
		a.add(now, "agent", 10*time.Second)
		a.add(now, "other", 20*time.Second)
		at := now.Add(tt.later)
		before := a.count(at)
		if got := a.isBack(at, "agent"); got != tt.back {
			t.Errorf("%s: known %v, want %v", tt.name, got, tt.back)
		}
		if a.isBack(at, "agent") {
			t.Errorf("%s: it is back twice", tt.name)
		}
		if expected, was := a.count(at), tt.later <= 10*time.Second; (before-expected == 1) != was {
			t.Errorf("%s: %d are expected after %d", tt.name, expected, before)
		}
		if a.isBack(at, "stranger") {
			t.Errorf("%s: a stranger is known", tt.name)
		}
	}
}
