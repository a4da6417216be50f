package absence

import (
	"strconv"
	"testing"
	"time"
)

// This file sends requests away and lets them come back.

func TestAHerdIsExpectedBackInTurn(t *testing.T) {
	var a List
	now := time.Unix(1_000_000, 0)
	for i := range 100 {
		a.Add(now, strconv.Itoa(i), time.Duration(i)*time.Second)
	}
	for _, tt := range []struct {
		later time.Duration
		want  int
	}{{0, 100}, {10 * time.Second, 90}, {99 * time.Second, 1}, {100 * time.Second, 0}} {
		if got := a.Count(now.Add(tt.later)); got != tt.want {
			t.Errorf("after %s: %d still away, want %d", tt.later, got, tt.want)
		}
	}

	a.Add(now.Add(time.Hour), "far", 24*time.Hour)
	if got := a.Count(now.Add(time.Hour + Most - time.Second)); got != 1 {
		t.Errorf("a request sent away for too long: %d away, want it to count for %s", got, Most)
	}
	if got := a.Count(now); got != 0 {
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
		var a List
		a.Add(now, "agent", 10*time.Second)
		a.Add(now, "other", 20*time.Second)
		at := now.Add(tt.later)
		before := a.Count(at)
		if got := a.IsBack(at, "agent"); got != tt.back {
			t.Errorf("%s: known %v, want %v", tt.name, got, tt.back)
		}
		if a.IsBack(at, "agent") {
			t.Errorf("%s: it is back twice", tt.name)
		}
		if expected, was := a.Count(at), tt.later <= 10*time.Second; (before-expected == 1) != was {
			t.Errorf("%s: %d are expected after %d", tt.name, expected, before)
		}
		if a.IsBack(at, "stranger") {
			t.Errorf("%s: a stranger is known", tt.name)
		}
	}
}

func TestAbsencesAreBoundedAndSurviveAClockThatIsSetBack(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var a List
	for i := range maxNames + 10 {
		a.Add(now, strconv.Itoa(i), time.Minute)
	}
	if len(a.names) != maxNames || a.Count(now) != maxNames+10 {
		t.Errorf("%d names for %d absences, want %d and %d", len(a.names), a.Count(now), maxNames, maxNames+10)
	}
	if !a.IsBack(now, "7") || a.IsBack(now, "7") || a.Count(now) != maxNames+9 {
		t.Error("somebody is back once")
	}
	if n := a.Count(now.Add(61 * time.Second)); n != 0 {
		t.Errorf("%d are expected after their time", n)
	}
	a.Add(now.Add(61*time.Second), "x", time.Minute)
	if n := a.Count(now); n != 0 {
		t.Errorf("%d are expected after the clock was set back", n)
	}
	a.Add(now, "x", Most)
	if n := a.Count(now); n != 1 {
		t.Errorf("%d are expected, want the one that was sent away for the longest time", n)
	}
}
