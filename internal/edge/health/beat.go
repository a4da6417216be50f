package health

import (
	"fmt"
	"time"
)

// This file judges members of a troupe by what they tell of themselves.

// A Beat is what a member of a troupe says at regular times; the edge hands it in.
type Beat struct {
	State   string // running; drain: no new runs; anything else is down
	Problem string // for people
	Workers int    // that compile
	Busy    int
	Waiting int
	At      time.Time // when it came in; zero means now
}

// missed is how many intervals may pass without a beat.
const missed = 3

type beats struct {
	last Beat
}

// Beat hands in what a member said of itself. An older beat than the last one says nothing.
func (m *Monitor) Beat(id string, b Beat) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.targets[id]
	if w == nil || w.Check.Type != TypeHeartbeat {
		return
	}
	now := m.o.Now()
	if b.At.IsZero() || b.At.After(now) {
		b.At = now // a clock that is ahead must not keep a dead member alive
	}
	if b.At.Before(w.judge.beats.last.At) {
		return
	}
	w.judge.fresh = false
	w.judge.beats.last = b
	m.settle(w, now)
	m.wake()
}

func (b *beats) say(interval time.Duration, now time.Time) (State, string) {
	switch {
	case b.last.At.IsZero():
		return Down, "no heartbeat yet"
	case !now.Before(b.deadline(interval)):
		return Down, "no heartbeat since " + b.last.At.UTC().Format("15:04:05")
	case b.last.State == "running":
		return Up, b.last.Problem
	}
	why := fmt.Sprintf("it says that it is %q", b.last.State)
	if b.last.Problem != "" {
		why += ": " + b.last.Problem
	}
	if b.last.State == string(Drain) {
		return Drain, why
	}
	return Down, why
}

// deadline is when the last beat no longer counts; zero before the first one.
func (b *beats) deadline(interval time.Duration) time.Time {
	if b.last.At.IsZero() {
		return time.Time{}
	}
	return b.last.At.Add(missed * interval)
}
