package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

func TestTablesMadeAgainFromTheJournalGiveTheSameAnswers(t *testing.T) {
	m := newMember(t, Options{})
	life(t, m.DB, 1, 150)
	want := answers(t, m.DB)
	m.close(t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(m.dir, "store", fileName+suffix)); err != nil && suffix == "" {
			t.Fatal(err)
		}
	}
	m.open(t, Options{})
	must(t, m.foldAll(t.Context()))
	if diff := cmp.Diff(want, answers(t, m.DB)); diff != "" {
		t.Errorf("answers differ (-before +after):\n%s", diff)
	}
}

func TestOrderOfFoldingDoesNotMatter(t *testing.T) {
	a, b := newMember(t, Options{}), newMember(t, Options{})
	for round := range uint64(6) { // interleaved, so that each is ahead of the other in turn
		life(t, a.DB, 10+round, 25)
		life(t, b.DB, 20+round, 25)
	}
	var recs []journal.Record
	for _, m := range []*member{a, b} {
		for after := uint64(0); ; {
			some, err := m.journal.Read(t.Context(), m.journal.Origin(), journal.Bulk, after, 100)
			must(t, err)
			if len(some) == 0 {
				break
			}
			recs = append(recs, some...)
			after = some[len(some)-1].Number
		}
	}
	var want map[string]any
	for seed := range uint64(8) {
		m := newMember(t, Options{CatalogsPerNode: 100})
		r := rand.New(rand.NewPCG(seed, 3))
		order := append([]journal.Record(nil), recs...)
		order = append(order, recs[:len(recs)/3]...) // some come twice
		r.Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
		for len(order) > 0 {
			n := min(1+r.IntN(40), len(order))
			must(t, m.takeFold(t.Context()))
			err := m.apply(t.Context(), order[:n], m.changes(order[:n]), nil)
			m.endFold()
			must(t, err)
			order = order[n:]
		}
		got := answers(t, m.DB)
		if want == nil {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d: answers differ (-first +now):\n%s", seed, diff)
		}
	}
}

func TestDamagedTablesAreSetAsideAndMadeAgain(t *testing.T) {
	m := newMember(t, Options{})
	life(t, m.DB, 3, 40)
	want := answers(t, m.DB)
	m.close(t)
	path := filepath.Join(m.dir, "store", fileName)
	must(t, os.WriteFile(path, bytes.Repeat([]byte("no database "), 2000), 0o600))
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	m.open(t, Options{})
	must(t, m.foldAll(t.Context()))
	if diff := cmp.Diff(want, answers(t, m.DB)); diff != "" {
		t.Errorf("answers differ (-before +after):\n%s", diff)
	}
	aside, err := filepath.Glob(path + ".damaged-*")
	must(t, err)
	if len(aside) != 1 {
		t.Errorf("set aside: %v, want one file", aside)
	}
}

func TestNewerTablesAreRefused(t *testing.T) {
	m := newMember(t, Options{})
	execSQL(t, m, `PRAGMA user_version = 99`)
	must(t, m.DB.Close())
	_, err := Open(t.Context(), filepath.Join(m.dir, "store"), m.journal, Options{})
	if err == nil || !strings.Contains(err.Error(), "start a newer troupe") {
		t.Errorf("error is %v, want that a newer troupe is needed", err)
	}
}

func TestDamagedAndMalformedRecordsAreSkipped(t *testing.T) {
	m := newMember(t, Options{})
	must(t, m.SaveFacts(t.Context(), facts("before", `{}`), "m"))
	for _, body := range []string{"", "\xff\xff\xff", "\x02{}", "\x07{\"a\":1}", "\x03not"} {
		_, err := m.journal.Append(t.Context(), journal.Draft{Stream: journal.Bulk, Kind: kindFacts, Key: "x", Body: []byte(body)})
		must(t, err)
	}
	bad, err := joinParts(CatalogMeta{Certname: "x"}, []byte("{}"), []byte("no list"))
	must(t, err)
	_, err = m.journal.Append(t.Context(), journal.Draft{Stream: journal.Bulk, Kind: kindCatalog, Key: "x", Body: bad},
		journal.Draft{Stream: journal.Bulk, Kind: "of.a.newer.member", Key: "x", Body: []byte("?")})
	must(t, err)
	damaged, err := m.journal.Append(t.Context(), journal.Draft{Stream: journal.Bulk, Kind: kindFacts, Key: "damaged", Body: []byte("whole")})
	must(t, err)
	file, err := sql.Open("sqlite", filepath.Join(m.dir, "journal", "journal.db")+"?_pragma=busy_timeout(5000)")
	must(t, err)
	_, err = file.Exec(`UPDATE record SET body = CAST('hole!' AS BLOB) WHERE number = ? AND key = 'damaged'`, damaged[0].Number)
	must(t, err)
	must(t, file.Close())

	must(t, m.SaveFacts(t.Context(), facts("after", `{}`), "m"))
	nodes, err := m.Nodes(t.Context(), NodeQuery{Inactive: true})
	must(t, err)
	if len(nodes) != 2 || nodes[0].Certname != "after" || nodes[1].Certname != "before" {
		t.Errorf("nodes are %v, want those of the whole records", nodes)
	}
}

func TestSaveDuringARefoldGoesAhead(t *testing.T) {
	m := newMember(t, Options{})
	body, err := joinParts(encRecord{"old"}, []byte("x"))
	must(t, err)
	for range foldLag/500 + 1 {
		var drafts []journal.Draft
		for range 500 {
			drafts = append(drafts, journal.Draft{Stream: journal.Bulk, Kind: kindENC, Key: "old", Body: body})
		}
		_, err := m.journal.Append(t.Context(), drafts...)
		must(t, err)
	}
	must(t, m.SaveFacts(t.Context(), facts("new", `{}`), "m"))
	if _, err := m.Facts(t.Context(), "new"); err != nil {
		t.Error(err)
	}
	if _, _, ok, err := m.ENC(t.Context(), "old"); ok || err != nil {
		t.Errorf("ENC = %v, %v; the records before were folded while the caller waited", ok, err)
	}
	must(t, m.foldAll(t.Context()))
	if _, _, ok, err := m.ENC(t.Context(), "old"); !ok || err != nil {
		t.Errorf("ENC = %v, %v after folding all", ok, err)
	}
}

func TestJournalPutBackToAnEarlierStateIsFoldedAgain(t *testing.T) {
	m := newMember(t, Options{})
	must(t, m.SaveFacts(t.Context(), facts("n", `{"a":1}`), "m"))
	must(t, m.SaveFacts(t.Context(), facts("n", `{"a":2}`), "m"))
	execSQL(t, m, `UPDATE position SET number = 77`)
	m.close(t)
	m.open(t, Options{})
	must(t, m.SaveFacts(t.Context(), facts("n", `{"a":3}`), "m"))
	if f, err := m.Facts(t.Context(), "n"); err != nil || string(f.Values) != `{"a":3}` {
		t.Errorf("facts = %s, %v; want the third", f.Values, err)
	}
	execSQL(t, m, `UPDATE position SET hash = randomblob(32)`)
	m.close(t)
	m.open(t, Options{})
	if p := m.positions[m.journal.Origin()]; p.number != 0 {
		t.Errorf("positions = %v, want the beginning: the hash is another", m.positions)
	}
}

func TestFullStoreSaysThatTheRecordIsStored(t *testing.T) {
	m := newMember(t, Options{})
	must(t, m.SaveENC(t.Context(), "n", []byte("x")))
	var pages int
	must(t, m.read.QueryRow("PRAGMA page_count").Scan(&pages))
	limit := func(n int) {
		t.Helper()
		_, err := m.write.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", n))
		must(t, err)
	}
	limit(pages)
	noise := make([]byte, 50_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	wantKind(t, "save into full tables", m.SaveENC(t.Context(), "big", noise), fault.Unavailable)
	limit(1 << 30)
	must(t, m.SaveENC(t.Context(), "n", []byte("y")))
	if body, _, ok, err := m.ENC(t.Context(), "big"); !ok || err != nil || !bytes.Equal(body, noise) {
		t.Errorf("ENC = %v, %v; the record that was stored is not visible after there was space again", ok, err)
	}
}

func TestRunFollowsTheJournal(t *testing.T) {
	m := newMember(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	body, err := joinParts(encRecord{"n"}, []byte("x"))
	must(t, err)
	_, err = m.journal.Append(ctx, journal.Draft{Stream: journal.Bulk, Kind: kindENC, Key: "n", Body: body})
	must(t, err)
	until(t, "the record is folded", func() bool {
		_, _, ok, err := m.ENC(ctx, "n")
		must(t, err)
		return ok
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// until polls a condition that other goroutines bring about.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			tb.Fatalf("still waiting: %s", what)
		}
	}
}

func TestWhatIsOldIsForgotten(t *testing.T) {
	m := newMemberAt(t, time.UnixMilli(1_790_000_000_000), Options{})
	must(t, m.SaveFacts(t.Context(), facts("n", `{}`), "m"))
	must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, catalog("u", "1", "x"), []puppet.Resource{service("s")}))
	must(t, m.SaveENC(t.Context(), "n", []byte("x")))
	_, err := m.SaveReport(t.Context(), report("n", "u", "changed"))
	must(t, err)
	must(t, m.BucketPut(t.Context(), "md5", helloMD5, "/etc/motd", strings.NewReader("hello")))

	type left struct{ active, all, exported, reports, bucket, records int }
	check := func(what string, want left) {
		t.Helper()
		must(t, m.retain(t.Context()))
		var got left
		active, err := m.Nodes(t.Context(), NodeQuery{})
		must(t, err)
		all, err := m.Nodes(t.Context(), NodeQuery{Inactive: true})
		must(t, err)
		reports, err := m.Reports(t.Context(), ReportQuery{})
		must(t, err)
		has, err := m.BucketHas(t.Context(), "md5", helloMD5)
		must(t, err)
		recs, err := m.journal.Read(t.Context(), m.journal.Origin(), journal.Bulk, 0, 100)
		must(t, err)
		got = left{len(active), len(all), len(titles(t, m.DB, ResourceQuery{Type: "nagios_service"})), len(reports), 0, len(recs)}
		if has {
			got.bucket = 1
		}
		if got != want {
			t.Errorf("%s: left is %+v, want %+v", what, got, want)
		}
	}
	check("at once", left{1, 1, 1, 1, 1, 5})
	m.now = m.now.Add(4 * day)
	check("after 4 days", left{1, 1, 1, 1, 1, 1})
	m.now = m.now.Add(11 * day)
	check("after 15 days", left{0, 1, 0, 0, 1, 1})
	must(t, m.SaveFacts(t.Context(), facts("n", `{}`), "m"))
	check("heard of again", left{1, 1, 1, 0, 1, 1})
	m.now = m.now.Add(76 * day)
	check("after 91 days", left{0, 1, 0, 0, 0, 1})
	m.now = m.now.Add(20 * day)
	check("after 111 days", left{0, 0, 0, 0, 0, 1})
	if _, err := os.Stat(m.bucketPath(helloSHA256)); !os.IsNotExist(err) {
		t.Errorf("the content is still on the disk: %v", err)
	}
	if v, err := m.journal.Verify(t.Context(), nil); err != nil || !v.OK() {
		t.Errorf("verification = %+v, %v", v, err)
	}
}

func TestContentsOutliveTheJournalWhenTablesAreMadeAgain(t *testing.T) {
	m := newMemberAt(t, time.Now(), Options{})
	must(t, m.BucketPut(t.Context(), "md5", helloMD5, "/etc/motd", strings.NewReader("hello")))
	must(t, m.SaveENC(t.Context(), "n", nil))
	m.now = m.now.Add(5 * day)
	must(t, m.retain(t.Context()))
	store := m.DB.dir
	must(t, os.WriteFile(m.bucketPath(strings.Repeat("0", 64)), []byte("damaged"), 0o600))
	must(t, os.WriteFile(filepath.Join(store, bucketName, incoming+"1"), []byte("half"), 0o600))
	m.close(t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(store, fileName+suffix)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	m.open(t, Options{})
	must(t, m.foldAll(t.Context()))
	must(t, m.adoptBucket(t.Context()))
	if has, err := m.BucketHas(t.Context(), "md5", helloMD5); !has || err != nil {
		t.Errorf("BucketHas = %v, %v", has, err)
	}
	if has, err := m.BucketHas(t.Context(), "sha256", strings.Repeat("0", 64)); has || err != nil {
		t.Errorf("BucketHas of a damaged content = %v, %v", has, err)
	}
	if _, err := os.Stat(filepath.Join(store, bucketName, incoming+"1")); !os.IsNotExist(err) {
		t.Errorf("what was half received is still there: %v", err)
	}
}
