package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/edge/health"
	"troupe/internal/fault"
)

// This file makes pools of what an operator or the troupe says, and knows how to reach their servers.

const (
	connectMost = 2 * time.Second
	answerMost  = 9 * time.Minute // agents give up after ten
	passIdle    = 20 * time.Minute
	queueMost   = 60 * time.Second
	keepMost    = 15 * time.Second // an idle connection; Jetty closes it after 30 s, and a request that meets that seems to be lost with its server
	queueLength = 10_000
)

// A pool is a balance.Pool and the ways to its servers.
type pool struct {
	*balance.Pool

	name     string
	conf     config.EdgePool
	costs    *balance.Costs
	words    *words
	overflow *pool

	mu      sync.Mutex
	servers map[string]*server
}

// A server is the way to one server of a pool.
type server struct {
	id      string // pool/server, as the judge knows it
	origin  string // of a member: another one may come to have its name and address
	name    string
	address string
	as      string // what the Host header says; "" for what the agent said
	prefix  string // of the path, at a member of the troupe

	configured int // weight
	http       *http.Transport

	mu      sync.Mutex
	current map[*task]struct{} // what is under way there
}

// A task is something under way at a server.
type task struct {
	cancel context.CancelCauseFunc
	spared bool        // it was taken from another server already, and stays
	pay    func() bool // takes what its replay costs; without that it stays. nil: it costs nothing
}

var errWentDown = errors.New("the server went down meanwhile")

// begin notes something that is under way at a server, which ends when the server goes down, unless it is spared or its replay cannot be
// paid for: hundreds that are sent away at once fare worse than those that wait.
func (s *server) begin(ctx context.Context, spared bool, pay func() bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	key := &task{cancel, spared, pay}
	s.mu.Lock()
	s.current[key] = struct{}{}
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		delete(s.current, key)
		s.mu.Unlock()
		cancel(nil)
	}
}

// cut ends what is under way, for an operator also what is spared.
func (s *server) cut(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.current {
		if all || !key.spared && (key.pay == nil || key.pay()) {
			key.cancel(errWentDown)
			delete(s.current, key)
		}
	}
	s.http.CloseIdleConnections()
}

func yes(b *bool) bool { return b == nil || *b }

// newPool makes a pool without servers.
func (e *Edge) newPool(name string, c config.EdgePool) *pool {
	p := &pool{name: name, conf: c, costs: &balance.Costs{}, words: e.words, servers: map[string]*server{}}
	p.Pool = balance.New(balance.Options{
		Name: name, Method: c.Balance, HashBy: c.HashBy, Stick: c.Stick, StickExpire: c.StickExpire.Or(30 * time.Minute), StickSize: c.StickSize,
		Table: e.tables[name], MaxQueue: orInt(c.Queue.Length, queueLength), QueueTimeout: c.Queue.Timeout.Or(queueMost), SlowStart: time.Duration(c.SlowStart),
		AllBackups: c.AllBackups, Panic: c.Panic, PanicNone: c.InPanic == "none", Spill: c.Spill, Overprovision: c.Overprovide, Bound: c.HashBound, Site: e.conf.Site, LocalFirst: yes(c.LocalFirst),
		Verdict:    func(server string) health.Verdict { return e.judge.Verdict(name + "/" + server) },
		Registerer: e.registry,
	})
	return p
}

func orInt(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

// set gives a pool its servers; those that stay keep their connections.
func (p *pool) set(list []config.EdgeServer, client func(config.EdgeServer) (*tls.Config, string, error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := map[string]*server{}
	members := make([]balance.Server, 0, len(list))
	for _, s := range list {
		weight := 100
		if s.Weight != nil {
			weight = *s.Weight
		}
		configured := weight
		if weight = p.words.weight(p.name+"/"+s.Name, configured); weight == 0 {
			weight = -1 // in package balance 0 is the default
		}
		members = append(members, balance.Server{Name: s.Name, Address: s.Address, Site: s.Site, Weight: weight, MaxConns: s.MaxConnections, Backup: s.Backup, Tier: s.Tier})
		if old := p.servers[s.Name]; old != nil && old.address == s.Address && old.origin == s.Origin {
			old.configured = configured
			keep[s.Name] = old
			continue
		}
		way := &server{id: p.name + "/" + s.Name, origin: s.Origin, name: s.Name, address: s.Address, configured: configured, current: map[*task]struct{}{}}
		conf, prefix, err := client(s)
		if err != nil {
			return fmt.Errorf("pool %s: server %s: %w", p.name, s.Name, err)
		}
		way.prefix, way.http = prefix, p.transport(conf)
		if _, port, err := net.SplitHostPort(s.Address); prefix == "" && err == nil {
			way.as = net.JoinHostPort(conf.ServerName, port)
		}
		keep[s.Name] = way
	}
	for name, old := range p.servers {
		if keep[name] != old {
			old.http.CloseIdleConnections() // what is under way may end
		}
	}
	p.servers = keep
	p.Pool.Set(members)
	return nil
}

// weigh gives servers the weights that operators said.
func (p *pool) weigh() error {
	var errs []error
	for _, s := range p.all() {
		errs = append(errs, p.SetWeight(s.name, p.words.weight(s.id, s.configured)))
	}
	return errors.Join(errs...)
}

func (p *pool) transport(conf *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: p.conf.Connect.Or(connectMost), KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: p.conf.Connect.Or(connectMost),
		ResponseHeaderTimeout: p.conf.Answer.Or(answerMost), MaxIdleConnsPerHost: 64, IdleConnTimeout: keepMost,
		DisableCompression: true, MaxResponseHeaderBytes: 256 << 10, WriteBufferSize: 16 << 10, ReadBufferSize: 32 << 10,
		ForceAttemptHTTP2: false, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
}

func (p *pool) server(name string) *server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.servers[name]
}

func (p *pool) all() []*server {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*server, 0, len(p.servers))
	for _, s := range p.servers {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *server) int { return strings.Compare(a.name, b.name) })
	return all
}

// foreignTLS is how the edge speaks to a puppetserver: as itself, if it has a certificate.
func (e *Edge) foreignTLS(c config.EdgePool) func(config.EdgeServer) (*tls.Config, string, error) {
	return func(s config.EdgeServer) (*tls.Config, string, error) {
		name := c.TLS.ServerName
		if name == "" {
			name = host(s.Address)
		}
		conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
		switch {
		case c.TLS.CA != "":
			bundle, err := os.ReadFile(c.TLS.CA)
			if err != nil {
				return nil, "", err
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(bundle) {
				return nil, "", fault.New(fault.Invalid, "%s has no certificate in PEM", c.TLS.CA)
			}
		case e.trust.Load() != nil:
			// The authorities of now: an edge lives longer than a CA bundle.
			conf.InsecureSkipVerify = true // VerifyConnection does it
			conf.VerifyConnection = func(cs tls.ConnectionState) error { return e.verifyServer(cs, name) }
		}
		if c.TLS.Certificate != "" {
			pair, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
			if err != nil {
				return nil, "", err
			}
			conf.Certificates = []tls.Certificate{pair}
		} else if e.trust.Load() != nil {
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.trust.Load().certificate, nil }
		}
		return conf, "", nil
	}
}

func (e *Edge) verifyServer(cs tls.ConnectionState, name string) error {
	t := e.trust.Load()
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	chains, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: t.pool, Intermediates: between, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("certificate of the server: %w", err)
	}
	return t.admits(chains)
}

// suspicion is how long a server may leave a check unanswered that was made because a request waits. One that compiles on all its CPUs,
// or collects garbage, needs longer for a handshake than a member.
const (
	suspicion        = 650 * time.Millisecond
	foreignSuspicion = 2 * time.Second
)

func orElse(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

// check turns an operator's words into what the judge does. In mode puppet a server is asked as agents ask it.
func (e *Edge) check(c config.EdgeCheck, s config.EdgeServer, conf *tls.Config, sendProxy string) (health.Check, error) {
	h := health.Check{
		Type: c.Type, Method: c.Method, Path: c.Path, Host: c.Host, SendProxy: sendProxy != "", ProxyV2: sendProxy == "v2",
		Interval: time.Duration(c.Interval), FastInterval: time.Duration(c.FastInterval), DownInterval: time.Duration(c.DownInterval), Timeout: time.Duration(c.Timeout),
		Rise: c.Rise, Fall: c.Fall, Spread: c.Spread, AgentAddress: s.AgentCheck, Observe: yes(c.Observe), ErrorLimit: c.ErrorLimit, OnError: c.OnError, Suspicion: foreignSuspicion,
	}
	// What requests show counts soon, since they are sent again: HAProxy's ten errors would be ten runs.
	h.FastInterval = orElse(h.FastInterval, 200*time.Millisecond)
	h.ErrorLimit = orInt(h.ErrorLimit, 3)
	if h.OnError == "" {
		h.OnError = "mark-down"
	}
	if h.Observe { // in a row says nothing here: a broken manifest fails at every server
		h.Outlier = &health.Outlier{Consecutive: math.MaxInt, Slow: max(c.Slow, 0)}
	}
	if h.Type == "" {
		h.Type = "https"
	}
	if h.Path == "" {
		h.Path = "/status/v1/simple/server"
	}
	if c.Status != "" {
		ranges, err := config.ParseStatus(c.Status)
		if err != nil {
			return h, err
		}
		for _, r := range ranges {
			h.Status = append(h.Status, health.StatusRange{From: r.From, To: r.To})
		}
	}
	if c.Body != "" {
		body, err := regexp.Compile(c.Body)
		if err != nil {
			return h, err
		}
		h.Body = body
	}
	// Where no authority is known, agents are the ones who verify: a check then looks whether somebody answers.
	known := conf != nil && (conf.RootCAs != nil || conf.VerifyConnection != nil)
	if c.Verify != nil && *c.Verify || c.Verify == nil && known {
		h.TLS = conf
	}
	return h, nil
}

// quickly is how members are checked where the operator says nothing: one that hangs is found out after some two seconds, for what it
// has under way waits for that. A foreign server may need longer for its answer.
func quickly(c config.EdgeCheck) config.EdgeCheck {
	or := func(d *config.Duration, most time.Duration) { *d = config.Duration(d.Or(most)) }
	or(&c.Interval, 500*time.Millisecond)
	or(&c.FastInterval, 200*time.Millisecond)
	or(&c.Timeout, 800*time.Millisecond)
	c.Fall = orInt(c.Fall, 2)
	if c.Slow == 0 {
		c.Slow = 5 // members run the same program
	}
	return c
}

// watch has the judge watch all servers of now. Pools may change at the same time: the last one to ask sees all of them.
func (e *Edge) watch() error {
	e.watching.Lock()
	defer e.watching.Unlock()
	all, err := e.targets()
	if err != nil {
		return err
	}
	e.judge.Watch(all)
	return nil
}

// targets are what the judge watches.
func (e *Edge) targets() ([]health.Target, error) {
	var all []health.Target
	for name, p := range e.pools {
		for _, s := range p.all() {
			conf := config.EdgeServer{Name: s.name, Address: s.address}
			if i := slices.IndexFunc(p.conf.Servers, func(c config.EdgeServer) bool { return c.Name == s.name }); i >= 0 {
				conf = p.conf.Servers[i]
			}
			c := p.conf.Check
			if conf.Check != nil {
				c = *conf.Check
			}
			if s.prefix != "" {
				c = quickly(c)
			}
			check, err := e.check(c, conf, s.http.TLSClientConfig, p.conf.SendProxy)
			if err != nil {
				return nil, fmt.Errorf("pool %s: check of %s: %w", name, s.name, err)
			}
			switch {
			case s.prefix != "":
				check.Suspicion = suspicion
			case !check.Observe:
				check.Suspicion = 0 // what requests show is not to count, and a suspicion is that
			}
			check.Path = s.prefix + check.Path
			all = append(all, health.Target{ID: s.id, Address: s.address, Check: check})
		}
	}
	more, err := e.dnsTargets()
	return append(all, more...), err
}

// follow has pools learn what the judge says, and cuts what is under way at a server that went down while others serve: its agents
// need not wait for an answer that never comes.
func (e *Edge) follow(ctx context.Context) error {
	down := map[*server]bool{}
	for {
		changed := e.judge.Changed()
		before := down
		down = map[*server]bool{}
		for _, p := range e.pools {
			p.Refresh()
			for _, s := range p.all() {
				v := e.judge.Verdict(s.id)
				gone := v.State == health.Down && !v.Doubted // who is only doubted may be slow: it would be compiled twice
				// With nobody else to ask, what is under way has its best chance where it is.
				cut := gone && yes(p.conf.CutDown) && p.Usable() > 0
				if cut && !before[s] {
					s.cut(false)
				}
				if cut || gone && before[s] {
					down[s] = true
				}
			}
		}
		serves, _ := e.serving()
		e.outage.note(serves, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// serving tells whether this edge can finish a run: whether every pool that listeners begin with has somebody who serves.
func (e *Edge) serving() (ok bool, why string) {
	for _, l := range e.conf.Listeners {
		p := e.pools[l.Pool]
		if p.Usable() == 0 && (p.overflow == nil || p.overflow.Usable() == 0) {
			return false, "pool " + l.Pool + " has no server that serves"
		}
	}
	return true, ""
}
