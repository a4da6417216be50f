package fakeagent

// This file sums up many runs in bounded memory.

import (
	"maps"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// FleetResult sums up runs. A run succeeded if the agent applied a catalog of the server without a failed resource and
// the server took its report, whatever it had to wait.
type FleetResult struct {
	Runs       int // that have ended
	Failed     int // ended without a catalog, or with failed resources
	Cached     int // fell back on the last catalog
	Unreported int // whose report the server did not take
	Succeeded  int
	Missed     int // did not begin, because the agent still ran
	Running    int
	Refused    int // answers that asked to come back later
	Took       time.Duration
	Run        Latency            // of whole runs, pauses that the server asked for included
	Kinds      map[string]Latency // of the requests of each kind
	Problems   map[string]int     // the first failure of each run, at most maxProblems different ones
	Seconds    []Second           // since the beginning
}

// Second is what happened in one second.
type Second struct {
	Begun, Succeeded, Failed int // runs
	Refused                  int // answers that asked to come back later
	Returned                 int // requests that came back
}

// Goodput is how many runs a second succeeded.
func (r FleetResult) Goodput() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Succeeded) / r.Took.Seconds()
}

// Latency is the distribution of some durations. Percentiles are exact to about 2 %.
type Latency struct {
	Count              int
	P50, P90, P99, Max time.Duration
}

const (
	maxProblems = 50        // different texts that a FleetResult keeps
	maxSeconds  = 24 * 3600 // after which further ones count as the last
)

// tally collects what agents do.
type tally struct {
	start   time.Time
	observe func(RunResult, error)

	mu    sync.Mutex
	r     FleetResult
	run   histogram
	kinds map[string]*histogram
}

func newTally(start time.Time, observe func(RunResult, error)) *tally {
	return &tally{
		start: start, observe: observe, kinds: map[string]*histogram{}, r: FleetResult{Problems: map[string]int{}},
	}
}

func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Running++
	t.second(time.Now()).Begun++
}

func (t *tally) miss() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Missed++
}

func (t *tally) end(r RunResult, err error) {
	if t.observe != nil {
		t.observe(r, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()

	t.r.Runs++
	t.r.Running--
	failed := err != nil || r.Status == "failed"
	count(&t.r.Failed, failed)
	count(&t.r.Cached, r.CachedCatalog)
	count(&t.r.Unreported, !r.ReportSent)
	succeeded := !failed && !r.CachedCatalog && r.ReportSent
	count(&t.r.Succeeded, succeeded)
	now := t.second(time.Now())
	count(&now.Succeeded, succeeded)
	count(&now.Failed, !succeeded)

	if problem := firstProblem(r, err); problem != "" {
		if _, known := t.r.Problems[problem]; known || len(t.r.Problems) < maxProblems {
			t.r.Problems[problem]++
		}
	}
	t.run.add(r.Took)
	for _, q := range r.Requests {
		t.request(q)
	}
}

// request is called with mu held.
func (t *tally) request(q Request) {
	h := t.kinds[q.Kind]
	if h == nil {
		h = new(histogram)
		t.kinds[q.Kind] = h
	}
	h.add(q.Took)
	refused := q.Status == 503 || q.Status == 429
	count(&t.r.Refused, refused)
	if refused {
		t.second(q.Start.Add(q.Took)).Refused++
	}
	if q.Retries > 0 {
		t.second(q.Start).Returned++
	}
}

func count(n *int, yes bool) {
	if yes {
		*n++
	}
}

// second returns the count of a moment. It is called with mu held.
func (t *tally) second(at time.Time) *Second {
	i := min(max(int(at.Sub(t.start)/time.Second), 0), maxSeconds)
	for len(t.r.Seconds) <= i {
		t.r.Seconds = append(t.r.Seconds, Second{})
	}
	return &t.r.Seconds[i]
}

func (t *tally) result() FleetResult {
	t.mu.Lock()
	defer t.mu.Unlock()

	r := t.r
	r.Took, r.Run, r.Kinds = time.Since(t.start), t.run.latency(), map[string]Latency{}
	for kind, h := range t.kinds {
		r.Kinds[kind] = h.latency()
	}
	r.Problems, r.Seconds = maps.Clone(t.r.Problems), slices.Clone(t.r.Seconds)
	return r
}

// firstProblem is the first failure of a run, without what differs between nodes.
func firstProblem(r RunResult, err error) string {
	var problem string
	switch {
	case len(r.Failures) > 0:
		problem = r.Failures[0]
	case err != nil:
		problem = err.Error()
	default:
		return ""
	}
	problem = strings.ReplaceAll(problem, r.Certname, "NODE")
	return regexp.MustCompile(` after [0-9][0-9.µmsh]*:`).ReplaceAllString(problem, ":")
}

// steps divides each power of two into so many parts.
const steps = 32

// histogram counts durations in steps of about 3 %, from a microsecond on.
type histogram struct {
	n       int
	max     time.Duration
	buckets [40 * steps]uint32
}

func (h *histogram) add(d time.Duration) {
	h.n++
	h.max = max(h.max, d)
	h.buckets[min(bucketOf(d), len(h.buckets)-1)]++
}

// bucketOf numbers durations: below 32 µs one by one, above by their five leading bits.
func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < steps {
		return int(us)
	}
	power := bits.Len64(us) - bits.Len64(steps) // how far it is shifted
	return power*steps + int(us>>power)
}

// middleOf is a duration in the middle of a bucket.
func middleOf(bucket int) time.Duration {
	if bucket < 2*steps {
		return time.Duration(bucket) * time.Microsecond
	}
	power, lead := bucket/steps-1, bucket%steps+steps
	return time.Duration((float64(lead)+0.5)*math.Exp2(float64(power))) * time.Microsecond
}

func (h *histogram) latency() Latency {
	return Latency{Count: h.n, P50: h.percentile(50), P90: h.percentile(90), P99: h.percentile(99), Max: h.max}
}

func (h *histogram) percentile(p int) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank, seen := (h.n-1)*p/100, 0
	for i, n := range h.buckets {
		if seen += int(n); seen > rank {
			return min(middleOf(i), h.max)
		}
	}
	return h.max
}
