package agentapi

import (
	"testing"
	"time"
)

// This file holds when agents that were sent away come back.

func TestAgentsComeBackBeforeTheirTurnRatherThanAfterIt(t *testing.T) {
	for _, tt := range []struct {
		estimate         time.Duration
		earliest, latest int
	}{
		{0, 1, 1},
		{300 * time.Millisecond, 1, 1},
		{time.Second, 1, 1},
		{3 * time.Second, 2, 3},
		{30 * time.Second, 22, 30},
		{10 * time.Minute, 450, 600},
	} {
		seen := map[int]bool{}
		for range 5000 {
			got := spread(tt.estimate)
			if got < tt.earliest || got > tt.latest {
				t.Fatalf("an estimate of %v sends away for %d s, want %d to %d", tt.estimate, got, tt.earliest, tt.latest)
			}
			seen[got] = true
		}
		if want := tt.latest - tt.earliest + 1; len(seen) < want*9/10 {
			t.Errorf("an estimate of %v has %d different times, want about %d", tt.estimate, len(seen), want)
		}
	}
}
