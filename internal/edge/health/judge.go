package health

import (
	"fmt"
	"time"
)

// This file turns what is seen of one server into a verdict. Nothing here waits, asks or logs.
//
// Active checks move a counter, as HAProxy's do: below rise it means down, from rise on up. A success raises it by one, and once it says
// up it jumps to the top; a failure lowers it by one, and once it says down it drops to zero. So it takes rise successes in a row to come
// up and fall failures in a row to go down, and at neither end the state is changing.

type judge struct {
	target  Target
	verdict Verdict
	admin   string // the operator's word: "", drain or maint

	counter int
	fresh   bool   // no check yet, and none is assumed: the first decides alone
	drained bool   // the check said: no new work
	last    result // the last check; also a failure that requests have shown
	said    string // by the last good check
	near    time.Duration
	pace    pace

	agent agent
	eject ejection

	errors  int    // in a row, that requests have shown
	erred   string // whose request the first of them was
	several bool   // not all of them were of that client
	doubts  int    // failed checks in a row, from the suspicion on that took it out; 0 when it was not one
	checks, failed, downs,
	hidden int // failures that requests have shown and no check
}

func newJudge(t Target, now time.Time) judge {
	j := judge{target: t, agent: agent{share: 1}}
	switch t.Check.Initial {
	case InitialFullyUp:
		j.counter = j.top()
	case InitialUp:
		j.counter = t.Check.Rise
	case InitialDown:
		j.counter = t.Check.Rise - 1
	case InitialFullyDown:
	default:
		j.fresh = true
	}
	j.verdict = Verdict{Since: now}
	j.verdict = j.say(now)
	return j
}

// under returns what is known, judged by another check from now on.
func (j judge) under(t Target, now time.Time) judge {
	if !j.target.Check.active() { // then no check has moved the counter
		start := newJudge(t, now)
		j.counter, j.fresh = start.counter, start.fresh
	} else if j.counter >= j.target.Check.Rise {
		j.counter = t.Check.Rise + t.Check.Fall - 1
	} else {
		j.counter = 0
	}
	j.target = t
	if t.Check.AgentAddress == "" {
		j.agent = agent{share: 1}
	}
	return j
}

// decided reports whether anything was seen yet.
func (j *judge) decided() bool { return !j.fresh }

func (j *judge) top() int { return j.target.Check.Rise + j.target.Check.Fall - 1 }

// checked takes over the result of an active check.
func (j *judge) checked(r result) {
	j.last = r
	j.checks++
	j.pace.take(r)
	if r.near > 0 {
		j.near = r.near
	}
	if r.ok {
		j.said = r.said
	} else {
		j.failed++
	}
	if j.fresh {
		j.fresh = false
		if r.ok {
			j.counter = j.top()
		}
		j.drained = r.drain
		return
	}
	if r.ok {
		j.errors = 0
		j.drained = r.drain
		j.passed()
		return
	}
	if j.doubts > 0 {
		j.doubts++
	}
	j.fail()
}

func (j *judge) passed() {
	if j.counter < j.top() {
		j.counter++
	}
	if j.counter >= j.target.Check.Rise {
		j.counter, j.doubts = j.top(), 0
	} else {
		j.doubts = min(j.doubts, 1)
	}
}

func (j *judge) fail() {
	if j.counter < j.target.Check.Rise {
		j.counter = 0
		return
	}
	j.counter--
	if j.counter < j.target.Check.Rise {
		j.counter = 0
		j.downs++
	}
}

// interval is the time to the next check: the usual one while nothing changes.
func (j *judge) interval() time.Duration {
	c := j.target.Check
	switch {
	case j.fresh || j.counter == j.top():
		return c.Interval
	case j.counter == 0:
		return c.DownInterval
	default:
		return c.FastInterval
	}
}

// observed takes over what a request has shown. It reports whether the next check should come sooner.
func (j *judge) observed(o Outcome, now time.Time) (sooner bool) {
	c := j.target.Check
	if c.Outlier != nil {
		j.eject.count(o)
	}
	if !c.Observe || o.Doubtful {
		return false
	}
	if c.Layer == 4 && o.Layer == 7 {
		return false // an answer, good or bad, says nothing new of the connection
	}
	if o.OK {
		if c.Layer == 4 || o.Layer == 7 {
			j.errors = 0
		}
		return false // that a connection was accepted is no proof where answers count
	}
	if j.errors == 0 {
		j.erred, j.several = o.Client, o.Client == ""
	}
	j.several = j.several || o.Client != j.erred
	j.errors++
	if j.errors < c.ErrorLimit {
		return false
	}
	j.errors = 0
	if !j.several && c.active() {
		return true // a check tells whether it is the server or the client
	}
	j.hidden++
	r := result{code: "HANA", detail: fmt.Sprintf("%d requests in a row failed, the last with: %s", c.ErrorLimit, o.Err), at: now}
	switch {
	case c.OnError == OnErrorFastInter:
	case !c.active(): // no check would ever find out that it is well again
		j.eject.wanted = r.detail
	case j.fresh:
		return true
	default:
		switch c.OnError {
		case OnErrorMarkDown:
			j.counter = min(j.counter, c.Rise)
		case OnErrorSuddenDeath:
			j.counter = min(j.counter, c.Rise+1)
		}
		j.last, j.doubts = r, 0
		j.fail()
	}
	return true
}

// hangs takes over that a server did not answer when somebody wanted to know. It counts as the first of the failed checks that make
// it down for certain.
func (j *judge) hangs(r result) {
	if j.fresh || j.counter < j.target.Check.Rise {
		return
	}
	j.last = r
	j.hidden++
	j.counter, j.doubts = j.target.Check.Rise, 1
	j.fail()
}

// settle brings the verdict up to date, and reports whether it is another one for those who act on it.
func (j *judge) settle(now time.Time) bool {
	before := j.verdict
	v := j.say(now)
	if v.State != before.State {
		v.Since = now
	}
	j.verdict = v
	return v.State != before.State || v.Share != before.Share || v.MaxConns != before.MaxConns || v.Doubted != before.Doubted
}

// say weighs all that is known. The operator comes first, then what keeps work away.
func (j *judge) say(now time.Time) Verdict {
	v := Verdict{State: Up, Since: j.verdict.Since, Share: j.agent.share, MaxConns: j.agent.maxConns}
	because := func(s State, format string, args ...any) Verdict {
		v.State, v.Reason = s, fmt.Sprintf(format, args...)
		return v
	}
	switch {
	case j.admin == string(Maint):
		return because(Maint, "by an operator")
	case j.agent.admin == string(Maint):
		return because(Maint, "its agent says so%s", j.agent.why())
	case j.target.Check.active() && j.fresh:
		return because(Down, "not checked yet")
	case j.target.Check.active() && j.counter < j.target.Check.Rise:
		if j.last.code == "" {
			return because(Down, "not checked yet")
		}
		v.Doubted = j.doubts > 0 && j.doubts < j.target.Check.Fall
		if j.last.ok {
			return because(Down, "passed %d of %d checks", j.counter, j.target.Check.Rise)
		}
		return because(Down, "%s", j.last.short())
	case j.agent.down:
		return because(Down, "its agent says so%s", j.agent.why())
	}
	if now.Before(j.eject.until) {
		return because(Down, "ejected until %s: %s", j.eject.until.UTC().Format("15:04:05"), j.eject.why)
	}
	switch {
	case j.admin == string(Drain):
		return because(Drain, "by an operator")
	case j.agent.admin == string(Drain):
		return because(Drain, "its agent says so%s", j.agent.why())
	case j.agent.share == 0:
		return because(Drain, "its agent wants no work%s", j.agent.why())
	case j.drained:
		return because(Drain, "its check answers 404")
	}
	return v
}
