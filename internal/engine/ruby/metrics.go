package ruby

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
)

// This file counts what the pool does.

type metrics struct {
	compiles *prometheus.HistogramVec
	refused  prometheus.Counter
	forks    prometheus.Counter
	boots    prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		compiles: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "troupe_engine_compile_seconds", Help: "Time from the request to the catalog, queue included, by result.",
			Buckets: []float64{.05, .1, .2, .4, .8, 1.6, 3.2, 6.4, 12.8, 25.6, 60, 120, 300},
		}, []string{"result"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "troupe_engine_refused_total", Help: "Compiles refused because the queue was full."}),
		forks:   prometheus.NewCounter(prometheus.CounterOpts{Name: "troupe_engine_worker_starts_total", Help: "Worker processes started."}),
		boots:   prometheus.NewCounter(prometheus.CounterOpts{Name: "troupe_engine_zygote_starts_total", Help: "Code versions loaded."}),
	}
	if r != nil {
		r.MustRegister(m.compiles, m.refused, m.forks, m.boots)
	}
	return m
}

func (m *metrics) observe(took time.Duration, a answer, err error) {
	result := "ok"
	switch {
	case err != nil && fault.KindOf(err) == fault.Unavailable:
		result = "unavailable"
	case err != nil:
		result = "lost"
	case a.Event != "done":
		result = "failed"
	}
	m.compiles.WithLabelValues(result).Observe(took.Seconds())
}
