// Package agentapi is the HTTP API that agents, the puppetserver command line
// and tools around Puppet speak: /puppet/v3, /puppet/v4 and /puppet-admin-api.
//
// A request takes one way: it is routed, admitted by [authz.Guard], handled by
// the function that its endpoint names, and answered; a handler returns an error
// and respond.go alone turns it into a status and the body that the real server
// would send. Each endpoint is one file; begin with catalog.go.
package agentapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"troupe/internal/authz"
	"troupe/internal/classifier"
	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/jetty"
	"troupe/internal/puppet"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// An Engine compiles catalogs and knows the classes of an environment.
type Engine interface {
	engine.Compiler
	// EnvironmentClasses returns the body of /puppet/v3/environment_classes.
	EnvironmentClasses(ctx context.Context, v *code.Version) (json.RawMessage, error)
	// Drop makes the next request read manifests and data of an environment again.
	Drop(e puppet.Environment)
	// Reload does so with its Ruby code as well.
	Reload(e puppet.Environment)
}

// Options tunes an API. The zero value is right but for ServerName.
type Options struct {
	ServerName         string             // this member's certname: X-Puppet-Compiler-Name
	HostName           string             // $servername, which in Puppet is the host's own name; "" means ServerName
	ServerIP           string             // $serverip; "" leaves the fact out
	ServerIP6          string             // $serverip6; "" leaves the fact out
	Version            string             // Puppet's version as agents see it; "" means 7.23.0
	DefaultEnvironment puppet.Environment // for a catalog in an unknown environment; "" means production
	MaxRetryAfter      time.Duration      // the longest Retry-After under overload; 0 means 30s
	Limits             Limits
	Log                *slog.Logger // nil discards
}

// Limits are the largest bodies that are read, after decompression. 0 means the default.
type Limits struct {
	Catalog int64 // form with facts: 64 MiB
	Facts   int64 // 32 MiB
	Report  int64 // 64 MiB
	Bucket  int64 // 256 MiB
}

func (l Limits) withDefaults() Limits {
	const mib = 1 << 20
	for _, v := range []struct {
		limit *int64
		def   int64
	}{{&l.Catalog, 64 * mib}, {&l.Facts, 32 * mib}, {&l.Report, 64 * mib}, {&l.Bucket, 256 * mib}} {
		if *v.limit <= 0 {
			*v.limit = v.def
		}
	}
	return l
}

// An API serves agents. It is safe for concurrent use.
type API struct {
	o      Options
	guard  *authz.Guard
	code   *code.Repo
	engine Engine
	db     *store.DB
	nodes  *classifier.Classifier
	log    *slog.Logger

	classTags classTags
	gzip      compressor
	bodies    bodies
	missing   missing
}

// New returns an API. It starts nothing.
func New(g *authz.Guard, c *code.Repo, e Engine, db *store.DB, nodes *classifier.Classifier, o Options) *API {
	if o.Version == "" {
		o.Version = "7.23.0"
	}
	if o.DefaultEnvironment == "" {
		o.DefaultEnvironment = "production"
	}
	if o.MaxRetryAfter <= 0 {
		o.MaxRetryAfter = 30 * time.Second
	}
	o.Limits = o.Limits.withDefaults()
	return &API{
		o: o, guard: g, code: c, engine: e, db: db, nodes: nodes,
		log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "agentapi"),
	}
}

// A route is one endpoint. The zero style answers errors as Puppet's own JSON.
type route struct {
	name   string // for logs
	method string
	path   string
	rest   bool  // more may follow the path: the key of the request
	style  style // of its errors
	handle func(http.ResponseWriter, *request) error
}

// routes lists all endpoints. The first match serves.
func (a *API) routes() []route {
	return []route{
		{"node", "GET", "/puppet/v3/node/", true, puppetStyle, a.getNode},
		{"catalog", "GET", "/puppet/v3/catalog/", true, puppetStyle, a.getCatalog},
		{"catalog", "POST", "/puppet/v3/catalog/", true, puppetStyle, a.getCatalog},
		{"facts", "PUT", "/puppet/v3/facts/", true, puppetStyle, a.putFacts},
		{"report", "PUT", "/puppet/v3/report/", true, puppetStyle, a.putReport},
		{"file_metadata", "GET", "/puppet/v3/file_metadata/", true, puppetStyle, a.getFileMetadata},
		{"file_metadatas", "GET", "/puppet/v3/file_metadatas/", true, puppetStyle, a.getFileMetadatas},
		{"file_content", "GET", "/puppet/v3/file_content/", true, puppetStyle, a.getFileContent},
		{"static_file_content", "GET", "/puppet/v3/static_file_content/", true, ringStyle, a.getStaticFileContent},
		{"file_bucket_file", "HEAD", "/puppet/v3/file_bucket_file/", true, puppetStyle, a.headBucketFile},
		{"file_bucket_file", "GET", "/puppet/v3/file_bucket_file/", true, puppetStyle, a.getBucketFile},
		{"file_bucket_file", "PUT", "/puppet/v3/file_bucket_file/", true, puppetStyle, a.putBucketFile},
		{"environments", "GET", "/puppet/v3/environments", false, puppetStyle, a.getEnvironments},
		{"environment_classes", "GET", "/puppet/v3/environment_classes", true, textStyle, a.getEnvironmentClasses},
		{"environment_modules", "GET", "/puppet/v3/environment_modules", true, textStyle, a.getEnvironmentModules},
		{"tasks", "GET", "/puppet/v3/tasks", false, textStyle, a.getTasks},
		{"tasks", "GET", "/puppet/v3/tasks/", true, textStyle, a.getTask},
		{"plans", "GET", "/puppet/v3/plans", false, textStyle, a.getPlans},
		{"plans", "GET", "/puppet/v3/plans/", true, textStyle, a.getPlan},
		{"catalog_v4", "POST", "/puppet/v4/catalog", false, textStyle, a.postCatalogV4},
		{"admin", "", "/puppet-admin-api/", true, textStyle, a.admin},
	}
}

// Handler returns the API as a handler for /puppet/ and /puppet-admin-api/. A
// path or method that no route has is 404 for everybody, as the real server's
// router stands before its authorization.
func (a *API) Handler() http.Handler {
	routes := a.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, rt := range routes {
			if key, ok := rt.match(r); ok {
				a.serve(w, r, rt, key)
				return
			}
		}
		jetty.NotFound(w, r)
	})
}

// match reports whether the route serves r, and the key that follows its path.
func (rt route) match(r *http.Request) (key string, ok bool) {
	key, ok = strings.CutPrefix(r.URL.Path, rt.path)
	if !ok || rt.method != "" && r.Method != rt.method || !rt.rest && key != "" {
		return "", false
	}
	return key, true
}

// serve admits, handles and answers one request.
func (a *API) serve(w http.ResponseWriter, r *http.Request, rt route, key string) {
	rec := &recorder{ResponseWriter: w}
	if rt.name != "admin" { // the real server leaves it out there
		rec.Header().Set("X-Puppet-Version", a.o.Version)
	}
	telemetry.Note(r.Context(), slog.String("endpoint", rt.name))
	id, err := a.guard.Admit(r)
	if err != nil {
		a.answerError(rec, r, refusalStyle, err)
		return
	}
	if err := rt.handle(rec, &request{Request: r, api: a, id: id, endpoint: rt.name, key: key, params: queryOf(r.URL)}); err != nil {
		a.answerError(rec, r, rt.style, err)
	}
}

// A recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

// WriteHeader remembers the first status.
func (w *recorder) WriteHeader(status int) {
	if w.code == 0 {
		w.code = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implies status 200.
func (w *recorder) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) begun() bool { return w.code != 0 }
