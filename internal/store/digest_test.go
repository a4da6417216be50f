package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/journal"
)

// digestsSince sums all slices.
func digestsSince(tb testing.TB, m *member, since journal.Time, slices int) []journal.Digest {
	tb.Helper()
	var all []journal.Digest
	for i := range slices {
		d, ok, err := m.Digest(tb.Context(), journal.Scope{Since: since, Slice: i, Slices: slices})
		must(tb, err)
		if !ok {
			tb.Fatal("the store cannot be compared")
		}
		all = append(all, d)
	}
	return all
}

// exchange brings what one member has to another.
func exchange(tb testing.TB, from, to *member) {
	tb.Helper()
	heads, err := from.journal.Heads(tb.Context())
	must(tb, err)
	for _, h := range heads {
		for {
			last, err := to.journal.Last(tb.Context(), h.Origin, h.Stream)
			must(tb, err)
			if last >= h.Last {
				break
			}
			var frames bytes.Buffer
			_, err = from.journal.Export(tb.Context(), &frames, h.Origin, h.Stream, last, 1000)
			must(tb, err)
			_, err = to.journal.Import(tb.Context(), &frames)
			must(tb, err)
		}
	}
}

func TestARowThatWasChangedByHandIsFoundAndFoldedAgain(t *testing.T) {
	m := newMember(t, Options{})
	life(t, m.DB, 1, 150)
	const slices = 3
	since := m.DigestScope(0, 1).Since
	digests := func() []journal.Digest { t.Helper(); return digestsSince(t, m, since, slices) }
	want := digests()
	before := answers(t, m.DB)
	for _, statement := range []string{
		`UPDATE facts SET facts = (SELECT facts FROM facts ORDER BY stamp LIMIT 1) WHERE certname = (SELECT max(certname) FROM facts)`,
		`UPDATE facts SET facts = x'00' WHERE certname = (SELECT max(certname) FROM facts)`,
		`UPDATE facts SET producer = 'nobody'`,
		`DELETE FROM facts WHERE certname = (SELECT max(certname) FROM facts)`,
		`UPDATE catalog SET version = 'x'`,
		`DELETE FROM catalog WHERE certname = (SELECT max(certname) FROM catalog)`,
		`UPDATE node SET status = 'x' WHERE status <> ''`,
		`UPDATE node SET compile_failed = 1 - compile_failed`,
		`UPDATE node SET environment = 'x'`,
		`DELETE FROM exported WHERE title = (SELECT min(title) FROM exported)`,
		`UPDATE exported SET parameters = '{"x":1}' WHERE certname = (SELECT min(certname) FROM exported)`,
	} {
		execSQL(t, m, statement)
		if cmp.Diff(want, digests()) == "" {
			t.Errorf("after %s the digest is the same", statement)
		}
		must(t, m.Refold(t.Context()))
		if diff := cmp.Diff(want, digests()); diff != "" {
			t.Errorf("after %s, folded again (-before +after):\n%s", statement, diff)
		}
	}
	if diff := cmp.Diff(before, answers(t, m.DB)); diff != "" {
		t.Errorf("answers differ (-before +after):\n%s", diff)
	}
}

func TestMembersThatFoldedTheSameHaveTheSameDigest(t *testing.T) {
	a, b := newMember(t, Options{}), newMember(t, Options{})
	life(t, a.DB, 1, 60)
	life(t, b.DB, 2, 60)
	since := a.DigestScope(0, 1).Since
	digests := func(m *member) []journal.Digest { t.Helper(); return digestsSince(t, m, since, 2) }
	if cmp.Diff(digests(a), digests(b)) == "" {
		t.Error("two stores with other records have the same digest")
	}
	exchange(t, a, b)
	exchange(t, b, a)
	if _, ok, err := a.Digest(t.Context(), a.DigestScope(0, 2)); ok || err != nil {
		t.Errorf("a store that has not folded everything can be compared: %v", err)
	}
	must(t, a.foldAll(t.Context()))
	must(t, b.foldAll(t.Context()))
	if diff := cmp.Diff(digests(a), digests(b)); diff != "" {
		t.Errorf("the digests differ:\n%s", diff)
	}
	if _, ok, err := a.Digest(t.Context(), journal.Scope{Since: journal.At(time.Now().Add(-10 * day)), Slices: 1}); ok || err != nil {
		t.Errorf("what the journal does not hold any more can be compared: %v", err)
	}
}
