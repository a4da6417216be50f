package troupetest

// This file has what the stories of bad input share: a member with one well node, whose log they read line by line.
// docs/bad-input.md is the table of all of them.

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// wellNode is the node that must be served whatever others do.
const wellNode = "well.example.test"

// afflicted is a member to which bad things happen.
type afflicted struct {
	*Server

	node  *http.Client // with the certificate of wellNode
	pair  tls.Certificate
	roots *x509.CertPool
	read  int // bytes of the log that were judged
}

// afflict starts a member that logs JSON. Its configuration may follow.
func afflict(t *testing.T, o ServerOptions) *afflicted {
	t.Helper()
	o.Config = "log: {format: json}\n" + o.Config
	m := &afflicted{Server: StartServer(t, o)}
	m.pair = m.Generate(wellNode)
	m.node, m.roots = m.Client(m.pair), m.Bundle()
	m.forget(t)
	return m
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request whose target is taken as it is, escapes and dots included.
func ask(t *testing.T, m *afflicted, c *http.Client, e Exchange) answer {
	t.Helper()
	a, err := tryAsk(t, m, c, e)
	if err != nil {
		t.Fatalf("%s %.200s: %v", e.Method, e.Target, err)
	}
	return a
}

func tryAsk(t *testing.T, m *afflicted, c *http.Client, e Exchange) (answer, error) {
	t.Helper()
	return askAt(t, m.URL(""), c, e)
}

func askAt(t *testing.T, server string, c *http.Client, e Exchange) (answer, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), e.Method, server, strings.NewReader(e.Body))
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(e.Target, "?")
	request.URL.Opaque, request.URL.RawQuery = path, query
	for _, line := range e.Header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Set(name, value)
	}
	response, err := c.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}, err
}

// serves shows that the well node gets its catalog and can report.
func (m *afflicted) serves(t *testing.T) {
	t.Helper()
	got := ask(t, m, m.node, catalogOf(wellNode, "production"))
	if got.status != http.StatusOK || !strings.Contains(got.body, `"resources"`) {
		t.Fatalf("afterwards the well node's catalog: %d %.500s", got.status, got.body)
	}
	if got := ask(t, m, m.node, reportOf(wellNode, time.Now().Format("20060102150405.000000000"))); got.status != http.StatusOK {
		t.Fatalf("afterwards the well node's report: %d %.500s", got.status, got.body)
	}
}

// catalogOf is the request of an agent for its catalog.
func catalogOf(certname, environment string) Exchange {
	return send("catalog", "", "POST", "/puppet/v3/catalog/"+certname+"?environment="+environment,
		catalogForm(environment, certname), asForm, acceptRich)
}

// reportOf is a small report of a run.
func reportOf(certname, run string) Exchange {
	return send("report", "", "PUT", "/puppet/v3/report/"+certname+"?environment=production", fmt.Sprintf(
		`{"host":%q,"time":"2026-11-20T10:00:00.000000000+00:00","configuration_version":1,"transaction_uuid":%q,"report_format":12,`+
			`"puppet_version":"7.23.0","status":"unchanged","environment":"production","logs":[],"metrics":{},"resource_statuses":{}}`,
		certname, run), asJSON, acceptJSON)
}

// logLine is one line of the member's log.
type logLine map[string]any

func (l logLine) level() string { s, _ := l["level"].(string); return s }

// mentions reports whether a value of the line matches.
func (l logLine) mentions(pattern *regexp.Regexp) bool {
	for _, v := range l {
		if s, ok := v.(string); ok && pattern.MatchString(s) {
			return true
		}
	}
	return false
}

// logFile is where the member's output goes.
func (m *afflicted) logFile() string {
	return filepath.Join(filepath.Dir(m.Environments), "server.log")
}

// lines returns the lines since the last forget.
func (m *afflicted) lines(t *testing.T) []logLine {
	t.Helper()
	text, err := os.ReadFile(m.logFile())
	if err != nil {
		t.Fatal(err)
	}
	var out []logLine
	for line := range bytes.Lines(text[m.read:]) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // is being written
		}
		var l logLine
		if err := json.Unmarshal(line, &l); err != nil {
			l = logLine{"level": "none", "msg": string(line)} // not by the logger
		}
		out = append(out, l)
	}
	return out
}

// forget begins a new page of the log.
func (m *afflicted) forget(t *testing.T) {
	t.Helper()
	info, err := os.Stat(m.logFile())
	if err != nil {
		t.Fatal(err)
	}
	m.read = int(info.Size())
}

// said shows that the log has exactly one line, of that level, that matches the pattern since the last forget.
// The well node is served in between, so that a second line has had its time to appear.
func (m *afflicted) said(t *testing.T, level, pattern string) {
	t.Helper()
	p := regexp.MustCompile(pattern)
	matching := func() (found []logLine) {
		for _, l := range m.lines(t) {
			if l.mentions(p) {
				found = append(found, l)
			}
		}
		return found
	}
	if !poll(t.Context(), 10*time.Second, func() bool { return len(matching()) > 0 }) {
		t.Errorf("the log does not say %q:\n%s", pattern, showLines(m.lines(t)))
		return
	}
	m.serves(t)
	if found := matching(); len(found) != 1 || found[0].level() != level {
		t.Errorf("the log has %d lines that say %q, want one of level %s:\n%s", len(found), pattern, level, showLines(found))
	}
}

func showLines(lines []logLine) string {
	var out strings.Builder
	for _, l := range lines {
		text, err := json.Marshal(l)
		if err != nil {
			return err.Error()
		}
		out.Write(append(text, '\n'))
	}
	return out.String()
}

// want compares an answer with a status and a pattern of its body.
func (a answer) want(t *testing.T, status int, pattern string) {
	t.Helper()
	if a.status != status || !regexp.MustCompile(pattern).MatchString(a.body) {
		t.Errorf("got %d %.600q\nwant %d %q", a.status, a.body, status, pattern)
	}
}
