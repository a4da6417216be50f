package bgp

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file counts announcements and what neighbours do.

type metrics struct {
	phases   *prometheus.GaugeVec
	changes  *prometheus.CounterVec
	sessions *prometheus.GaugeVec
	downs    *prometheus.CounterVec
	received *prometheus.GaugeVec
	updates  *prometheus.CounterVec
	alarms   prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r) // nil registers nothing
	m := &metrics{
		phases: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "troupe_edge_bgp_phase", Help: "1 for the phase in which the announcement of the service addresses is.",
		}, []string{"phase"}),
		changes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_edge_bgp_changes_total", Help: "Changes of what is announced, by the phase that followed.",
		}, []string{"phase"}),
		sessions: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "troupe_edge_bgp_session_up", Help: "1 while the BGP session with a neighbour is established.",
		}, []string{"neighbor"}),
		downs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_edge_bgp_session_downs_total", Help: "Established BGP sessions that ended.",
		}, []string{"neighbor"}),
		received: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "troupe_edge_bgp_received_prefixes", Help: "Prefixes that a neighbour has sent; each is refused.",
		}, []string{"neighbor"}),
		updates: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_edge_bgp_received_updates_total", Help: "UPDATE messages of a neighbour; none is ever used.",
		}, []string{"neighbor"}),
		alarms: f.NewGauge(prometheus.GaugeOpts{
			Name: "troupe_edge_bgp_alarms", Help: "Things about the announcement that an operator has to look at; the edge's status has them in words.",
		}),
	}
	m.phases.WithLabelValues(Silent.String()).Set(1)
	return m
}

// phase counts a change.
func (m *metrics) phase(to Phase) {
	for p := Silent; p <= Leaving; p++ {
		m.phases.WithLabelValues(p.String()).Set(0)
	}
	m.phases.WithLabelValues(to.String()).Set(1)
	m.changes.WithLabelValues(to.String()).Inc()
}
