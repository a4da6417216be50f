package health

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// This file tells what is known of the servers, to operators and to Prometheus.

// A Status is all that is known of one server.
type Status struct {
	ID      string
	Address string
	Verdict
	Said      string        // by the header of the last good check (Check.Header)
	Near      time.Duration // how long the last connection took to open: the round-trip time, and a little
	Check     string        // the last one, in HAProxy's words: L7OK/200 in 3ms; empty before the first
	Passed    int           // of Needed checks in a row, while the state is changing
	Needed    int           // 0 while it is not
	Agent     string        // what its agent said last, or why it said nothing
	Admin     string        // the operator's word: drain, maint or nothing
	Checks    int           // since it is watched
	Failed    int           // of these
	Downs     int           // how often checks or requests marked it down
	Hidden    int           // failures that requests have shown, or that somebody suspected
	Errors    int           // of requests, in a row
	Ejections int
}

// All returns what is known of every server, in the order of Watch.
func (m *Monitor) All() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Status, 0, len(m.order))
	for _, id := range m.order {
		w := m.targets[id]
		j := &w.judge
		s := Status{
			ID: id, Address: w.Address, Verdict: j.verdict, Said: j.said, Near: j.near, Check: j.last.String(), Agent: j.agent.last, Admin: j.admin,
			Checks: j.checks, Failed: j.failed, Downs: j.downs, Hidden: j.hidden, Errors: j.errors, Ejections: j.eject.total,
		}
		switch rise := w.Check.Rise; {
		case j.fresh || j.counter == j.top() || j.counter == 0:
		case j.counter < rise:
			s.Passed, s.Needed = j.counter, rise
		default:
			s.Passed, s.Needed = j.counter-rise+1, w.Check.Fall
		}
		all = append(all, s)
	}
	return all
}

// metrics are read from the judge when somebody asks, so none outlives its server.
type metrics struct {
	m                                  *Monitor
	up, checks, failed, downs, ejected *prometheus.Desc
}

func newMetrics(m *Monitor) *metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("troupe_edge_server_"+name, help, []string{"pool", "server"}, nil)
	}
	c := &metrics{
		m:       m,
		up:      desc("up", "Whether the server takes new work."),
		checks:  desc("checks_total", "Active checks of the server."),
		failed:  desc("failed_checks_total", "Active checks of the server that failed."),
		downs:   desc("downs_total", "How often checks or requests marked the server down."),
		ejected: desc("ejections_total", "How often the server was ejected for what requests have shown."),
	}
	if m.o.Registerer != nil {
		m.o.Registerer.MustRegister(c)
	}
	return c
}

// Describe tells Prometheus which metrics there are.
func (c *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.checks, c.failed, c.downs, c.ejected} {
		ch <- d
	}
}

// Collect tells Prometheus their values.
func (c *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.m.All() {
		pool := group(s.ID)
		server := s.ID[min(len(pool)+1, len(s.ID)):]
		up := 0.0
		if s.State == Up {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up, pool, server)
		ch <- prometheus.MustNewConstMetric(c.checks, prometheus.CounterValue, float64(s.Checks), pool, server)
		ch <- prometheus.MustNewConstMetric(c.failed, prometheus.CounterValue, float64(s.Failed), pool, server)
		ch <- prometheus.MustNewConstMetric(c.downs, prometheus.CounterValue, float64(s.Downs), pool, server)
		ch <- prometheus.MustNewConstMetric(c.ejected, prometheus.CounterValue, float64(s.Ejections), pool, server)
	}
}
