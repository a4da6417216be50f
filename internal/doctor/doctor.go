// Package doctor examines a member and the machine under it, and says what to do about each thing that is wrong.
//
// It looks and changes nothing. A member that runs is asked over its admin socket, since only it knows what it has in memory; of
// one that is stopped the data folder is read; on a fresh machine there is no more than the configuration. One small file that is
// written, flushed and removed again to time the disk is the only trace.
//
// Begin with [Examine]. checks.go is the list of what is looked at. A check is a function over what gather.go found out; what it
// returns are [Finding]s, which whoever asked presents.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"troupe/internal/config"
)

// A State says how much a finding matters.
type State string

// The states, the most severe first.
const (
	Fail    State = "fail"    // something does not work, or soon will not
	Warn    State = "warn"    // it works, and somebody should look at it
	Unknown State = "unknown" // it could not be found out
	OK      State = "ok"
)

// severity orders states.
func (s State) severity() int { return slices.Index([]State{Fail, Warn, Unknown, OK}, s) }

// A Finding is what one check has found.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"` // the next command or setting
}

// A Presence says what there is to examine.
type Presence string

// The kinds of presence.
const (
	Running Presence = "running"
	Stopped Presence = "stopped"
	Fresh   Presence = "fresh" // there is no data folder yet
)

// A Report is the outcome of an examination: the most severe findings first, else in the order of the checks.
type Report struct {
	Member   Presence  `json:"member"`
	Data     string    `json:"data"`
	State    State     `json:"state"` // the most severe one
	Findings []Finding `json:"findings"`
}

// Options says what to examine.
type Options struct {
	Config      *config.Config // nil when it cannot be read
	ConfigError error          // why
	Data        string         // the data folder when Config is nil, as far as it is known
	Version     string         // of this program
}

// Deadlines. An examination ends after the sum of both, whatever hangs.
const (
	gatherMost = 5 * time.Second // asking the member, or reading its folder
	checkMost  = 4 * time.Second // one check; they run at once
	grace      = 300 * time.Millisecond
)

// Examine looks at everything.
func Examine(ctx context.Context, o Options) Report {
	x := gather(ctx, o)
	r := Report{Member: x.presence, Data: x.settings.Data, State: OK}
	r.Findings = x.run(ctx, checks())
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(a.State.severity(), b.State.severity()) })
	if len(r.Findings) > 0 {
		r.State = r.Findings[0].State
	}
	return r
}

// run runs checks at once. One that does not end in time is left behind: reading from a dead file server cannot be interrupted,
// and the process ends soon.
func (x *exam) run(ctx context.Context, list []check) []Finding {
	ctx, cancel := context.WithTimeout(ctx, checkMost)
	defer cancel()
	results := make([]chan []Finding, len(list))
	for i, c := range list {
		results[i] = make(chan []Finding, 1)
		go func() {
			var n notes
			c.look(ctx, x, &n)
			results[i] <- n.found
		}()
	}
	var all []Finding
	late := time.NewTimer(checkMost + grace) // whoever heeds ctx is in time
	defer late.Stop()
	over := false
	for i, c := range list {
		var found []Finding
		if !over {
			select {
			case found = <-results[i]:
			case <-late.C:
				over = true
			}
		}
		if over {
			select {
			case found = <-results[i]:
			default:
				found = []Finding{{State: Unknown, Found: fmt.Sprintf("no answer in %v", checkMost), Remedy: "look for a disk or a file server that hangs: dmesg, mount"}}
			}
		}
		for _, f := range found {
			f.Check = c.name
			all = append(all, f)
		}
	}
	return all
}

// notes are what a check writes down.
type notes struct{ found []Finding }

func (n *notes) add(s State, remedy, format string, args ...any) {
	n.found = append(n.found, Finding{State: s, Remedy: remedy, Found: fmt.Sprintf(format, args...)})
}

func (n *notes) ok(format string, args ...any) { n.add(OK, "", format, args...) }

func (n *notes) warn(remedy, format string, args ...any) { n.add(Warn, remedy, format, args...) }

func (n *notes) fail(remedy, format string, args ...any) { n.add(Fail, remedy, format, args...) }

func (n *notes) unknown(remedy, format string, args ...any) { n.add(Unknown, remedy, format, args...) }

// well reports whether nothing was found yet.
func (n *notes) well() bool { return len(n.found) == 0 }
