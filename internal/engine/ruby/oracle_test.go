package ruby

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/engine"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file compares the engine with the plain Puppet library.

// oracle compiles the same requests with testdata/oracle.rb on the folder that
// the operator sees. Those that have classes are classified by enc.
func (r *rig) oracle(requests []engine.Request, exported []puppet.Resource, enc string) [][]byte {
	r.t.Helper()
	var list []map[string]any
	for _, q := range requests {
		list = append(list, map[string]any{
			"certname": q.Certname, "facts": q.Facts.Values, "extensions": q.Trusted.Extensions,
			"static": q.Static, "rich": q.Rich, "enc": q.Classes != nil,
		})
	}
	query, err := json.Marshal(map[string]any{
		"environment": "production", "environmentpath": filepath.Join(r.root, "environments"), "basemodulepath": filepath.Join(r.root, "modules"),
		"code_id": requests[0].Version.ID, "server_facts": requests[0].ServerFacts, "exported": append([]puppet.Resource{}, exported...), "enc": enc,
		"settings": r.settings(), "requests": list,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var args []string
	for _, dir := range r.o.PuppetLib {
		args = append(args, "-I", dir)
	}
	cmd := exec.CommandContext(r.t.Context(), "ruby", append(args, "testdata/oracle.rb")...)
	cmd.Stdin = bytes.NewReader(query)
	cmd.Stderr = &bytes.Buffer{}
	cmd.Env = append(os.Environ(), "LANG=C.UTF-8")
	out, err := cmd.Output()
	answers := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err != nil || len(answers) != len(requests) {
		r.t.Fatalf("the oracle fails: %v\n%s%s", err, out, cmd.Stderr)
	}
	return answers
}

// incomparable is what differs between any two compiles and two users: the
// catalog's id, and who owns the files as the compiler sees it.
var incomparable = []*regexp.Regexp{
	regexp.MustCompile(`"catalog_uuid":"[^"]*"`),
	regexp.MustCompile(`"owner":\d+,"group":\d+`),
}

func sameBytes(t *testing.T, got, want []byte) {
	t.Helper()
	g, w := got, want
	for _, re := range incomparable {
		g, w = re.ReplaceAll(g, []byte(`"":0`)), re.ReplaceAll(w, []byte(`"":0`))
	}
	if bytes.Equal(g, w) {
		return
	}
	differences, err := engine.Compare(want, got)
	if err != nil {
		t.Fatalf("catalogs differ and cannot be compared: %v", err)
	}
	for _, d := range differences {
		t.Error(d)
	}
	if len(differences) == 0 {
		t.Error("catalogs are equal but not the same bytes")
	}
}

var peers = []puppet.Resource{
	{
		Type: "Fixture_thing", Title: "thing of web02.example.test", Exported: true, Certname: "web02.example.test", Tags: []string{"peer"},
		Parameters: json.RawMessage(`{"size":8,"color":"blue","tag":["peer"],"alias":["other"]}`),
	},
}

// libraries are the generations of Puppet on this machine: the installed one,
// and those of the chroots in which tests keep real agents of other generations.
func libraries(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{"installed": nil}
	const chroots = "/var/cache/troupe/chroots"
	for _, pattern := range []string{"/*/usr/lib/ruby/vendor_ruby/puppet.rb", "/*/usr/share/rubygems-integration/all/gems/openvox-*/lib/puppet.rb"} {
		paths, err := filepath.Glob(chroots + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			release, _, _ := strings.Cut(strings.TrimPrefix(path, chroots+"/"), "/")
			version, err := os.ReadFile(filepath.Join(filepath.Dir(path), "puppet/version.rb"))
			if err != nil {
				t.Fatal(err)
			}
			if m := regexp.MustCompile(`VERSION = '(\d+)\.`).FindSubmatch(version); m != nil && len(m[1]) == 1 && m[1][0] >= '7' {
				found[release] = []string{filepath.Dir(path)}
			}
		}
	}
	return found
}

func TestCatalogsAreThoseOfThePlainLibraryByteForByte(t *testing.T) {
	for name, lib := range libraries(t) {
		t.Run(name, func(t *testing.T) { compareWithLibrary(t, lib) })
	}
}

func compareWithLibrary(t *testing.T, lib []string) {
	t.Helper()
	withPeers := func(o *Options) {
		o.PuppetLib = lib
		o.Resources = func(_ context.Context, q store.ResourceQuery) ([]puppet.Resource, error) {
			if q.Type != "Fixture_thing" {
				return nil, nil
			}
			return peers, nil
		}
	}
	r := newRig(t, withPeers)
	enc := filepath.Join(filepath.Dir(r.root), "enc")
	if err := os.WriteFile(enc, []byte("#!/bin/sh\ncat <<X\n---\nclasses:\n  fixture::classified:\n    color: red\n  shared:\n"+
		"parameters:\n  role: web\n  os: from the classifier\nX\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	classified := func(q *engine.Request) {
		q.Classes = json.RawMessage(`{"fixture::classified":{"color":"red"},"shared":null}`)
		q.Parameters = json.RawMessage(`{"role":"web","os":"from the classifier"}`)
		q.Facts.Values = json.RawMessage(`{"os":{"family":"Debian"},"trouble":"none","role":"of the fact"}`)
	}
	plain := func(q *engine.Request) { q.Rich = false }
	odd := func(q *engine.Request) { // a name that templates know by another, which is taken as well
		q.Facts.Values = json.RawMessage(`{"os":{"family":"Debian"},"trouble":"none","odd_name":1,"odd-name":2}`)
	}
	static := func(q *engine.Request) { q.Static, q.ChecksumTypes = true, []string{"sha256", "md5"} }

	rows := []struct {
		name     string
		certname puppet.Certname
		change   func(*engine.Request)
	}{
		{"a default node with rich data", "db01.example.test", func(*engine.Request) {}},
		{"the same node once more", "db01.example.test", func(*engine.Request) {}},
		{"without rich data", "db01.example.test", plain},
		{"facts of odd names", "db01.example.test", odd},
		{"collectors, exports and stages", "web01.example.test", func(*engine.Request) {}},
		{"static", "web01.example.test", static},
		{"static without rich data", "db01.example.test", func(q *engine.Request) { plain(q); static(q) }},
		{"classified", "trouble.example.test", classified},
	}
	compare := func(t *testing.T, ancestors int) {
		var requests []engine.Request
		for _, row := range rows {
			requests = append(requests, r.on(t).request(row.certname, row.change))
		}
		want := r.on(t).oracle(requests, peers, enc)
		for i, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				got := r.on(t).compile(requests[i])
				sameBytes(t, got.Catalog, want[i])
				var catalog struct {
					UUID    string `json:"catalog_uuid"`
					Version string `json:"version"`
				}
				if err := json.Unmarshal(got.Catalog, &catalog); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{catalog.UUID, catalog.Version}, []string{got.CatalogUUID, got.ConfigVersion}); diff != "" {
					t.Errorf("result and catalog disagree (-catalog +result):\n%s", diff)
				}
			})
		}
		if got := r.zygoteOf(requests[0].Version).Ancestors; got != ancestors {
			t.Errorf("zygote has %d ancestors, want %d", got, ancestors)
		}
	}
	t.Run("a version that begins", func(t *testing.T) { compare(t, 0) })
	r.edit("environments/production/modules/fixture/manifests/init.pp", "class fixture", "# Later lines have other numbers.\n\nclass fixture")
	t.Run("its heir", func(t *testing.T) { compare(t, 1) })
}

func TestErrorsAreThoseOfThePlainLibrary(t *testing.T) {
	r := newRig(t)
	var requests []engine.Request
	for _, certname := range []puppet.Certname{"broken", "syntax", "template", "template"} {
		requests = append(requests, r.request(certname+".example.test"))
	}
	for i, answer := range r.oracle(requests, nil, "/bin/false") {
		t.Run(string(requests[i].Certname), func(t *testing.T) {
			_, err := r.Compile(t.Context(), requests[i])
			var want struct{ Error string }
			if err := json.Unmarshal(answer, &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.Error, compileError(t, err).Msg); diff != "" {
				t.Errorf("message differs (-library +engine):\n%s", diff)
			}
		})
	}
}
