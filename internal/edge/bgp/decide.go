package bgp

import (
	"fmt"
	"time"
)

// This file decides when the service addresses are announced, and how. It knows no BGP and no clock: what happens is told to it
// with the time, and it answers what is to be announced from then on, and when to ask again.
//
//	silent ──► joining ──► announced ──► leaving ──► silent
//	              └────────────┴────────────┴─► silent, at once, when the site cannot finish a run
//
// What must stay true: nothing is announced while the site does not serve (DownAfter aside); from one announcement to the next
// one at least MinFlap passes, since routers punish flapping for longer than that; a withdrawal is never delayed by it.

// A Phase is what routers are told at a time.
type Phase uint8

// The phases.
const (
	Silent    Phase = iota // nothing is announced
	Joining                // announced, with a worse preference than that of sites which serve already
	Announced              // announced
	Leaving                // announced as about to go (RFC 8326), with a worse preference
)

// untold is what has not been told yet: nothing is known of what an earlier process left.
const untold = 255 // no phase

// String is the phase in one word.
func (p Phase) String() string {
	switch p {
	case Silent:
		return "silent"
	case Joining:
		return "joining"
	case Announced:
		return "announced"
	case Leaving:
		return "leaving"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// MarshalText is the same word.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads it.
func (p *Phase) UnmarshalText(text []byte) error {
	for q := Silent; q <= Leaving; q++ {
		if q.String() == string(text) {
			*p = q
			return nil
		}
	}
	return fmt.Errorf("%q is no phase of an announcement", text)
}

// timing is how long things take; each zero means at once.
type timing struct {
	upAfter   time.Duration // the site must serve for so long
	downAfter time.Duration // or not serve for so long
	rejoin    time.Duration // Joining lasts so long
	minFlap   time.Duration // from one announcement to the next
	grace     time.Duration // Leaving lasts so long
}

// decision is the state from which the phase follows. It is for one goroutine.
type decision struct {
	timing

	phase  Phase
	since  time.Time // of the phase
	reason string    // why it is the phase, for people

	serving bool
	turned  time.Time // since when the site serves, or does not
	why     string    // it does not
	drain   bool      // an operator wants it silent
	stop    bool      // the process ends

	inherited time.Time // until then, what another process announced is gone on with

	last          time.Time // the newest announcement
	announcements uint64
	withdrawals   uint64
}

func newDecision(t timing, now time.Time) *decision {
	return &decision{timing: t, since: now, turned: now, why: "not judged yet", reason: "not judged yet"}
}

// serve tells whether the site can finish a run, and why not.
func (d *decision) serve(now time.Time, ok bool, why string) {
	if ok != d.serving {
		d.serving, d.turned = ok, now
	}
	if !ok {
		d.why = why
	}
}

// silenced says why the site is not to be announced although it may serve.
func (d *decision) silenced() string {
	switch {
	case d.stop:
		return "the edge stops"
	case d.drain:
		return "drained by an operator"
	}
	return ""
}

// step makes all changes that are due. It returns when the next one is due if nothing else happens, or the zero time.
func (d *decision) step(now time.Time) (next time.Time) {
	for {
		to, reason, at := d.due(now)
		if to == d.phase || at.After(now) {
			return at
		}
		d.enter(to, reason, now)
	}
}

// due says which phase is next, why, and when; the same phase means that no time alone will change it.
func (d *decision) due(now time.Time) (to Phase, reason string, at time.Time) {
	first := Announced
	if d.rejoin > 0 {
		first = Joining
	}
	if d.phase == Silent {
		d.reason = d.stillSilent(now)
		if !d.serving || d.silenced() != "" {
			return Silent, "", time.Time{}
		}
		if d.inherited.After(now) {
			return Announced, "the site serves, and another process announced it", now
		}
		return first, "the site serves", d.mayAnnounce(d.turned.Add(d.upAfter))
	}

	// It is announced. That it does not serve comes before all else.
	if !d.serving {
		at = d.turned.Add(d.downAfter)
		if !at.After(now) {
			return Silent, d.why, at
		}
	}
	switch reason = d.silenced(); {
	case d.phase == Leaving && reason == "":
		return earlier(at, Silent, d.why, d.mayAnnounce(now), first, "the site serves again")
	case d.phase == Leaving:
		return earlier(at, Silent, d.why, d.since.Add(d.grace), Silent, reason)
	case reason != "" && d.grace > 0:
		return Leaving, reason, now
	case reason != "":
		return Silent, reason, now
	case d.phase == Joining:
		return earlier(at, Silent, d.why, d.since.Add(d.rejoin), Announced, "the site serves")
	case d.serving:
		return d.phase, "", time.Time{}
	}
	return Silent, d.why, at
}

// earlier chooses between two changes; the first one may have no time.
func earlier(a time.Time, aTo Phase, aWhy string, b time.Time, bTo Phase, bWhy string) (to Phase, why string, at time.Time) {
	if !a.IsZero() && a.Before(b) {
		return aTo, aWhy, a
	}
	return bTo, bWhy, b
}

// mayAnnounce is the given time, or later if the last announcement is too fresh.
func (d *decision) mayAnnounce(at time.Time) time.Time {
	if free := d.last.Add(d.minFlap); !d.last.IsZero() && free.After(at) {
		return free
	}
	return at
}

func (d *decision) enter(to Phase, reason string, now time.Time) {
	switch {
	case to == Silent:
		d.withdrawals++
	case d.phase == Silent, d.phase == Leaving:
		d.announcements++
		d.last = now
	}
	d.phase, d.since, d.reason, d.inherited = to, now, reason, time.Time{}
}

// waits tells whether the process that took over does not know yet whether the site serves, so that nothing is to be taken back.
func (d *decision) waits(now time.Time) bool {
	return d.phase == Silent && d.inherited.After(now) && d.silenced() == ""
}

// stillSilent says what is waited for.
func (d *decision) stillSilent(now time.Time) string {
	switch reason := d.silenced(); {
	case reason != "":
		return reason
	case !d.serving:
		return d.why
	case d.turned.Add(d.upAfter).After(now):
		return fmt.Sprintf("the site serves, but not yet for %v", d.upAfter)
	}
	return fmt.Sprintf("the site serves, but the last announcement is not yet %v old", d.minFlap)
}
