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
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"troupe/internal/authz"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// State is a service's state, in the words of Puppet's status service.
type State string

// The states, most severe first: the order in which several are summed up.
const (
	StateError    State = "error"
	StateUnknown  State = "unknown"
	StateStopping State = "stopping"
	StateStarting State = "starting"
	StateRunning  State = "running"
)

var severity = []State{StateError, StateUnknown, StateStopping, StateStarting, StateRunning}

// Service is one line of the status. Check must obey ctx; detail is the level
// that the client asked for: critical, info or debug.
type Service struct {
	Name    string
	Version string
	Check   func(ctx context.Context, detail string) (State, map[string]any)
}

// Bean is what Jolokia's read answers for one name: attribute to value.
type Bean map[string]any

// Options tunes an API.
type Options struct {
	Metrics http.Handler           // GET /metrics; nil answers 404
	Beans   func() map[string]Bean // /metrics/v2; nil means none
	Version string                 // X-Puppet-Version
	Log     *slog.Logger
}

// API serves the status of one member.
type API struct {
	guard    *authz.Guard
	services []Service
	o        Options
}

// New returns an API for the services, in the order in which they are shown.
func New(g *authz.Guard, services []Service, o Options) *API {
	o.Log = telemetry.Discard(o.Log)
	return &API{guard: g, services: services, o: o}
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
		"GET /metrics/v2/{rest...}":      a.jolokiaGet,
		"POST /metrics/v2/{rest...}":     a.jolokiaPost,
		"/":                              a.notFound,
	} {
		mux.HandleFunc(pattern, a.handle(h))
	}
	return mux
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
			writeText(w, http.StatusForbidden, fault.Message(err))
		case fault.Invalid:
			writeJSON(w, http.StatusBadRequest, map[string]string{"kind": "data-invalid", "msg": fault.Message(err)})
		case fault.NotFound:
			writeText(w, http.StatusNotFound, fault.Message(err))
		default:
			a.o.Log.Error("status request failed", "path", r.URL.Path, telemetry.KeyErr, err)
			writeText(w, http.StatusInternalServerError, fault.Message(err))
		}
	}
}

func (a *API) notFound(_ http.ResponseWriter, r *http.Request) error {
	return fault.New(fault.NotFound, "Not Found: %s", r.URL.Path)
}

// status is the JSON of one service, keys as Puppet's status service has them.
type status struct {
	ServiceVersion string         `json:"service_version"`
	StatusVersion  int            `json:"service_status_version"`
	DetailLevel    string         `json:"detail_level"`
	State          State          `json:"state"`
	Status         map[string]any `json:"status"`
	ActiveAlerts   []any          `json:"active_alerts"`
	ServiceName    string         `json:"service_name,omitempty"`
}

func (a *API) all(w http.ResponseWriter, r *http.Request) error {
	level, timeout, err := detail(r)
	if err != nil {
		return err
	}
	list := a.check(r.Context(), a.services, level, timeout)
	out := make(map[string]status, len(list))
	for i, s := range list {
		out[a.services[i].Name] = s
	}
	return writeJSON(w, codeOf(worst(list)), out)
}

func (a *API) one(w http.ResponseWriter, r *http.Request) error {
	level, timeout, err := detail(r)
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	i := a.index(name)
	if i < 0 {
		return writeJSON(w, http.StatusNotFound, map[string]string{
			"kind": "service-not-found", "msg": "No status information found for service " + name,
		})
	}
	s := a.check(r.Context(), a.services[i:i+1], level, timeout)[0]
	s.ServiceName = name
	return writeJSON(w, codeOf(s.State), s)
}

func (a *API) simpleAll(w http.ResponseWriter, r *http.Request) error {
	state := worst(a.check(r.Context(), a.services, "critical", 30*time.Second))
	writeText(w, codeOf(state), string(state))
	return nil
}

func (a *API) simpleOne(w http.ResponseWriter, r *http.Request) error {
	i := a.index(r.PathValue("name"))
	if i < 0 {
		writeText(w, http.StatusNotFound, "not found: "+r.PathValue("name"))
		return nil
	}
	s := a.check(r.Context(), a.services[i:i+1], "critical", 30*time.Second)[0]
	writeText(w, codeOf(s.State), string(s.State))
	return nil
}

func (a *API) metrics(w http.ResponseWriter, r *http.Request) error {
	if a.o.Metrics == nil {
		return a.notFound(w, r)
	}
	a.o.Metrics.ServeHTTP(w, r)
	return nil
}

func (a *API) index(name string) int {
	return slices.IndexFunc(a.services, func(s Service) bool { return s.Name == name })
}

// check asks the services side by side; one that does not answer in time is unknown.
func (a *API) check(ctx context.Context, services []Service, level string, timeout time.Duration) []status {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out := make([]status, len(services))
	var wg sync.WaitGroup
	for i, s := range services {
		wg.Go(func() {
			state, facts := s.Check(ctx, level)
			if ctx.Err() != nil {
				state, facts = StateUnknown, map[string]any{"reason": "status check timed out"}
			}
			if facts == nil {
				facts = map[string]any{}
			}
			out[i] = status{ServiceVersion: s.Version, StatusVersion: 1, DetailLevel: level, State: state, Status: facts, ActiveAlerts: []any{}}
		})
	}
	wg.Wait()
	return out
}

// detail reads level and timeout; the default timeouts are Puppet's (30, 60, 60 s).
func detail(r *http.Request) (level string, timeout time.Duration, err error) {
	q := r.URL.Query()
	level = q.Get("level")
	switch level {
	case "":
		level, timeout = "info", time.Minute
	case "critical":
		timeout = 30 * time.Second
	case "info", "debug":
		timeout = time.Minute
	default:
		return "", 0, fault.New(fault.Invalid, "Invalid level: :%s", level)
	}
	if v := q.Get("timeout"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return "", 0, fault.New(fault.Invalid, "Invalid timeout. Should be an integer but was %s", v)
		}
		if n <= 0 {
			return "", 0, fault.New(fault.Invalid, "Invalid timeout. Timeout must be greater than zero but was %d", n)
		}
		timeout = min(time.Duration(n)*time.Second, 5*time.Minute)
	}
	return level, timeout, nil
}

func worst(list []status) State {
	for _, s := range severity {
		if slices.ContainsFunc(list, func(x status) bool { return x.State == s }) {
			return s
		}
	}
	return StateUnknown
}

func codeOf(s State) int {
	if s == StateRunning {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func writeJSON(w http.ResponseWriter, code int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(code)
	_, err = w.Write(body)
	return err
}

func writeText(w http.ResponseWriter, code int, s string) {
	if code != http.StatusForbidden { // puppetserver's refusal has no content type
		w.Header().Set("Content-Type", "text/plain;charset=utf-8")
	}
	w.WriteHeader(code)
	_, _ = strings.NewReader(s).WriteTo(w) // a client that went away needs no answer
}
