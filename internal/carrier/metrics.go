package carrier

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file counts what is carried.

type metrics struct {
	given    prometheus.Counter
	compared *prometheus.CounterVec
	refolded *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r) // nil registers nothing
	return &metrics{
		given: f.NewCounter(prometheus.CounterOpts{
			Name: "troupe_carrier_given_records_total", Help: "Records that other members fetched from this one.",
		}),
		compared: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_carrier_compared_total", Help: "Comparisons of what this member and another one made of the same records.",
		}, []string{"fold", "result"}),
		refolded: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_carrier_refolded_total", Help: "Folds that were made anew from the journal because another member's differed.",
		}, []string{"fold"}),
	}
}
