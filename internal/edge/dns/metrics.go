package dns

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file counts what the zone does.

type metrics struct {
	answers       *prometheus.CounterVec
	dropped       *prometheus.CounterVec
	lastKnownGood *prometheus.CounterVec
	transfers     *prometheus.CounterVec
	notifies      *prometheus.CounterVec
	serial        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r) // nil registers nothing
	return &metrics{
		answers: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_dns_answers_total", Help: "Questions answered.",
		}, []string{"transport", "rcode"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_dns_dropped_total", Help: "Questions that got no answer, or only the advice to ask over TCP.",
		}, []string{"reason"}),
		lastKnownGood: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_dns_last_known_good_total", Help: "Answers given while no edge seemed to serve.",
		}, []string{"service"}),
		transfers: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_dns_transfers_total", Help: "Zone transfers asked for.",
		}, []string{"result"}),
		notifies: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_dns_notifies_total", Help: "Messages to secondaries that the zone changed.",
		}, []string{"result"}),
		serial: f.NewGauge(prometheus.GaugeOpts{Name: "troupe_dns_serial", Help: "Serial number of the zone."}),
	}
}
