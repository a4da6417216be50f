// Package ruby is the engine that runs Puppet's own compiler, in processes that
// are forked from a warmed parent.
//
// Four kinds of process form a tree:
//
//	Go process ─► template ─► zygote (environment, code version) ─► workers
//
// The template has loaded Puppet. A zygote has one version of one environment
// and has compiled a few real nodes, so that manifests, functions, types and
// data are in its memory. A worker is forked from it in milliseconds and
// compiles one catalog at a time. The Go process holds a socket to each of them;
// whoever loops, grows or dies is killed with all that it started, and only its
// own request fails.
//
// A new version gets a new zygote, forked from that of the version before if
// their Ruby code is the same; the old one ends when nothing uses it. So there is
// no cache to flush, and nobody sees the Ruby code of another environment or
// version.
//
// Begin with [New], [Pool.Run] and [Pool.Compile]. The Ruby side is in worker/.
package ruby

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/absence"
	"troupe/internal/engine"
	"troupe/internal/puppet"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

var _ engine.Compiler = (*Pool)(nil)

// Options tunes a Pool. Only Dir is needed.
type Options struct {
	Ruby      string   // path of the interpreter; "" finds the vendor's, then the one in PATH
	PuppetLib []string // folders that hold puppet.rb and what it needs; nil means where Ruby looks anyway

	Workers     int           // compiles at a time; 0 means one per CPU
	MaxQueue    int           // requests that may wait; 0 means 20 seconds of work, at least 16 per worker. Patient ones wait beyond that, see enter
	MaxVersions int           // zygotes kept; 0 means 8
	WarmNodes   int           // nodes of different roles compiled to warm a zygote while nobody waits for it; 0 means 16
	Deadline    time.Duration // of one compile; 0 means 5 minutes
	MaxRequests int           // compiles until a worker is replaced; 0 means 5,000
	MaxMemory   int64         // resident bytes above which a worker is replaced after its compile; at twice that it is killed in the middle; 0 means 512 MiB

	User     string            // account of all processes; "" means puppet or nobody when we are root, else our own
	Dir      string            // folder for the Ruby files, and for confdir and vardir of the library
	Settings map[string]string // settings of Puppet as in puppet.conf: strict, hiera_config, …

	// Resources answers collectors of exported resources; nil means that there are none.
	Resources func(context.Context, store.ResourceQuery) ([]puppet.Resource, error)
	// Warm gives requests of up to n nodes of an environment that differ, without Version; nil means that none are known.
	Warm func(ctx context.Context, e puppet.Environment, n int) ([]engine.Request, error)

	Log        *slog.Logger // nil discards
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() Options {
	setDefault(&o.Workers, runtime.GOMAXPROCS(0))
	setDefault(&o.MaxVersions, 8)
	setDefault(&o.WarmNodes, 16)
	setDefault(&o.Deadline, 5*time.Minute)
	setDefault(&o.MaxRequests, 5000)
	setDefault(&o.MaxMemory, 512<<20)
	o.Log = telemetry.Discard(o.Log).With(slog.String(telemetry.KeySystem, "engine"))
	return o
}

func setDefault[T int | int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// A Pool is a set of Ruby processes that compile catalogs.
type Pool struct {
	o       Options
	account account
	metrics *metrics
	slots   chan struct{} // holds one token per compile that runs
	starts  chan *zygote  // from requests to Run, which owns all processes
	closed  chan struct{} // closed when Run stops serving

	mu       sync.Mutex
	phase    phase
	template *template // nil while there is none
	versions Versions  // of the interpreter and the library
	zygotes  map[zygoteKey]*zygote
	dropped  map[puppet.Environment]*zygote // retired, but kept a moment for an heir
	alive    int                            // workers that run, busy or idle
	waiting  int                            // requests that are not yet with a worker
	running  int                            // requests inside run
	average  time.Duration                  // of a compile, for the estimate in refusals
	learned  int                            // compiles that it is of, at most memory
	away     absence.List                   // requests that were refused and will come back
	recent   *recent                        // requests to warm new versions with
	changed  chan struct{}                  // closed and replaced whenever something above changes
}

// A phase is where a Pool is in its life.
type phase uint8

const (
	created phase = iota
	serving
	closing
)

// New checks the options. It starts no process.
func New(o Options) (*Pool, error) {
	o = o.withDefaults()
	if o.Dir == "" {
		return nil, fmt.Errorf("engine ruby needs a folder for its files")
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("finding the engine's folder: %w", err)
	}
	a, err := findAccount(o.User)
	if err != nil {
		return nil, err
	}
	return &Pool{
		o:       o,
		account: a,
		metrics: newMetrics(o.Registerer),
		slots:   make(chan struct{}, o.Workers),
		starts:  make(chan *zygote),
		zygotes: map[zygoteKey]*zygote{},
		dropped: map[puppet.Environment]*zygote{},
		recent:  newRecent(o.WarmNodes),
		changed: make(chan struct{}),
		closed:  make(chan struct{}),
	}, nil
}

// housekeeping is how often idle zygotes of old versions are looked for.
const housekeeping = time.Second

// Run starts the processes and serves until ctx ends; then it lets running
// compiles end and returns after every process has ended. It fails at once if
// Ruby or the Puppet library cannot be started.
func (p *Pool) Run(ctx context.Context) error {
	l, err := p.prepare()
	if err != nil {
		return err
	}
	lifeline, ourEnd, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making the lifeline of Ruby processes: %w", err)
	}
	defer ourEnd.Close()   // closing is all that it is for
	defer lifeline.Close() // only the children read it
	l.lifeline = lifeline

	// Processes outlive ctx until the last compile has ended: zygotes end first,
	// their parent last.
	parentLife, endParent := context.WithCancel(context.WithoutCancel(ctx))
	life, end := context.WithCancel(parentLife)
	var parent, zygotes sync.WaitGroup
	defer parent.Wait()
	defer endParent()
	defer zygotes.Wait()
	defer end()
	defer p.beginClosing()

	t, err := p.startFirst(ctx, l)
	if err != nil {
		return err
	}
	p.serve(t)
	parent.Go(func() { p.keepTemplate(parentLife, l, t) })
	parent.Go(func() { p.keepCompiled(life, l, t) })

	ticker := time.NewTicker(housekeeping)
	defer ticker.Stop()
	for {
		select {
		case z := <-p.starts:
			zygotes.Go(func() { p.runZygote(life, z) })
		case <-ticker.C:
			p.retireSuperseded(time.Now())
		case <-ctx.Done():
			p.beginClosing()
			p.drain()
			return nil
		}
	}
}

func (p *Pool) serve(t *template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.template, p.versions, p.phase = t, t.versions, serving
	p.wake()
}

func (p *Pool) beginClosing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != closing {
		p.phase = closing
		close(p.closed)
		p.wake()
	}
}

// drain waits for the compiles that run: those that only wait are refused, and
// each of the others has a deadline.
func (p *Pool) drain() {
	for {
		p.mu.Lock()
		running, changed := p.running, p.changed
		p.mu.Unlock()
		if running == 0 {
			return
		}
		<-changed
	}
}

// wake tells everybody who waits for a change. p.mu is held.
func (p *Pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Versions names the software that compiles.
type Versions struct {
	Puppet string `json:"puppet"`
	Ruby   string `json:"ruby"`
}

// Stats says what a Pool does at the moment.
type Stats struct {
	Versions

	Serving  bool          `json:"serving"`
	Workers  int           `json:"workers"` // compiles at a time
	Busy     int           `json:"busy"`
	Alive    int           `json:"alive"` // worker processes
	Waiting  int           `json:"waiting"`
	MaxQueue int           `json:"max_queue"`
	Average  time.Duration `json:"average"` // of a compile, lately
	Zygotes  []ZygoteStats `json:"zygotes"`
}

// ZygoteStats describes the parent of the workers of one code version.
type ZygoteStats struct {
	Environment puppet.Environment `json:"environment"`
	CodeID      string             `json:"code_id"`
	PID         int                `json:"pid"`
	Ready       bool               `json:"ready"`
	Ancestors   int                `json:"ancestors"` // zygotes of earlier versions that it has its memory from
	Warmed      int                `json:"warmed"`    // catalogs it compiled
	Boot        time.Duration      `json:"boot"`      // until it was ready
	Resident    int64              `json:"resident"`  // bytes, when it was ready
	Workers     []int              `json:"workers"`   // pids of the idle ones
}

// Stats returns a snapshot for status pages and tests.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{
		Versions: p.versions, Serving: p.phase == serving, Workers: p.o.Workers, Busy: len(p.slots),
		Alive: p.alive, Waiting: p.waiting, MaxQueue: p.limit(), Average: p.average,
	}
	for _, z := range p.zygotes {
		s.Zygotes = append(s.Zygotes, z.stats())
	}
	return s
}
