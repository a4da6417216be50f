package ruby

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file looks at what a compile gives besides the catalog.

func TestExportedResourcesComeAsPuppetDBWouldStoreThem(t *testing.T) {
	r := newRig(t)
	got := r.compile(r.request("web01.example.test")).Exported
	for i := range got {
		got[i].File, got[i].Tags = strings.TrimPrefix(got[i].File, r.root), nil
	}
	const manifest = "/environments/production/modules/fixture/manifests/web.pp"
	want := []puppet.Resource{
		{
			Type: "File", Title: "/srv/peers/web01.example.test", Exported: true, Virtual: true, File: manifest, Line: 6, Certname: "web01.example.test",
			Parameters: json.RawMessage(`{"tag":["peer","zone_a"],"require":"File[/srv/fixture/one.txt]"}`),
		},
		{
			Type: "Fixture_thing", Title: "thing of web01.example.test", Exported: true, File: manifest, Line: 11, Certname: "web01.example.test",
			Parameters: json.RawMessage(`{"size":7,"color":"green","tag":"peer"}`),
		},
		{
			Type: "User", Title: "of web01.example.test", Exported: true, Virtual: true, File: manifest, Line: 16, Certname: "web01.example.test",
			Parameters: json.RawMessage(`{"name":"peer","groups":["b","a"],"require":["File[/srv/fixture/one.txt]","User[realized]"],"alias":["peer"]}`),
		},
	}
	if diff := cmp.Diff(want, got, cmp.Transformer("parameters", func(raw json.RawMessage) string { return string(raw) })); diff != "" {
		t.Errorf("exported resources differ (-want +got):\n%s", diff)
	}
}

func TestTheEnvironmentIsAServerFactWithoutAWarning(t *testing.T) {
	for name, lib := range libraries(t) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.PuppetLib = lib })
			r.edit("environments/production/modules/fixture/manifests/init.pp",
				"server ${server_facts['servername']} of", "server ${server_facts} in ${server_facts['environment']} of")
			got := r.compile(r.request("db01.example.test", func(q *engine.Request) {
				q.ServerFacts["environment"] = "production" // what Puppet adds by itself
			}))
			for _, l := range got.Logs {
				if strings.Contains(l.Message, "already set") {
					t.Errorf("the compile warns: %s", l.Message)
				}
			}
			want := "servername => puppet.example.test, serverip => 192.0.2.7, environment => production} in production of"
			if !strings.Contains(string(got.Catalog), want) {
				t.Errorf("the catalog lacks %q:\n%s", want, got.Catalog)
			}
		})
	}
}

func TestACollectorAsksOnceAndWithItsFilter(t *testing.T) {
	var asked []store.ResourceQuery
	r := newRig(t, func(o *Options) {
		o.WarmNodes = 1
		o.Resources = func(_ context.Context, q store.ResourceQuery) ([]puppet.Resource, error) {
			asked = append(asked, q) // one compile at a time asks, one question at a time
			return nil, nil
		}
	})
	r.compile(r.request("db01.example.test"))
	r.compile(r.request("web01.example.test"))
	want := []store.ResourceQuery{
		{Type: "Fixture_thing", Filter: json.RawMessage(`["and",["=","tag","peer"]]`)},
		{
			Type: "Fixture_thing", NotCertname: "web01.example.test",
			Filter: json.RawMessage(`["and",["=","tag","peer"],["not",["=",["parameter","size"],9]]]`),
		},
	}
	if diff := cmp.Diff(want, asked, cmp.Transformer("filter", func(raw json.RawMessage) string { return string(raw) })); diff != "" {
		t.Errorf("questions differ (-want +got):\n%s", diff)
	}
}

func TestAStoreThatFailsFailsTheCompileInWords(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Resources = func(context.Context, store.ResourceQuery) ([]puppet.Resource, error) {
			return nil, fault.New(fault.Unavailable, "the store is being repaired")
		}
	})
	_, err := r.Compile(t.Context(), r.request("web01.example.test"))
	if got := compileError(t, err).Msg; !strings.Contains(got, "the store is being repaired") {
		t.Errorf("message is %q", got)
	}
}

func TestMessagesTimingsAndPathsOfACompile(t *testing.T) {
	r := newRig(t)
	for range 2 { // the second has nothing left to parse and says the same
		result := r.compile(r.request("db01.example.test"))
		var warning engine.Log
		for _, l := range result.Logs {
			if l.Level == "warning" && strings.HasPrefix(l.Message, "a warning") {
				warning = l
			}
		}
		if warning.Source != "Scope(Class[Fixture])" || warning.Time.IsZero() {
			t.Errorf("the manifest's warning is %+v", warning)
		}
		for _, step := range []string{"queue", "node", "evaluate", "serialise", "total"} {
			if result.Timings[step] <= 0 {
				t.Errorf("timing %s is missing in %v", step, result.Timings)
			}
		}
		if strings.Contains(string(result.Catalog), r.version().Root) {
			t.Error("the catalog names the snapshot")
		}
	}

	_, err := r.Compile(t.Context(), r.request("syntax.example.test"))
	e := compileError(t, err)
	if len(e.Logs) == 0 || !strings.Contains(e.Logs[len(e.Logs)-1].Message, r.root) || strings.Contains(e.Logs[0].Message, r.version().Root) {
		t.Errorf("messages of the failure are %+v", e.Logs)
	}
}

func TestStringsThatAreNotTextTravelAsPSON(t *testing.T) {
	r := newRig(t)
	q := r.trouble("binary")
	q.Rich = false // rich data has a type for them
	result := r.compile(q)
	if !result.PSON || !strings.Contains(string(result.Catalog), "\xff\xfe") {
		t.Errorf("PSON is %v, catalog %q", result.PSON, result.Catalog)
	}
}

func TestSettingsReachPuppet(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Settings = map[string]string{"strict": "error", "strict_variables": "true", "no_such_setting": "1", "environmentpath": "/nowhere"}
	})
	r.edit("environments/production/manifests/site.pp", "fixture::trouble($facts['trouble'])", "$no_such_variable")
	_, err := r.Compile(t.Context(), r.trouble("none"))
	if got := compileError(t, err).Msg; !strings.Contains(got, "Unknown variable: 'no_such_variable'") {
		t.Errorf("message is %q", got)
	}
	if !strings.Contains(r.log.String(), "no_such_setting") {
		t.Error("the log does not name the unknown setting")
	}
}

func TestANewVersionIsWarmedWithKnownNodes(t *testing.T) {
	asked := 0
	r := newRig(t, func(o *Options) {
		o.Warm = func(_ context.Context, e puppet.Environment, n int) ([]engine.Request, error) {
			asked++
			if e != "production" || n != 16 {
				return nil, errors.New("not what was expected")
			}
			facts := puppet.Facts{Values: json.RawMessage(`{"os":{"family":"Debian"}}`)}
			return []engine.Request{{Certname: "web01.example.test", Facts: facts}, {Certname: "broken.example.test", Facts: facts}}, nil
		}
	})
	if err := r.Prepare(t.Context(), r.version()); err != nil {
		t.Fatal(err)
	}
	if z := r.Stats().Zygotes; len(z) != 1 || z[0].Warmed != 1 || asked != 1 {
		t.Errorf("zygotes are %+v and %d questions were asked, want one zygote warmed with the node that compiles", z, asked)
	}
}

func TestClassesAreListedAsByTheRealServer(t *testing.T) {
	r := newRig(t)
	got, err := r.EnvironmentClasses(t.Context(), r.version())
	if err != nil {
		t.Fatal(err)
	}
	var listing struct {
		Files []struct {
			Path, Error string
			Classes     json.RawMessage
		}
		Name string
	}
	if err := json.Unmarshal(got, &listing); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	var order []string
	for _, f := range listing.Files {
		path := strings.TrimPrefix(f.Path, r.root+"/environments/production/")
		order = append(order, path)
		found[path] = string(f.Classes) + f.Error
	}
	wantOrder := []string{
		"manifests/site.pp", "modules/fixture/manifests/classified.pp", "modules/fixture/manifests/early.pp", "modules/fixture/manifests/init.pp",
		"modules/fixture/manifests/item.pp", "modules/fixture/manifests/syntax.pp", "modules/fixture/manifests/web.pp", r.root + "/modules/shared/manifests/init.pp",
	}
	if diff := cmp.Diff(wantOrder, order); diff != "" {
		t.Errorf("files differ (-want +got):\n%s", diff)
	}
	const want = `[{"name":"fixture::classified","params":[{"default_literal":"none","default_source":"'none'","name":"color","type":"String"},` +
		`{"default_literal":{},"default_source":"{}","name":"extra","type":"Hash"}]}]`
	if diff := cmp.Diff(want, found["modules/fixture/manifests/classified.pp"]); diff != "" {
		t.Errorf("classes differ (-want +got):\n%s", diff)
	}
	if got := found["modules/fixture/manifests/syntax.pp"]; !strings.Contains(got, "Syntax error") {
		t.Errorf("the file that does not parse says %q", got)
	}
	if listing.Name != "production" || !strings.HasPrefix(string(got), `{"files":[{"classes":`) {
		t.Errorf("the body begins %.60s", got)
	}
}

func TestBadRequestsAreRefusedBeforeAWorkerSeesThem(t *testing.T) {
	r := newRig(t)
	for name, change := range map[string]func(*engine.Request){
		"facts that are a list":     func(q *engine.Request) { q.Facts.Values = json.RawMessage(`[]`) },
		"facts that are no JSON":    func(q *engine.Request) { q.Facts.Values = json.RawMessage(`{`) },
		"parameters that are text":  func(q *engine.Request) { q.Parameters = json.RawMessage(`"x"`) },
		"a log level of no meaning": func(q *engine.Request) { q.LogLevel = "loud" },
	} {
		if _, err := r.Compile(t.Context(), r.request("db01.example.test", change)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}

func TestAnUnfilteredCatalogKeepsTheExportedResourcesOfItsNode(t *testing.T) {
	r := newRig(t)
	filtered := r.compile(r.request("web01.example.test"))
	whole := r.compile(r.request("web01.example.test", func(q *engine.Request) { q.Unfiltered = true }))
	exported := []byte(`"title":"/srv/peers/web01.example.test"`)
	if bytes.Contains(filtered.Catalog, exported) || !bytes.Contains(whole.Catalog, exported) {
		t.Errorf("the exported file is in the agent's catalog: %v, in the whole one: %v; want false and true",
			bytes.Contains(filtered.Catalog, exported), bytes.Contains(whole.Catalog, exported))
	}
}
