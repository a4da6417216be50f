package bgp

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// An event happens to an edge.
type event struct {
	after time.Duration // since the one before
	what  string        // serve, fail, drain, ready, stop, wait
}

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// history is what happened, told in seconds, for the model.
type history struct {
	timing

	now     time.Time
	serving []moment // changes
	drain   []moment
	stop    time.Time
	phases  []passage // what the decision made of it
}

type moment struct {
	at time.Time
	on bool
}

type passage struct {
	at time.Time
	Phase
}

func at(moments []moment, t time.Time) (on bool, since time.Time) {
	since = epoch
	for _, m := range moments {
		if m.at.After(t) {
			break
		}
		if m.on != on {
			on, since = m.on, m.at
		}
	}
	return on, since
}

// check holds a history to the rules, none of which is written as the decision is.
func (h *history) check() error {
	phase, since, last := Silent, epoch, time.Time{}
	for i, p := range h.phases {
		end := h.now
		if i+1 < len(h.phases) {
			end = h.phases[i+1].at
		}
		serving, turned := at(h.serving, p.at)
		drained, _ := at(h.drain, p.at)
		stopped := !h.stop.IsZero() && !h.stop.After(p.at)
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%v after %v at %v: %s", p.Phase, phase, p.at.Sub(epoch), fmt.Sprintf(format, args...))
		}
		switch p.Phase {
		case Joining, Announced:
			if !serving && p.at.Sub(turned) >= h.downAfter {
				return fail("the site does not serve")
			}
			if drained || stopped {
				return fail("it should be silent")
			}
			if phase == Silent || phase == Leaving {
				if phase == Silent && p.at.Sub(turned) < h.upAfter {
					return fail("it serves only since %v", turned.Sub(epoch))
				}
				if !last.IsZero() && p.at.Sub(last) < h.minFlap {
					return fail("the last announcement is %v old", p.at.Sub(last))
				}
				last = p.at
				if p.Phase == Announced && h.rejoin > 0 {
					return fail("it has to be joining first")
				}
			} else if p.Phase == Announced && p.at.Sub(since) != h.rejoin {
				return fail("joining lasted %v", p.at.Sub(since))
			}
		case Leaving:
			if phase != Announced && phase != Joining {
				return fail("there is nothing to leave")
			}
			if h.grace == 0 || !drained && !stopped {
				return fail("nobody wants it to leave")
			}
		case Silent:
			failed := !serving && p.at.Sub(turned) >= h.downAfter
			wished := (drained || stopped) && (h.grace == 0 || phase == Leaving && p.at.Sub(since) >= h.grace)
			if phase != Silent && !failed && !wished {
				return fail("withdrawn without need")
			}
		}
		if err := h.overdue(p, end, last); err != nil {
			return fail("%v", err)
		}
		phase, since = p.Phase, p.at
	}
	return nil
}

// overdue finds what should have happened while a phase lasted.
func (h *history) overdue(p passage, end, last time.Time) error {
	for t := p.at; t.Before(end); t = t.Add(500 * time.Millisecond) {
		serving, turned := at(h.serving, t)
		drained, _ := at(h.drain, t)
		silenced := drained || !h.stop.IsZero() && !h.stop.After(t)
		switch p.Phase {
		case Silent:
			if serving && !silenced && t.Sub(turned) >= h.upAfter && (last.IsZero() || t.Sub(last) >= h.minFlap) {
				return fmt.Errorf("still silent at %v", t.Sub(epoch))
			}
		case Joining, Announced, Leaving:
			if !serving && t.Sub(turned) >= h.downAfter {
				return fmt.Errorf("still announced at %v, and the site does not serve since %v", t.Sub(epoch), turned.Sub(epoch))
			}
			if silenced && p.Phase != Leaving {
				return fmt.Errorf("still announced at %v although it should leave", t.Sub(epoch))
			}
			if silenced && t.Sub(p.at) >= h.grace {
				return fmt.Errorf("still leaving at %v", t.Sub(epoch))
			}
			if p.Phase == Joining && t.Sub(p.at) >= h.rejoin {
				return fmt.Errorf("still joining at %v", t.Sub(epoch))
			}
		}
	}
	return nil
}

// play gives events to a decision, and asks it only when it wanted to be asked.
func play(tm timing, events []event) *history {
	h := &history{timing: tm, now: epoch, phases: []passage{{epoch, Silent}}}
	d := newDecision(tm, epoch)
	step := func() time.Time {
		before := d.phase
		next := d.step(h.now)
		if d.phase != before {
			h.phases = append(h.phases, passage{h.now, d.phase})
		}
		return next
	}
	next := step()
	base := epoch
	for i, e := range events {
		// Each event has its own milliseconds, and what follows from it has the same: no two things happen at one time.
		base = base.Add(e.after)
		for until := base.Add(time.Duration(i+1) * 7 * time.Millisecond); ; {
			if next.IsZero() || next.After(until) {
				h.now = until
				break
			}
			h.now = next
			if next = step(); !next.IsZero() && !next.After(h.now) {
				panic(fmt.Sprintf("asks for %v at %v", next.Sub(epoch), h.now.Sub(epoch)))
			}
		}
		switch e.what {
		case "serve", "fail":
			d.serve(h.now, e.what == "serve", "broken")
			h.serving = append(h.serving, moment{h.now, e.what == "serve"})
		case "drain", "ready":
			d.drain = e.what == "drain"
			h.drain = append(h.drain, moment{h.now, d.drain})
		case "stop":
			d.stop = true
			if h.stop.IsZero() {
				h.stop = h.now
			}
		}
		next = step()
	}
	return h
}

func drawTiming(t *rapid.T) timing {
	seconds := func(name string, most int) time.Duration {
		return time.Duration(rapid.IntRange(0, most*2).Draw(t, name)) * time.Second / 2
	}
	tm := timing{
		upAfter: seconds("up after", 6), downAfter: seconds("down after", 3), rejoin: seconds("rejoin", 20),
		minFlap: seconds("min flap", 10), grace: seconds("grace", 30),
	}
	if rapid.Bool().Draw(t, "no rejoin") {
		tm.rejoin = 0
	}
	return tm
}

func drawEvents(t *rapid.T) []event {
	what := rapid.SampledFrom([]string{"serve", "serve", "serve", "fail", "fail", "drain", "drain", "ready", "ready", "wait", "wait", "stop"})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
		e := event{time.Duration(rapid.IntRange(1, 30).Draw(t, "half seconds")) * time.Second / 2, what.Draw(t, "what")}
		if e.what == "stop" && rapid.IntRange(0, 9).Draw(t, "really") > 0 {
			e.what = "wait"
		}
		return e
	}), 1, 40).Draw(t, "events")
}

// sequences is how many histories the properties below look at: 10,000, as goal G12 has it.
const sequences = 10_000

// TestDecisionsKeepTheRules holds every random history to the rules.
func TestDecisionsKeepTheRules(t *testing.T) {
	seen := map[string]int{}
	generate := rapid.Custom(func(t *rapid.T) *history { return play(drawTiming(t), drawEvents(t)) })
	for i := range sequences {
		h := generate.Example(i)
		if err := h.check(); err != nil {
			t.Fatalf("history %d: %v\ntimes %+v\nserving %v\ndrain %v\nstop %v\nphases %v", i, err, h.timing, h.serving, h.drain, h.stop, h.phases)
		}
		for j := 1; j < len(h.phases); j++ {
			seen[fmt.Sprint(h.phases[j-1].Phase, "→", h.phases[j].Phase)]++
		}
	}
	for _, way := range []string{
		"silent→joining", "silent→announced", "joining→announced", "joining→leaving", "joining→silent", "announced→leaving",
		"announced→silent", "leaving→silent", "leaving→joining", "leaving→announced",
	} {
		if seen[way] < 100 {
			t.Errorf("only %d of the histories went %s", seen[way], way)
		}
	}
	t.Log(seen)
}

// TestDecisionsTellWhatTheyWaitFor reads the reasons that an operator sees.
func TestDecisionsTellWhatTheyWaitFor(t *testing.T) {
	tm := timing{upAfter: 5 * time.Second, minFlap: 10 * time.Second, grace: 3 * time.Second, rejoin: 2 * time.Second}
	d := newDecision(tm, epoch)
	now := epoch
	after := func(s float64) { now = epoch.Add(time.Duration(s * float64(time.Second))) }
	want := func(p Phase, reason string, next float64) {
		t.Helper()
		got := d.step(now)
		wantNext := epoch.Add(time.Duration(next * float64(time.Second)))
		if next == 0 {
			wantNext = time.Time{}
		}
		if d.phase != p || d.reason != reason || !got.Equal(wantNext) {
			t.Errorf("at %v: %v, %q, again at %v; want %v, %q, %v", now.Sub(epoch), d.phase, d.reason, got.Sub(epoch), p, reason, next)
		}
	}
	want(Silent, "not judged yet", 0)
	d.serve(now, false, "no member is ready")
	want(Silent, "no member is ready", 0)
	after(1)
	d.serve(now, true, "")
	want(Silent, "the site serves, but not yet for 5s", 6)
	after(6)
	want(Joining, "the site serves", 8)
	after(8)
	want(Announced, "the site serves", 0)
	after(9)
	d.serve(now, false, "the store is read-only")
	want(Silent, "the store is read-only", 0)
	after(9.5)
	d.serve(now, true, "")
	after(15)
	want(Silent, "the site serves, but the last announcement is not yet 10s old", 16)
	after(16)
	want(Joining, "the site serves", 18)
	d.drain = true
	after(17)
	want(Leaving, "drained by an operator", 20)
	after(20)
	want(Silent, "drained by an operator", 0)
	d.drain, d.stop = false, true
	want(Silent, "the edge stops", 0)
	if d.announcements != 2 || d.withdrawals != 2 {
		t.Errorf("%d announcements, %d withdrawals, want 2 of each", d.announcements, d.withdrawals)
	}
}

func TestAProcessThatTookOverGoesOnWithWhatIsAnnounced(t *testing.T) {
	d := newDecision(timing{upAfter: 5 * time.Second, rejoin: time.Minute, minFlap: 10 * time.Second}, epoch)
	d.inherited = epoch.Add(inheritMost)
	d.step(epoch)
	if !d.waits(epoch) {
		t.Error("nothing is known of the site, and what another process announced would be taken back")
	}
	judged := epoch.Add(20 * time.Millisecond)
	d.serve(judged, true, "")
	if d.step(judged); d.phase != Announced || d.waits(judged) {
		t.Errorf("the site serves: %v, %s", d.phase, d.reason)
	}
	failed := epoch.Add(time.Second)
	d.serve(failed, false, "no server")
	if d.step(failed); d.phase != Silent || d.waits(failed) {
		t.Errorf("the site does not serve any more: %v", d.phase)
	}

	d = newDecision(timing{upAfter: 5 * time.Second}, epoch)
	d.inherited = epoch.Add(inheritMost)
	late := epoch.Add(inheritMost)
	if d.step(late); d.phase != Silent || d.waits(late) {
		t.Errorf("a site that never served is still announced: %v", d.phase)
	}
}
