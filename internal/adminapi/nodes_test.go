package adminapi_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"troupe/internal/adminapi"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file shows nodes, reports, compiles and the journal to an operator.

func TestNodes(t *testing.T) {
	p := serve(t)
	if list, err := p.client.Nodes(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("%d nodes (%v) of a new member, want none", len(list), err)
	}
	start := time.Now().Truncate(time.Millisecond).UTC()
	p.saveFacts(t, "web1.example.test", `{"os":{"family":"Debian"}}`)
	for i := range 25 {
		if err := p.store.SaveCompile(t.Context(), store.Compile{
			Certname: "web1.example.test", Environment: "production", CodeID: "c0de", TransactionUUID: fmt.Sprint("t", i), Start: start.Add(time.Duration(i) * time.Second),
			Duration: 1500 * time.Millisecond, Failed: i == 24, Error: strings.Repeat("Evaluation Error", i/24), Timings: map[string]time.Duration{"parse": 500 * time.Millisecond},
			Logs: []store.Log{{Level: "warning", Message: "mind the gap"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.store.SaveCatalog(t.Context(), store.CatalogMeta{Certname: "web1.example.test", Environment: "production", CodeID: "c0de"}, []byte(`{"name":"web1.example.test","resources":[]}`), nil); err != nil {
		t.Fatal(err)
	}

	list, err := p.client.Nodes(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%d nodes (%v), want one", len(list), err)
	}
	n := list[0]
	if n.Certname != "web1.example.test" || n.Environment != "production" || !n.Active || n.FactsTimestamp.IsZero() || n.CatalogTimestamp.IsZero() || !n.ReportTimestamp.IsZero() {
		t.Errorf("node = %+v, want facts, a catalog and no report", n)
	}
	want := &adminapi.Compile{
		Time: start.Add(24 * time.Second), Environment: "production", CodeID: "c0de", TransactionUUID: "t24", Failed: true, Error: "Evaluation Error", Seconds: 1.5,
		Timings: map[string]float64{"parse": 0.5}, Logs: []store.Log{{Level: "warning", Message: "mind the gap"}},
	}
	one, err := p.client.Node(t.Context(), "web1.example.test")
	if err != nil || len(one.Compiles) != 20 {
		t.Fatalf("%d compiles (%v), want the newest 20", len(one.Compiles), err)
	}
	if diff := cmp.Diff(want, &one.Compiles[0]); diff != "" {
		t.Errorf("newest compile (-want +got):\n%s", diff)
	}
	want.Logs = nil // a list of all nodes does not carry them
	if diff := cmp.Diff(want, n.LastCompile); diff != "" {
		t.Errorf("last compile in the list (-want +got):\n%s", diff)
	}

	facts, err := p.client.Facts(t.Context(), "web1.example.test")
	if err != nil || string(facts) != `{"os":{"family":"Debian"}}` {
		t.Errorf("facts = %s (%v)", facts, err)
	}
	catalog, err := p.client.Catalog(t.Context(), "web1.example.test")
	if err != nil || string(catalog) != `{"name":"web1.example.test","resources":[]}` {
		t.Errorf("catalog = %s (%v)", catalog, err)
	}
	for what, err := range map[string]error{
		"node":    errOf(p.client.Node(t.Context(), "nobody.example.test")),
		"facts":   errOf(p.client.Facts(t.Context(), "nobody.example.test")),
		"catalog": errOf(p.client.Catalog(t.Context(), "nobody.example.test")),
	} {
		if fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s of nobody: %v, want not found", what, err)
		}
	}
}

func (p *parts) saveFacts(t *testing.T, name puppet.Certname, values string) {
	t.Helper()
	err := p.store.SaveFacts(t.Context(), puppet.Facts{Certname: name, Environment: "testing", Timestamp: time.Now(), Values: json.RawMessage(values)}, "one.example.test")
	if err != nil {
		t.Fatal(err)
	}
}

func TestReports(t *testing.T) {
	p := serve(t)
	body, err := os.ReadFile("../puppet/testdata/reports/agent-7.23.0.json")
	if err != nil {
		t.Fatal(err)
	}
	sent, err := puppet.DecodeReport(puppet.TypeJSON, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.store.SaveReport(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	for q, want := range map[adminapi.ReportQuery]int{
		{}: 1, {Certname: string(sent.Certname)}: 1, {Status: sent.Status, Limit: 5}: 1, {Certname: "nobody.example.test"}: 0, {Status: "failed-never"}: 0,
	} {
		if list, err := p.client.Reports(t.Context(), q); err != nil || len(list) != want {
			t.Errorf("%+v: %d reports (%v), want %d", q, len(list), err, want)
		}
	}
	list, err := p.client.Reports(t.Context(), adminapi.ReportQuery{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d reports (%v), want one", len(list), err)
	}
	r := list[0]
	if r.Certname != string(sent.Certname) || r.TransactionUUID != sent.TransactionUUID || !r.Time.Equal(sent.Time) || r.Seconds < 0 || r.Resources == 0 {
		t.Errorf("report = %+v", r)
	}
	one, err := p.client.Report(t.Context(), r.ID[:8])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, one.Report); diff != "" {
		t.Errorf("in the list and alone (-list +alone):\n%s", diff)
	}
	if len(one.Logs) != len(sent.Logs) || len(one.Events) != len(sent.Resources) || len(one.Metrics) != len(sent.Metrics) || len(one.Raw) == 0 {
		t.Errorf("%d logs, %d resources, %d metrics and %d bytes, want what was sent", len(one.Logs), len(one.Events), len(one.Metrics), len(one.Raw))
	}
	if err := errOf(p.client.Report(t.Context(), "ffffffffff")); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a report that is not there: %v, want not found", err)
	}
	if err := errOf(p.client.Report(t.Context(), "")); err == nil || !strings.Contains(err.Error(), "which report?") {
		t.Errorf("no report: %v, want a question", err)
	}
}

func TestCompileAsksTheEngineWhatTheNodeWould(t *testing.T) {
	p := serve(t)
	p.engine.result = engine.Result{Catalog: []byte(`{"name":"web1.example.test"}`), Resources: 3, Timings: map[string]time.Duration{"total": 2 * time.Second}}
	p.saveFacts(t, "web1.example.test", `{"role":"stored"}`)
	p.request(t, "web1.example.test", extension(t, 77, "blue"))
	if err := p.authority.Sign(t.Context(), "web1.example.test", 0); err != nil {
		t.Fatal(err)
	}

	got, err := p.client.Compile(t.Context(), adminapi.CompileRequest{Certname: "web1.example.test"})
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Catalog) != `{"name":"web1.example.test"}` || got.Resources != 3 || got.Environment != "testing" || got.CodeID == "" || got.Timings["total"] != 2 {
		t.Errorf("result = %+v, want the engine's in the environment of the facts", got)
	}
	q := p.engine.asked
	want := puppet.Trusted{Authenticated: "remote", Certname: "web1.example.test", Hostname: "web1", Domain: "example.test", Extensions: map[string]string{"team": "blue"}}
	if diff := cmp.Diff(want, q.Trusted); diff != "" {
		t.Errorf("trusted (-want +got):\n%s", diff)
	}
	if string(q.Facts.Values) != `{"role":"stored"}` || !q.Patient || !q.Rich || !q.Static || strings.Join(q.ChecksumTypes, ".") != "sha256.sha384.sha512.sha224.md5" {
		t.Errorf("asked with facts %s, patient %t, rich %t, static %t, checksums %v", q.Facts.Values, q.Patient, q.Rich, q.Static, q.ChecksumTypes)
	}
	if diff := cmp.Diff(map[string]string{"servername": "one.example.test", "serverip": "192.0.2.1"}, q.ServerFacts); diff != "" {
		t.Errorf("server facts (-want +got):\n%s", diff)
	}

	got, err = p.client.Compile(t.Context(), adminapi.CompileRequest{Certname: "new.example.test", Environment: "production", Facts: json.RawMessage(`{"role":"given"}`)})
	if err != nil || got.Environment != "production" || string(p.engine.asked.Facts.Values) != `{"role":"given"}` {
		t.Errorf("with facts and environment given: %+v (%v)", got, err)
	}
	if len(p.engine.asked.Trusted.Extensions) != 0 {
		t.Errorf("extensions of a node without a certificate = %v", p.engine.asked.Trusted.Extensions)
	}
	if list, err := p.client.Nodes(t.Context()); err != nil || len(list) != 1 || list[0].LastCompile != nil {
		t.Errorf("nodes = %+v (%v), want no trace of the compiles", list, err)
	}
}

func TestAnotherMemberCompilesWithWhatThisOneKnows(t *testing.T) {
	knows, other := serve(t), serve(t)
	knows.saveFacts(t, "web1.example.test", `{"role":"stored"}`)
	knows.request(t, "web1.example.test", extension(t, 77, "blue"))
	if err := knows.authority.Sign(t.Context(), "web1.example.test", 0); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*parts{knows, other} {
		p.engine.result = engine.Result{Catalog: []byte(`{}`)}
	}
	in, err := knows.client.Inputs(t.Context(), "web1.example.test")
	if err != nil {
		t.Fatal(err)
	}
	in.Stale = true
	if _, err := knows.client.Compile(t.Context(), adminapi.CompileRequest{Certname: "web1.example.test"}); err != nil {
		t.Fatal(err)
	}
	got, err := other.client.Compile(t.Context(), adminapi.CompileRequest{Certname: "web1.example.test", Inputs: in})
	if err != nil || !got.Stale || got.Environment != "testing" {
		t.Errorf("result = %+v (%v), want it stale, in the environment of the facts", got, err)
	}
	if diff := cmp.Diff(knows.engine.asked, other.engine.asked, cmpopts.IgnoreFields(engine.Request{}, "Version"), cmpopts.IgnoreFields(puppet.Facts{}, "Environment")); diff != "" {
		t.Errorf("asked of the engine (-by the first +by the other):\n%s", diff)
	}
}

func TestCollectorsOfAnotherMemberAreAnswered(t *testing.T) {
	p := serve(t)
	exported := []puppet.Resource{{Type: "Host", Title: "a b&c", Exported: true, Tags: []string{"web"}, Parameters: json.RawMessage(`{"ip":"192.0.2.7"}`)}}
	if err := p.store.SaveCatalog(t.Context(), store.CatalogMeta{Certname: "web1", Environment: "production"}, []byte(`{}`), exported); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		q    store.ResourceQuery
		want int
	}{
		"all of a type":         {store.ResourceQuery{Type: "host"}, 1},
		"of nodes but this one": {store.ResourceQuery{Type: "host", NotCertname: "web1"}, 0},
		"by title":              {store.ResourceQuery{Type: "Host", Filter: json.RawMessage(`["=","title","a b&c"]`)}, 1},
		"by another title":      {store.ResourceQuery{Type: "Host", Filter: json.RawMessage(`["=","title","b"]`)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := p.store.ExportedResources(t.Context(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.client.ExportedResources(t.Context(), c.q)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil || len(got) != c.want {
				t.Errorf("%d resources (%v), want %d as the store has them:\n%s", len(got), err, c.want, diff)
			}
		})
	}
	if err := errOf(p.client.ExportedResources(t.Context(), store.ResourceQuery{Type: "Host", Filter: json.RawMessage(`["like"]`)})); err == nil {
		t.Error("a filter that is none was answered")
	}
}

func TestACatalogWithSecretsIsComparedWithTheStoredOne(t *testing.T) {
	p := serve(t)
	catalog := `{"name":"a<b&c","resources":[{"type":"User","title":"u","sensitive_parameters":["password"],"parameters":{"password":"secret <word>"}}]}`
	if err := p.store.SaveCatalog(t.Context(), store.CatalogMeta{Certname: "web1", Environment: "production"}, []byte(catalog), nil); err != nil {
		t.Fatal(err)
	}
	stored, err := p.client.Catalog(t.Context(), "web1")
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := p.client.Redact(t.Context(), json.RawMessage(catalog))
	if diff := cmp.Diff(string(stored), string(fresh)); diff != "" || err != nil {
		t.Errorf("redacted (-stored +fresh) (%v):\n%s", err, diff)
	}
	if got := string(fresh); strings.Contains(got, "secret") || !strings.Contains(got, `"a<b&c"`) {
		t.Errorf("redacted catalog = %s, want no secret and the rest as it was", got)
	}
}

func TestCompileRefusals(t *testing.T) {
	p := serve(t)
	facts := json.RawMessage(`{}`)
	for name, c := range map[string]struct {
		q    adminapi.CompileRequest
		kind fault.Kind
		want string
	}{
		"no facts":                      {adminapi.CompileRequest{Certname: "web1"}, fault.NotFound, "--facts FILE"},
		"facts that are a list":         {adminapi.CompileRequest{Certname: "web1", Facts: json.RawMessage(`[1]`)}, fault.Invalid, "one JSON object"},
		"no name":                       {adminapi.CompileRequest{Facts: facts}, fault.Invalid, ""},
		"an environment that is a path": {adminapi.CompileRequest{Certname: "web1", Facts: facts, Environment: "../production"}, fault.Invalid, "alphanumeric"},
		"an environment nobody has":     {adminapi.CompileRequest{Certname: "web1", Facts: facts, Environment: "nosuch"}, fault.NotFound, "nosuch"},
	} {
		t.Run(name, func(t *testing.T) {
			err := errOf(p.client.Compile(t.Context(), c.q))
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v of kind %d, want %q of kind %d", err, fault.KindOf(err), c.want, c.kind)
			}
		})
	}

	p.engine.err = fault.Wrap(fault.Failed, &engine.CompileError{Certname: "web1", Msg: "Evaluation Error: no", Logs: []engine.Log{{Message: "first"}}}, "Evaluation Error: no")
	got, err := p.client.Compile(t.Context(), adminapi.CompileRequest{Certname: "web1", Facts: facts})
	if err != nil || got.Error != "Evaluation Error: no" || len(got.Logs) != 1 || got.Catalog != nil {
		t.Errorf("code that does not compile: %+v (%v), want Puppet's words and its log", got, err)
	}
	p.engine.err = fault.New(fault.Unavailable, "the engine has no room")
	if err := errOf(p.client.Compile(t.Context(), adminapi.CompileRequest{Certname: "web1", Facts: facts})); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("an engine without room: %v, want unavailable", err)
	}
}

func TestVerifyTellsItsProgressAndTheDamage(t *testing.T) {
	p := serve(t)
	for i := range 50 {
		p.saveFacts(t, puppet.Certname(fmt.Sprintf("web%d.example.test", i)), `{"a":1}`)
	}
	var calls int
	var last, total uint64
	v, err := p.client.Verify(t.Context(), func(d, n uint64) {
		if d < last || d > n {
			t.Errorf("progress %d of %d after %d", d, n, last)
		}
		calls, last, total = calls+1, d, n
	})
	if err != nil || !v.Whole || v.Records < 50 || len(v.Damage) != 0 {
		t.Fatalf("%+v (%v), want a whole journal of at least 50 records", v, err)
	}
	if calls == 0 || last != total || total != v.Records {
		t.Errorf("progress ended at %d of %d in %d calls, want all %d records", last, total, calls, v.Records)
	}

	p.flip(t)
	if v, err = p.client.Verify(t.Context(), nil); err != nil || v.Whole || len(v.Damage) != 1 || !strings.Contains(v.Damage[0], "record 7 of origin "+string(p.journal.Origin())) {
		t.Errorf("%+v (%v), want the damaged record named", v, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.client.Verify(ctx, nil); err == nil {
		t.Error("a verification that was given up gave a verdict")
	}
}

// flip changes one record of the journal behind its back.
func (p *parts) flip(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.data, "journal", "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("journal files %v (%v), want one", files, err)
	}
	db, err := sql.Open("sqlite", files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	res, err := db.ExecContext(t.Context(), `UPDATE record SET key = 'other' WHERE number = 7 AND kind = 'facts'`)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d records changed (%v), want 1", n, err)
	}
}
