package agentapi

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file fuzzes what clients send: whole requests through the API, and the small decoders below it.

// maxError bounds what a bad request may get back beside what is quoted of its path and header.
const maxError = 2 << 10

// quoted is how much longer JSON may make a byte: a byte that is no UTF-8 becomes \ufffd.
const quoted = 6

// wellAnswered holds for every answer to a bad request: a status of the caller's own making, the shape that the
// client expects, and words that were meant for it.
func wellAnswered(t *testing.T, a answer, body string, head ...string) {
	t.Helper()
	if a.StatusCode < http.StatusBadRequest {
		return
	}
	if strings.Contains(body, "internal error") || a.StatusCode == http.StatusServiceUnavailable {
		t.Errorf("%d %s: the fault of a request is taken for ours", a.StatusCode, body)
	}
	if len(body) > maxError+quoted*len(strings.Join(head, "")) {
		t.Errorf("%d with %d bytes of error: %.300s", a.StatusCode, len(body), body)
	}
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		return
	}
	var e struct{ Message, URL string }
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Message == "" {
		t.Errorf("%d %s: no message (%v)", a.StatusCode, body, err)
	}
}

// on is the same site for one input.
func (s *site) on(t *testing.T) *site {
	return &site{t: t, engine: s.engine, db: s.db, api: s.api, http: s.http, envs: s.envs}
}

func FuzzCatalogForm(f *testing.F) {
	f.Add(catalogForm(factsOfAgent))
	f.Add(catalogForm(factsOfAgent, "facts_format", "pson"))
	f.Add("facts_format=application%2Fjson&facts=%257B&environment=production")
	f.Add("facts=%zz&facts_format=nosuch;environment=a-b")
	f.Add("environment=nosuch&check_environment=true&checksum_type=..&static_catalog=true")
	s := newSite(f, siteOptions{})
	f.Fuzz(func(t *testing.T, form string) {
		s := s.on(t)
		before := len(s.engine.asked)
		a, body := s.do(postCatalog(form))
		wellAnswered(t, a, body)
		for _, q := range s.engine.asked[before:] {
			if q.Certname != agent || len(q.Facts.Values) > 0 && !json.Valid(q.Facts.Values) {
				t.Errorf("the engine was asked for %s with facts %q", q.Certname, q.Facts.Values)
			}
		}
	})
}

func FuzzCatalogV4(f *testing.F) {
	f.Add(`{"certname":"agent.example.test","persistence":{"facts":true,"catalog":false},"environment":"production","facts":{"values":{"a":{"b":[1,null]}}},"trusted_facts":{"values":{"certname":"x","extensions":{"pp_role":"web"}}},"options":{"capture_logs":true,"log_level":"debug"}}`)
	f.Add(`{"certname":"agent.example.test","persistence":{},"environment":"production","facts":{"values":{"trusted":[]}}}`)
	f.Add(`{"certname":1,"persistence":null,"facts":{"values":null}}`)
	f.Add(`{"` + strings.Repeat("no such field ", 200) + `":1}`)
	f.Add(`{"certname":"a","persistence":{"facts":true,"catalog":true},"environment":"production","options":{"log_level":"` + strings.Repeat("x", 3000) + `"}}`)
	s := newSite(f, siteOptions{})
	f.Fuzz(func(t *testing.T, body string) {
		s := s.on(t)
		a, answer := s.do(ask{as: "puppet.example.test", method: http.MethodPost, target: "/puppet/v4/catalog", header: []string{"Content-Type: application/json"}, body: body})
		wellAnswered(t, a, answer)
		if a.StatusCode == http.StatusOK && !json.Valid([]byte(answer)) {
			t.Errorf("answered %q, which is no JSON", answer)
		}
	})
}

// A path is read by the router, the rules and the endpoints. No reading may let an agent see another's node, or what
// lies outside of a mount.
func FuzzPath(f *testing.F) {
	for _, p := range []string{
		"/puppet/v3/node/agent.example.test", "/puppet/v3/node/other.example.test", "/puppet/v3/file_content/modules/site/motd",
		"/puppet/v3/file_content/modules/..%2f..%2fmanifests%2fsite.pp", "/puppet//v3/file_metadatas/plugins;x=y/", "/puppet/v3/file_metadata/modules/site/%00",
		"/puppet/v3/static_file_content/modules/site/files/motd", "/puppet/v3/file_bucket_file/sha256/" + strings.Repeat("0", 64) + "/etc/motd",
		"/puppet/v3/tasks/site/init", "/puppet/v3/environments", "/puppet-admin-api/v1/environment-cache", `/puppet/v3/node/..\..\x`,
	} {
		f.Add(p, "environment=production&links=manage")
	}
	s := newSite(f, siteOptions{})
	makeFile(f, s.envs+"/production/manifests/site.pp", "# SECRET")
	f.Fuzz(func(t *testing.T, path, query string) {
		s := s.on(t)
		target := "/" + strings.TrimPrefix(path, "/") + "?" + query
		if _, err := url.ParseRequestURI(target); err != nil || strings.ContainsAny(target, " \t\r\n") {
			return // net/http refuses such a line
		}
		a, body := s.do(ask{as: agent, target: target, header: []string{"Accept: application/json, application/octet-stream"}})
		wellAnswered(t, a, body, target)
		if strings.Contains(body, "SECRET") {
			t.Errorf("%s shows a manifest: %.300s", target, body)
		}
		if a.StatusCode == http.StatusOK && strings.Contains(body, `"name":"`) && strings.Contains(body, `"parameters"`) && !strings.Contains(body, agent) {
			t.Errorf("%s shows another node: %.300s", target, body)
		}
	})
}

// The first format of Accept that is known is taken; whatever is chosen was named, or */* was.
func FuzzAccept(f *testing.F) {
	f.Add("application/vnd.puppet.rich+json, application/json;q=0.5, text/pson")
	f.Add("*/*;q=0.1")
	f.Add(",;q=,")
	f.Fuzz(func(t *testing.T, header string) {
		for _, supported := range [][]format{dataFormats, catalogFormats, binaryFormats} {
			got, err := choose(header, supported)
			if err != nil {
				if problemOf(err).status != http.StatusNotAcceptable {
					t.Errorf("%q: %v", header, err)
				}
				continue
			}
			lower := strings.ToLower(header)
			if !strings.Contains(lower, got.mime) && !strings.Contains(lower, got.name) && !strings.Contains(header, "*/*") {
				t.Errorf("%q chose %s", header, got.mime)
			}
		}
	})
}

// Where Go's decoder of forms understands a text, Ruby's gives the same.
func FuzzUnescape(f *testing.F) {
	f.Add("%7B%22a%22%7d+%2B")
	f.Add("100%")
	f.Fuzz(func(t *testing.T, s string) {
		got := unescape(s)
		if want, err := url.QueryUnescape(s); err == nil && got != want {
			t.Errorf("unescape(%q) = %q, want %q", s, got, want)
		}
		if len(got) > len(s) {
			t.Errorf("%q became longer: %q", s, got)
		}
		if back := unescape(url.QueryEscape(s)); back != s {
			t.Errorf("%q came back as %q", s, back)
		}
	})
}

func FuzzBodies(f *testing.F) {
	f.Add("facts", puppet.TypeJSON, "", []byte(factsOfAgent))
	f.Add("facts", puppet.TypeMsgpack, "", []byte("\x82\xa4name\xb2agent.example.test\xa6values\x80"))
	f.Add("facts", puppet.TypeJSON, "gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"))
	f.Add("facts", puppet.TypeJSON, "deflate", []byte("\x78\x9c"))
	f.Add("report", puppet.TypePSON, "", []byte(`{"host":"agent.example.test","report_format":12}`))
	s := newSite(f, siteOptions{options: Options{Limits: Limits{Facts: 1 << 20, Report: 1 << 20}}})
	f.Fuzz(func(t *testing.T, endpoint, kind, encoding string, body []byte) {
		s := s.on(t)
		if endpoint != "report" {
			endpoint = "facts"
		}
		a, answer := s.do(ask{
			as: agent, method: http.MethodPut, target: "/puppet/v3/" + endpoint + "/" + agent + "?environment=production", body: string(body),
			header: []string{"Accept: application/json", "Content-Type: " + kind, "Content-Encoding: " + encoding},
		})
		wellAnswered(t, a, answer, kind)
		if facts, err := s.db.Facts(t.Context(), agent); err == nil && facts.Certname != agent || err != nil && fault.KindOf(err) != fault.NotFound {
			t.Errorf("the store has %+v (%v)", facts, err)
		}
	})
}
