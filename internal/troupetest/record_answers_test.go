//go:build record

package troupetest

// This file records the real Puppet Server's answers to single requests, good and bad, as golden data:
//
//	go test -tags record -run TestRecordAnswers -timeout 30m ./internal/troupetest

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

// TestRecordAnswers writes one file for each family of endpoints.
func TestRecordAnswers(t *testing.T) {
	server := StartPuppetServer(t, PuppetServerOptions{
		Environments: "testdata/environments", Conf: map[string]string{"auth.conf": openToServer},
	})
	t.Cleanup(func() { server.Stop(t) })
	r := &recorder{
		t: t, server: server, agent: NewAgent(t, Puppet7, recordedNode, server.Addr),
		clients: map[string]*http.Client{}, bodies: map[string]string{},
	}
	r.signAgent()
	r.connect()

	for _, family := range slices.Sorted(maps.Keys(families)) {
		var recorded []Exchange
		for _, e := range families[family](r) {
			recorded = append(recorded, r.ask(e))
		}
		writeJSON(t, filepath.Join("testdata", "puppetserver-7.9.5", family+".json"), recorded)
	}
}

type recorder struct {
	t       *testing.T
	server  *PuppetServer
	agent   *Agent
	clients map[string]*http.Client
	bodies  map[string]string // long ones are written once: the name of the first exchange by body
}

// signAgent has the agent's certificate signed by the server itself: autosign is off, so that CSR answers are those of
// an ordinary CA.
func (r *recorder) signAgent() {
	r.agent.Run() // leaves a request, exits 1
	CACLI{Config: filepath.Join(r.server.Dir, "puppet", "puppet.conf")}.MustRun(r.t, "sign", "--certname", recordedNode)
	if result := r.agent.Run(); result.Exit != 2 {
		r.t.Fatalf("the agent's run: exit %d\n%s", result.Exit, result.Output)
	}
}

func (r *recorder) connect() {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(readFile(r.t, filepath.Join(r.server.SSL(), "certs", "ca.pem"))))
	load := func(ssl, certname string) []tls.Certificate {
		pair, err := tls.LoadX509KeyPair(
			filepath.Join(ssl, "certs", certname+".pem"), filepath.Join(ssl, "private_keys", certname+".pem"))
		if err != nil {
			r.t.Fatal(err)
		}
		return []tls.Certificate{pair}
	}
	for as, pair := range map[string][]tls.Certificate{
		"":       nil,
		"agent":  load(filepath.Join(r.agent.Dir, "ssl"), recordedNode),
		"server": load(r.server.SSL(), "puppet.example.test"),
	} {
		r.clients[as] = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: pair},
			DisableCompression: true,
		}}
	}
}

// ask sends the request of e and returns e with the answer.
func (r *recorder) ask(e Exchange) Exchange {
	r.t.Helper()
	request, err := http.NewRequest(e.Method, "https://"+strings.Replace(r.server.Addr, "127.0.0.1", "localhost", 1), strings.NewReader(e.Body))
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
	_, port, _ := strings.Cut(r.server.Addr, ":")
	text = strings.NewReplacer(r.server.Dir, "/srv/puppet", r.agent.Dir, "/srv/agent", ":"+port, ":PORT").Replace(text)
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
