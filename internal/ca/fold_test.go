package ca

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

func mustName(t testing.TB, s string) puppet.Certname {
	t.Helper()
	name, err := puppet.ParseCertname(s)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A history is the records of two members that signed, revoked and cleaned the
// same names without hearing from each other.
func newHistory(t testing.TB) []journal.Record {
	t.Helper()
	o := testOptions()
	o.Policy.AllowDuplicateCerts = true
	b := newBench(t, o)
	ctx := t.Context()
	for _, name := range []string{"a", "b", "c", "d"} {
		b.sign(t, name)
	}
	for _, step := range []error{b.Revoke(ctx, "a"), b.Delete(ctx, "b"), b.Revoke(ctx, "c")} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if _, err := b.Clean(ctx, "c", "d"); err != nil {
		t.Fatal(err)
	}
	b.sign(t, "a")
	b.submit(t, "d")
	b.submit(t, "d")
	b.submit(t, "e")
	if err := b.DeleteRequest(ctx, "e"); err != nil {
		t.Fatal(err)
	}
	if err := b.Revoke(ctx, "e"); fault.KindOf(err) != fault.NotFound {
		t.Fatal(err)
	}
	all, err := b.j.Read(ctx, b.j.Origin(), journal.State, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	// Every second record is given to another member.
	for i := range all {
		if i%2 == 0 {
			all[i].Origin = "other"
		}
	}
	return all
}

// foldAll folds records into a fresh projection and returns its tables as text.
func foldAll(t testing.TB, records []journal.Record) string {
	t.Helper()
	p := &projection{path: t.TempDir() + "/ca.db", log: telemetry.Discard(nil)}
	if err := p.reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for chunk := range slices.Chunk(records, 3) {
		tx, err := p.write.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		f := &fold{tx: tx, log: p.log}
		for _, r := range chunk {
			if err := f.apply(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.finish(t.Context(), "any", 1); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	var text strings.Builder
	for _, table := range []string{"setup", "cert", "cleaned", "revoked", "request", "done", "ancestor", "latest"} {
		dump(t.Context(), t, p, table, &text)
	}
	return text.String()
}

func dump(ctx context.Context, t testing.TB, p *projection, table string, out *strings.Builder) {
	t.Helper()
	rows, err := p.read.QueryContext(ctx, "SELECT * FROM "+table+" ORDER BY 1, 2")
	if table == "cleaned" || table == "done" {
		rows, err = p.read.QueryContext(ctx, "SELECT * FROM "+table+" ORDER BY 1")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(out, table)
		for _, v := range values {
			fmt.Fprintf(out, " %x", *v.(*any))
		}
		fmt.Fprintln(out)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsFoldToTheSameStateInAnyOrderAndNumber(t *testing.T) {
	records := newHistory(t)
	want := foldAll(t, records)
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		shuffled := slices.Clone(records)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for range 5 { // some come twice
			shuffled = slices.Insert(shuffled, r.IntN(len(shuffled)), records[r.IntN(len(records))])
		}
		if diff := cmp.Diff(want, foldAll(t, shuffled)); diff != "" {
			t.Fatalf("order %d gives another state (-want +got):\n%s", seed, diff)
		}
	}
}
