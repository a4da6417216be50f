package agentapi

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

func TestACatalogIsCompiledFromWhatTheAgentSent(t *testing.T) {
	s := newSite(t, siteOptions{options: Options{ServerIP: "192.0.2.1"}})
	r, body := s.do(postCatalog(catalogForm(factsOfAgent)))
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/vnd.puppet.rich+json; charset=utf-8" {
		t.Fatalf("got %d %s: %s", r.StatusCode, r.Header.Get("Content-Type"), body)
	}
	if got := r.Header.Get("X-Puppet-Compiler-Name"); got != "puppet.example.test" {
		t.Errorf("X-Puppet-Compiler-Name = %q", got)
	}

	got := s.engine.last(t)
	want := engine.Request{
		Certname: agent, Classes: json.RawMessage("[]"), Parameters: json.RawMessage("{}"),
		Facts: puppet.Facts{Certname: agent, Environment: "production", Values: json.RawMessage(`{"kernel":"Linux","sum":"1+1 = 100%"}`)},
		Trusted: puppet.Trusted{
			Authenticated: "remote", Certname: agent, Extensions: map[string]string{"pp_role": "web"}, Hostname: "agent", Domain: "example.test",
		},
		ServerFacts:     map[string]string{"servername": "puppet.example.test", "serverip": "192.0.2.1"},
		TransactionUUID: "t1", Rich: true, Static: true, ChecksumTypes: []string{"sha256", "md5"},
	}
	ignore := cmpopts.IgnoreFields(engine.Request{}, "Version", "Facts.Timestamp")
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("the engine was asked something else (-want +got):\n%s", diff)
	}

	facts, err := s.db.Facts(t.Context(), agent)
	if err != nil || string(facts.Values) != string(want.Facts.Values) || facts.Environment != "production" {
		t.Errorf("stored facts are %+v (%v)", facts, err)
	}
	meta, stored, err := s.db.Catalog(t.Context(), agent)
	if err != nil || string(stored) != body || meta.CodeID != got.Version.ID || meta.TransactionUUID != "t1" {
		t.Errorf("stored catalog is %+v %s (%v)", meta, stored, err)
	}
	compiles, err := s.db.Compiles(t.Context(), agent, 10)
	if err != nil || len(compiles) != 1 || compiles[0].Failed || compiles[0].Bytes != len(body) {
		t.Errorf("stored compiles are %+v (%v)", compiles, err)
	}
}

func TestACatalogComesInTheFormatThatTheAgentPrefers(t *testing.T) {
	s := newSite(t, siteOptions{})
	s.engine.compile = func(engine.Request) (engine.Result, error) {
		return engine.Result{Catalog: []byte(`{"b":1,"a":2}`)}, nil
	}
	tests := []struct {
		accept, contentType, body string
		rich                      bool
	}{
		{"application/vnd.puppet.rich+json, application/json, text/pson", "application/vnd.puppet.rich+json; charset=utf-8", `{"b":1,"a":2}`, true},
		{"application/json, text/pson", "application/json;charset=utf-8", `{"b":1,"a":2}`, false},
		{"text/pson", "text/pson", `{"b":1,"a":2}`, false},
		{"pson, yaml", "text/pson", `{"b":1,"a":2}`, false},
		{"application/vnd.puppet.rich+msgpack, application/json", "application/vnd.puppet.rich+msgpack", "\x82\xa1b\x01\xa1a\x02", true},
		{"application/x-msgpack;q=0.1, application/json", "application/x-msgpack", "\x82\xa1b\x01\xa1a\x02", false},
		{"*/*", "application/vnd.puppet.rich+json; charset=utf-8", `{"b":1,"a":2}`, true},
	}
	for _, tt := range tests {
		r := s.want(postCatalog(catalogForm(factsOfAgent), "Accept: "+tt.accept), http.StatusOK, tt.body)
		if got := r.Header.Get("Content-Type"); got != tt.contentType {
			t.Errorf("Accept %s: Content-Type = %q, want %q", tt.accept, got, tt.contentType)
		}
		if got := s.engine.last(t).Rich; got != tt.rich {
			t.Errorf("Accept %s: rich = %t, want %t", tt.accept, got, tt.rich)
		}
	}
}

func TestACatalogWithRawBytesGoesOnlyToThoseWhoTakePSON(t *testing.T) {
	s := newSite(t, siteOptions{})
	s.engine.compile = func(engine.Request) (engine.Result, error) {
		return engine.Result{Catalog: []byte("{\"a\":\"\xff\"}"), PSON: true}, nil
	}
	r := s.want(postCatalog(catalogForm(factsOfAgent)), http.StatusOK, "{\"a\":\"\xff\"}")
	if got := r.Header.Get("Content-Type"); got != "text/pson" {
		t.Errorf("Content-Type = %q", got)
	}
	s.want(postCatalog(catalogForm(factsOfAgent), "Accept: application/json"), http.StatusNotAcceptable,
		`{"message":"Not Acceptable: No supported formats are acceptable (Accept: application/json)","issue_kind":"UNSUPPORTED_FORMAT"}`)
	if _, body, err := s.db.Catalog(t.Context(), agent); err != nil || string(body) != "{\"a\":\"\ufffd\"}" {
		t.Errorf("stored catalog is %q (%v)", body, err)
	}
}

func TestAFailedCompileIsStoredAndToldInPuppetsWords(t *testing.T) {
	s := newSite(t, siteOptions{})
	const words = "Evaluation Error: Error while evaluating a Function Call, no (file: /etc/x.pp, line: 1, column: 2) on node " + agent
	s.engine.compile = func(q engine.Request) (engine.Result, error) {
		cause := &engine.CompileError{Certname: q.Certname, Msg: words, Logs: []engine.Log{{Level: "warning", Message: "careful"}}}
		return engine.Result{}, fault.Wrap(fault.Failed, cause, "%s", words)
	}
	s.want(postCatalog(catalogForm(factsOfAgent)), http.StatusInternalServerError,
		`{"message":"Server Error: `+words+`","issue_kind":"RUNTIME_ERROR"}`)
	compiles, err := s.db.Compiles(t.Context(), agent, 10)
	if err != nil || len(compiles) != 1 || !compiles[0].Failed || compiles[0].Error != words || len(compiles[0].Logs) != 1 {
		t.Errorf("stored compiles are %+v (%v)", compiles, err)
	}
	if _, _, err := s.db.Catalog(t.Context(), agent); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a failed compile left a catalog (%v)", err)
	}
}

func TestFactsMayComeByGETOrNotAtAll(t *testing.T) {
	s := newSite(t, siteOptions{})
	get := func(query string) ask {
		return ask{as: agent, target: "/puppet/v3/catalog/" + agent + "?" + query, header: []string{acceptJSON}}
	}
	if r, body := s.do(get("environment=production")); r.StatusCode != http.StatusOK {
		t.Fatalf("without facts: %d %s", r.StatusCode, body)
	}
	if got := s.engine.last(t).Facts; got.Certname != agent || len(got.Values) != 0 {
		t.Errorf("facts of an unknown node are %+v", got)
	}
	if r, body := s.do(get(catalogForm(factsOfAgent))); r.StatusCode != http.StatusOK {
		t.Fatalf("with facts: %d %s", r.StatusCode, body)
	}
	s.engine.asked = nil
	if r, body := s.do(get("environment=production")); r.StatusCode != http.StatusOK {
		t.Fatalf("without facts: %d %s", r.StatusCode, body)
	}
	if got := string(s.engine.last(t).Facts.Values); got != `{"kernel":"Linux","sum":"1+1 = 100%"}` {
		t.Errorf("stored facts are not used, but %s", got)
	}
}

func TestAnUnknownEnvironmentBecomesTheDefaultOne(t *testing.T) {
	s := newSite(t, siteOptions{})
	a := postCatalog(catalogForm(factsOfAgent, "environment", "nosuch", "check_environment", "true"))
	if r, body := s.do(a); r.StatusCode != http.StatusOK || !strings.Contains(body, `"environment":"production"`) {
		t.Errorf("got %d %s", r.StatusCode, body)
	}
	if got := s.engine.last(t).Version.Environment; got != "production" {
		t.Errorf("compiled in %s", got)
	}
}

// enc makes a classifier out of a shell script.
func enc(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "enc")
	makeFile(t, path, script)
	return "/bin/sh " + path
}

func TestTheClassifierDecides(t *testing.T) {
	const inStaging = "echo 'environment: staging'; echo 'classes: {site: {a: yes}}'; echo 'parameters: {p: 1}'"
	s := newSite(t, siteOptions{enc: enc(t, inStaging)})

	r, body := s.do(postCatalog(catalogForm(factsOfAgent, "check_environment", "true")))
	var empty struct {
		Environment string
		UUID        string `json:"catalog_uuid"`
		Resources   []any
	}
	if err := json.Unmarshal([]byte(body), &empty); err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s (%v)", r.StatusCode, body, err)
	}
	if empty.Environment != "staging" || len(empty.Resources) != 0 || len(empty.UUID) != 36 || len(s.engine.asked) != 0 {
		t.Errorf("an agent in another environment got %s", body)
	}

	if r, body := s.do(postCatalog(catalogForm(factsOfAgent))); r.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s", r.StatusCode, body)
	}
	got := s.engine.last(t)
	if got.Version.Environment != "staging" || string(got.Classes) != `{"site":{"a":true}}` || string(got.Parameters) != `{"p":1}` {
		t.Errorf("compiled in %s with %s and %s", got.Version.Environment, got.Classes, got.Parameters)
	}

	s.want(ask{as: agent, target: "/puppet/v3/node/" + agent + "?environment=production", header: []string{acceptJSON}}, http.StatusOK,
		`{"name":"agent.example.test","environment":"staging","classes":{"site":{"a":true}},"parameters":{"p":1,"kernel":"Linux","sum":"1+1 = 100%"}}`)
}

func TestAClassifierThatFailsIsNamed(t *testing.T) {
	tests := []struct{ name, script, catalog, node string }{
		{
			"it exits 1", "echo out; echo err >&2; exit 1",
			`Failed when searching for node agent.example.test: Failed to find agent.example.test via exec: Execution of '/bin/sh ENC agent.example.test' returned 1: out`,
			`Server Error: Failed to find agent.example.test via exec: Execution of '/bin/sh ENC agent.example.test' returned 1: out`,
		},
		{
			"it knows no such node", "true",
			`Could not find node 'agent.example.test'; cannot compile`,
			`Not Found: Could not find node agent.example.test`,
		},
		{
			"its environment does not exist", "echo 'environment: gone'",
			`Failed when searching for node agent.example.test: Could not find a directory environment named 'gone' anywhere in the path: ENVS. Does the directory exist?`,
			``,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			command := enc(t, tt.script)
			s := newSite(t, siteOptions{enc: command})
			clean := func(body string) string {
				var e struct{ Message string }
				if err := json.Unmarshal([]byte(body), &e); err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				return strings.NewReplacer(strings.Fields(command)[1], "ENC", s.envs, "ENVS").Replace(e.Message)
			}
			r, body := s.do(postCatalog(catalogForm(factsOfAgent)))
			if got := clean(body); r.StatusCode != http.StatusInternalServerError || got != "Server Error: "+tt.catalog {
				t.Errorf("catalog:\n got %d %s\nwant 500 Server Error: %s", r.StatusCode, got, tt.catalog)
			}
			if tt.node == "" {
				return
			}
			_, body = s.do(ask{as: agent, target: "/puppet/v3/node/" + agent + "?environment=production", header: []string{acceptJSON}})
			if got := clean(body); got != tt.node {
				t.Errorf("node:\n got %s\nwant %s", got, tt.node)
			}
		})
	}
}

func TestAClassifierThatFailedIsMarkedInTheCompile(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "broken")
	s := newSite(t, siteOptions{enc: enc(t, "test -e "+flag+" && exit 1; echo 'classes: [site]'")})
	for _, broken := range []bool{false, true} {
		if broken {
			makeFile(t, flag, "")
		}
		if r, body := s.do(postCatalog(catalogForm(factsOfAgent))); r.StatusCode != http.StatusOK {
			t.Fatalf("broken %t: %d %s", broken, r.StatusCode, body)
		}
		if got := string(s.engine.last(t).Classes); got != `["site"]` {
			t.Errorf("broken %t: classes are %s", broken, got)
		}
		compiles, err := s.db.Compiles(t.Context(), agent, 1)
		if err != nil || len(compiles) != 1 {
			t.Fatalf("compiles: %v (%v)", compiles, err)
		}
		marked := len(compiles[0].Logs) == 1 && compiles[0].Logs[0].Source == "troupe"
		if marked != broken {
			t.Errorf("broken %t: logs of the compile are %+v", broken, compiles[0].Logs)
		}
	}
}

func TestExportedResourcesAreStoredWithTheCatalog(t *testing.T) {
	s := newSite(t, siteOptions{})
	s.engine.compile = func(q engine.Request) (engine.Result, error) {
		return engine.Result{Catalog: []byte(`{}`), Exported: []puppet.Resource{{
			Type: "Notify", Title: "x", Exported: true, Parameters: json.RawMessage(`{"message":"m"}`), Certname: q.Certname,
		}}}, nil
	}
	s.want(postCatalog(catalogForm(factsOfAgent)), http.StatusOK, `{}`)
	got, err := s.db.ExportedResources(t.Context(), store.ResourceQuery{Type: "Notify"})
	if err != nil || len(got) != 1 || got[0].Title != "x" {
		t.Errorf("exported resources are %+v (%v)", got, err)
	}
}

func TestAServiceCompilesForOthersByV4(t *testing.T) {
	s := newSite(t, siteOptions{})
	s.engine.compile = func(engine.Request) (engine.Result, error) {
		return engine.Result{Catalog: []byte(`{"name":"n1"}`), Logs: []engine.Log{
			{Level: "warning", Message: "hello", Source: "Puppet", Tags: []string{"warning"}},
			{Level: "notice", Message: "Compiled catalog for n2 in environment production in 0.01 seconds", Source: "Puppet", Tags: []string{"notice"}},
		}}, nil
	}
	post := func(body string) ask {
		return ask{as: "puppet.example.test", method: http.MethodPost, target: "/puppet/v4/catalog", body: body}
	}
	s.want(post(`{"certname":"n1","persistence":{"facts":true,"catalog":true},"environment":"staging",
		"facts":{"values":{"a":1}},"trusted_facts":{"values":{"authenticated":"remote","certname":"n1","extensions":{"pp_role":"db"}}},
		"job_id":"7","transaction_uuid":"t4","options":{"log_level":"info"}}`), http.StatusOK, `{"catalog":{"name":"n1"}}`)
	got := s.engine.last(t)
	want := engine.Request{
		Certname: "n1", Classes: json.RawMessage("[]"), Parameters: json.RawMessage("{}"),
		Facts:       puppet.Facts{Certname: "n1", Environment: "staging", Values: json.RawMessage(`{"a":1}`)},
		Trusted:     puppet.Trusted{Authenticated: "remote", Certname: "n1", Extensions: map[string]string{"pp_role": "db"}},
		ServerFacts: map[string]string{"servername": "puppet.example.test"},
		JobID:       "7", TransactionUUID: "t4", Unfiltered: true, LogLevel: "info",
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(engine.Request{}, "Version")); diff != "" {
		t.Errorf("the engine was asked something else (-want +got):\n%s", diff)
	}
	if _, err := s.db.Facts(t.Context(), "n1"); err != nil {
		t.Errorf("facts were not stored: %v", err)
	}
	if _, _, err := s.db.Catalog(t.Context(), "n1"); err != nil {
		t.Errorf("the catalog was not stored: %v", err)
	}

	s.want(post(`{"certname":"n2","persistence":{"facts":false,"catalog":false},"environment":"production","options":{"capture_logs":true,"log_level":"warning"}}`),
		http.StatusOK, `{"catalog":{"name":"n1"},"logs":[{"level":"warning","message":"hello","source":"Puppet","tags":["warning"],"time":"0001-01-01T00:00:00Z","file":null,"line":null}]}`)
	if _, _, err := s.db.Catalog(t.Context(), "n2"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a catalog was stored against the request's wish (%v)", err)
	}
	s.want(post(`{"certname":"n2","surprise":1}`), http.StatusBadRequest, `Invalid input: unknown field "surprise"`)
	for body, want := range map[string]string{
		`[]`:                              "the body is array instead of a map",
		`{"certname":7}`:                  "certname is number instead of a string",
		`{"persistence":[]}`:              "persistence is array instead of a map",
		`{"persistence":{"facts":"yes"}}`: "persistence.facts is string instead of true or false",
		`{"certname":"n2","persistence":{"facts":false,"catalog":false},"environment":"production","trusted_facts":{"values":{"extensions":"x"}}}`: "trusted_facts.values.extensions is string instead of a map",
	} {
		s.want(post(body), http.StatusBadRequest, "Invalid input: "+want)
	}
	s.want(post(`{"certname":"n2","persistence":{"facts":false,"catalog":false},"environment":"nosuch"}`), http.StatusNotFound,
		"Could not find environment 'nosuch'")
	s.want(ask{as: agent, method: http.MethodPost, target: "/puppet/v4/catalog", body: `{}`}, http.StatusForbidden,
		"Forbidden request: /puppet/v4/catalog (method :post). Please see the server logs for details.")
}

func TestARunKeepsItsCodeWhileItIsDeployed(t *testing.T) {
	s := newSite(t, siteOptions{})
	var during *code.Version
	s.engine.compile = func(q engine.Request) (engine.Result, error) {
		during = q.Version
		return engine.Result{Catalog: []byte(`{}`)}, nil
	}
	s.want(postCatalog(catalogForm(factsOfAgent)), http.StatusOK, `{}`)
	static := func(id string) ask {
		return ask{
			as: agent, target: "/puppet/v3/static_file_content/modules/site/files/motd?environment=production&code_id=" + id,
			header: []string{"Accept: application/octet-stream"},
		}
	}
	s.want(static(during.ID), http.StatusOK, "welcome to production\n")
	makeFile(t, filepath.Join(s.envs, "production/modules/site/files/motd"), "new\n")
	s.want(ask{
		as: agent, target: "/puppet/v3/file_content/modules/site/motd?environment=production",
		header: []string{"Accept: application/octet-stream"},
	}, http.StatusOK, "new\n")
	s.want(static(during.ID), http.StatusOK, "welcome to production\n")
}

func TestAnEdgeIsToldOfWhichVersionFilesAreAndGetsOthersOfThat(t *testing.T) {
	s := newSite(t, siteOptions{})
	content := ask{as: agent, target: "/puppet/v3/file_content/modules/site/motd?environment=production", header: []string{"Accept: application/octet-stream"}}
	if told := s.want(content, http.StatusOK, "welcome to production\n").Header.Get(HeaderCodeID); told != "" {
		t.Errorf("an agent is told %q", told)
	}
	before := ""
	content.run = &before
	before = s.want(content, http.StatusOK, "welcome to production\n").Header.Get(HeaderCodeID)
	if before == "" {
		t.Fatal("the edge is not told the version of the file")
	}
	makeFile(t, filepath.Join(s.envs, "production/modules/site/files/motd"), "new\n")
	if told := s.want(content, http.StatusOK, "welcome to production\n").Header.Get(HeaderCodeID); told != before {
		t.Errorf("the version of the run is %s, the answer says %s", before, told)
	}
	if _, list := s.do(ask{as: agent, run: &before, target: "/puppet/v3/file_metadatas/modules/site?environment=production&recurse=true", header: []string{acceptJSON}}); !strings.Contains(list, "motd") {
		t.Errorf("the list is %s", list)
	}
	content.run = new(string)
	if told := s.want(content, http.StatusOK, "new\n").Header.Get(HeaderCodeID); told == "" || told == before {
		t.Errorf("another run is told %q", told)
	}
}

func TestACatalogIsOfTheVersionOfThePluginsBeforeIt(t *testing.T) {
	s := newSite(t, siteOptions{})
	var got engine.Request
	s.engine.compile = func(q engine.Request) (engine.Result, error) {
		got = q
		return engine.Result{Catalog: []byte(`{}`)}, nil
	}
	run := ""
	plugins := ask{as: agent, run: &run, target: "/puppet/v3/file_metadatas/plugins?environment=production&recurse=true", header: []string{acceptJSON}}
	r, _ := s.do(plugins)
	run = r.Header.Get(HeaderCodeID)
	makeFile(t, filepath.Join(s.envs, "production/modules/site/files/motd"), "deployed\n")

	catalog := postCatalog(catalogForm(factsOfAgent))
	catalog.run = &run
	if told := s.want(catalog, http.StatusOK, `{}`).Header.Get(HeaderCodeID); told != run || got.Version.ID != run {
		t.Errorf("the plugins were of version %s, the catalog is of %s, and the edge is told %s", run, got.Version.ID, told)
	}
	// The folder is not looked at for a run that has its version; once it was, the version is a former one.
	next := ""
	catalog.run = &next
	if s.want(catalog, http.StatusOK, `{}`); got.Version.ID == run || got.Former {
		t.Errorf("another run gets version %s, former: %v", got.Version.ID, got.Former)
	}
	catalog.run = &run
	if s.want(catalog, http.StatusOK, `{}`); got.Version.ID != run || !got.Former {
		t.Errorf("then the run gets version %s, former: %v", got.Version.ID, got.Former)
	}
	// A version that is not here any more, or never was, is waited for, and only once.
	gone := strings.Repeat("0", 64)
	catalog.run = &gone
	for range 20 {
		if told := s.want(catalog, http.StatusOK, `{}`).Header.Get(HeaderCodeID); told == run || told != got.Version.ID || got.Former {
			t.Errorf("instead of a version that is gone: %s, and the edge is told %s", got.Version.ID, told)
		}
	}
}

func TestARunWaitsForItsVersionAtAMemberThatFetchesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m missing
		began := time.Now()
		come := func(after time.Duration) func() (*code.Version, error) {
			return func() (*code.Version, error) {
				if time.Since(began) < after {
					return nil, fault.New(fault.NotFound, "not yet")
				}
				return &code.Version{ID: "deployed"}, nil
			}
		}
		if v, err := m.await(t.Context(), "deployed", come(time.Second)); err != nil || v.ID != "deployed" || time.Since(began) > 2*time.Second {
			t.Errorf("%+v, %v after %v", v, err, time.Since(began))
		}
		began = time.Now()
		for range 100 {
			if _, err := m.await(t.Context(), "gone", come(time.Hour)); fault.KindOf(err) != fault.NotFound {
				t.Error(err)
			}
		}
		if took := time.Since(began); took < missingMost || took > missingMost+time.Second {
			t.Errorf("100 requests waited %v for a version that does not come", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.await(ctx, "other", come(time.Hour)); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("of a request that was given up: %v", err)
		}
	})
}
