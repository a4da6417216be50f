package store

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// pruned is a member that knows nodes and files whose records are pruned, and one that has run since.
func pruned(t *testing.T) *member {
	t.Helper()
	m := newMemberAt(t, time.Now().Add(-10*day).Truncate(time.Second), Options{})
	for _, name := range []puppet.Certname{"silent", "busy", "retired"} {
		f := facts(name, `{"a":"`+string(name)+`"}`)
		must(t, m.SaveFacts(t.Context(), f, "m"))
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: name, Environment: "production", CatalogUUID: "u" + string(name)}, catalog("u", "1", string(name)),
			[]puppet.Resource{service("of " + string(name))}))
		must(t, m.SaveENC(t.Context(), name, []byte("classes: []")))
		must(t, m.SaveCompile(t.Context(), Compile{Certname: name, Environment: "production", Start: m.now, Timings: map[string]time.Duration{}}))
		_, err := m.SaveReport(t.Context(), report(name, "run of "+string(name), "changed"))
		must(t, err)
	}
	must(t, m.BucketPut(t.Context(), "md5", helloMD5, "/etc/f", strings.NewReader("hello")))
	must(t, m.DeactivateNode(t.Context(), "retired"))
	m.now = m.now.Add(9 * day)
	must(t, m.SaveFacts(t.Context(), facts("busy", `{"a":"now"}`), "m"))
	must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "busy", Environment: "production", CatalogUUID: "u2"}, catalog("u2", "2", "other"), []puppet.Resource{service("of busy now")}))
	must(t, m.foldAll(t.Context()))
	must(t, m.retain(t.Context()))
	heads, err := m.journal.Heads(t.Context())
	must(t, err)
	if len(heads) != 1 || heads[0].Base < 15 {
		t.Fatalf("not pruned: %+v", heads)
	}
	return m
}

func TestANewMemberGetsWhatWasMadeOfPrunedRecords(t *testing.T) {
	old := pruned(t)
	fresh := newMemberAt(t, old.now, Options{})
	exchange(t, old, fresh)
	must(t, fresh.foldAll(t.Context()))
	want := answers(t, old.DB)

	// This is what the journal alone gives.
	got := answers(t, fresh.DB)
	if nodes := got["nodes"].([]Node); len(nodes) != 1 || nodes[0].Certname != "busy" || nodes[0].Status != "" {
		t.Errorf("nodes = %+v", nodes)
	}
	missing, ok, err := fresh.Missing(t.Context())
	must(t, err)
	if !ok || missing.Origins[old.journal.Origin()] < 15 {
		t.Fatalf("missing = %+v, %t", missing, ok)
	}

	var b bytes.Buffer
	must(t, old.WriteSnapshot(t.Context(), &b, missing.Before))
	for _, cut := range []int{0, 1, b.Len() / 2, b.Len() - 1} {
		if whole, err := fresh.TakeSnapshot(t.Context(), bytes.NewReader(b.Bytes()[:cut])); err == nil || whole {
			t.Errorf("a snapshot cut off at %d of %d bytes is whole", cut, b.Len())
		}
	}
	for round := range 2 { // twice is no harm
		whole, err := fresh.TakeSnapshot(t.Context(), iotest.HalfReader(bytes.NewReader(b.Bytes())))
		must(t, err)
		if !whole {
			t.Error("something is missing still")
		}
		if diff := cmp.Diff(want, answers(t, fresh.DB)); diff != "" {
			t.Fatalf("round %d: answers differ (-old member +new one):\n%s", round, diff)
		}
	}
	if _, ok, err := fresh.Missing(t.Context()); ok || err != nil {
		t.Errorf("still missing: %v", err)
	}
	if diff := cmp.Diff(titles(t, old.DB, ResourceQuery{Type: "nagios_service"}), titles(t, fresh.DB, ResourceQuery{Type: "nagios_service"})); diff != "" {
		t.Errorf("exported resources differ:\n%s", diff)
	}
}

func TestASnapshotOfSomebodyWhoHasAGapDoesNotCloseOurs(t *testing.T) {
	old := pruned(t)
	a, b := newMemberAt(t, old.now, Options{}), newMemberAt(t, old.now, Options{})
	for _, m := range []*member{a, b} {
		exchange(t, old, m)
		must(t, m.foldAll(t.Context()))
	}
	take := func(from, to *member) bool {
		t.Helper()
		missing, _, err := to.Missing(t.Context())
		must(t, err)
		r, w := io.Pipe()
		go func() { w.CloseWithError(from.WriteSnapshot(t.Context(), w, missing.Before)) }()
		whole, err := to.TakeSnapshot(t.Context(), r)
		must(t, err)
		return whole
	}
	if take(b, a) {
		t.Error("one that has the same gap closed it")
	}
	if !take(old, b) || !take(b, a) {
		t.Error("the gap is not closed")
	}
}

func TestFoldingOnceMoreIsNoGap(t *testing.T) {
	old := pruned(t)
	must(t, old.Refold(t.Context()))
	if m, ok, err := old.Missing(t.Context()); ok || err != nil {
		t.Errorf("missing = %+v, %v", m, err)
	}
	// Tables that were lost are one: another member may have what is behind the journal's beginning.
	execSQL(t, old, `DELETE FROM position`)
	must(t, old.readPositions(t.Context()))
	must(t, old.foldAll(t.Context()))
	if _, ok, err := old.Missing(t.Context()); !ok || err != nil {
		t.Errorf("nothing is missing, %v", err)
	}
	must(t, old.GiveUp(t.Context()))
}

func TestLateRecordsDoNotTakeAReaderBack(t *testing.T) {
	east := newMemberAt(t, time.Now().Add(-day).Truncate(time.Second), Options{})
	west := newMemberAt(t, east.now, Options{})
	export := func(m *member, title string) {
		t.Helper()
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n", Environment: "production", CatalogUUID: title}, catalog("u", "1", title), []puppet.Resource{service(title)}))
	}
	sees := func(want string) {
		t.Helper()
		if got := strings.Join(titles(t, east.DB, ResourceQuery{Type: "nagios_service"}), " "); got != want {
			t.Errorf("the reader sees %q, want %q", got, want)
		}
	}
	export(west, "first")
	west.now = west.now.Add(time.Minute)
	export(west, "second")
	east.now = west.now.Add(time.Minute)
	export(east, "third") // the node has come to the other site, which is cut off
	sees("third@n")
	exchange(t, west, east) // older ones come late
	must(t, east.foldAll(t.Context()))
	sees("third@n")
	must(t, east.FoldAgain(t.Context(), west.journal.Origin(), 1))
	must(t, east.Refold(t.Context()))
	sees("third@n")

	// A node that was silent for too long is not woken by what is itself too old.
	west.now = west.now.Add(time.Minute)
	must(t, west.SaveFacts(t.Context(), facts("n", `{}`), "m"))
	east.now = east.now.Add(20 * day)
	must(t, east.expireNodes(t.Context()))
	sees("")
	exchange(t, west, east)
	must(t, east.foldAll(t.Context()))
	sees("")
	must(t, east.SaveFacts(t.Context(), facts("n", `{}`), "m"))
	sees("third@n")
}

func TestRecordsOfAnUnknownKindAreFoldedByWhoKnowsThem(t *testing.T) {
	m := newMember(t, Options{})
	body, err := joinParts(encRecord{"n"}, []byte("classes: [a]"))
	must(t, err)
	must(t, m.SaveENC(t.Context(), "other", []byte("x")))
	_, err = m.journal.Append(t.Context(), journal.Draft{Stream: journal.Bulk, Kind: "future", Key: "n", Body: body})
	must(t, err)
	must(t, m.SaveENC(t.Context(), "third", []byte("x")))
	must(t, m.foldAll(t.Context()))
	m.close(t)
	m.open(t, Options{})
	if n := m.positions[m.journal.Origin()].number; n != 3 {
		t.Errorf("the position is %d although the kind is unknown still", n)
	}
	// As if this program had been older: it knew all but one kind.
	execSQL(t, m, `UPDATE unknown SET kind = 'enc'`)
	execSQL(t, m, `DELETE FROM enc`)
	m.close(t)
	m.open(t, Options{})
	if n := m.positions[m.journal.Origin()].number; n != 1 {
		t.Errorf("the position is %d, want the record before the first that was unknown", n)
	}
	must(t, m.foldAll(t.Context()))
	if _, _, ok, err := m.ENC(t.Context(), "third"); !ok || err != nil {
		t.Errorf("a record behind it is not folded again: %v", err)
	}
}
