package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// This file serves the metrics on an address of their own.

func metricsMember(addr string) *member {
	m := &member{log: telemetry.Discard(nil), registry: prometheus.NewRegistry()}
	m.registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "troupe_test", Help: "A test."}))
	m.cfg.Store(&config.Config{Metrics: config.Metrics{Listen: addr}})
	return m
}

func TestMetricsOnAnAddressOfTheirOwn(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := metricsMember(addr).runMetrics(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "metrics.listen: ") {
		t.Errorf("on a port in use: %v, want an error that names the setting", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- metricsMember(addr).runMetrics(ctx) }()
	limit, stop := context.WithTimeout(t.Context(), 4*time.Minute)
	defer stop()
	var page string
	for tick := time.Tick(5 * time.Millisecond); page == ""; {
		select {
		case <-limit.Done():
			t.Fatal("no answer")
		case <-tick:
			page = fetch(limit, "http://"+addr+"/metrics")
		}
	}
	if !strings.Contains(page, "troupe_test 0") {
		t.Errorf("page = %q, want the registered metric", page)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// fetch returns a page, or nothing while there is none.
func fetch(ctx context.Context, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err.Error()
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}
