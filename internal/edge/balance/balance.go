// Package balance decides which server of a pool gets the next request, who waits, and who sticks to whom. It does no I/O: what it knows
// of servers is the verdict of the judge ([troupe/internal/edge/health]), and what is done with a server is the edge's affair.
//
// A [Pool] holds [Server]s that can do the same. [Pool.Acquire] takes a place on one of them for an [Ask], or waits for one in a bounded
// queue; the [Lease] that it returns is given back with [Lease.Done]. Begin with [New] and [Pool.Set].
package balance

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/absence"
	"troupe/internal/edge/health"
)

// A Server is one place to send a request to.
type Server struct {
	Name      string // within its pool
	Address   string
	Site      string
	Weight    int           // 0 means 100; below 0: none, it takes nothing new
	MaxConns  int           // requests at one time; 0: no limit
	Backup    bool          // used only when no other server is
	Tier      int           // the lower, the earlier
	SlowStart time.Duration // instead of the pool's; 0: the pool's
}

// The methods of choosing.
const (
	RoundRobin       = "round-robin"       // in turn, by weight
	LeastConnections = "least-connections" // who has the fewest requests, by weight
	Random           = "random"            // the less loaded of two drawn ones
	LeastWork        = "least-work"        // who will have finished first, by what requests are expected to cost
	Hash             = "hash"              // the same key to the same server, as long as that one is not overloaded
	First            = "first"             // the first that has room, in the order of Set: the last ones can be switched off at night
)

// Options tunes a Pool. The zero value balances by round robin.
type Options struct {
	Name   string
	Method string  // empty means RoundRobin
	HashBy string  // environment: [Ask.Environment]; certname, source or empty: [Ask.Key]
	Bound  float64 // of Hash: how far over the average a server may be; below 1 means 1.25

	Stick       string        // certname or source: [Ask.Key] keeps its server; empty: nothing sticks
	StickExpire time.Duration // since the last use; 0 means 30 min
	StickSize   int           // 0 means 100,000 keys
	Table       *Table        // shared with other pools that have the same servers; nil: its own

	// StickToBackups lets a key stay with a server that stood in for another one, when that is back, as HAProxy does. Else it goes back
	// with its next run.
	StickToBackups bool

	MaxQueue     int           // requests that wait; 0 means 1024, below 0: none may
	QueueTimeout time.Duration // 0 means 1 min
	SlowStart    time.Duration // a server that comes back gets its full weight and limit after so long; 0: at once

	AllBackups    bool    // all backup servers are used together, not only the first that is up
	Panic         float64 // below this share of servers that are up, all count as up; 0: never
	PanicNone     bool    // in a panic none is used
	Overprovision float64 // a tier takes all work while its share of healthy weight, times this, is 1 or more; below 1 means 1.4
	Site          string  // where this pool is
	LocalFirst    bool    // servers of another site are one tier later
	Spill         float64 // from this many waiting for each server of the tiers that get work on, the others help; 0: never

	Verdict    func(server string) health.Verdict // by the name within the pool; nil: all are up
	Now        func() time.Time                   // nil means time.Now
	Rand       func() float64                     // in [0, 1); nil means math/rand
	Registerer prometheus.Registerer              // nil registers nothing
}

// A Pool shares work out among servers. Its methods are safe for concurrent use.
type Pool struct {
	o       Options
	table   *Table // nil when nothing sticks
	metrics *metrics

	mu      sync.Mutex
	servers []*server     // in the order of Set
	queue   []*waiter     // by class, then by arrival
	arrived uint64        // counts waiters
	picked  uint64        // counts leases
	firstUp time.Time     // when the pool first had a server that was up
	moved   bool          // a key went to another server, which may have room for others of that key
	average time.Duration // of a request
	learned int
	work    time.Duration // of the runs that began lately
	runs    int
	away    absence.List
}

// New returns a Pool without servers.
func New(o Options) *Pool {
	if o.Method == "" {
		o.Method = RoundRobin
	}
	if o.Bound < 1 {
		o.Bound = 1.25
	}
	if o.Overprovision < 1 {
		o.Overprovision = 1.4
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = 1024
	}
	if o.QueueTimeout <= 0 {
		o.QueueTimeout = time.Minute
	}
	if o.Verdict == nil {
		o.Verdict = func(string) health.Verdict { return health.Verdict{State: health.Up, Share: 1} }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	p := &Pool{o: o}
	if o.Stick != "" {
		p.table = o.Table
		if p.table == nil {
			p.table = NewTable(o.StickExpire, o.StickSize, o.Now)
		}
	}
	p.metrics = newMetrics(p)
	return p
}

// Table returns what sticks to whom; nil when nothing does.
func (p *Pool) Table() *Table { return p.table }

// Set replaces the servers. One that stays by name keeps what it has; one that goes finishes what it has. Of two with one name the first counts.
func (p *Pool) Set(servers []Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := map[string]*server{}
	for _, s := range p.servers {
		before[s.Name] = s
	}
	p.servers = nil
	named := map[string]bool{}
	for _, c := range servers {
		if named[c.Name] {
			continue
		}
		named[c.Name] = true
		if c.Weight == 0 {
			c.Weight = 100
		}
		if c.SlowStart <= 0 {
			c.SlowStart = p.o.SlowStart
		}
		s := before[c.Name]
		if s == nil || s.Address != c.Address {
			s = &server{leases: map[*Lease]struct{}{}, slow: 1}
		}
		s.Server = c
		s.tier = c.Tier
		if p.o.LocalFirst && c.Site != p.o.Site {
			s.tier++
		}
		p.servers = append(p.servers, s)
	}
	now := p.o.Now()
	p.look(now)
	p.dispatch(now, true)
}

// Refresh says that verdicts have changed: who waits is looked at again.
func (p *Pool) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.look(now)
	p.dispatch(now, true)
}

// An Ask says what a request needs.
type Ask struct {
	Key         string // what sticks, and what is hashed: the certname or the source
	Environment string
	Class       int               // the lower, the sooner it leaves the queue: 0 inside a run, 1 a new run
	Cost        time.Duration     // the work that is expected; 0: as the average
	Exclude     []string          // servers that failed this request
	Only        func(Server) bool // which servers can do it; nil: all
	Run         bool              // it belongs to a run that began: a server in drain that it sticks to still takes it
	Prefer      string            // the server that the run used before; it counts before what the table says
	Patient     bool              // it waits even if no server can take it now: its agent does not obey Retry-After
}

// Acquire takes a place on a server. It waits while all that could take the request are full, and answers [ErrNoServer], [ErrQueueFull]
// or [ErrQueueTimeout] as a [BusyError].
func (p *Pool) Acquire(ctx context.Context, ask Ask) (*Lease, error) {
	err := ctx.Err()
	if err != nil {
		return nil, err
	}
	w, lease, err := p.enter(ask)
	if w == nil {
		return lease, err
	}
	timer := time.NewTimer(p.o.QueueTimeout)
	defer timer.Stop()
	select {
	case <-w.answered:
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = ErrQueueTimeout
	}
	return p.leave(w, err)
}

// enter takes a place at once, or returns the waiter that stands in the queue.
func (p *Pool) enter(ask Ask) (*waiter, *Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.dispatch(now, p.look(now)) // so that whoever waits and can be served now comes first
	s, possible := p.choose(ask, now)
	if s != nil {
		l := p.lease(s, ask, now, now)
		if p.moved {
			p.dispatch(now, false)
		}
		return nil, l, nil
	}
	if !possible && !ask.Patient {
		return nil, nil, p.busy(ErrNoServer, ask, now)
	}
	w, err := p.enqueue(ask, now)
	if p.o.Spill > 0 {
		p.dispatch(now, false) // the queue may be long enough now
	}
	return w, nil, err
}

// leave takes a waiter out of the queue, if it still stands there, and returns its answer.
func (p *Pool) leave(w *waiter, gaveUp error) (*Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	select {
	case <-w.answered:
	default:
		p.remove(w)
		if errors.Is(gaveUp, ErrQueueTimeout) {
			gaveUp = p.busy(ErrQueueTimeout, w.ask, now)
		}
		return nil, gaveUp
	}
	if gaveUp != nil && !errors.Is(gaveUp, ErrQueueTimeout) && w.lease != nil { // the caller is gone: the place is for somebody else
		p.release(w.lease, now)
		return nil, gaveUp
	}
	return w.lease, w.err
}
