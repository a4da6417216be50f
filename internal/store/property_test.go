package store

import (
	"context"
	"database/sql"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"troupe/internal/journal"
)

// wipe empties all tables.
func wipe(ctx context.Context, m *member) error {
	for _, table := range []string{"position", "node", "facts", "catalog", "catalog_body", "catalog_record", "exported", "compile", "report", "enc", "bucket_file", "bucket_sum", "bucket_path", "unknown", "gap"} {
		if _, err := m.write.ExecContext(ctx, "DELETE FROM "+table); err != nil {
			return err
		}
	}
	return nil
}

// TestMergeIsAFunctionOfTheSet holds that folding is commutative, associative and idempotent: any order of any records, in any
// groups and with repeats, makes the same tables. Catalogs are trimmed on the way.
func TestMergeIsAFunctionOfTheSet(t *testing.T) {
	a, b := newMember(t, Options{}), newMember(t, Options{})
	for round := range uint64(4) { // interleaved, so that each is ahead of the other in turn
		life(t, a.DB, 10+round, 30)
		life(t, b.DB, 20+round, 30)
	}
	m := newMember(t, Options{CatalogsPerNode: 1, CompilesPerNode: 2})
	exchange(t, a, m)
	exchange(t, b, m)
	var all []journal.Record
	seen := map[string]bool{}
	for _, o := range []journal.Origin{a.journal.Origin(), b.journal.Origin()} {
		recs, err := m.journal.Read(t.Context(), o, journal.Bulk, 0, 1000)
		must(t, err)
		for _, r := range recs {
			seen[r.Kind] = true
		}
		all = append(all, recs...)
	}
	for _, kind := range kinds() {
		if !seen[kind] {
			t.Errorf("no record is of kind %s", kind)
		}
	}
	since := m.DigestScope(0, 1).Since
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		some := rapid.SliceOfNDistinct(rapid.IntRange(0, len(all)-1), 1, 40, rapid.ID[int]).Draw(t, "records")
		fold := func(numbers []int) (journal.Hash, []string) {
			order := make([]journal.Record, len(numbers))
			for i, n := range numbers {
				order[i] = all[n]
			}
			if err := wipe(ctx, m); err != nil {
				t.Fatal(err)
			}
			for len(order) > 0 {
				n := rapid.IntRange(1, len(order)).Draw(t, "group")
				if err := m.apply(ctx, order[:n], m.changes(order[:n]), nil); err != nil {
					t.Fatal(err)
				}
				order = order[n:]
			}
			tx, err := m.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			sum, err := m.sum(ctx, tx, journal.Scope{Since: since, Slices: 1})
			if err != nil {
				t.Fatal(err)
			}
			var rest []string // what the digest leaves out
			for _, q := range []string{
				`SELECT hex(stamp) || certname || body FROM enc ORDER BY certname`, `SELECT id || hex(stamp) || status FROM report ORDER BY id`,
				`SELECT hex(stamp) || certname || failed FROM compile ORDER BY stamp`, `SELECT sha256 || hex(stamp) || path FROM bucket_path ORDER BY 1`,
			} {
				lines, err := texts[string](ctx, tx, q)
				if err != nil {
					t.Fatal(err)
				}
				rest = append(rest, lines...)
			}
			return sum, rest
		}
		want, wantRest := fold(some)
		order := rapid.Permutation(some).Draw(t, "order")
		again := rapid.SliceOfN(rapid.SampledFrom(some), 0, 10).Draw(t, "once more")
		got, gotRest := fold(append(slices.Clone(order), again...))
		if got != want || !slices.Equal(gotRest, wantRest) {
			t.Fatalf("another order of %d records makes other tables: %v, %v\n%v\n%v", len(some), want, got, wantRest, gotRest)
		}
	})
}
