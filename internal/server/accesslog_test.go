package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/telemetry"
)

// This file shows the log line of requests that no real member gets.

func TestLogLineTellsHowARequestEnded(t *testing.T) {
	for name, c := range map[string]struct {
		handle  http.HandlerFunc
		want    map[string]any
		aborted bool
	}{
		"an answer without a status": {
			handle: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") },
			want:   map[string]any{"status": 200.0, "bytes": 4.0, "level": "INFO"},
		},
		"no answer": {
			handle: func(http.ResponseWriter, *http.Request) {},
			want:   map[string]any{"status": 200.0, "bytes": 0.0, "level": "INFO"},
		},
		"an announced answer": {
			handle: func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusNotFound)
			},
			want: map[string]any{"status": 404.0, "level": "INFO"},
		},
		"an error of the server": {
			handle: func(w http.ResponseWriter, r *http.Request) {
				telemetry.Note(r.Context(), slog.String("why", "disk"))
				w.WriteHeader(http.StatusInternalServerError)
			},
			want: map[string]any{"status": 500.0, "why": "disk", "level": "WARN"},
		},
		"an error that is the server's own fault": {
			handle: func(w http.ResponseWriter, r *http.Request) {
				telemetry.Escalate(r.Context(), slog.LevelError)
				w.WriteHeader(http.StatusInternalServerError)
			},
			want: map[string]any{"status": 500.0, "level": "ERROR"},
		},
		"a panic before the answer": {
			handle: func(http.ResponseWriter, *http.Request) { panic("broken invariant") },
			want:   map[string]any{"status": 500.0, "panic": "broken invariant", "aborted": true, "level": "ERROR"}, aborted: true,
		},
		"a panic inside the answer": {
			handle: func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "half")
				panic("broken invariant")
			},
			want: map[string]any{"status": 200.0, "bytes": 4.0, "aborted": true, "level": "ERROR"}, aborted: true,
		},
		"an answer that was cut on purpose": {
			handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			want:   map[string]any{"status": 500.0, "aborted": true, "panic": nil, "level": "WARN"}, aborted: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			h := logged(c.handle, slog.New(slog.NewJSONHandler(&out, nil)), newRequestMetrics(prometheus.NewRegistry()))
			func() {
				defer func() {
					if p := recover(); (p == http.ErrAbortHandler) != c.aborted {
						t.Errorf("panicked with %v, want the connection aborted: %t", p, c.aborted)
					}
				}()
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x", http.NoBody))
			}()
			var line map[string]any
			if err := json.Unmarshal(out.Bytes(), &line); err != nil {
				t.Fatalf("%v in %q, want one line", err, out.String())
			}
			for key, want := range c.want {
				if line[key] != want {
					t.Errorf("%s = %v, want %v", key, line[key], want)
				}
			}
			if _, ok := line["stack"]; ok != (line["panic"] != nil) {
				t.Errorf("stack in the line: %t, want one for a panic alone", ok)
			}
		})
	}
}

func TestLabelsAreFew(t *testing.T) {
	for path, want := range map[string]string{
		"/puppet/v3/catalog/web1.example.test":       "/puppet/v3/catalog",
		"/puppet-ca/v1/certificate/web1":             "/puppet-ca/v1/certificate",
		"/puppet-ca/v1/certificate_revocation_list/": "/puppet-ca/v1/certificate_revocation_list",
		"/status/v1/simple/server":                   "/status/v1/simple",
		"/puppet/v3/anything":                        "other",
		"/puppet/v3":                                 "other",
		"/metrics":                                   "other",
		"/":                                          "other",
		"":                                           "other",
		"//puppet/v3/catalog":                        "other",
		"/etc/passwd/x/y":                            "other",
	} {
		if got := routeOf(path); got != want {
			t.Errorf("routeOf(%q) = %q, want %q", path, got, want)
		}
	}
	for method, want := range map[string]string{"GET": "GET", "PROPFIND": "other", "": "other", fmt.Sprint(7): "other"} {
		if got := methodLabel(method); got != want {
			t.Errorf("methodLabel(%q) = %q, want %q", method, got, want)
		}
	}
}
