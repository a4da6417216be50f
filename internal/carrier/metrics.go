package carrier

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file counts what is carried.

type metrics struct {
	given prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r) // nil registers nothing
	return &metrics{given: f.NewCounter(prometheus.CounterOpts{
		Name: "troupe_carrier_given_records_total", Help: "Records that other members fetched from this one.",
	})}
}
