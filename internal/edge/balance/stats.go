package balance

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/edge/health"
)

// This file tells what a pool does, and why: to operators, and to Prometheus.

// Stats is what a pool does now.
type Stats struct {
	Name    string
	Queue   int
	Average float64 // queue for each usable server
	Usable  int
	Usual   time.Duration // what a request takes on average
	Panic   bool
	Servers []ServerStats
}

// ServerStats is what a server does now.
type ServerStats struct {
	Server
	Verdict health.Verdict
	Weight  float64 // that counts now: by what its agent says, and in its slow start
	Limit   int     // that counts now; 0: none
	Rising  float64 // share of its slow start that has passed; 1 when it is over
	Share   float64 // of the work, that its tier gets
	Current int
	Queue   int // of those who wait, how many stick to it
	Total   uint64
	Failed  uint64
	Slow    float64 // how much longer than expected requests take
}

// Stats returns what the pool does now.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.look(now)
	panics := p.panics(now)
	s := Stats{Name: p.o.Name, Queue: len(p.queue), Average: p.averageQueue(now), Usable: p.usable(now), Usual: p.usual(), Panic: panics}
	queues := map[*server]int{}
	for _, w := range p.queue {
		queues[p.stuck(w.ask)]++
	}
	shares := p.shares(panics)
	for _, v := range p.servers {
		s.Servers = append(s.Servers, ServerStats{
			Server: v.Server, Verdict: v.verdict, Weight: v.weight(now), Limit: v.limit(now), Rising: v.risen(now), Share: shares[v.tier],
			Current: len(v.leases), Queue: queues[v], Total: v.total, Failed: v.failed, Slow: v.slow,
		})
	}
	return s
}

// A Reason says why a server would, or would not, be taken.
type Reason struct {
	Server string
	Taken  bool
	Why    string
}

// Explain says for each server why it would, or would not, be taken for a request that comes now. It changes nothing. With the method
// random, or work shared between tiers, another draw may choose another server.
func (p *Pool) Explain(ask Ask) []Reason {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.look(now)
	f := p.field(ask, now)
	chosen := f.stuck
	if chosen == nil || !chosen.room(now) {
		chosen = f.pick(p, ask, now)
	}
	panics, shares := p.panics(now), p.shares(p.panics(now))
	reasons := make([]Reason, 0, len(p.servers))
	for _, s := range p.servers {
		reasons = append(reasons, Reason{s.Name, s == chosen, p.explain(s, chosen, f, ask, panics, shares[s.tier], now)})
	}
	return reasons
}

// explain says why one server is chosen or not. p.mu is held.
func (p *Pool) explain(s, chosen *server, f field, ask Ask, panics bool, share float64, now time.Time) string {
	bar := p.bar(s, ask, panics, now)
	load := fmt.Sprintf("%d requests, weight %.0f", len(s.leases), s.weight(now))
	if limit := s.limit(now); limit > 0 {
		load = fmt.Sprintf("%d of %d requests, weight %.0f", len(s.leases), limit, s.weight(now))
	}
	switch {
	case s == chosen && s == f.stuck && bar != "":
		return bar + ", but the run began there"
	case s == chosen && s == f.stuck:
		return "it sticks there: " + load
	case s == chosen:
		return fmt.Sprintf("chosen by %s: %s", p.o.Method, load)
	case bar != "" && s != f.stuck:
		return bar
	case !s.room(now):
		return "is full: " + load
	case f.stuck == chosen && chosen != nil:
		return "it sticks to another one"
	case s.Backup && len(f.tiers) > 0 && !f.tiers[0].servers[0].Backup:
		return "is a backup, and others are up"
	case s.Backup && !p.o.AllBackups:
		return "is not the first backup"
	case share == 0 && !s.Backup:
		return fmt.Sprintf("is in tier %d, and earlier ones take all", s.tier)
	case chosen != nil && chosen.tier != s.tier:
		return fmt.Sprintf("is in tier %d, which gets %.0f %% of the work", s.tier, 100*share)
	}
	return fmt.Sprintf("another one comes before it by %s: %s", p.o.Method, load)
}

// metrics are read from the pool when somebody asks, but for what only events tell.
type metrics struct {
	p                                  *Pool
	queue, usable                      *prometheus.Desc
	current, limit, weight, all, fails *prometheus.Desc
	refused                            *prometheus.CounterVec
	waited                             prometheus.Histogram
}

func newMetrics(p *Pool) *metrics {
	pool := prometheus.Labels{"pool": p.o.Name}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("troupe_edge_"+name, help, labels, pool)
	}
	m := &metrics{
		p:       p,
		queue:   desc("pool_queue", "Requests that wait for a server of the pool."),
		usable:  desc("pool_usable_servers", "Servers of the pool that take new work."),
		current: desc("server_connections", "Requests that the server has.", "server"),
		limit:   desc("server_limit", "Requests that the server may have now; 0 means no limit.", "server"),
		weight:  desc("server_weight", "Weight of the server that counts now.", "server"),
		all:     desc("server_requests_total", "Requests that the server got.", "server"),
		fails:   desc("server_failed_requests_total", "Requests that the server got and that failed.", "server"),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_edge_pool_refused_total", Help: "Requests that got no server of the pool.", ConstLabels: pool,
		}, []string{"reason"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "troupe_edge_pool_wait_seconds", Help: "How long requests waited for a server of the pool.", ConstLabels: pool,
			Buckets: []float64{0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300},
		}),
	}
	if p.o.Registerer == nil {
		return m
	}
	err := p.o.Registerer.Register(m)
	if old, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok { // a pool of this name was made anew: the newest one counts
		p.o.Registerer.Unregister(old.ExistingCollector)
		err = p.o.Registerer.Register(m)
	}
	if err != nil {
		panic(err) // two metrics of ours have one name
	}
	return m
}

func (m *metrics) refuse(err error) {
	reason := "no-server"
	switch {
	case errors.Is(err, ErrQueueFull):
		reason = "queue-full"
	case errors.Is(err, ErrQueueTimeout):
		reason = "queue-timeout"
	}
	m.refused.WithLabelValues(reason).Inc()
}

func (m *metrics) wait(d time.Duration) { m.waited.Observe(d.Seconds()) }

// Describe tells Prometheus which metrics there are.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.queue, m.usable, m.current, m.limit, m.weight, m.all, m.fails} {
		ch <- d
	}
	m.refused.Describe(ch)
	m.waited.Describe(ch)
}

// Collect tells Prometheus their values.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.p.Stats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.queue, float64(s.Queue))
	gauge(m.usable, float64(s.Usable))
	for _, v := range s.Servers {
		gauge(m.current, float64(v.Current), v.Name)
		gauge(m.limit, float64(v.Limit), v.Name)
		gauge(m.weight, v.Weight, v.Name)
		ch <- prometheus.MustNewConstMetric(m.all, prometheus.CounterValue, float64(v.Total), v.Name)
		ch <- prometheus.MustNewConstMetric(m.fails, prometheus.CounterValue, float64(v.Failed), v.Name)
	}
	m.refused.Collect(ch)
	m.waited.Collect(ch)
}
