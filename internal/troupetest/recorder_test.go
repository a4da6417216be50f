package troupetest

// This file asks a server single requests, with three identities, and masks what belongs to a machine or a minute.

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// openToServer lets the server's own certificate ask what the default rules deny to everybody.
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

// recorder asks as nobody, as an agent, and as the server itself, whose certificate may use the CA's API.
type recorder struct {
	t       *testing.T
	addr    string
	folder  string // of the server, masked in answers
	agent   *Agent
	clients map[string]*http.Client
	bodies  map[string]string // long ones are written once: the name of the first exchange by body
}

func newRecorder(t *testing.T, addr, folder string, agent *Agent, roots *x509.CertPool, server tls.Certificate) *recorder {
	t.Helper()
	r := &recorder{t: t, addr: addr, folder: folder, agent: agent, clients: map[string]*http.Client{}, bodies: map[string]string{}}
	for as, pair := range map[string][]tls.Certificate{"": nil, "agent": {agent.Identity()}, "server": {server}} {
		transport := &http.Transport{
			TLSClientConfig:    &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: pair},
			DisableCompression: true,
		}
		t.Cleanup(transport.CloseIdleConnections)
		r.clients[as] = &http.Client{Timeout: time.Minute, Transport: transport}
	}
	return r
}

// ask sends the request of e and returns e with the answer.
func (r *recorder) ask(e Exchange) Exchange {
	r.t.Helper()
	request, err := http.NewRequest(e.Method, "https://"+strings.Replace(r.addr, "127.0.0.1", "localhost", 1), strings.NewReader(e.Body))
	if err != nil {
		r.t.Fatal(err)
	}
	path, query, _ := strings.Cut(e.Target, "?")
	request.URL.Opaque = path // as it is, escapes and dots included
	request.URL.RawQuery = query
	for _, line := range e.Header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Set(name, value)
	}
	request.Header.Set("X-Puppet-Version", "7.23.0")

	answer, err := r.clients[e.As].Do(request)
	if err != nil {
		r.t.Fatalf("%s: %v", e.Name, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatalf("%s: %v", e.Name, err)
	}

	e.Status = answer.StatusCode
	for _, name := range slices.Sorted(maps.Keys(answer.Header)) {
		value := answer.Header.Get(name)
		if name == "Date" || name == "Last-Modified" {
			value = "DATE"
		}
		e.ResponseHeader = append(e.ResponseHeader, name+": "+value)
	}
	e.ResponseHeader = append(e.ResponseHeader, answer.TransferEncoding...)
	e.ResponseBody = r.mask(string(body))
	if first, again := r.bodies[e.Body]; again && len(e.Body) > 4096 {
		e.Body = "(the body of: " + first + ")"
		return e
	}
	r.bodies[e.Body] = e.Name
	e.Body = r.mask(e.Body)
	return e
}

var (
	uuid    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	dates   = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d|Z|UTC)?`)
	prints  = regexp.MustCompile(`([0-9A-F]{2}:){19,}[0-9A-F]{2}`)
	version = regexp.MustCompile(`"version":\d{9,}`)
)

// mask removes what belongs to this machine or this minute.
func (r *recorder) mask(text string) string {
	if block, ok := strings.CutPrefix(text, "-----BEGIN "); ok {
		kind, _, _ := strings.Cut(block, "-----")
		return "PEM " + kind
	}
	_, port, _ := strings.Cut(r.addr, ":")
	text = strings.NewReplacer(r.folder, "/srv/puppet", r.agent.Dir, "/srv/agent", ":"+port, ":PORT").Replace(text)
	text = uuid.ReplaceAllString(dates.ReplaceAllString(prints.ReplaceAllString(text, "FINGERPRINT"), "DATE"), "UUID")
	return version.ReplaceAllString(text, `"version":VERSION`)
}

// catalogForm is the body of a catalog request with very few facts.
func catalogForm(environment, certname string, fields ...string) string {
	facts := `{"name":"` + certname + `","values":{"sandbox":"/srv/sandbox","site_custom":"x"},"timestamp":"2026-11-20T10:00:00.000000000+00:00","expiration":"2026-11-20T11:00:00.000000000+00:00"}`
	return strings.Join(append([]string{
		"facts_format=application%2Fjson", "facts=" + url.QueryEscape(url.QueryEscape(facts)), "environment=" + environment,
		"configured_environment=" + environment, "check_environment=true",
		"transaction_uuid=00000000-0000-0000-0000-000000000000", "static_catalog=true",
		"checksum_type=sha256.sha384.sha512.sha224.md5",
	}, fields...), "&")
}

// lastReport is the report of the agent's last run as it would be sent again.
func (r *recorder) lastReport() string {
	r.t.Helper()
	script := `require "puppet"; require "json"
Puppet.initialize_settings([]); Puppet::Type.type(:file)
puts Puppet::Transaction::Report.convert_from(:yaml, File.read(ARGV[0])).to_data_hash.to_json`
	path := filepath.Join(r.agent.Dir, "report.rb")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cmd := Puppet7.Command(r.t.Context(), r.t, nil, "ruby", path, filepath.Join(r.agent.Dir, "state", "last_run_report.yaml"))
	report, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(report)
}
