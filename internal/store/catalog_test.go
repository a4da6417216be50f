package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

func lastRecord(tb testing.TB, m *member) journal.Record {
	tb.Helper()
	n, err := m.journal.Last(tb.Context(), m.journal.Origin(), journal.Bulk)
	must(tb, err)
	recs, err := m.journal.Read(tb.Context(), m.journal.Origin(), journal.Bulk, n-1, 1)
	must(tb, err)
	return recs[0]
}

func TestADeployAloneMakesNoNewCatalog(t *testing.T) {
	m := newMember(t, Options{})
	save := func(codeID, content string) (size int) {
		t.Helper()
		body := fmt.Sprintf(`{"name":"n","code_id":%q,"catalog_uuid":"u","resources":[%q]}`, codeID, content)
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n", CodeID: codeID, CatalogUUID: "u"}, []byte(body), nil))
		meta, got, err := m.Catalog(t.Context(), "n")
		must(t, err)
		if string(got) != body || meta.CodeID != codeID {
			t.Errorf("%s: the catalog is %.100s, of code %s", codeID, got, meta.CodeID)
		}
		return len(lastRecord(t, m).Body)
	}
	content := strings.Repeat("x", 5000)
	if size := save("a", content); size < 5000 {
		t.Errorf("first catalog: the record has %d bytes, want the body in it", size)
	}
	if size := save("b", content); size > 1000 {
		t.Errorf("other code, same catalog: the record has %d bytes, want only a hash", size)
	}
	if size := save("c", content+"!"); size < 5000 {
		t.Errorf("other code, other catalog: the record has %d bytes, want the body in it", size)
	}
}

func TestUnchangedCatalogIsOnlyAHash(t *testing.T) {
	m := newMemberAt(t, time.UnixMilli(1_790_000_000_000), Options{})
	filler := strings.Repeat("x", 5000)
	save := func(uuid, version, content string, exported ...puppet.Resource) (size int) {
		t.Helper()
		m.now = m.now.Add(time.Minute)
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n", Environment: "production", CatalogUUID: uuid, Version: version}, catalog(uuid, version, content), exported))
		return len(lastRecord(t, m).Body)
	}
	if size := save("u1", "1", filler); size < 5000 {
		t.Errorf("first catalog: the record has %d bytes, want the body in it", size)
	}
	if size := save("u2", `"git 2"`, filler); size > 1000 {
		t.Errorf("other version and uuid: the record has %d bytes, want only a hash", size)
	}
	meta, body, err := m.Catalog(t.Context(), "n")
	must(t, err)
	if meta.CatalogUUID != "u2" || string(body) != string(catalog("u2", "1", filler)) || meta.Bytes == 0 || !meta.Stored.Equal(m.now) {
		t.Errorf("catalog = %+v, %.60s", meta, body)
	}
	if size := save("u3", "3", filler+"!"); size < 5000 {
		t.Errorf("other content: the record has %d bytes, want the body in it", size)
	}
	if size := save("u4", "4", filler); size > 1000 {
		t.Errorf("back to the first: the record has %d bytes, want only a hash", size)
	}
	if size := save("u5", "5", filler, service("s1")); size < 5000 {
		t.Errorf("other exported resources: the record has %d bytes, want the body in it", size)
	}
	m.now = m.now.Add(25 * time.Hour)
	if size := save("u6", "6", filler, service("s1")); size < 5000 {
		t.Errorf("unchanged for a day: the record has %d bytes, want the body in it again", size)
	}

	_, _, err = m.Catalog(t.Context(), "other")
	wantKind(t, "catalog of an unknown node", err, fault.NotFound)
	for _, bad := range []string{"", "[]", `{"a":`, `{"a":1`, "null"} {
		wantKind(t, "catalog "+bad, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, []byte(bad), nil), fault.Invalid)
	}
}

func TestOldCatalogsAreTrimmed(t *testing.T) {
	m := newMember(t, Options{CatalogsPerNode: 2})
	for i := range 5 {
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, catalog("u", "1", fmt.Sprint(i)), nil))
	}
	var catalogs, bodies int
	must(t, m.read.QueryRow(`SELECT (SELECT count(*) FROM catalog), (SELECT count(*) FROM catalog_body)`).Scan(&catalogs, &bodies))
	if catalogs != 2 || bodies != 2 {
		t.Errorf("%d catalogs and %d bodies are kept, want 2", catalogs, bodies)
	}
	// One that was trimmed comes back whole.
	must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, catalog("u", "1", "0"), nil))
	if _, body, err := m.Catalog(t.Context(), "n"); err != nil || !strings.Contains(string(body), `"title":"0"`) {
		t.Errorf("catalog = %s, %v", body, err)
	}
}

func TestExportedResourcesFollowTheNewestCatalog(t *testing.T) {
	m := newMember(t, Options{})
	save := func(name puppet.Certname, rs ...puppet.Resource) {
		t.Helper()
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: name}, catalog("u", "1", "x"), rs))
	}
	check := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, titles(t, m.DB, ResourceQuery{Type: "NAGIOS_SERVICE", NotCertname: "me"})); diff != "" {
			t.Errorf("%s: exported resources differ (-want +got):\n%s", what, diff)
		}
	}
	save("b", service("s2"), service("s1"))
	save("a", service("s1"))
	save("me", service("mine"))
	check("first", "s1@a", "s1@b", "s2@b")

	want := service("s1", "web", "nagios")
	want.Virtual = true
	save("a", want)
	got, err := m.ExportedResources(t.Context(), ResourceQuery{Type: "nagios_service", Filter: json.RawMessage(`["=","certname","a"]`)})
	must(t, err)
	want.Certname = "a"
	if diff := cmp.Diff([]puppet.Resource{want}, got); diff != "" {
		t.Errorf("resource differs (-saved +read):\n%s", diff)
	}

	must(t, m.DeactivateNode(t.Context(), "b"))
	check("b is deactivated", "s1@a")
	must(t, m.SaveFacts(t.Context(), facts("b", `{}`), "m"))
	check("b is back", "s1@a", "s1@b", "s2@b")
	save("b")
	check("b exports nothing", "s1@a")
}

func TestFilters(t *testing.T) {
	m := newMember(t, Options{})
	rs := []puppet.Resource{service("one", "Web", "prod"), service("two", "web"), service("three")}
	rs[2].Parameters = json.RawMessage(`{"use":"special","port":8080.0,"flag":true,"none":null,"hash":{"a":[1,"b"]}}`)
	must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, catalog("u", "1", "x"), rs))
	for _, tt := range []struct{ filter, want string }{
		{``, "one three two"},
		{`null`, "one three two"},
		// PuppetDB's form
		{`["=","title","one"]`, "one"},
		{`["=","title","ONE"]`, ""},
		{`["=","tag","WEB"]`, "one two"},
		{`["=","tag","we"]`, ""},
		{`["and",["=","tag","web"],["=","tag","prod"]]`, "one"},
		{`["and",["=","tag","web"],["not",["=","tag","prod"]]]`, "two"},
		{`["or",["=","title","one"],["=","title","three"]]`, "one three"},
		{`["not",["or",["=","title","one"],["=","title","three"]]]`, "two"},
		{`["=",["parameter","use"],"special"]`, "three"},
		{`["!=",["parameter","use"],"special"]`, "one two"},
		{`["=",["parameter","port"],80]`, "one two"},
		{`["=",["parameter","port"],8080]`, "three"},
		{`["=",["parameter","port"],8.08e3]`, "three"},
		{`["=",["parameter","port"],"80"]`, ""},
		{`["=",["parameter","flag"],true]`, "three"},
		{`["=",["parameter","groups"],["a","b"]]`, "one two"},
		{`["=",["parameter","groups"],"a"]`, ""},
		{`["=",["parameter","hash"],{"a":[1,"b"]}]`, "three"},
		{`["=",["parameter","hash"],{"a":[1,"c"]}]`, ""},
		{`["=",["parameter","absent"],null]`, "one three two"},
		{`["=","exported",true]`, "one three two"},
		{`["=","type","nagios_service"]`, "one three two"},
		{`["=","certname","other"]`, ""},
		// Puppet's own form
		{`["tag","==","Web"]`, "one two"},
		{`["title","==","three"]`, "three"},
		{`["use","!=","generic"]`, "three"},
		{`[["tag","==","prod"],"or",["use","==","special"]]`, "one three"},
		{`[["tag","==","web"],"and",[["title","==","one"],"or",["title","==","three"]]]`, "one"},
		{`["and","==","x"]`, ""},
	} {
		got := []string{}
		for _, s := range titles(t, m.DB, ResourceQuery{Type: "nagios_service", Filter: json.RawMessage(tt.filter)}) {
			got = append(got, strings.TrimSuffix(s, "@n"))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s selects %v, want %s", tt.filter, got, tt.want)
		}
	}
}

func TestFilterThatMakesNoSenseIsRefused(t *testing.T) {
	for _, f := range []string{
		`{`, `"x"`, `{}`, `["and"]`, `["not"]`, `["not",["=","title","x"],["=","title","y"]]`, `["~","title","x"]`, `["=","title"]`,
		`["=","title",5]`, `["=","tag",null]`, `["=","colour","x"]`, `["=","exported","yes"]`, `["=",["fact","x"],1]`, `[["a"],"==","b"]`, `["and",["and",[]]]`, `[null,null]`,
		strings.Repeat(`["not",`, 200) + `["=","title","x"]` + strings.Repeat(`]`, 200),
	} {
		_, err := ParseFilter(json.RawMessage(f))
		wantKind(t, f, err, fault.Invalid)
	}
	_, err := ParseFilter(json.RawMessage(`["=","title","` + strings.Repeat("x", maxFilterBytes) + `"]`))
	wantKind(t, "a long filter", err, fault.TooLarge)
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{`["and",["=","tag","web"],["not",["=",["parameter","p"],{"a":[1.0,null]}]]]`, `[["tag","==","a"],"or",["message","!=","q"]]`, `["=",["parameter","n"],1e999]`} {
		f.Add([]byte(s))
	}
	r := service("title", "web")
	f.Fuzz(func(_ *testing.T, b []byte) {
		filter, err := ParseFilter(b)
		if err != nil {
			return
		}
		var c conditions
		filter.narrow(&c)
		_, _ = filter.matches(&candidate{Resource: &r}) // must not panic
	})
}

func TestTypeNames(t *testing.T) {
	for in, want := range map[string]string{"nagios_service": "Nagios_service", "FOO::bar::Baz": "Foo::Bar::Baz", "File": "File", "": "", "::": "::"} {
		if got := typeName(in); got != want {
			t.Errorf("typeName(%q) = %q, want %q", in, got, want)
		}
	}
}
