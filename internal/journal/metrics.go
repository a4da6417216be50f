package journal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file counts what the journal writes.

type metrics struct {
	records  *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	imported prometheus.Counter
	delay    prometheus.Histogram
	commits  *prometheus.HistogramVec
	tight    prometheus.Gauge
	damaged  prometheus.Counter
	mended   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r) // nil registers nothing
	return &metrics{
		records: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_journal_records_total", Help: "Records appended by this member.",
		}, []string{"stream"}),
		bytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_journal_bytes_total", Help: "Bytes of record bodies appended by this member, as stored.",
		}, []string{"stream"}),
		tight: f.NewGauge(prometheus.GaugeOpts{
			Name: "troupe_journal_disk_nearly_full", Help: "1 while facts, catalogs and reports are refused, so that certificates find room.",
		}),
		imported: f.NewCounter(prometheus.CounterOpts{
			Name: "troupe_journal_imported_records_total", Help: "Records of other members that were taken.",
		}),
		damaged: f.NewCounter(prometheus.CounterOpts{
			Name: "troupe_journal_damaged_records_total", Help: "Places in the journal's file that were found damaged.",
		}),
		mended: f.NewCounter(prometheus.CounterOpts{
			Name: "troupe_journal_mended_records_total", Help: "Damaged records that were replaced by the copy of another member.",
		}),
		delay: f.NewHistogram(prometheus.HistogramOpts{
			Name: "troupe_journal_import_delay_seconds", Help: "Age of records of other members when they were taken, by both clocks.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
		}),
		commits: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "troupe_journal_commit_seconds", Help: "Time to make one group of appends durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"result"}),
	}
}

func (m *metrics) commit(batches []*batch, took time.Duration, err error) {
	if err != nil {
		m.commits.WithLabelValues("error").Observe(took.Seconds())
		return
	}
	m.commits.WithLabelValues("ok").Observe(took.Seconds())
	for _, b := range batches {
		for i, d := range b.drafts {
			m.records.WithLabelValues(d.Stream.String()).Inc()
			m.bytes.WithLabelValues(d.Stream.String()).Add(float64(len(b.bodies[i].data)))
		}
	}
}
