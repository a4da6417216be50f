package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// This file counts what the store folds.

type metrics struct {
	folded  prometheus.Counter
	skipped *prometheus.CounterVec
	removed *prometheus.CounterVec
	missing prometheus.Gauge
	damaged prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r) // nil registers nothing
	return &metrics{
		folded: f.NewCounter(prometheus.CounterOpts{
			Name: "troupe_store_folded_total", Help: "Journal records folded into tables.",
		}),
		skipped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_store_skipped_total", Help: "Journal records that could not be folded.",
		}, []string{"reason"}),
		removed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_store_removed_total", Help: "Rows, files and journal records removed because of their age.",
		}, []string{"what"}),
		damaged: f.NewCounter(prometheus.CounterOpts{
			Name: "troupe_store_damaged_total", Help: "Tables of which rows or indexes were found changed on the disk, and made anew.",
		}),
		missing: f.NewGauge(prometheus.GaugeOpts{
			Name: "troupe_store_missing_contents", Help: "Files of the bucket that are known and that no other member has given yet.",
		}),
	}
}
