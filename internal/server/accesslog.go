package server

import (
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/telemetry"
)

// This file writes one log line and one observation for each request. It is the
// outermost layer: everything below only notes facts on the request's event.

type requestMetrics struct {
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	bytes    *prometheus.CounterVec
}

func newRequestMetrics(reg prometheus.Registerer) *requestMetrics {
	m := &requestMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "troupe_http_request_duration_seconds",
			Help:    "Time from the request's header to the last byte of the answer.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300},
		}, []string{"route", "method", "status"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "troupe_http_requests_in_flight", Help: "Requests being answered."}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_http_response_bytes_total", Help: "Bytes of answer bodies."}, []string{"route"}),
	}
	reg.MustRegister(m.duration, m.inFlight, m.bytes)
	return m
}

// logged wraps the whole HTTP surface.
func logged(next http.Handler, log *slog.Logger, m *requestMetrics) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx, event := telemetry.WithEvent(r.Context())
		cw := &countingWriter{ResponseWriter: w}
		m.inFlight.Inc()
		defer m.inFlight.Dec()

		defer func() {
			took := time.Since(start)
			route := routeOf(r.URL.Path)
			aborted := recover()
			status := cw.statusCode()
			if aborted != nil && cw.status == 0 {
				status = http.StatusInternalServerError // the client saw no answer at all
			}
			m.duration.WithLabelValues(route, methodLabel(r.Method), strconv.Itoa(status)).Observe(took.Seconds())
			m.bytes.WithLabelValues(route).Add(float64(cw.n))
			attrs := []slog.Attr{
				slog.String("method", r.Method), slog.String("path", clip(r.URL.Path)), slog.Int("status", status),
				slog.Int64("bytes", cw.n), slog.Duration(telemetry.KeyDuration, took.Round(time.Microsecond)),
				slog.String("remote", r.RemoteAddr),
			}
			if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
				attrs = append(attrs, slog.String("peer", r.TLS.PeerCertificates[0].Subject.CommonName))
			}
			level := slog.LevelInfo
			if status >= 500 || aborted != nil {
				level = slog.LevelWarn
			}
			if aborted != nil {
				attrs = append(attrs, slog.Bool("aborted", true))
			}
			if err, isErr := aborted.(error); aborted != nil && (!isErr || !errors.Is(err, http.ErrAbortHandler)) {
				level = slog.LevelError
				attrs = append(attrs, slog.Any("panic", aborted), slog.String("stack", string(debug.Stack())))
			}
			log.LogAttrs(ctx, max(level, event.Level()), "request", append(attrs, event.Attrs()...)...)
			if aborted != nil {
				panic(http.ErrAbortHandler) // the connection must not be used again
			}
		}()
		next.ServeHTTP(cw, r.WithContext(ctx))
	})
}

// maxPath is more than any real file's name; who sends more shall not fill the log.
const maxPath = 4 << 10

func clip(path string) string {
	if len(path) <= maxPath {
		return path
	}
	return strings.ToValidUTF8(path[:maxPath], "") + "…"
}

// routeOf keeps metric labels few: an agent's name must not become a label.
func routeOf(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	if len(parts) < 3 {
		return "other"
	}
	switch parts[0] {
	case "puppet", "puppet-ca", "status", "metrics", "puppet-admin-api":
		route := "/" + strings.Join(parts[:3], "/")
		if knownRoutes[route] {
			return route
		}
	}
	return "other"
}

// knownRoutes bounds the label's values: paths come from outside.
var knownRoutes = func() map[string]bool {
	m := map[string]bool{}
	for route := range strings.FieldsSeq(`
		/puppet/v3/node /puppet/v3/catalog /puppet/v3/facts /puppet/v3/report /puppet/v3/file_metadata
		/puppet/v3/file_metadatas /puppet/v3/file_content /puppet/v3/static_file_content /puppet/v3/file_bucket_file
		/puppet/v3/environments /puppet/v3/environment_classes /puppet/v3/environment_modules /puppet/v3/tasks
		/puppet/v3/plans /puppet/v4/catalog /puppet-ca/v1/certificate /puppet-ca/v1/certificate_request
		/puppet-ca/v1/certificate_revocation_list /puppet-ca/v1/certificate_status /puppet-ca/v1/certificate_statuses
		/puppet-ca/v1/clean /puppet-ca/v1/sign /puppet-ca/v1/certificate_renewal /puppet-ca/v1/expirations
		/status/v1/services /status/v1/simple /puppet-admin-api/v1/environment-cache /puppet-admin-api/v1/jruby-pool`) {
		m[route] = true
	}
	return m
}()

func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
		return m
	}
	return "other"
}

// countingWriter remembers what the log line needs. Unwrap lets
// http.ResponseController reach the connection.
type countingWriter struct {
	http.ResponseWriter

	status int
	n      int64
}

func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // 1xx announces the answer
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.n += int64(n)
	return n, err
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) statusCode() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}
