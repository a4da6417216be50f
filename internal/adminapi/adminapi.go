// Package adminapi is what an operator asks of a member: certificates, nodes,
// reports, a compile, a check of the journal. Server and client stand side by
// side, one file for each noun, so that both ends of a call are read together.
//
// The API listens on a Unix socket in the data folder. Whoever may open the
// socket (mode 0600) is the operator; there is no other authentication.
package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"troupe/internal/backup"
	"troupe/internal/ca"
	"troupe/internal/carrier"
	"troupe/internal/carrier/nats"
	"troupe/internal/classifier"
	"troupe/internal/cluster"
	"troupe/internal/code"
	"troupe/internal/deploy"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/stages"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// Member is what the API drives: the parts of one member.
type Member struct {
	Process func(ctx context.Context) Process // the member as a process

	Authority  *ca.Authority
	Cluster    *cluster.Cluster
	Carrier    *carrier.Carrier
	Store      *store.DB
	Journal    *journal.Journal
	Code       *code.Repo
	Deployer   *deploy.Deployer
	Compiler   Engine
	Classifier *classifier.Classifier
	Name       string                          // the member's certname
	HostName   string                          // $server_facts['servername']; "" means Name
	ServerIP   string                          // $server_facts['serverip']; "" leaves it out
	ServerIP6  string                          // likewise serverip6
	CustomOIDs map[string]string               // OID to short name, of custom_trusted_oid_mapping.yaml
	Reload     func(ctx context.Context) error // reads configuration and certificates again
	Heartbeats func(ctx context.Context) map[journal.Origin]Heartbeat
	Backup     func() backup.Member // the parts that a backup is made of

	NATS func(ctx context.Context) (*nats.Status, error) // nil, and a nil status, when there is none
}

// An Engine compiles catalogs and looks data up.
type Engine interface {
	engine.Compiler

	// Lookup returns a *fault.Error of kind Failed, with Puppet's own words, if the data or the code cannot be read. That
	// nothing is found is no error.
	Lookup(ctx context.Context, q engine.LookupRequest) (engine.LookupResult, error)
}

// API serves one member's operator.
type API struct {
	m      Member
	log    *slog.Logger
	ending chan struct{} // closed when Run is to end
}

// New returns an API. It opens nothing; see [API.Run].
func New(m Member, log *slog.Logger) *API {
	return &API{m: m, log: telemetry.Discard(log), ending: make(chan struct{})}
}

type handler func(r *http.Request) (any, error)

// routes lists every route that answers with one value; each file holds the
// handlers of one noun.
func (a *API) routes() map[string]handler {
	return map[string]handler{
		"GET /v1/certificates":             a.certificates,
		"POST /v1/certificates/sign":       a.sign,
		"POST /v1/certificates/revoke":     a.revoke,
		"POST /v1/certificates/clean":      a.clean,
		"POST /v1/certificates/generate":   a.generate,
		"POST /v1/certificates/renew":      a.renew,
		"GET /v1/certificates/expirations": a.expirations,
		"GET /v1/certificates/conflicts":   a.conflicts,
		"POST /v1/certificates/export":     a.export,
		"POST /v1/reseal":                  a.reseal,
		"GET /v1/rollover":                 a.rollover,
		"POST /v1/rollover":                a.rolloverStep,
		"POST /v1/rollover/renew":          a.rolloverRenew,
		"GET /v1/nodes":                    a.nodes,
		"GET /v1/nodes/{certname}":         a.node,
		"GET /v1/nodes/{certname}/facts":   a.facts,
		"GET /v1/nodes/{certname}/catalog": a.catalog,
		"GET /v1/nodes/{certname}/inputs":  a.inputs,
		"POST /v1/resources/exported":      a.exported,
		"GET /v1/reports":                  a.reports,
		"GET /v1/reports/{id}":             a.report,
		"POST /v1/compile":                 a.compile,
		"POST /v1/lookup":                  a.lookup,
		"POST /v1/redact":                  a.redact,
		"POST /v1/reload":                  a.reload,
		"GET /v1/condition/process":        a.process,
		"GET /v1/condition/journal":        a.journalCondition,
		"GET /v1/condition/authority":      a.authorityCondition,
		"GET /v1/condition/troupe":         a.clusterCondition,
		"GET /v1/condition/members":        a.probes,
		"GET /v1/condition/environments":   a.environmentConditions,
		"POST /v1/troupe/init":             a.initTroupe,
		"POST /v1/tokens":                  a.createToken,
		"GET /v1/tokens":                   a.tokens,
		"DELETE /v1/tokens/{id}":           a.revokeToken,
		"DELETE /v1/members/{name}":        a.removeMember,
		"POST /v1/members/{name}":          a.acceptMember,
		"GET /v1/status":                   a.status,
		"GET /v1/code":                     a.deployments,
		"PUT /v1/code/{environment}":       a.deploy,
		"DELETE /v1/code/{environment}":    a.withdraw,
	}
}

// maxBody bounds what an operator can send: facts for a compile are the largest.
const maxBody = 64 << 20

// Handler serves the API.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range a.routes() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			v, err := h(r)
			a.respond(w, r, v, err)
		})
	}
	mux.HandleFunc("POST /v1/journal/verify", a.verify) // tells its progress, so it writes the answer itself
	mux.HandleFunc("POST /v1/journal/verify-cluster", a.verifyCluster)
	mux.HandleFunc("POST /v1/backup", a.backup) // is a stream
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.respond(w, r, nil, fault.New(fault.NotFound, "no such route: %s %s", r.Method, r.URL.Path))
	})
	return mux
}

// wireError keeps a fault's kind across the socket.
type wireError struct {
	Kind    fault.Kind `json:"kind"`
	Message string     `json:"message"`
}

// respond is the only place that writes an answer. An operator sees the causes
// too: the socket is theirs alone.
func (a *API) respond(w http.ResponseWriter, r *http.Request, v any, err error) {
	body, merr := encode(v)
	if err = errors.Join(err, merr); err != nil {
		a.log.Info("operator's request failed", "route", r.Pattern, telemetry.KeyErr, err)
		body, merr = encode(wireError{fault.KindOf(err), err.Error()})
	}
	if merr != nil { // a number and a string always become JSON
		panic(merr)
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	if _, err := w.Write(body); err != nil {
		a.log.Debug("operator went away", telemetry.KeyErr, err)
	}
}

// encode leaves < and & in catalogs as they are: who compares one with a catalog
// that came another way must not find them changed.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// decode reads a request's JSON strictly.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.Wrap(fault.TooLarge, err, "the request has more than %d MiB", maxBody>>20)
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "read the request")
	}
	if d.More() {
		return fault.New(fault.Invalid, "read the request: there is more than one value in it")
	}
	return nil
}

// done is the answer of a request that has nothing to tell.
type done struct {
	OK bool `json:"ok"`
}

func (a *API) reload(r *http.Request) (any, error) {
	if err := a.m.Reload(r.Context()); err != nil {
		return nil, err
	}
	return done{true}, nil
}

// Reload makes the member read its configuration and certificates again.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil, nil)
}

// Run serves the API on the data folder's socket until ctx ends. It is called once.
func (a *API) Run(ctx context.Context, data string) error {
	l, err := listen(ctx, SocketPath(data))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	srv.RegisterOnShutdown(func() { close(a.ending) })
	return stages.ServeHTTP(ctx, srv, l, 10*time.Second)
}

// maxSocketPath is what sockaddr_un holds, less the final NUL (unix(7)).
const maxSocketPath = 107

// listen binds the socket with mode 0600. A stale socket of a member that was
// killed is removed; the journal's lock has already told that nobody else runs.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of the admin socket, %s, has %d characters and the kernel takes %d: choose a shorter data folder", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the stale admin socket: %w", err)
	}
	// Linux gives the file the mode of the unbound socket, so there is no moment
	// in which others could connect.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmodErr error
		err := c.Control(func(fd uintptr) { chmodErr = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmodErr)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	return l, nil
}
