package balance

import (
	"fmt"
	"testing"
	"time"
)

// busyPool has one place, which is taken, and so many runs in the queue.
func busyPool(t *testing.T, now *time.Time, waiting int) *Pool {
	t.Helper()
	p, _ := newPool(Options{Now: func() time.Time { return *now }}, Server{Name: "a", MaxConns: 1})
	acquire(t, p, Ask{Class: 1}).Done(10*time.Second, true) // ten seconds is what a request takes
	acquire(t, p, Ask{Class: 1})
	for range waiting {
		if w, _, err := p.enter(Ask{Class: 1}); w == nil || err != nil {
			t.Fatal(w, err)
		}
	}
	return p
}

func TestRunsBeginWhileNobodyWaits(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := busyPool(t, &now, 0)
	if after, ok := p.Admit(Ask{Key: "web1", Class: 1}, time.Nanosecond); !ok {
		t.Errorf("sent away for %v by an empty queue", after)
	}
}

func TestWhoIsSentAwayIsExpectedBackOneAfterAnother(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := busyPool(t, &now, 1)
	// Ten seconds for the one that waits, ten for who asks, and ten for each who was sent away before.
	for i, want := range []time.Duration{20 * time.Second, 30 * time.Second, 40 * time.Second} {
		after, ok := p.Admit(Ask{Key: fmt.Sprintf("web%d", i), Class: 1}, 15*time.Second)
		if ok || after != want {
			t.Errorf("web%d is sent away for %v (%v), want %v", i, after, ok, want)
		}
	}
	now = now.Add(20 * time.Second)
	if after, ok := p.Admit(Ask{Key: "new", Class: 1}, 15*time.Second); ok || after != 50*time.Second {
		t.Errorf("who comes new is told to wait for %v (%v), want 50s behind those that are expected", after, ok)
	}
	if after, ok := p.Admit(Ask{Key: "web0", Class: 1}, 15*time.Second); !ok {
		t.Errorf("who is back is sent away again for %v, want it to wait here", after)
	}
	now = now.Add(time.Hour) // nobody came back
	if after, ok := p.Admit(Ask{Key: "web1", Class: 1}, 15*time.Second); ok || after != 20*time.Second {
		t.Errorf("an hour later %v (%v), want those that did not come forgotten", after, ok)
	}
}

func TestTheEstimateCountsWhoComesBefore(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := busyPool(t, &now, 3)
	if w, _, err := p.enter(Ask{Class: 0}); w == nil || err != nil {
		t.Fatal(w, err)
	}
	// Ten seconds each: inside a run only one is before it, a new run has all four before it.
	if got := p.wait(Ask{Class: 0}, now); got != 20*time.Second {
		t.Errorf("inside a run the wait is %v, want 20s", got)
	}
	if got := p.wait(Ask{Class: 1}, now); got != 50*time.Second {
		t.Errorf("a new run waits for %v, want 50s", got)
	}
}

// A run that waits comes with all its requests, which go before whoever comes later.
func TestARunThatWaitsCountsWhole(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p, _ := newPool(Options{Now: func() time.Time { return now }}, Server{Name: "a", MaxConns: 1})
	for range 10 { // runs of four requests of a second
		for class := range 4 {
			acquire(t, p, Ask{Class: max(0, 1-class)}).Done(time.Second, true)
		}
	}
	acquire(t, p, Ask{})
	if w, _, err := p.enter(Ask{Class: 1}); w == nil || err != nil {
		t.Fatal(w, err)
	}
	if got := p.wait(Ask{Class: 1}, now); got != 5*time.Second {
		t.Errorf("behind a run of four requests the wait is %v, want 5s", got)
	}
}
