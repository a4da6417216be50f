package edge

import (
	"container/list"
	"context"
	"hash/maphash"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// This file joins requests to agent runs. A run has no name on the wire before its catalog, so requests of one certname that follow
// each other belong together, until the report, or until nothing came for a while.

const (
	maxRuns     = 200_000 // 100,000 agents that all run at once, twice; about 500 bytes each
	afterReport = 5 * time.Second
	// afterPlugins is longer than an agent is silent between plugins and catalog, while it gathers facts: an agent that was stopped there
	// and starts again must not be held to code of before.
	afterPlugins = time.Minute
)

// seed is of what stands for the first request of a run.
var seed = maphash.MakeSeed()

// A run is one agent run. Its fields are guarded by runs.mu.
type run struct {
	client      string // certname, or the address of one without a certificate
	named       bool   // it is a certname
	first       uint64 // stands for path and query of what it began with
	agent       string // version
	environment string
	began, last time.Time
	phase       string // the name of the latest verb
	active      int    // requests under way
	requests    int
	replays     int
	refused     int // answered 503 with Retry-After
	worst       int // highest status, apart from those
	servers     []string
	pinned      map[string]string // pool: server that the run went to last
	codeID      map[string]string // environment: code version
	compiled    time.Duration     // what its catalog took
	reported    bool
	place       *list.Element
}

// A RunStatus is a run as commands see it.
type RunStatus struct {
	Client      string            `json:"client"`
	Agent       string            `json:"agent,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Began       time.Time         `json:"began"`
	Last        time.Time         `json:"last"`
	Phase       string            `json:"phase"`
	Active      int               `json:"active"`
	Requests    int               `json:"requests"`
	Replays     int               `json:"replays"`
	Refused     int               `json:"refused"`
	Servers     []string          `json:"servers"`
	CodeID      map[string]string `json:"code_id,omitempty"`
}

type runs struct {
	idle time.Duration
	log  *slog.Logger
	now  func() time.Time
	ends func(*run) // for metrics

	mu     sync.Mutex
	byName map[string]*run
	oldest *list.List // by last request
}

func newRuns(idle time.Duration, log *slog.Logger, ends func(*run)) *runs {
	return &runs{idle: idle, log: log, now: time.Now, ends: ends, byName: map[string]*run{}, oldest: list.New()}
}

// enter finds the run that a request belongs to, or begins one. fresh says that the run began with it.
func (a *runs) enter(client string, named bool, v verb, r *http.Request) (current *run, fresh bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	current = a.byName[client]
	if current != nil && a.over(current, v, now) {
		a.end(current)
		current = nil
	}
	if current == nil {
		if len(a.byName) >= maxRuns {
			if first, ok := a.oldest.Front().Value.(*run); ok {
				a.end(first)
			}
		}
		fresh = true
		current = &run{client: client, named: named, agent: r.Header.Get("X-Puppet-Version"), began: now, last: now, pinned: map[string]string{}, codeID: map[string]string{}}
		current.place = a.oldest.PushBack(current)
		a.byName[client] = current
	}
	fresh = fresh || current.requests == current.refused // it was sent away each time, and begins now
	asks := maphash.String(seed, r.URL.RequestURI())
	again := v.begins && current.active == 0 && current.first == asks
	if current.compiled == 0 && (again || now.Sub(current.last) > afterPlugins) {
		clear(current.codeID) // the agent begins again
	}
	if current.first == 0 && v.begins {
		current.first = asks
	}
	current.last = now
	a.oldest.MoveToBack(current.place)
	current.phase = v.name
	current.requests++
	current.active++
	if environment := environmentOf(r); environment != "" {
		current.environment = environment
	}
	return current, fresh
}

// over: after the report, an agent that asks what begins a run begins another one; so does one that was silent, or that begins anew
// without a report, having been killed.
func (a *runs) over(r *run, v verb, now time.Time) bool {
	if r.active > 0 {
		return false
	}
	silent := now.Sub(r.last)
	return silent > a.idle || r.reported && (v.begins || silent > afterReport) || v.name == "node" && r.compiled > 0
}

// An outcome is how a request of a run ended.
type outcome struct {
	pool, server string
	status       int
	refused      bool
	cut          bool // the agent did not get all of the answer
	replays      int
	ends         bool
}

// learn notes the code version of an answer. Plugins are all of the version that the first of them was of, and so is the catalog, if the
// member has it still; else the catalog decides from then on.
func (a *runs) learn(r *run, environment string, got *answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if got.codeID != "" && (got.compiled > 0 || r.codeID[environment] == "") {
		r.codeID[environment] = got.codeID
	}
	if got.compiled > 0 {
		r.compiled = got.compiled
	}
}

func (a *runs) leave(r *run, o outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.last = a.now()
	r.active--
	r.replays += o.replays
	if o.server != "" {
		r.pinned[o.pool] = o.server
		if name := o.pool + "/" + o.server; !slices.Contains(r.servers, name) {
			r.servers = append(r.servers, name)
		}
	}
	if o.refused {
		r.refused++
	} else {
		r.worst = max(r.worst, o.status)
	}
	r.reported = r.reported || o.ends && o.status < http.StatusBadRequest
}

// pin is where a run went last in a pool, and the code version that it has of an environment.
func (a *runs) pin(r *run, pool, environment string) (server, codeID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return r.pinned[pool], r.codeID[environment]
}

// at is the server that the run of a client went to last in a pool.
func (a *runs) at(client, pool string) (server string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.byName[client]; r != nil {
		return r.pinned[pool]
	}
	return ""
}

// end says in one line how a run went. The caller holds mu.
func (a *runs) end(r *run) {
	a.oldest.Remove(r.place)
	delete(a.byName, r.client)
	a.ends(r)
	level := slog.LevelInfo
	if r.worst >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	a.log.LogAttrs(context.Background(), level, "run",
		slog.String("client", r.client), slog.String("agent", r.agent), slog.String("environment", r.environment), slog.Duration("duration", r.last.Sub(r.began).Round(time.Millisecond)),
		slog.Int("requests", r.requests), slog.Int("replays", r.replays), slog.Int("refused", r.refused), slog.Int("worst_status", r.worst),
		slog.Bool("reported", r.reported), slog.Any("servers", r.servers), slog.String("code_id", r.codeID[r.environment]))
}

// run ends runs that nothing is heard of, until ctx ends; then it tells of the rest.
func (a *runs) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.sweep(func(*run) bool { return true })
			return nil
		case <-tick.C:
			now := a.now()
			a.sweep(func(r *run) bool {
				return r.active == 0 && (now.Sub(r.last) > a.idle || r.reported && now.Sub(r.last) > afterReport)
			})
		}
	}
}

func (a *runs) sweep(gone func(*run) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.byName {
		if gone(r) {
			a.end(r)
		}
	}
}

// open counts runs that are under way: not reported yet.
func (a *runs) open() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.byName {
		if r.active > 0 || !r.reported {
			n++
		}
	}
	return n
}

// list returns at most most runs, the latest first.
func (a *runs) list(most int) []RunStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []RunStatus{}
	for e := a.oldest.Back(); e != nil && len(all) < most; e = e.Prev() {
		if r, ok := e.Value.(*run); ok {
			all = append(all, r.status())
		}
	}
	return all
}

func (a *runs) find(client string) (RunStatus, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.byName[client]
	if r == nil {
		return RunStatus{}, false
	}
	return r.status(), true
}

func (r *run) status() RunStatus {
	s := RunStatus{Client: r.client, Agent: r.agent, Environment: r.environment, Began: r.began, Last: r.last, Phase: r.phase, Active: r.active, Requests: r.requests, Replays: r.replays, Refused: r.refused, Servers: slices.Clone(r.servers), CodeID: maps.Clone(r.codeID)}
	return s
}
