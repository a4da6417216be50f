package code

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// This file counts what scans cost.

type metrics struct {
	scans    *prometheus.CounterVec
	duration prometheus.Histogram
	read     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		scans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_code_scans_total", Help: "Scans of environment folders, by result.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "troupe_code_scan_duration_seconds", Help: "Time that a scan of an environment folder took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		read: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "troupe_code_files_read_total", Help: "Files whose content was read because they were new or had changed.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.scans, m.duration, m.read} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics of code: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) scanned(took time.Duration, read int, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.scans.WithLabelValues(result).Inc()
	m.duration.Observe(took.Seconds())
	m.read.Add(float64(read))
}
