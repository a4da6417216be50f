package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_DIR"); dir != "" {
		os.Exit(saveForEver(dir))
	}
	os.Exit(m.Run())
}

// member is a journal and a store on it.
type member struct {
	*DB
	dir string
	now time.Time // advanced by tests; zero means the real clock
}

func (m *member) clock() time.Time {
	if m.now.IsZero() {
		return time.Now()
	}
	return m.now
}

func newMember(tb testing.TB, o Options) *member {
	tb.Helper()
	m := &member{dir: tb.TempDir()}
	m.open(tb, o)
	return m
}

// newMemberAt has a clock that stands still until the test moves it.
func newMemberAt(tb testing.TB, now time.Time, o Options) *member {
	tb.Helper()
	m := &member{dir: tb.TempDir(), now: now}
	m.open(tb, o)
	return m
}

func (m *member) open(tb testing.TB, o Options) {
	tb.Helper()
	j, err := journal.Open(filepath.Join(m.dir, "journal"), journal.Options{Now: m.clock})
	if err != nil {
		tb.Fatal(err)
	}
	o.Now, o.Registerer = m.clock, prometheus.NewRegistry()
	db, err := Open(tb.Context(), filepath.Join(m.dir, "store"), j, o)
	if err != nil {
		tb.Fatal(err)
	}
	m.DB = db
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
		if err := j.Close(); err != nil {
			tb.Error(err)
		}
	})
}

func (m *member) close(tb testing.TB) {
	tb.Helper()
	if err := m.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := m.journal.Close(); err != nil {
		tb.Fatal(err)
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantKind(tb testing.TB, what string, err error, want fault.Kind) {
	tb.Helper()
	if err == nil || fault.KindOf(err) != want {
		tb.Errorf("%s: error is %v, want one of kind %d", what, err, want)
	}
}

func facts(name puppet.Certname, values string) puppet.Facts {
	return puppet.Facts{Certname: name, Environment: "production", Timestamp: time.UnixMicro(1_790_000_000_000_001).UTC(), Values: json.RawMessage(values)}
}

func report(name puppet.Certname, uuid, status string) puppet.Report {
	raw := fmt.Sprintf(`{"host":%q,"environment":"production","status":%q,"transaction_uuid":%q,"report_format":12,"time":"2026-11-21T10:00:00Z",
		"metrics":{"resources":{"name":"resources","label":"Resources","values":[["total","Total",7],["changed","Changed",2]]}},
		"logs":[{"level":"notice","message":"Applied catalog","source":"Puppet","tags":[],"time":"2026-11-21T10:00:09Z","file":null,"line":null}],"resource_statuses":{}}`, name, status, uuid)
	r, err := puppet.DecodeReport(puppet.TypeJSON, []byte(raw))
	if err != nil {
		panic(err)
	}
	return r
}

func service(title string, tags ...string) puppet.Resource {
	return puppet.Resource{
		Type: "Nagios_service", Title: title, Exported: true, Tags: tags, File: "/site.pp", Line: 3,
		Parameters: json.RawMessage(fmt.Sprintf(`{"use":"generic","host_name":%q,"port":80,"groups":["a","b"]}`, title)),
	}
}

func catalog(uuid, version, content string) []byte {
	return fmt.Appendf(nil, `{"tags":["settings"],"name":"n","version":%s,"catalog_uuid":%q,"resources":[{"type":"Notify","title":%q}]}`, version, uuid, content)
}

func titles(tb testing.TB, db *DB, q ResourceQuery) []string {
	tb.Helper()
	rs, err := db.ExportedResources(tb.Context(), q)
	if err != nil {
		tb.Fatal(err)
	}
	all := []string{}
	for _, r := range rs {
		all = append(all, r.Title+"@"+string(r.Certname))
	}
	return all
}

// answers asks everything that can be asked.
func answers(tb testing.TB, db *DB) map[string]any {
	tb.Helper()
	ctx := tb.Context()
	all := map[string]any{}
	put := func(what string, v any, err error) {
		tb.Helper()
		if err != nil && fault.KindOf(err) != fault.NotFound {
			tb.Fatalf("%s: %v", what, err)
		}
		all[what] = v
	}
	nodes, err := db.Nodes(ctx, NodeQuery{Inactive: true})
	put("nodes", nodes, err)
	for _, n := range nodes {
		f, err := db.Facts(ctx, n.Certname)
		put("facts of "+string(n.Certname), f, err)
		m, body, err := db.Catalog(ctx, n.Certname)
		put("catalog of "+string(n.Certname), []any{m, string(body)}, err)
		c, err := db.Compiles(ctx, n.Certname, 0)
		put("compiles of "+string(n.Certname), c, err)
		e, at, ok, err := db.ENC(ctx, n.Certname)
		put("enc of "+string(n.Certname), []any{string(e), at, ok}, err)
	}
	reports, err := db.Reports(ctx, ReportQuery{Limit: maxRows})
	put("reports", reports, err)
	for _, r := range reports {
		_, rep, err := db.Report(ctx, r.ID)
		put("report "+r.ID, rep, err)
	}
	exported, err := db.ExportedResources(ctx, ResourceQuery{Type: "nagios_service"})
	put("exported", exported, err)
	recent, err := db.RecentNodes(ctx, "production", 100)
	put("recent", recent, err)
	paths, err := db.BucketPaths(ctx, helloSHA256)
	put("paths", paths, err)
	return all
}

const (
	helloSHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	helloMD5    = "5d41402abc4b2a76b9719d911017c592"
)

// life lets a few nodes do what nodes do, in an order that the seed decides.
func life(tb testing.TB, db *DB, seed uint64, steps int) {
	tb.Helper()
	ctx, r := tb.Context(), rand.New(rand.NewPCG(seed, 7))
	for i := range steps {
		name := puppet.Certname(fmt.Sprintf("n%d.example.com", r.IntN(4)))
		env := puppet.Environment([]string{"production", "staging"}[r.IntN(2)])
		switch r.IntN(8) {
		case 0:
			f := facts(name, fmt.Sprintf(`{"b":%d,"a":"x"}`, i))
			f.Environment = env
			must(tb, db.SaveFacts(ctx, f, "m"))
		case 1, 2:
			n := r.IntN(3)
			var ex []puppet.Resource
			for k := range n {
				ex = append(ex, service(fmt.Sprintf("s%d", k), "web", fmt.Sprint("t", n)))
			}
			must(tb, db.SaveCatalog(ctx, CatalogMeta{Certname: name, Environment: env, CatalogUUID: fmt.Sprint(seed, i)}, catalog(fmt.Sprint(i), "1", fmt.Sprint(n)), ex))
		case 3:
			must(tb, db.SaveCompile(ctx, Compile{
				Certname: name, Environment: env, Failed: r.IntN(2) == 0, Start: time.UnixMicro(int64(i)).UTC(), Duration: time.Second,
				Logs: []Log{{Level: "warning", Message: fmt.Sprint(i)}}, Timings: map[string]time.Duration{"parse": time.Duration(i)},
			}))
		case 4, 5:
			_, err := db.SaveReport(ctx, report(name, fmt.Sprint("uuid", r.IntN(6)), []string{"changed", "failed"}[r.IntN(2)]))
			must(tb, err)
		case 6:
			must(tb, db.SaveENC(ctx, name, fmt.Appendf(nil, "classes: [c%d]", i)))
			if r.IntN(3) == 0 {
				if err := db.DeactivateNode(ctx, name); fault.KindOf(err) != fault.NotFound {
					must(tb, err)
				}
			}
		case 7:
			must(tb, db.BucketPut(ctx, "md5", helloMD5, fmt.Sprintf("/etc/f%d", r.IntN(3)), strings.NewReader("hello")))
		}
	}
}

func TestFactsAreTheLastOnes(t *testing.T) {
	m := newMember(t, Options{})
	_, err := m.Facts(t.Context(), "n.example.com")
	wantKind(t, "facts of an unknown node", err, fault.NotFound)
	must(t, m.SaveFacts(t.Context(), facts("n.example.com", `{"old":true}`), "m"))
	want := facts("n.example.com", `{"z":1,"a":{"k":[1,2]}}`)
	must(t, m.SaveFacts(t.Context(), want, "m"))
	got, err := m.Facts(t.Context(), "n.example.com")
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts differ (-saved +read):\n%s", diff)
	}
	must(t, m.SaveFacts(t.Context(), puppet.Facts{Certname: "bare.example.com"}, ""))
	bare, err := m.Facts(t.Context(), "bare.example.com")
	must(t, err)
	if string(bare.Values) != "{}" || !bare.Timestamp.IsZero() {
		t.Errorf("facts without values and time came back as %+v", bare)
	}
}

func TestRecentNodesAreOfTheEnvironmentAndTheLastHeardOf(t *testing.T) {
	m := newMember(t, Options{})
	for _, n := range []puppet.Certname{"a", "b", "c"} {
		must(t, m.SaveFacts(t.Context(), facts(n, `{}`), "m"))
	}
	other := facts("d", `{}`)
	other.Environment = "staging"
	must(t, m.SaveFacts(t.Context(), other, "m"))
	must(t, m.SaveCompile(t.Context(), Compile{Certname: "a", Environment: "production"}))
	got, err := m.RecentNodes(t.Context(), "production", 2)
	must(t, err)
	if len(got) != 2 || got[0].Certname != "a" || got[1].Certname != "c" {
		t.Errorf("recent nodes are %v, want a and c", got)
	}
}

func TestRecentNodesAreOnesWithDifferentCatalogs(t *testing.T) {
	m := newMember(t, Options{})
	for i, resources := range []int{10, 10, 200, 200, 10, 300} {
		name := puppet.Certname(fmt.Sprintf("n%d", i))
		must(t, m.SaveFacts(t.Context(), facts(name, `{}`), "m"))
		must(t, m.SaveCompile(t.Context(), Compile{Certname: name, Environment: "production", Resources: resources, Failed: resources == 300}))
	}
	other := facts("s0", `{}`)
	other.Environment = "staging"
	must(t, m.SaveFacts(t.Context(), other, "m"))
	got, err := m.RecentNodes(t.Context(), "production", 5)
	must(t, err)
	if len(got) != 2 || got[0].Certname != "n4" || got[1].Certname != "n3" {
		t.Errorf("recent nodes are %v, want n4 and n3: the newest of each size", got)
	}
	environments, err := m.RecentEnvironments(t.Context(), 5)
	must(t, err)
	if len(environments) != 2 || environments[0] != "staging" || environments[1] != "production" {
		t.Errorf("recent environments are %v, want staging, then production", environments)
	}
}

func TestFailedCompilesAreKeptAndOldOnesTrimmed(t *testing.T) {
	m := newMember(t, Options{CompilesPerNode: 5})
	want := Compile{
		Certname: "n", Environment: "production", CodeID: "c0de", TransactionUUID: "u", Start: time.UnixMicro(1_790_000_000_000_000).UTC(),
		Duration: 1500 * time.Millisecond, Failed: true, Error: "Evaluation Error: …", Resources: 3, Bytes: 4,
		Logs: []Log{{Level: "err", Message: "no", File: "/site.pp", Line: 7, Time: time.UnixMicro(5).UTC()}}, Timings: map[string]time.Duration{"parse": 9},
	}
	for i := range 8 {
		c := want
		c.Resources = i
		must(t, m.SaveCompile(t.Context(), c))
	}
	got, err := m.Compiles(t.Context(), "n", 0)
	must(t, err)
	if len(got) != 5 {
		t.Fatalf("%d compiles are kept, want 5", len(got))
	}
	want.Resources = 7
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("newest compile differs (-saved +read):\n%s", diff)
	}
	nodes, err := m.Nodes(t.Context(), NodeQuery{})
	must(t, err)
	if len(nodes) != 1 || !nodes[0].CompileFailed {
		t.Errorf("nodes = %+v, want one whose compile failed", nodes)
	}
	must(t, m.SaveCompile(t.Context(), Compile{Certname: "n"}))
	if nodes, err = m.Nodes(t.Context(), NodeQuery{Certname: "n"}); err != nil || nodes[0].CompileFailed || nodes[0].Environment != "production" {
		t.Errorf("nodes = %+v, %v; want one whose compile did not fail, still in production", nodes, err)
	}
}

func TestENCAnswerIsTheLastOne(t *testing.T) {
	m := newMemberAt(t, time.UnixMilli(1_790_000_000_000), Options{})
	if _, _, ok, err := m.ENC(t.Context(), "n"); ok || err != nil {
		t.Errorf("ENC of an unknown node = %v, %v", ok, err)
	}
	must(t, m.SaveENC(t.Context(), "n", []byte("classes: []")))
	must(t, m.SaveENC(t.Context(), "n", []byte("classes: [a]")))
	first := m.now
	m.now = m.now.Add(time.Hour)
	must(t, m.SaveENC(t.Context(), "n", []byte("classes: [a]")))
	body, at, ok, err := m.ENC(t.Context(), "n")
	if string(body) != "classes: [a]" || !ok || err != nil || !at.Equal(first) {
		t.Errorf("ENC = %q, %v, %v, %v; want the second answer, not journalled twice", body, at, ok, err)
	}
}

func TestNodesAreSelected(t *testing.T) {
	m := newMember(t, Options{})
	for _, n := range []puppet.Certname{"web1.example.com", "web2.example.com", "db1.example.com"} {
		must(t, m.SaveFacts(t.Context(), facts(n, `{}`), "m"))
	}
	_, err := m.SaveReport(t.Context(), report("web2.example.com", "u1", "failed"))
	must(t, err)
	must(t, m.DeactivateNode(t.Context(), "db1.example.com"))
	for name, tt := range map[string]struct {
		query NodeQuery
		want  []puppet.Certname
	}{
		"active":      {NodeQuery{}, []puppet.Certname{"web1.example.com", "web2.example.com"}},
		"all":         {NodeQuery{Inactive: true}, []puppet.Certname{"db1.example.com", "web1.example.com", "web2.example.com"}},
		"exact":       {NodeQuery{Certname: "web1.example.com"}, []puppet.Certname{"web1.example.com"}},
		"glob":        {NodeQuery{Certname: "*2*"}, []puppet.Certname{"web2.example.com"}},
		"no sets":     {NodeQuery{Certname: "web[12]*"}, nil},
		"status":      {NodeQuery{Status: "failed"}, []puppet.Certname{"web2.example.com"}},
		"environment": {NodeQuery{Environment: "nowhere"}, nil},
		"page":        {NodeQuery{After: "web1.example.com", Limit: 1}, []puppet.Certname{"web2.example.com"}},
	} {
		nodes, err := m.Nodes(t.Context(), tt.query)
		must(t, err)
		var got []puppet.Certname
		for _, n := range nodes {
			got = append(got, n.Certname)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: nodes differ (-want +got):\n%s", name, diff)
		}
	}
	wantKind(t, "deactivating an unknown node", m.DeactivateNode(t.Context(), "nobody"), fault.NotFound)
}

func TestReportIsStoredOnceHoweverOftenItIsSent(t *testing.T) {
	m := newMember(t, Options{})
	r := report("n", "u1", "changed")
	results := make(chan bool, 10)
	for range cap(results) {
		go func() {
			dup, err := m.SaveReport(context.WithoutCancel(t.Context()), r)
			if err != nil {
				t.Error(err)
			}
			results <- dup
		}()
	}
	fresh := 0
	for range cap(results) {
		if !<-results {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of 10 reports were no duplicate, want 1", fresh)
	}
	all, err := m.Reports(t.Context(), ReportQuery{})
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("%d reports are stored, want 1", len(all))
	}
	s, full, err := m.Report(t.Context(), all[0].ID[:8])
	must(t, err)
	if diff := cmp.Diff(r, full); diff != "" {
		t.Errorf("report differs (-saved +read):\n%s", diff)
	}
	if s.Total != 7 || s.Changed != 2 || s.Certname != "n" || s.Received.IsZero() {
		t.Errorf("summary = %+v", s)
	}

	// Without a transaction_uuid the whole report tells.
	for i, want := range []bool{false, true, false} {
		old := report("n", "", []string{"changed", "changed", "failed"}[i])
		if dup, err := m.SaveReport(t.Context(), old); err != nil || dup != want {
			t.Errorf("report %d without a transaction: duplicate = %v, %v; want %v", i, dup, err, want)
		}
	}
}

func TestReportsAreSelected(t *testing.T) {
	m := newMemberAt(t, time.UnixMilli(1_790_000_000_000), Options{})
	for i := range 5 {
		m.now = m.now.Add(time.Minute)
		_, err := m.SaveReport(t.Context(), report(puppet.Certname(fmt.Sprintf("n%d", i%2)), fmt.Sprint(i), []string{"changed", "unchanged", "failed"}[i%3]))
		must(t, err)
	}
	for name, tt := range map[string]struct {
		query ReportQuery
		want  string
	}{
		"all":         {ReportQuery{}, "4 3 2 1 0"},
		"limit":       {ReportQuery{Limit: 2}, "4 3"},
		"node":        {ReportQuery{Certname: "n1"}, "3 1"},
		"status":      {ReportQuery{Status: "changed"}, "3 0"},
		"environment": {ReportQuery{Environment: "staging"}, ""},
		"since":       {ReportQuery{Since: m.now.Add(-time.Minute)}, "4 3"},
	} {
		all, err := m.Reports(t.Context(), tt.query)
		must(t, err)
		var got []string
		for _, r := range all {
			got = append(got, r.TransactionUUID)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: reports %v, want %s", name, got, tt.want)
		}
	}
	for _, id := range []string{"", "abc", "xyzw", strings.Repeat("a", 65)} {
		_, _, err := m.Report(t.Context(), id)
		wantKind(t, "report "+id, err, fault.Invalid)
	}
	_, _, err := m.Report(t.Context(), strings.Repeat("0", 64))
	wantKind(t, "an unknown report", err, fault.NotFound)
	execSQL(t, m, `INSERT INTO report SELECT substr(id, 1, 63) || 'x', stamp, certname, environment, status, summary, body FROM report`)
	all, err := m.Reports(t.Context(), ReportQuery{Limit: 1})
	must(t, err)
	_, _, err = m.Report(t.Context(), all[0].ID[:10])
	wantKind(t, "a prefix of two reports", err, fault.Invalid)
}

func execSQL(tb testing.TB, m *member, query string, args ...any) {
	tb.Helper()
	must(tb, m.update(tb.Context(), func(tx *sqlite.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	}))
}

func TestBucketKeepsContents(t *testing.T) {
	m := newMember(t, Options{MaxBucketFile: 1000})
	ctx := t.Context()
	must(t, m.BucketPut(ctx, "md5", helloMD5, "/etc/motd", strings.NewReader("hello")))
	must(t, m.BucketPut(ctx, "sha256", strings.ToUpper(helloSHA256), "/etc/issue", strings.NewReader("hello")))
	must(t, m.BucketPut(ctx, "sha256", helloSHA256, "/etc/issue", strings.NewReader("hello")))
	for algo, sum := range map[string]string{"md5": helloMD5, "sha256": helloSHA256} {
		if has, err := m.BucketHas(ctx, algo, sum); !has || err != nil {
			t.Errorf("BucketHas(%s) = %v, %v", algo, has, err)
		}
		f, size, err := m.BucketGet(ctx, algo, sum)
		must(t, err)
		b, err := io.ReadAll(f)
		must(t, err)
		must(t, f.Close())
		if string(b) != "hello" || size != 5 {
			t.Errorf("BucketGet(%s) = %q, %d", algo, b, size)
		}
	}
	paths, err := m.BucketPaths(ctx, helloSHA256)
	must(t, err)
	if diff := cmp.Diff([]string{"/etc/issue", "/etc/motd"}, paths); diff != "" {
		t.Errorf("paths differ (-want +got):\n%s", diff)
	}
	if n, err := m.journal.Last(ctx, m.journal.Origin(), journal.Bulk); n != 2 || err != nil {
		t.Errorf("%d records were written, %v; want 2 for three backups of two paths", n, err)
	}
	const sha1Hello = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"
	if has, err := m.BucketHas(ctx, "sha1", sha1Hello); has || err != nil {
		t.Errorf("BucketHas(sha1) = %v, %v before anybody asked for it", has, err)
	}
	must(t, m.BucketPut(ctx, "sha1", sha1Hello, "/etc/issue", strings.NewReader("hello")))
	if has, err := m.BucketHas(ctx, "sha1", sha1Hello); !has || err != nil {
		t.Errorf("BucketHas(sha1) = %v, %v", has, err)
	}
	st, err := os.Stat(m.bucketPath(helloSHA256))
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("content has mode %o, want 600", st.Mode().Perm())
	}
}

func TestBucketRefusesWhatIsNotWhatItSays(t *testing.T) {
	m := newMember(t, Options{MaxBucketFile: 1000})
	ctx := t.Context()
	wantKind(t, "wrong sum", m.BucketPut(ctx, "md5", helloMD5, "", strings.NewReader("hullo")), fault.Invalid)
	wantKind(t, "too large", m.BucketPut(ctx, "md5", helloMD5, "", bytes.NewReader(make([]byte, 1001))), fault.TooLarge)
	wantKind(t, "long path", m.BucketPut(ctx, "md5", helloMD5, strings.Repeat("p", maxBucketPath+1), strings.NewReader("hello")), fault.TooLarge)
	for _, tt := range [][2]string{{"md5", "../../etc/passwd"}, {"md5", helloSHA256}, {"sha256", helloMD5}, {"crc", "00"}, {"", ""}} {
		_, err := m.BucketHas(ctx, tt[0], tt[1])
		wantKind(t, "BucketHas "+tt[0]+" "+tt[1], err, fault.Invalid)
		wantKind(t, "BucketPut "+tt[0]+" "+tt[1], m.BucketPut(ctx, tt[0], tt[1], "", strings.NewReader("hello")), fault.Invalid)
	}
	_, _, err := m.BucketGet(ctx, "md5", helloMD5)
	wantKind(t, "unknown content", err, fault.NotFound)
	entries, err := os.ReadDir(filepath.Join(m.DB.dir, bucketName))
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("refused contents left files: %v", entries)
	}
}

func TestBucketMendsADamagedFile(t *testing.T) {
	m := newMember(t, Options{})
	put := func() { must(t, m.BucketPut(t.Context(), "md5", helloMD5, "/etc/motd", strings.NewReader("hello"))) }
	has := func() bool {
		ok, err := m.BucketHas(t.Context(), "md5", helloMD5)
		must(t, err)
		return ok
	}
	put()
	for name, spoil := range map[string]func() error{
		"cut":     func() error { return os.Truncate(m.bucketPath(helloSHA256), 2) },
		"removed": func() error { return os.Remove(m.bucketPath(helloSHA256)) },
		"flipped": func() error { return os.WriteFile(m.bucketPath(helloSHA256), []byte("hellp"), 0o600) },
	} {
		must(t, spoil())
		if has() {
			t.Errorf("%s: the bucket says that it holds the content", name)
		}
		put()
		if !has() {
			t.Errorf("%s: the content is not there after it was backed up again", name)
		}
	}
}
