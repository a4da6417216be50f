package edge

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an edge counts, beside what its judge and its pools count. No label has what a client made up.
type metrics struct {
	requests   *prometheus.HistogramVec
	replays    *prometheus.CounterVec
	refused    *prometheus.CounterVec
	unserved   *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	runs       *prometheus.CounterVec
	forged     prometheus.Counter
	handshakes prometheus.Counter
	crowded    prometheus.Counter
	edge       *Edge
}

func newMetrics(registry *prometheus.Registry, e *Edge) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_edge_" + name, Help: help}, labels)
		registry.MustRegister(c)
		return c
	}
	m := &metrics{
		edge: e,
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "troupe_edge_request_duration_seconds", Help: "Time from the request's header to the last byte of the answer.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300},
		}, []string{"verb", "status"}),
		replays:    counter("replays_total", "Requests that were sent to another server.", "verb"),
		refused:    counter("refused_total", "Answers 503 with Retry-After.", "verb"),
		unserved:   counter("sessions_unserved_total", "Connections in mode passthrough for which there was no server.", "pool"),
		bytes:      counter("session_bytes_total", "Bytes carried in mode passthrough.", "pool", "direction"),
		runs:       counter("runs_total", "Agent runs that ended, by the highest status that they saw.", "status"),
		forged:     counter("forged_total", "Identity headers and PROXY headers from whom they must not come.").WithLabelValues(),
		handshakes: counter("handshake_errors_total", "TLS handshakes that failed.").WithLabelValues(),
		crowded:    counter("connections_refused_total", "Connections beyond max_clients or per_source.").WithLabelValues(),
	}
	registry.MustRegister(m.requests,
		gauge("runs", "Agent runs under way.", func() float64 { return float64(e.runs.open()) }),
		gauge("bodies_memory_bytes", "Bodies held in memory.", func() float64 { return float64(e.bodies.memory.Load()) }),
		gauge("bodies_disk_bytes", "Bodies held on disk.", func() float64 { return float64(e.bodies.disk.Load()) }),
	)
	return m
}

func gauge(name, help string, value func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "troupe_edge_" + name, Help: help}, value)
}

func (m *metrics) request(verb string, status int, took time.Duration) {
	m.requests.WithLabelValues(verb, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *metrics) ended(r *run) { m.runs.WithLabelValues(strconv.Itoa(r.worst/100) + "xx").Inc() }
