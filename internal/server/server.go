// Package server turns a configuration into one running member: it is the one
// list of the member's parts, the order in which they start, and the reverse
// order in which they stop.
//
// Begin with [Run]. [RunOffline] opens the same parts without the port, for a
// command on a folder that nobody serves.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"troupe/internal/adminapi"
	"troupe/internal/agentapi"
	"troupe/internal/authz"
	"troupe/internal/ca"
	"troupe/internal/caapi"
	"troupe/internal/carrier"
	"troupe/internal/carrier/nats"
	"troupe/internal/classifier"
	"troupe/internal/cluster"
	"troupe/internal/code"
	"troupe/internal/config"
	"troupe/internal/deploy"
	"troupe/internal/engine/ruby"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/stages"
	"troupe/internal/statusapi"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// Options tunes a member's process.
type Options struct {
	Load    func() (*config.Config, error) // reads the configuration again on SIGHUP
	Log     *slog.Logger
	Level   *slog.LevelVar // follows log.level on reload; nil keeps what it is
	Version string

	Compiles bool // RunOffline: the command needs the engine; Run always has it
	// Exported answers the collectors of a member opened by RunOffline in place of
	// its own store; nil means the store.
	Exported func(context.Context, store.ResourceQuery) ([]puppet.Resource, error)
}

// member holds the parts of one running member.
type member struct {
	cfg      atomic.Pointer[config.Config]
	o        Options
	log      *slog.Logger
	registry *prometheus.Registry
	started  time.Time

	journal    *journal.Journal
	store      *store.DB
	authority  *ca.Authority
	cluster    *cluster.Cluster
	carrier    *carrier.Carrier
	nats       *nats.Feed // nil when there is none
	code       *code.Repo
	deploy     *deploy.Deployer
	engine     *ruby.Pool
	ruby       *stages.Early // the engine, which runs while other parts are opened; nil when nothing compiles
	classifier *classifier.Classifier
	guard      *authz.Guard
	front      *front
	agents     atomic.Pointer[http.Handler] // the whole HTTP surface, while it is served
	forwarded  atomic.Int64                 // requests that edges have brought and that are being answered
	notify     stages.Notifier
	phase      atomic.Pointer[statusapi.State] // starting, running or stopping
	pulse      pulse
	probes     struct{ journal, store probe }
	snapshots  sync.Mutex    // one snapshot at a time
	backing    chan struct{} // holds one token while a backup is made
	reloading  sync.Mutex    // one reload at a time: all of one configuration counts, or all of the other
}

// Run opens the member, serves, and returns when ctx ended and everything that
// was running is finished.
func Run(ctx context.Context, cfg *config.Config, o Options) error {
	if err := ownCA(cfg); err != nil {
		return err
	}
	// The port comes before the data folder: if somebody has it, nothing is created.
	listener, err := listen(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	o.Compiles = true
	m, err := open(ctx, cfg, o)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if !m.cluster.Founded() { // else code may be what others deploy
		err = ownEnvironment(cfg)
	}
	if err == nil {
		err = m.openFront(ctx, listener)
	}
	if err != nil {
		return errors.Join(err, listener.Close(), m.close())
	}
	m.warn()
	for _, n := range cfg.Notes {
		m.log.Warn("a setting of Puppet's files is not followed", "note", n)
	}
	m.log.Info("member starts", "certname", cfg.Certname, "data", cfg.Data, "listen", m.front.listener.Addr().String(),
		"version", o.Version, "origin", string(m.journal.Origin()))
	err = stages.Run(ctx, append(m.stages(),
		stages.Of("cluster", m.cluster.Run, 5*time.Second),
		stages.Of("carrier", m.carrier.Run, 5*time.Second),
		stages.Of("nats", m.runNATS, 10*time.Second),
		stages.Of("members", m.runMembers, 5*time.Second),
		stages.Of("heartbeats", m.runHeartbeats, 5*time.Second),
		stages.Of("deploy", m.deploy.Run, 5*time.Second),
		stages.Of("snapshot", m.runSnapshot, 5*time.Second),
		stages.Of("introductions", m.runIntroductions, 5*time.Second),
		stages.Of("issuers", m.runIssuers, 5*time.Second),
		stages.Of("admin", m.runAdmin, 15*time.Second),
		stages.Of("backups", m.runBackups, 15*time.Second),
		stages.Of("reload", m.runReload, 5*time.Second),
		stages.Of("metrics", m.runMetrics, 5*time.Second),
		stages.Of("warming", m.runWarming, 5*time.Second),
		// Before the front, so that it stops after it: a member that finishes long
		// requests is alive.
		stages.Of("watchdog", func(ctx context.Context) error { return m.notify.RunWatchdog(ctx, m.healthy) }, 5*time.Second),
		stages.Of("front", m.runFront, frontGrace+5*time.Second),
	))
	err = errors.Join(err, m.front.close(), m.close())
	m.log.Info("member has stopped", "certname", cfg.Certname)
	return err
}

// warn tells what an operator should not find out by accident.
func (m *member) warn() {
	name, uid, _ := m.engine.Account()
	if uid == os.Getuid() {
		m.log.Warn("ruby runs as the server's own user and can read the keys of the CA: a manifest or a function of a module could. Start the server as root, so that Ruby becomes another user", "user", name)
	}
}

// RunOffline opens the member without its port, calls fn with a client of it, and
// closes it again. The engine runs only for a command that compiles.
func RunOffline(ctx context.Context, cfg *config.Config, o Options, fn func(*adminapi.Client) error) error {
	m, err := open(ctx, cfg, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var result error
	parts := append(m.stages(),
		stages.Of("admin", m.runAdmin, 15*time.Second),
		stages.Of("command", func(ctx context.Context) error {
			client, err := dialSoon(ctx, cfg.Data)
			if err == nil && o.Compiles {
				err = m.waitForEngine(ctx)
			}
			if err == nil {
				err = fn(client)
			}
			result = err
			return nil
		}, 15*time.Minute),
	)
	err = stages.Run(ctx, parts)
	return errors.Join(result, err, m.close())
}

// dialSoon connects to the admin socket, which another stage is opening now.
func dialSoon(ctx context.Context, data string) (*adminapi.Client, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		client, err := adminapi.Dial(ctx, data)
		if !errors.Is(err, adminapi.ErrNotRunning) {
			return client, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return nil, err
		case <-tick.C:
		}
	}
}

// open returns a member with every part that has state. Nothing runs yet. What was
// opened is closed when a later part fails.
func open(ctx context.Context, cfg *config.Config, o Options) (*member, error) {
	m := &member{o: o, log: telemetry.Discard(o.Log), registry: prometheus.NewRegistry(), started: time.Now(), notify: stages.NewNotifier(), backing: make(chan struct{}, 1), pulse: pulse{heard: map[journal.Origin]adminapi.Heartbeat{}}}
	m.cfg.Store(cfg)
	m.enter(statusapi.StateStarting)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := m.openParts(ctx, cfg); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// openParts opens the parts in the order in which they lean on each other.
func (m *member) openParts(ctx context.Context, cfg *config.Config) (err error) {
	// Workers of another user read snapshots below this folder, so it can be
	// passed through; each part keeps its own folder to itself.
	if err := os.MkdirAll(cfg.Data, 0o711); err != nil { //nolint:gosec // see above
		return fmt.Errorf("create the data folder: %w", err)
	}
	m.journal, err = journal.Open(m.folder("journal"), journal.Options{Log: m.log, Registerer: m.registry})
	if err != nil {
		return err
	}
	m.store, err = store.Open(ctx, m.folder("store"), m.journal, storeOptions(cfg, m))
	if err != nil {
		return err
	}
	m.engine, err = ruby.New(engineOptions(cfg, m))
	if err != nil {
		return err
	}
	if m.o.Compiles { // Ruby loads its library while all certificates are read and checked
		m.ruby = stages.Begin(ctx, m.engine.Run)
	}
	m.cluster, err = cluster.Open(ctx, m.folder("cluster"), m.journal, clusterOptions(cfg, m))
	if err != nil {
		return err
	}
	m.carrier = carrier.New(m.journal, m.carrierOptions(cfg))
	m.authority, err = ca.Open(ctx, m.folder("ca"), m.journal, caOptions(cfg, m))
	if err != nil {
		return err
	}
	codeOpts, err := codeOptions(cfg, m)
	if err != nil {
		return err
	}
	m.code, err = code.New(codeOpts)
	if err != nil {
		return err
	}
	m.deploy, err = deploy.Open(ctx, m.journal, m.code, deployOptions(cfg, m))
	if err != nil {
		return err
	}
	m.classifier, err = classifier.New(classifierOptions(cfg, m))
	if err != nil {
		return err
	}
	guard, err := guardOptions(cfg, m)
	if err != nil {
		return err
	}
	m.guard = authz.NewGuard(guard)
	return nil
}

// ownEnvironment makes an empty production environment when nobody has said where
// environments are: agents of a new member get an empty catalog, not an error.
// Puppet makes one too. Folders that an operator named are left alone.
func ownEnvironment(cfg *config.Config) error {
	own := filepath.Join(cfg.Data, "code", "environments")
	if !slices.Contains(cfg.EnvironmentPath, own) {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(own, "production", "manifests"), 0o755); err != nil { //nolint:gosec // code is for all to read
		return fmt.Errorf("create the first environment: %w", err)
	}
	return nil
}

// folder is where a part keeps its state.
func (m *member) folder(part string) string { return filepath.Join(m.cfg.Load().Data, part) }

// close lets go of what open opened, last first.
func (m *member) close() error {
	var errs []error
	if m.ruby != nil {
		if err := m.ruby.Stop(10 * time.Second); err != nil {
			errs = append(errs, fmt.Errorf("engine: %w", err))
		}
	}
	if m.authority != nil {
		errs = append(errs, m.authority.Close())
	}
	if m.store != nil {
		errs = append(errs, m.store.Close())
	}
	if m.journal != nil {
		errs = append(errs, m.journal.Close())
	}
	return errors.Join(errs...)
}

// stages are the parts that run whether or not the port is open. The journal
// comes first and so stops last: what the others still write must be kept.
func (m *member) stages() []stages.Stage {
	all := []stages.Stage{
		stages.Of("journal", m.journal.Run, 10*time.Second),
		stages.Of("store", m.store.Run, 20*time.Second),
		stages.Of("ca", m.authority.Run, 10*time.Second),
	}
	if m.ruby != nil {
		all = append(all, stages.Of("code", m.code.Run, 10*time.Second), stages.Of("engine", m.ruby.Run, frontGrace+10*time.Second))
	}
	return all
}

// frontGrace is how long requests that run may go on after the stop signal: the
// longest is a compile at its deadline.
const frontGrace = 5 * time.Minute

func (m *member) openFront(ctx context.Context, l net.Listener) error {
	cfg := m.cfg.Load()
	cert, err := m.serverCertificate(ctx, cfg)
	if err != nil {
		return err
	}
	// Whoever waits for the address must not find that of a member that was killed.
	if err := os.Remove(m.addressFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	m.front = newFront(m.authority, cert, l, frontLimitsOf(cfg), m.log)
	return nil
}

// addressFile tells scripts where the member serves, while it does.
func (m *member) addressFile() string { return m.folder("listen.addr") }

// serverCertificate is issued by our own CA and kept in the data folder. It is good
// for "puppet", the name that agents ask for when nobody told them another.
func (m *member) serverCertificate(ctx context.Context, cfg *config.Config) (*tls.Certificate, error) {
	names := slices.Compact(slices.Sorted(slices.Values(append([]string{"puppet"}, cfg.DNSAltNames...))))
	extensions, err := ownExtensions(cfg)
	if err != nil {
		return nil, err
	}
	cert, err := m.authority.ServerCertificate(ctx, ca.ServerRequest{Certname: puppet.Certname(cfg.Certname), AltNames: names, KeyType: ca.KeyType(cfg.TLS.KeyType), Client: true, Extensions: extensions})
	if err != nil {
		return nil, fmt.Errorf("server certificate of %s: %w", cfg.Certname, err)
	}
	return cert, nil
}

// ownExtensions are those that csr_attributes.yaml asks for: Puppet Server puts
// them into its own certificate.
func ownExtensions(cfg *config.Config) (map[string]string, error) {
	path := cfg.Puppet["csr_attributes"]
	if path == "" && cfg.Layout.ConfDir != "" {
		path = filepath.Join(cfg.Layout.ConfDir, "csr_attributes.yaml")
	}
	if path == "" {
		return nil, nil
	}
	extensions, err := ca.LoadCSRAttributes(path)
	if err != nil {
		return nil, fmt.Errorf("extensions of the server's certificate: %w", err)
	}
	return extensions, nil
}

// handler is the whole HTTP surface.
func (m *member) handler() http.Handler {
	agents := agentapi.New(m.guard, m.code, m.engine, m.store, m.classifier, agentOptions(m.cfg.Load(), m)).Handler()
	certificates := caapi.New(m.authority, m.guard, caapi.Options{Version: m.engine.Stats().Puppet}).Handler()
	status := statusapi.New(m.guard, m.services(), statusapi.Options{
		Metrics: telemetry.MetricsPage(m.registry), Beans: m.beans, Log: m.log,
	}).Handler()
	mux := http.NewServeMux()
	mux.Handle("/puppet-ca/", certificates)
	mux.Handle("/status/v1/", status)
	mux.Handle("/metrics", status)
	mux.Handle("/metrics/", status)
	mux.Handle("/", agents)
	return logged(m.front.clients.Identified(authz.Normalize(mux)), m.log, newRequestMetrics(m.registry))
}

// runFront tells the world that the member serves, serves, and takes it back
// before it lets running requests finish.
func (m *member) runFront(ctx context.Context) error {
	if err := m.waitForEngine(ctx); err != nil {
		return nil //nolint:nilerr // the member was stopped before it began; the engine tells if it was why
	}
	m.catchUp(ctx)
	m.awaitCode(ctx)
	agents := m.handler()
	m.agents.Store(&agents)
	m.front.http.Handler = fromAgents(agents)
	if err := writeFile(m.addressFile(), m.front.listener.Addr().String()+"\n"); err != nil {
		return err
	}
	m.enter(statusapi.StateRunning)
	if err := m.notify.Send("READY=1"); err != nil {
		m.log.Warn("service manager was not told that the member is ready", telemetry.KeyErr, err)
	}
	err := m.front.run(ctx, func() {
		m.log.Info("member stops: what runs may finish", "grace", frontGrace)
		m.enter(statusapi.StateStopping)
		m.agents.Store(nil) // edges ask another member
		if err := m.notify.Send("STOPPING=1"); err != nil {
			m.log.Warn("service manager was not told that the member stops", telemetry.KeyErr, err)
		}
	})
	m.awaitForwarded()
	return errors.Join(err, os.Remove(m.addressFile()))
}

// waitForEngine holds requests back, in the port's backlog, until the Ruby
// library is loaded: before that the member could only turn them away. An engine
// that cannot start ends the member, with the reason.
func (m *member) waitForEngine(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !m.engine.Stats().Serving {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// writeFile replaces a file in one step, so that a reader never sees half of it.
func writeFile(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil { //nolint:gosec // an address is no secret
		return err
	}
	return os.Rename(tmp, path)
}

func (m *member) runAdmin(ctx context.Context) error {
	cfg := m.cfg.Load()
	ip4, ip6 := ownAddresses()
	api := adminapi.New(adminapi.Member{
		Authority: m.authority, Cluster: m.cluster, Carrier: m.carrier, Store: m.store, Journal: m.journal, Code: m.code, Deployer: m.deploy, Compiler: m.engine, Classifier: m.classifier,
		Name: cfg.Certname, HostName: config.HostName(), ServerIP: ip4, ServerIP6: ip6, CustomOIDs: cfg.CustomOIDs, Reload: m.reload, Heartbeats: m.heartbeats, Process: m.process, Backup: m.backupMember, NATS: m.natsStatus,
	}, m.log)
	return api.Run(ctx, cfg.Data)
}

// runMetrics serves /metrics without TLS on the address of metrics.listen, which
// should be a loopback one; without it only the main port has them.
func (m *member) runMetrics(ctx context.Context) error {
	addr := m.cfg.Load().Metrics.Listen
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", telemetry.MetricsPage(m.registry))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	return stages.ServeHTTP(ctx, &http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
		ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
	}, l, 3*time.Second)
}
