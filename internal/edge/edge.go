// Package edge is what agents connect to: it ends their TLS or carries their bytes, brings each request to a server that can take it,
// and sends it to another one when that server dies.
//
// Begin with [Run]. DESIGN.md has the words and what must stay true.
package edge

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"troupe/internal/authn"
	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/edge/bgp"
	"troupe/internal/edge/dns"
	"troupe/internal/edge/health"
	"troupe/internal/stages"
	"troupe/internal/telemetry"
)

// Options tunes an edge's process.
type Options struct {
	Log      *slog.Logger
	Version  string
	Takeover bool // take the listeners of a running edge with the same data folder, which ends then

	replaceMost time.Duration // 0 means the constant
}

// Edge is one running edge.
type Edge struct {
	conf     *config.Edge
	o        Options
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics
	started  time.Time

	trust        atomic.Pointer[trust] // nil while no listener ends TLS
	clients      *authn.Clients
	judge        *health.Monitor
	tables       map[string]*balance.Table // by pool
	pools        map[string]*pool
	listeners    []*listener
	runs         *runs
	bodies       *bodies
	budget       *budget
	poison       *poison
	outage       *outage
	newcomers    newcomers
	words        *words
	begun        *gate // opens when all parts have begun to serve
	watching     sync.Mutex
	accepting    chan struct{} // closed when listeners are to take connections
	measures     *measures
	sessions     *sessions
	runConf      runConf
	troupe       *membership   // nil for an edge that stands alone
	members      string        // of the pools of members, as they are now
	zone         *dns.Zone     // nil without dns
	zoneBegun    func()        // says that it answers
	answering    chan struct{} // closed when the zone is answered for
	speaker      *bgp.Speaker  // nil without bgp
	speakerBegun func()        // says that it speaks
	took         chan struct{} // closed when the process before this one was told to end
	notify       stages.Notifier
	busy         atomic.Int64  // requests under way
	leaving      atomic.Bool   // the process ends
	hushed       atomic.Bool   // and nobody new gets in
	drained      atomic.Bool   // an operator said so
	replaced     chan struct{} // closed when another process has the listeners
	replace      sync.Once
	// predecessor is the process that the listeners came from; it is told when this one serves.
	predecessor  *net.UnixConn
	servedBefore bool // the predecessor could finish a run
	// former answers for that process until it has ended.
	former atomic.Pointer[Client]
}

// runConf is the configuration of runs with our choices put in.
type runConf struct {
	replays            int
	maxBody, maxAnswer int64
	maxRetryAfter      time.Duration
	drain, linger      time.Duration
}

// Run serves until ctx ends and everything that was running is finished.
func Run(ctx context.Context, conf *config.Edge, o Options) error {
	e, err := open(ctx, conf, o)
	if err != nil {
		return err
	}
	if err := e.settle(ctx); err != nil {
		return err
	}
	bound, inherited, err := e.bind(ctx)
	if err != nil {
		return err
	}
	if inherited && e.speaker != nil {
		e.speaker.Inherit()
	}
	if err := e.recallWords(); err != nil { // after the last word that the process before this one heard
		return err
	}
	for i, l := range bound {
		e.listeners = append(e.listeners, e.newListener(conf.Listeners[i], l))
	}
	e.log.Info("edge starts", "name", conf.Name, "site", conf.Site, "data", conf.Data, "version", o.Version, "listeners", len(bound), "pools", len(e.pools))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // another process has the listeners: this one finishes what it has
		select {
		case <-e.replaced:
			stop()
		case <-ctx.Done():
		}
	}()
	parts := []stages.Stage{
		stages.Of("health", e.judge.Run, 5*time.Second),
		stages.Of("verdicts", e.follow, 5*time.Second),
		stages.Of("measures", e.measure, 5*time.Second),
		stages.Of("runs", e.runs.run, 5*time.Second),
		stages.Of("tables", e.keepTables, 5*time.Second),
		stages.Of("idle", e.reap, 15*time.Second),
		stages.Of("control", e.gated(e.runControl), 10*time.Second),
	}
	if conf.Metrics != "" {
		parts = append(parts, stages.Of("metrics", e.gated(e.runMetrics), 5*time.Second))
	}
	if conf.AgentCheck != "" {
		parts = append(parts, stages.Of("agent check", e.gated(e.runAgentCheck), 10*time.Second))
	}
	if conf.OwnTLS() {
		parts = append(parts, stages.Of("certificates", e.watchTrust, 10*time.Second))
	}
	if slices.ContainsFunc(slices.Collect(maps.Values(conf.Pools)), func(p config.EdgePool) bool { return p.SRV != "" }) {
		parts = append(parts, stages.Of("discovery", e.discover, 10*time.Second))
	}
	if e.troupe != nil {
		parts = append(parts, stages.Of("troupe", e.followTroupe, 10*time.Second))
	}
	if conf.Peers != nil {
		parts = append(parts, stages.Of("peers", e.gated(e.runPeers), 10*time.Second))
	}
	for _, l := range e.listeners {
		parts = append(parts, stages.Of("listener "+l.conf.Listen, l.run, e.runConf.drain+10*time.Second))
	}
	// What brings agents here begins last, and ends before that to which it brings them.
	if e.zone != nil {
		parts = append(parts, stages.Of("dns", e.serveZone, 5*time.Second))
	}
	if e.speaker != nil {
		parts = append(parts, stages.Of("routes", e.settleRoutes, settleMost+5*time.Second))
		parts = append(parts, stages.Of("bgp", e.speak, conf.BGP.Grace.Or(0)+10*time.Second))
	}
	parts = append(parts, stages.Of("ready", func(ctx context.Context) error { return e.ready(ctx, inherited) }, 2*e.runConf.linger+e.runConf.drain+5*time.Second))
	err = stages.Run(ctx, parts)
	e.log.Info("edge has stopped", "name", conf.Name)
	return err
}

// open makes all parts; nothing runs yet.
func open(_ context.Context, conf *config.Edge, o Options) (*Edge, error) {
	log := telemetry.Discard(o.Log)
	e := &Edge{
		conf: conf, o: o, log: log, registry: prometheus.NewRegistry(), started: time.Now(), notify: stages.NewNotifier(),
		tables: map[string]*balance.Table{}, pools: map[string]*pool{}, sessions: &sessions{all: map[*session]struct{}{}},
		poison: &poison{list: map[string]*suspect{}}, outage: &outage{ramp: conf.Runs.Ramp.Or(30 * time.Second)}, replaced: make(chan struct{}), took: make(chan struct{}),
		newcomers: make(newcomers, maxNewcomers), measures: newMeasures(), answering: make(chan struct{}),
		words: &words{path: filepath.Join(conf.Data, wordsFile)}, begun: newGate(), accepting: make(chan struct{}),
	}
	e.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	e.metrics = newMetrics(e.registry, e)
	if err := os.MkdirAll(conf.Data, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder of the edge: %w", err)
	}
	if err := e.words.load(); err != nil {
		return nil, err
	}
	r := conf.Runs
	e.runConf = runConf{replays: 2, maxBody: r.MaxBody.Or(256 << 20), maxAnswer: r.MaxAnswer.Or(64 << 20), maxRetryAfter: r.MaxRetryAfter.Or(30 * time.Minute), drain: r.Drain.Or(time.Minute), linger: r.Linger.Or(agentKeepAlive)}
	if r.Replays != nil {
		e.runConf.replays = *r.Replays
	}
	share := r.ReplayBudget
	if share == 0 {
		share = 0.1
	}
	e.budget = newBudget(share)
	e.bodies = &bodies{dir: conf.Data, maxMemory: r.Memory.Or(256 << 20), maxDisk: r.Disk.Or(4 << 30)}
	e.runs = newRuns(r.Idle.Or(10*time.Minute), log, e.metrics.ended)
	e.clients = &authn.Clients{
		Pool:    func() *x509.CertPool { return e.trust.Load().pool },
		Issuers: func() []*x509.Certificate { return e.trust.Load().issuers }, Now: time.Now,
	}
	if conf.OwnTLS() {
		t, err := trustFiles(conf.TLS)
		if err != nil {
			return nil, err
		}
		e.believe(t)
	} else if err := e.openMembership(); err != nil {
		return nil, err
	} else if e.troupe == nil && conf.Terminates() {
		return nil, errors.New("a listener in mode puppet ends TLS: make this an edge of a troupe (troupe edge join), or name tls.certificate, tls.key, tls.ca and tls.crl, or use mode: passthrough")
	}
	if conf.Peers != nil && !conf.OwnTLS() && e.troupe == nil {
		return nil, errors.New("peers know each other by certificates: name tls.certificate, tls.key and tls.ca, or make this an edge of a troupe")
	}
	for name, p := range conf.Pools {
		if p.Members && e.troupe == nil {
			return nil, fmt.Errorf("pool %s has the members of a troupe, and this edge belongs to none: troupe edge join TOKEN@HOST", name)
		}
	}
	e.judge = health.New(health.Options{Log: log, Registerer: e.registry, SaveFile: filepath.Join(conf.Data, "admin.json")})
	if err := e.openPools(); err != nil {
		return nil, err
	}
	return e, e.openOutward()
}

func (e *Edge) openPools() error {
	for name, c := range e.conf.Pools {
		if c.Stick != "" {
			table := balance.NewTable(c.StickExpire.Or(30*time.Minute), c.StickSize, nil)
			if err := table.Load(e.tableFile(name)); err != nil {
				e.log.Warn("who stuck to which server is forgotten", "pool", name, telemetry.KeyErr, err)
			}
			e.tables[name] = table
		}
		e.pools[name] = e.newPool(name, c)
	}
	for name, c := range e.conf.Pools {
		p := e.pools[name]
		p.overflow = e.pools[c.Overflow.Pool]
		if c.Members || c.SRV != "" {
			continue // they come from the troupe, or from DNS
		}
		if err := p.set(c.Servers, e.foreignTLS(c)); err != nil {
			return err
		}
	}
	return e.watch()
}

func (e *Edge) tableFile(pool string) string { return filepath.Join(e.conf.Data, "stick-"+pool) }

// agentKeepAlive is how long agents keep a connection that they do not use (http_keepalive_timeout), and a little more.
const agentKeepAlive = 5 * time.Second

// ready tells the service manager that the edge serves. At the end it has agents let go of their connections, so that none of them
// is closed under a request: an agent does not ask again.
func (e *Edge) ready(ctx context.Context, inherited bool) error {
	if err := e.begin(ctx); err != nil {
		return err
	}
	state := "READY=1"
	if inherited {
		state = fmt.Sprintf("MAINPID=%d\nREADY=1", os.Getpid())
	}
	if err := e.notify.Send(state); err != nil {
		e.log.Warn("service manager was not told that the edge is ready", telemetry.KeyErr, err)
	}
	for _, l := range e.listeners {
		e.log.Info("agents are served", "listen", l.Addr().String(), "mode", l.conf.Mode)
	}
	if err := e.writeAddresses(); err != nil {
		return err
	}
	<-ctx.Done()
	e.leaving.Store(true)
	replaced := false
	select {
	case <-e.replaced:
		replaced = true
		// The listeners are the new process's, too: who took connections beside it would know nothing of the runs that it has.
		for _, l := range e.listeners {
			if err := l.Close(); err != nil {
				e.log.Warn("connections are taken beside the new process", telemetry.KeyErr, err)
			}
		}
		if e.speaker != nil {
			e.speaker.Abandon()
		}
	default:
		if err := e.notify.Send("STOPPING=1"); err != nil {
			e.log.Warn("service manager was not told that the edge stops", telemetry.KeyErr, err)
		}
	}
	if e.conf.Terminates() {
		e.log.Info("edge stops: agents let go of their connections first", "for", e.runConf.linger)
		linger := time.NewTimer(e.runConf.linger)
		defer linger.Stop()
		<-linger.C
	}
	if e.speaker != nil && !replaced {
		e.hushed.Store(true)
		e.clear(context.WithoutCancel(ctx))
	}
	return nil
}

// writeAddresses tells scripts and tests where the edge serves.
func (e *Edge) writeAddresses() error {
	var text strings.Builder
	for _, l := range e.listeners {
		fmt.Fprintln(&text, l.Addr())
	}
	return writeFile(filepath.Join(e.conf.Data, "listen.addr"), text.String())
}

func writeFile(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil { //nolint:gosec // an address is no secret
		return err
	}
	return os.Rename(tmp, path)
}

// tableEvery is how often what sticks is written, so that an edge that is killed remembers most of it.
const tableEvery = 10 * time.Second

func (e *Edge) keepTables(ctx context.Context) error {
	tick := time.NewTicker(tableEvery)
	defer tick.Stop()
	for {
		done := false
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
		for name, t := range e.tables {
			if err := t.Save(e.tableFile(name)); err != nil {
				e.log.Warn("who sticks to which server is not written", "pool", name, telemetry.KeyErr, err)
			}
		}
		if done {
			return nil
		}
	}
}

func (e *Edge) runMetrics(ctx context.Context, begun func()) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", telemetry.MetricsPage(e.registry))
	return e.beside(ctx, "metrics", e.conf.Metrics, begun, func(ctx context.Context, l net.Listener) error { return e.serveBeside(ctx, l, mux) })
}

// serveBeside serves HTTP to operators, collectors and other edges until ctx ends.
func (e *Edge) serveBeside(ctx context.Context, l net.Listener, h http.Handler) error {
	return stages.ServeHTTP(ctx, &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}, l, 3*time.Second)
}
