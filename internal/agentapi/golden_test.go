package agentapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/engine"
	"troupe/internal/fault"
)

// This file asks what the real Puppet Server 7.9.5 was asked and compares the
// answers. README.md beside the recordings says how they were made.

const recordings = "../troupetest/testdata/puppetserver-7.9.5"

type exchange struct {
	Name, As, Method, Target, Body string
	Header                         []string
	Status                         int
	ResponseHeader                 []string `json:"response_header"`
	ResponseBody                   string   `json:"response_body"`
}

// An allowance is a difference from the real server that is meant; "" leaves out
// the whole exchange.
type allowance struct {
	status int    // ours; 0 means the recorded one
	body   string // ours; "" means the recorded one
	any    bool   // do not compare the body
}

func TestAnswersAreThoseOfTheRealServer(t *testing.T) {
	elsewhere := map[string]bool{ // served by other packages
		"admin: metrics, version": true, "admin: metrics, read": true, "admin: metrics, read of nothing": true, "admin: metrics, search": true,
		"admin: metrics as an agent": true, "unknown: a path": true, "unknown: the root": true, "unknown: in /puppet-ca": true,
		"unknown: in /puppet-ca without certificate": true, "unknown: in /status": true, "unknown: a broken escape": true,
		"environments: transports": true, // needs resource API transports, which no agent asks for
	}
	text := func(s string) allowance { return allowance{body: s} }
	allowed := map[string]allowance{
		// The words of a JSON parser are its own.
		"facts: not JSON":                      {any: true},
		"report: not JSON":                     {any: true},
		"report: an empty object":              {any: true},
		"catalog: with facts that are no JSON": {any: true},
		"catalog: v4 that is no JSON":          {any: true},
		// The recorded server has no msgpack gem; we speak it.
		"node: as MessagePack": {any: true},
		// A Ruby hash of parameters is no help to anybody.
		"file_content: of an unknown mount":   text(`{"message":"Server Error: Not authorized to call find on /file_content/nosuch/x","issue_kind":"RUNTIME_ERROR"}`),
		"file_metadata: of an unknown mount":  text(`{"message":"Server Error: Not authorized to call find on /file_metadata/nosuch/x","issue_kind":"RUNTIME_ERROR"}`),
		"file_metadatas: of an unknown mount": {any: true},
		// The real server sends an empty file for a folder.
		"file_content: of a folder": {status: 404, any: true},
		// Without a code-content-command the real server cannot serve these; versions are built in here.
		"file_content: static": {status: 404, any: true},
		// The real server keeps such a content under its true sum. It was damaged on its way, so the agent must send it again.
		"filebucket: PUT with another sum than the content's": {status: 400, any: true},
		// Bolt gets the very version that it was told about.
		"tasks: a task": {any: true},
		// Java's class names say nothing.
		"catalog: v4 that fails": {any: true},
		"catalog: v4":            {status: 200, any: true}, // the recorded facts lacked what its manifest wants
	}

	here := t.TempDir()
	for _, env := range []string{"production", "broken", "failing", "backup"} { // those of the recording
		if err := os.CopyFS(filepath.Join(here, env), os.DirFS("../troupetest/testdata/environments/"+env)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t, siteOptions{envs: here})
	s.engine.compile = func(q engine.Request) (engine.Result, error) {
		switch q.Version.Environment {
		case "broken":
			return engine.Result{}, fault.New(fault.Failed, "Could not parse for environment broken: Syntax error at '}' (file: %s/broken/manifests/site.pp, line: 4, column: 1) on node %s", here, q.Certname)
		case "failing":
			return engine.Result{}, fault.New(fault.Failed, "Evaluation Error: Error while evaluating a Function Call, no catalog for %s (file: %s/failing/manifests/site.pp, line: 3, column: 3) on node %s", q.Certname, here, q.Certname)
		}
		return engine.Result{Catalog: []byte(`{"fake":true}`)}, nil
	}

	used := map[string]bool{}
	for _, family := range []string{"facts", "node", "catalog", "file_metadata", "file_metadatas", "file_content", "filebucket", "report", "environments", "tasks", "admin", "unknown"} {
		bodies := map[string]string{}
		for _, e := range readExchanges(t, family) {
			bodies[e.Name] = e.Body
			name := family + ": " + e.Name
			a, differs := allowed[name]
			used[name] = differs
			if elsewhere[name] || leftToTheEngine(family, e) {
				continue
			}
			t.Run(name, func(t *testing.T) { s.compare(t, e, bodies, a) })
		}
	}
	for name := range allowed {
		if !used[name] {
			t.Errorf("no exchange is named %q", name)
		}
	}
}

// leftToTheEngine tells answers whose content Ruby makes. Their envelope is
// compared in other tests.
func leftToTheEngine(family string, e exchange) bool {
	return family == "environments" && strings.HasPrefix(e.Name, "classes") && e.Status == 200 ||
		family == "environments" && strings.HasPrefix(e.Name, "modules of all") // recorded with Debian's modules
}

func readExchanges(t *testing.T, family string) []exchange {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(recordings, family+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []exchange
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%s: %v", family, err)
	}
	return all
}

func (s *site) compare(t *testing.T, e exchange, bodies map[string]string, a allowance) {
	t.Helper()
	if of, ok := strings.CutPrefix(e.Body, "(the body of: "); ok {
		e.Body = bodies[strings.TrimSuffix(of, ")")]
	}
	names := map[string]string{"agent": agent, "server": "puppet.example.test", "": ""}
	r, body := s.do(ask{
		as: names[e.As], method: e.Method, target: e.Target, header: e.Header,
		body: strings.ReplaceAll(e.Body, "DATE", "2026-11-20T08:00:00.000000000+00:00"),
	})

	wantStatus, wantBody := e.Status, e.ResponseBody
	if a.status != 0 {
		wantStatus = a.status
	}
	if a.body != "" {
		wantBody = a.body
	}
	if e.Method == http.MethodHead || strings.Contains(body, `"fake":true`) {
		a.any = true // the recorder does not see a body that net/http would not send, and catalogs are Ruby's
	}
	if r.StatusCode != wantStatus {
		t.Errorf("%s %s: status = %d, want %d: %s", e.Method, e.Target, r.StatusCode, wantStatus, body)
	}
	if got := s.masked(body); !a.any && got != s.masked(wantBody) && !sameInAnotherOrder(got, s.masked(wantBody)) {
		t.Errorf("%s %s:\n got %s\nwant %s", e.Method, e.Target, got, s.masked(wantBody))
	}
	if wantStatus != e.Status {
		return
	}
	for _, h := range e.ResponseHeader {
		name, want, _ := strings.Cut(h, ": ")
		if got := r.Header.Get(name); name == "Content-Type" && plainType(got) != plainType(want) && !a.any ||
			(name == "X-Puppet-Version" || name == "Allow" || name == "Cache-Control") && got != want {
			t.Errorf("%s %s: %s = %q, want %q", e.Method, e.Target, name, got, want)
		}
	}
}

// sameInAnotherOrder compares lists that come in the order of a folder on disk:
// the entries of a search, the environments.
func sameInAnotherOrder(a, b string) bool {
	var lists [2][]map[string]any
	var objects [2]map[string]any
	for i, body := range []string{a, b} {
		if json.Unmarshal([]byte(body), &objects[i]) == nil {
			continue
		}
		if json.Unmarshal([]byte(body), &lists[i]) != nil {
			return false
		}
		slices.SortFunc(lists[i], func(x, y map[string]any) int {
			return strings.Compare(fmt.Sprint(x["relative_path"]), fmt.Sprint(y["relative_path"]))
		})
	}
	return cmp.Equal(lists[0], lists[1]) && cmp.Equal(objects[0], objects[1])
}

// plainType removes what does not matter about a type of text.
func plainType(s string) string {
	if strings.HasPrefix(s, "text/plain") || strings.HasPrefix(s, "text/html") {
		return "text"
	}
	return s
}

var (
	maskTime  = regexp.MustCompile(`\{([cm])time\}[^"]*`)
	maskOwner = regexp.MustCompile(`"owner":\d+,"group":\d+`)
)

// masked hides what differs between two machines.
func (s *site) masked(body string) string {
	body = strings.ReplaceAll(strings.TrimSpace(body), s.envs, "/srv/puppet/code/environments")
	body = strings.ReplaceAll(body, `,"/srv/puppet/code/modules","/usr/share/puppet/modules"`, "")
	body = maskTime.ReplaceAllString(body, "{${1}time}")
	return maskOwner.ReplaceAllString(body, `"owner":0,"group":0`)
}
