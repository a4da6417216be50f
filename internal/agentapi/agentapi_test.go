package agentapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"troupe/internal/authz"
	"troupe/internal/classifier"
	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// openToServer lets the server's own certificate ask what the default rules
// deny to everybody, as in the recording of the real server.
const openToServer = `
authorization.rules += {
  match-request: { path: "^/(puppet|puppet-admin-api|metrics)/", type: regex, query-params: {} }
  allow: "puppet.example.test", sort-order: 998, name: "recorder"
}
authorization.rules += {
  match-request: { path: "^/puppet/v4/catalog/?$", type: regex, method: post }
  allow: "puppet.example.test", sort-order: 300, name: "recorder v4"
}
`

const agent = "agent.example.test"

// fakeEngine compiles by a function and remembers what it was asked.
type fakeEngine struct {
	mu      sync.Mutex
	compile func(engine.Request) (engine.Result, error)
	asked   []engine.Request
	classes int // how often EnvironmentClasses was called
	dropped []string
}

func (f *fakeEngine) Compile(_ context.Context, q engine.Request) (engine.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, q)
	if f.compile != nil {
		return f.compile(q)
	}
	body := `{"tags":[],"name":"` + string(q.Certname) + `","version":1,"code_id":"` + q.Version.ID + `","catalog_uuid":"c1","environment":"` +
		string(q.Version.Environment) + `","resources":[],"edges":[],"classes":[]}`
	return engine.Result{Catalog: []byte(body), CatalogUUID: "c1", ConfigVersion: "1"}, nil
}

func (f *fakeEngine) EnvironmentClasses(_ context.Context, v *code.Version) (json.RawMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.classes++
	return json.RawMessage(`{"files":[],"name":"` + string(v.Environment) + `"}`), nil
}

func (f *fakeEngine) Drop(e puppet.Environment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = append(f.dropped, string(e))
}

func (f *fakeEngine) Reload(e puppet.Environment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = append(f.dropped, string(e)+" with Ruby")
}

func (f *fakeEngine) last(t *testing.T) engine.Request {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		t.Fatal("the engine was not asked")
	}
	return f.asked[len(f.asked)-1]
}

// A site is an API with real neighbours but for the engine.
type site struct {
	t      testing.TB
	engine *fakeEngine
	db     *store.DB
	api    *API
	http   http.Handler
	envs   string // the environmentpath
}

type siteOptions struct {
	enc     string // command
	envs    string // environmentpath; "" makes one with the environments production and staging
	mounts  []code.FileMount
	options Options
}

func newSite(tb testing.TB, o siteOptions) *site {
	tb.Helper()
	dir := tb.TempDir()
	if o.envs == "" {
		o.envs = filepath.Join(dir, "environments")
		for _, e := range []string{"production", "staging"} {
			makeFile(tb, filepath.Join(o.envs, e, "manifests/site.pp"), "# "+e)
			makeFile(tb, filepath.Join(o.envs, e, "modules/site/files/motd"), "welcome to "+e+"\n")
		}
	}
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	db, err := store.Open(tb.Context(), filepath.Join(dir, "store"), j, store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	repo, err := code.New(code.Options{EnvironmentPath: []string{o.envs}, Dir: filepath.Join(dir, "code"), FileMounts: o.mounts})
	if err != nil {
		tb.Fatal(err)
	}
	run(tb, func() error { return errors.Join(db.Close(), j.Close()) }, j.Run, db.Run, repo.Run)

	nodes, err := classifier.New(classifier.Options{Command: o.enc, Cache: db})
	if err != nil {
		tb.Fatal(err)
	}
	rules, err := os.ReadFile("../authz/default.conf")
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := authz.Parse("auth.conf", append(rules, openToServer...))
	if err != nil {
		tb.Fatal(err)
	}
	s := &site{t: tb, engine: &fakeEngine{}, db: db, envs: o.envs}
	o.options.ServerName = "puppet.example.test"
	s.api = New(authz.NewGuard(authz.GuardOptions{Rules: parsed}), repo, s.engine, db, nodes, o.options)
	s.http = authz.Normalize(s.api.Handler())
	return s
}

// run runs each until the test ends, waits for all, and then ends what they used.
func run(tb testing.TB, end func() error, runs ...func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, r := range runs {
		all.Go(func() {
			if err := r(ctx); err != nil && ctx.Err() == nil {
				tb.Errorf("run: %v", err)
			}
		})
	}
	tb.Cleanup(func() {
		cancel()
		all.Wait()
		if err := end(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
}

func makeFile(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// An ask is one request of a test.
type ask struct {
	as     string // certname; "" for none
	method string // "" means GET
	target string
	header []string // "Name: value"
	body   string
	run    *string // the request comes from an edge, of a run with this code version
}

const acceptJSON = "Accept: application/json, text/pson"

// An answer is what came back, beside its body.
type answer struct {
	StatusCode int
	Header     http.Header
}

// do sends the request and returns the answer and its body.
func (s *site) do(a ask) (answer, string) {
	s.t.Helper()
	if a.method == "" {
		a.method = http.MethodGet
	}
	r := httptest.NewRequestWithContext(s.t.Context(), a.method, a.target, strings.NewReader(a.body))
	r.Header.Set("X-Puppet-Version", "8.10.0")
	for _, h := range a.header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	r.TLS = &tls.ConnectionState{}
	if a.as != "" {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{certificate(s.t, a.as)}}
	}
	if a.run != nil {
		r = r.WithContext(WithRun(r.Context(), *a.run))
	}
	w := httptest.NewRecorder()
	s.http.ServeHTTP(w, r)
	return answer{w.Code, w.Header()}, w.Body.String()
}

// want sends the request and checks status and body.
func (s *site) want(a ask, status int, body string) answer {
	s.t.Helper()
	r, got := s.do(a)
	if r.StatusCode != status || got != body {
		s.t.Errorf("%s %s\n got %d %s\nwant %d %s", a.method, a.target, r.StatusCode, got, status, body)
	}
	return r
}

// certificate has the name and the role pp_role "web"; the TLS stack has verified it.
func certificate(tb testing.TB, name string) *x509.Certificate {
	tb.Helper()
	role, err := asn1.MarshalWithParams("web", "utf8")
	if err != nil {
		tb.Fatal(err)
	}
	return &x509.Certificate{
		Subject:    pkix.Name{CommonName: name},
		Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 1, 13}, Value: role}},
	}
}

// catalogForm is the body of an agent's request for a catalog.
func catalogForm(facts string, more ...string) string {
	form := url.Values{
		"facts_format": {"application/json"}, "facts": {url.QueryEscape(facts)}, "environment": {"production"},
		"transaction_uuid": {"t1"}, "static_catalog": {"true"}, "checksum_type": {"sha256.md5"},
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	return form.Encode()
}

const factsOfAgent = `{"name":"agent.example.test","values":{"kernel":"Linux","sum":"1+1 = 100%"},"timestamp":"2026-11-20T08:00:00.5+00:00"}`

func postCatalog(body string, header ...string) ask {
	return ask{
		as: agent, method: http.MethodPost, target: "/puppet/v3/catalog/" + agent + "?environment=production", body: body,
		header: append([]string{"Content-Type: application/x-www-form-urlencoded", "Accept: application/vnd.puppet.rich+json, application/json, text/pson"}, header...),
	}
}

func TestEveryAnswerNamesTheVersion(t *testing.T) {
	s := newSite(t, siteOptions{options: Options{Version: "8.10.0"}})
	for _, a := range []ask{
		{target: "/puppet/v3/node/" + agent},
		{as: agent, target: "/puppet/v3/node/" + agent, header: []string{acceptJSON}},
		{as: agent, target: "/puppet/v3/environments", header: []string{acceptJSON}},
	} {
		if r, _ := s.do(a); r.Header.Get("X-Puppet-Version") != "8.10.0" {
			t.Errorf("%s: X-Puppet-Version = %q", a.target, r.Header.Get("X-Puppet-Version"))
		}
	}
}

func TestBodiesAreTakenCompressedAndWithinLimits(t *testing.T) {
	s := newSite(t, siteOptions{options: Options{Limits: Limits{Facts: 1000}}})
	put := func(body string, header ...string) ask {
		return ask{
			as: agent, method: http.MethodPut, target: "/puppet/v3/facts/" + agent + "?environment=production", body: body,
			header: append([]string{"Content-Type: application/json", acceptJSON}, header...),
		}
	}
	bomb := strings.Repeat(" ", 100_000)
	tooLarge := `{"message":"Payload Too Large: The body is larger than 1000 bytes, the limit for this request","issue_kind":"RUNTIME_ERROR"}`
	s.want(put(gzipped(t, factsOfAgent), "Content-Encoding: gzip"), http.StatusOK, "0")
	s.want(put(bomb), http.StatusRequestEntityTooLarge, tooLarge)
	s.want(put(gzipped(t, bomb), "Content-Encoding: gzip"), http.StatusRequestEntityTooLarge, tooLarge)
	s.want(put("this is no gzip at all", "Content-Encoding: gzip"), http.StatusBadRequest,
		`{"message":"Bad Request: The body is not what its Content-Encoding says: gzip: invalid header","issue_kind":"RUNTIME_ERROR"}`)
	s.want(put(gzipped(t, factsOfAgent)[:40], "Content-Encoding: gzip"), http.StatusBadRequest,
		`{"message":"Bad Request: The body ends too early","issue_kind":"RUNTIME_ERROR"}`)
	s.want(put(factsOfAgent, "Content-Encoding: br"), http.StatusUnsupportedMediaType,
		`{"message":"Unsupported Media Type: Content-Encoding br is not understood; send gzip, deflate or identity","issue_kind":"UNSUPPORTED_MEDIA_TYPE"}`)
}

func gzipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	if err := new(compressor).compress(&b, strings.NewReader(s), levelFast); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAnswersAreCompressedForThoseWhoAskForIt(t *testing.T) {
	s := newSite(t, siteOptions{})
	big := engine.Result{Catalog: []byte(`{"name":"` + strings.Repeat("x", 5000) + `"}`)}
	s.engine.compile = func(engine.Request) (engine.Result, error) { return big, nil }
	for header, want := range map[string]string{
		"gzip;q=1.0,deflate;q=0.6,identity;q=0.3": "gzip", "identity": "", "gzip;q=0": "",
	} {
		r, body := s.do(postCatalog(catalogForm(factsOfAgent), "Accept-Encoding: "+header))
		if got := r.Header.Get("Content-Encoding"); got != want || r.StatusCode != http.StatusOK {
			t.Errorf("Accept-Encoding %s: %d with Content-Encoding %q, want %q", header, r.StatusCode, got, want)
		}
		if want == "gzip" && len(body) > 1000 || want == "" && body != string(big.Catalog) {
			t.Errorf("Accept-Encoding %s: body has %d bytes", header, len(body))
		}
	}
}

func TestOverloadIsToldOnlyToThoseWhoComeBack(t *testing.T) {
	s := newSite(t, siteOptions{})
	s.engine.compile = func(q engine.Request) (engine.Result, error) {
		if q.Patient {
			return engine.Result{Catalog: []byte(`{}`)}, nil
		}
		return engine.Result{}, fault.New(fault.Unavailable, "too many catalogs are being compiled")
	}
	for version, wantStatus := range map[string]int{
		"7.26.0": 503, "5.3.1": 503, "8.2.0": 503, "9.0.0-rc1": 503, "7.23.0": 200, "8.1.0": 200, "5.3.0": 200, "": 200, "new": 200,
	} {
		a := postCatalog(catalogForm(factsOfAgent), "X-Puppet-Version: "+version)
		r, _ := s.do(a)
		if r.StatusCode != wantStatus {
			t.Errorf("agent %s got %d, want %d", version, r.StatusCode, wantStatus)
		}
		if after := r.Header.Get("Retry-After"); (after != "") != (wantStatus == 503) || after == "0" {
			t.Errorf("agent %s got Retry-After %q", version, after)
		}
	}
	nodes, err := s.db.Compiles(t.Context(), agent, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range nodes {
		if c.Failed {
			t.Error("a refusal was stored as a failed compile")
		}
	}
}
