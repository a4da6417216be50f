// Package statusapi tells tools how this member does: Puppet Server's status
// service (/status/v1), Prometheus' /metrics and the read-only part of Jolokia
// (/metrics/v2) that collectors of Puppet Server use.
//
// A [Service] is one named part of the member with a check that asks the part
// itself; what it cannot establish in time is "unknown", never "running". Agents
// with a server_list and load balancers decide by GET /status/v1/simple/server,
// so a wrong "running" costs agent runs.
package statusapi

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"troupe/internal/authz"
	"troupe/internal/fault"
	"troupe/internal/jetty"
	"troupe/internal/telemetry"
)

// Bean is what Jolokia's read answers for one name: attribute to value.
type Bean map[string]any

// Options tunes an API.
type Options struct {
	Metrics http.Handler           // GET /metrics; nil answers 404
	Beans   func() map[string]Bean // /metrics/v2; nil means none
	Log     *slog.Logger
}

// API serves the status of one member.
type API struct {
	guard    *authz.Guard
	services []*checked
	o        Options
}

// New returns an API for the services, in the order in which they are shown.
func New(g *authz.Guard, services []Service, o Options) *API {
	o.Log = telemetry.Discard(o.Log)
	a := &API{guard: g, services: make([]*checked, len(services)), o: o}
	for i, s := range services {
		a.services[i] = &checked{Service: s, running: make(chan struct{}, maxChecks)}
	}
	return a
}

// Handler serves /status/v1, /metrics and /metrics/v2.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /status/v1/services":        a.all,
		"GET /status/v1/services/{name}": a.one,
		"GET /status/v1/simple":          a.simpleAll,
		"GET /status/v1/simple/{name}":   a.simpleOne,
		"GET /metrics":                   a.metrics,
		"GET /metrics/v2":                a.jolokiaGet,
		"GET /metrics/v2/{rest...}":      a.jolokiaGet,
		"POST /metrics/v2/{rest...}":     a.jolokiaPost,
		"/metrics/v2/{rest...}":          a.jolokiaOther,
		"/status/":                       a.nowhere,
	} {
		mux.HandleFunc(pattern, a.handle(h))
	}
	mux.HandleFunc("/", jetty.NotFound) // before rules, as in Puppet Server
	return mux
}

func (a *API) nowhere(w http.ResponseWriter, r *http.Request) error {
	jetty.NotFound(w, r)
	return nil
}

// handle is the only place that turns an error into a response.
func (a *API) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, err := a.guard.Admit(r)
		if err == nil {
			err = h(w, r)
		}
		if err == nil {
			return
		}
		telemetry.Note(r.Context(), slog.Any(telemetry.KeyErr, err))
		switch fault.KindOf(err) {
		case fault.Denied:
			writeRefusal(w, fault.Message(err))
		case fault.Invalid:
			// A struct of two strings always becomes JSON.
			_ = writeJSON(w, http.StatusBadRequest, problem{"data-invalid", fault.Message(err)})
		case fault.TooLarge:
			writeText(w, http.StatusRequestEntityTooLarge, fault.Message(err))
		case fault.NotFound:
			writeText(w, http.StatusNotFound, fault.Message(err))
		default:
			a.o.Log.Error("status request failed", "path", r.URL.Path, telemetry.KeyErr, err)
			writeText(w, http.StatusInternalServerError, fault.Message(err))
		}
	}
}

// problem is the status service's form of an error.
type problem struct {
	Kind string `json:"kind"`
	Msg  string `json:"msg"`
}

func (a *API) all(w http.ResponseWriter, r *http.Request) error {
	level, timeout, err := detail(r)
	if err != nil {
		return err
	}
	list := a.checkAll(r.Context(), level, timeout)
	out := make(map[string]status, len(list))
	for i, s := range list {
		out[a.services[i].Name] = s
	}
	return writeJSON(w, codeOf(worst(list)), out)
}

func (a *API) one(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	i := a.index(name)
	if i < 0 {
		return writeJSON(w, http.StatusNotFound, problem{"service-not-found", "No status information found for service " + name})
	}
	level, timeout, err := detail(r)
	if err != nil {
		return err
	}
	if v := r.URL.Query().Get("service_status_version"); v != "" && v != "1" {
		return wrongVersion(w, name, v)
	}
	s := a.check(r.Context(), a.services[i], level, timeout)
	s.ServiceName = name
	return writeJSON(w, codeOf(s.State), s)
}

// wrongVersion answers a question for a status in a form that no service has: all have version 1.
func wrongVersion(w http.ResponseWriter, name, version string) error {
	if _, err := strconv.Atoi(version); err != nil {
		return fault.New(fault.Invalid, "Invalid service_status_version. Should be an integer but was %s", version)
	}
	return writeJSON(w, http.StatusBadRequest, problem{
		"service-status-version-not-found", "No status function with version " + version + " found for service " + name,
	})
}

func (a *API) simpleAll(w http.ResponseWriter, r *http.Request) error {
	timeout, err := timeoutOf(r, levelCritical)
	if err != nil {
		return err
	}
	state := worst(a.checkAll(r.Context(), levelCritical, timeout))
	writeText(w, codeOf(state), string(state))
	return nil
}

func (a *API) simpleOne(w http.ResponseWriter, r *http.Request) error {
	i := a.index(r.PathValue("name"))
	if i < 0 {
		writeText(w, http.StatusNotFound, "not found: "+r.PathValue("name"))
		return nil
	}
	timeout, err := timeoutOf(r, levelCritical)
	if err != nil {
		return err
	}
	s := a.check(r.Context(), a.services[i], levelCritical, timeout)
	writeText(w, codeOf(s.State), string(s.State))
	return nil
}

func (a *API) metrics(w http.ResponseWriter, r *http.Request) error {
	if a.o.Metrics == nil {
		return a.nowhere(w, r)
	}
	a.o.Metrics.ServeHTTP(w, r)
	return nil
}

func (a *API) index(name string) int {
	return slices.IndexFunc(a.services, func(s *checked) bool { return s.Name == name })
}

// The levels of detail that a client can ask for.
const (
	levelCritical = "critical"
	levelInfo     = "info"
	levelDebug    = "debug"
)

func detail(r *http.Request) (level string, timeout time.Duration, err error) {
	query := r.URL.Query()
	level = query.Get("level")
	switch {
	case !query.Has("level"):
		level = levelInfo
	case slices.Contains([]string{levelCritical, levelInfo, levelDebug}, level):
	default:
		return "", 0, fault.New(fault.Invalid, "Invalid level: :%s", level)
	}
	timeout, err = timeoutOf(r, level)
	return level, timeout, err
}

// maxTimeout bounds what a client can ask for: a check holds resources.
const maxTimeout = 5 * time.Minute

// timeoutOf reads the parameter timeout; the defaults are those of
// trapperkeeper-status (status_core.clj, check-timeout).
func timeoutOf(r *http.Request, level string) (time.Duration, error) {
	v := r.URL.Query().Get("timeout")
	if v == "" && level == levelCritical {
		return 30 * time.Second, nil
	}
	if v == "" {
		return time.Minute, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fault.New(fault.Invalid, "Invalid timeout. Should be an integer but was %s", v)
	}
	if n <= 0 {
		return 0, fault.New(fault.Invalid, "Invalid timeout. Timeout must be greater than zero but was %d", n)
	}
	return min(time.Duration(min(n, 3600))*time.Second, maxTimeout), nil
}

func codeOf(s State) int {
	if s == StateRunning {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// writeJSON fails only when v is not fit for JSON; then nothing was written.
func writeJSON(w http.ResponseWriter, code int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that went away needs no answer
	return nil
}

func writeText(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain;charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, s) // as above
}

// writeRefusal answers without a content type, as puppetserver does.
func writeRefusal(w http.ResponseWriter, s string) {
	w.Header()["Content-Type"] = nil // or net/http would guess one
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, s) // as above
}
