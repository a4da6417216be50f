package ruby

import (
	"testing"
	"time"
)

func TestAHerdIsExpectedBackInTurn(t *testing.T) {
	var a absences
	now := time.Unix(1_000_000, 0)
	for i := range 100 {
		a.add(now, time.Duration(i)*time.Second)
	}
	for _, tt := range []struct {
		later time.Duration
		want  int
	}{{0, 100}, {10 * time.Second, 90}, {99 * time.Second, 1}, {100 * time.Second, 0}} {
		if got := a.count(now.Add(tt.later)); got != tt.want {
			t.Errorf("after %s: %d still away, want %d", tt.later, got, tt.want)
		}
	}

	a.add(now.Add(time.Hour), 24*time.Hour)
	if got := a.count(now.Add(time.Hour + maxAway - time.Second)); got != 1 {
		t.Errorf("a request sent away for too long: %d away, want it to count for %s", got, maxAway)
	}
	if got := a.count(now); got != 0 {
		t.Errorf("a clock stepped back: %d away, want all forgotten", got)
	}
}
