package troupetest

// This file sends requests that no agent of good will sends, and some that a bad environment makes of good ones.

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// badRequest is one row: a request, its answer, and the one line that the log has of it.
type badRequest struct {
	name    string
	request Exchange
	status  int
	body    string // pattern
	log     string // pattern of the one line; "" means the body's
}

func TestBadRequestsAreAnsweredInTheirClientsShapeAndLoggedOnce(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{})
	for path, text := range badEnvironments() {
		m.WriteCode(path, text)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(m.Environments, "production/modules/site/files/out")); err != nil {
		t.Fatal(err)
	}
	m.serves(t)

	for _, rows := range [][]badRequest{badCode(), badBodies(), badNames(), badPaths()} {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				m.forget(t)
				ask(t, m, m.node, row.request).want(t, row.status, row.body)
				level := "INFO"
				if row.status >= http.StatusInternalServerError {
					level = "WARN"
				}
				m.said(t, level, cmp.Or(row.log, row.body))
			})
		}
	}
}

// Facts of 20 MB are unwise, and not more: they are below the limits.
func TestFactsOf20MBAreTakenAndDoNotStay(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{Config: "engine: {workers: 1, deadline: 60s}\n"})
	m.serves(t)
	var values strings.Builder
	for n := range 200_000 {
		fmt.Fprintf(&values, `"fact_%06d":%q,`, n, noise(90))
	}
	facts := `{"name":"` + wellNode + `","values":{` + values.String() + `"last":true}}`
	if len(facts) < 20_000_000 {
		t.Fatalf("the facts have %d bytes", len(facts))
	}
	ask(t, m, m.node, send("", "", "PUT", own("facts"), facts, asJSON, acceptJSON)).want(t, http.StatusOK, "0")
	form := "environment=production&facts_format=application%2Fjson&facts=" + url.QueryEscape(url.QueryEscape(facts))
	ask(t, m, m.node, send("", "", "POST", own("catalog"), form, asForm, acceptRich)).want(t, http.StatusOK, `"resources"`)
	m.serves(t)
	if peak := m.peakMemory(t); peak > 1<<30 {
		t.Errorf("the member needed %d MiB", peak>>20)
	}
}

// peakMemory is the most that the process itself had in memory, without its workers.
func (m *afflicted) peakMemory(t *testing.T) (bytes int) {
	t.Helper()
	status := readFile(t, fmt.Sprintf("/proc/%d/status", m.proc.cmd.Process.Pid))
	_, rest, _ := strings.Cut(status, "VmHWM:")
	if _, err := fmt.Sscanf(rest, "%d kB", &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes << 10
}

// badEnvironments are the files of environments that are well and ill.
func badEnvironments() map[string]string {
	return map[string]string{
		"production/manifests/site.pp":       "node 'well.example.test' { notify { 'well': } }\n",
		"production/modules/site/files/motd": "hello\n",
		"typo/manifests/site.pp":             "node default {\n  notify { 'never'\n}\n",
		"noclass/manifests/site.pp":          "include no_such_class\n",
		"notype/manifests/site.pp":           "no_such_type { 'x': }\n",
		"failing/manifests/site.pp":          "fail('the author said no')\n",
	}
}

func badCode() []badRequest {
	return []badRequest{
		{
			name: "unknown environment, asked for files", request: get("", "", "/puppet/v3/file_metadatas/plugins?environment=nosuch&recurse=true", acceptJSON),
			status: 404, body: `"message":"Not Found: Could not find environment 'nosuch'","issue_kind":"RUNTIME_ERROR"`, log: "Could not find environment 'nosuch'",
		},
		{
			name: "syntax error", request: catalogOf(wellNode, "typo"),
			status: 500, body: `Server Error: Could not parse for environment typo: Syntax error at '}' \(file: .*/typo/manifests/site.pp, line: 3, column: 1\) on node well`, log: "Syntax error at",
		},
		{
			name: "class that does not exist", request: catalogOf(wellNode, "noclass"),
			status: 500, body: `Could not find class ::no_such_class for well.example.test \(file: .*site.pp, line: 1, column: 1\)`, log: "no_such_class",
		},
		{
			name: "type that does not exist", request: catalogOf(wellNode, "notype"),
			status: 500, body: `Unknown resource type: 'no_such_type'`, log: "no_such_type",
		},
		{
			name: "fail()", request: catalogOf(wellNode, "failing"),
			status: 500, body: `Server Error: .*the author said no`, log: "the author said no",
		},
	}
}

// own is the path of the well node under an endpoint.
func own(endpoint string) string {
	return "/puppet/v3/" + endpoint + "/" + wellNode + "?environment=production"
}

func badBodies() []badRequest {
	const big = 33 << 20
	facts := `{"name":"` + wellNode + `","values":{"x":"`
	form := func(facts string) string {
		return "environment=production&facts_format=application%2Fjson&facts=" + url.QueryEscape(url.QueryEscape(facts))
	}
	return []badRequest{
		{name: "facts that are no JSON", request: send("", "", "PUT", own("facts"), `{"name":`, asJSON, acceptJSON), status: 400, body: `Bad Request: The request body is invalid`, log: "The request body is invalid"},
		{name: "facts that are an array", request: send("", "", "PUT", own("facts"), `[]`, asJSON, acceptJSON), status: 400, body: `The request body is invalid`},
		{name: "facts of deep nesting", request: send("", "", "PUT", own("facts"), facts[:len(facts)-1]+strings.Repeat("[", 1<<20), asJSON, acceptJSON), status: 400, body: `The request body is invalid`},
		{
			name: "facts beyond the limit", request: send("", "", "PUT", own("facts"), facts+strings.Repeat("y", big)+`"}}`, asJSON, acceptJSON),
			status: 413, body: `larger than ` + strconv.Itoa(32<<20) + ` bytes`,
		},
		{name: "report that is no JSON", request: send("", "", "PUT", own("report"), `{"host":`, asJSON, acceptJSON), status: 400, body: `Bad Request: The request body is invalid`, log: "The request body is invalid"},
		{name: "report in YAML", request: send("", "", "PUT", own("report"), "--- !ruby/object:Puppet::Transaction::Report\n", "Content-Type: text/yaml", acceptJSON), status: 415, body: `Unsupported Media Type`, log: "doesn't correspond to a format"},
		{name: "catalog form with broken facts", request: send("", "", "POST", own("catalog"), form(`{`), asForm, acceptRich), status: 500, body: `Server Error: Could not intern from json`, log: `Could not intern from json`},
		{name: "v4 body that is no JSON", request: send("", "", "POST", "/puppet/v4/catalog", `{`, asJSON), status: 403, body: `Forbidden request: /puppet/v4/catalog`, log: "denied by rule"},
		{
			name: "bucket file under another sum", request: send("", "", "PUT", "/puppet/v3/file_bucket_file/sha256/"+strings.Repeat("0", 64)+"?environment=production", "content", asBytes, "Accept: application/octet-stream"),
			status: 400, body: `the content has sha256`, log: "the content has sha256",
		},
		{name: "body that is not gzip", request: send("", "", "PUT", own("facts"), "not gzip", asJSON, acceptJSON, "Content-Encoding: gzip"), status: 400, body: `not what its Content-Encoding says|ends too early`},
	}
}

func badNames() []badRequest {
	other := strings.ReplaceAll(own("facts"), wellNode, "other.example.test")
	return []badRequest{
		{
			name: "facts with another name in the body", request: send("", "", "PUT", own("facts"), `{"name":"other.example.test","values":{}}`, asJSON, acceptJSON),
			status: 500, body: `Instance name \\"other.example.test\\" does not match requested key \\"well.example.test\\"`, log: "does not match requested key",
		},
		{
			name: "facts of another node", request: send("", "", "PUT", other, `{"name":"other.example.test","values":{}}`, asJSON, acceptJSON),
			status: 403, body: `^Forbidden request: /puppet/v3/facts/other.example.test \(method :put\)`, log: "denied by rule",
		},
		{
			name: "report with another name in the body", request: send("", "", "PUT", own("report"), reportOf("other.example.test", "1").Body, asJSON, acceptJSON),
			status: 500, body: `does not match requested key`,
		},
		{
			name: "catalog with the facts of another node", request: send("", "", "POST", own("catalog"), catalogForm("production", "other.example.test"), asForm, acceptRich),
			status: 500, body: `fact definition for the wrong node`,
		},
		{name: "catalog of another node", request: catalogOf("other.example.test", "production"), status: 403, body: `Forbidden request`, log: "denied by rule"},
		{name: "node by a wildcard", request: get("", "", "/puppet/v3/node/*?environment=production", acceptJSON), status: 403, body: `Forbidden request`, log: "denied by rule"},
		{name: "environment by a path", request: get("", "", "/puppet/v3/node/"+wellNode+"?environment=..%2f..%2fetc", acceptJSON), status: 400, body: `must be purely alphanumeric`},
	}
}

func badPaths() []badRequest {
	files := func(path string) Exchange {
		return get("", "", "/puppet/v3/file_content/"+path+"?environment=production", "Accept: application/octet-stream")
	}
	relative := func(name, path string) badRequest {
		return badRequest{name: name, request: files(path), status: 400, body: "Invalid relative path", log: "file_content"}
	}
	missing := func(name, path, log string) badRequest {
		return badRequest{name: name, request: files(path), status: 404, body: "Not Found: Could not find file_content", log: log}
	}
	return []badRequest{
		relative("dots", "modules/../../../etc/passwd"),
		relative("escaped dots", "modules/%2e%2e/%2E%2e/etc/passwd"),
		relative("escaped slashes between dots", "modules/..%2f..%2fetc/passwd"),
		{name: "a zero byte", request: files("modules/site/a%00.txt"), status: 400, body: "Invalid control character", log: "file_content"},
		missing("slashes", "modules////etc//passwd", "Could not find file_content"),
		missing("backslashes", `modules/..%5c..%5cetc%5cpasswd`, "Could not find file_content"),
		missing("a link that leads out", "modules/site/out", "Could not find file_content"),
		missing("escaped twice", "modules/%252e%252e/%252e%252e/etc/passwd", "Could not find file_content"),
		missing("a very long path", "modules/site/"+strings.Repeat("x/", 30_000), "Could not find file_content"),
		{name: "bucket key with dots", request: get("", "", "/puppet/v3/file_bucket_file/sha256/%2e%2e/%2e%2e/etc?environment=production", "Accept: application/octet-stream"), status: 400, body: "Invalid relative path", log: "file_bucket_file"},
	}
}
