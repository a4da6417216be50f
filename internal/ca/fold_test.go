package ca

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

func mustName(tb testing.TB, s string) puppet.Certname {
	tb.Helper()
	name, err := puppet.ParseCertname(s)
	if err != nil {
		tb.Fatal(err)
	}
	return name
}

// A history is the records of two members that signed, revoked and cleaned the
// same names without hearing from each other.
func newHistory(tb testing.TB) []journal.Record {
	tb.Helper()
	o := testOptions()
	o.Policy.AllowDuplicateCerts = true
	b := newBench(tb, o)
	ctx := tb.Context()
	for _, name := range []string{"a", "b", "c", "d"} {
		b.sign(tb, name)
	}
	for _, step := range []error{b.Revoke(ctx, "a"), b.Delete(ctx, "b"), b.Revoke(ctx, "c")} {
		if step != nil {
			tb.Fatal(step)
		}
	}
	if _, err := b.Clean(ctx, "c", "d"); err != nil {
		tb.Fatal(err)
	}
	b.sign(tb, "a")
	b.submit(tb, "d")
	b.submit(tb, "d")
	b.submit(tb, "e")
	if err := b.DeleteRequest(ctx, "e"); err != nil {
		tb.Fatal(err)
	}
	if err := b.Revoke(ctx, "e"); fault.KindOf(err) != fault.NotFound {
		tb.Fatal(err)
	}
	all, err := b.j.Read(ctx, b.j.Origin(), journal.State, 0, 1000)
	if err != nil {
		tb.Fatal(err)
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
func foldAll(tb testing.TB, records []journal.Record) string {
	tb.Helper()
	p := &projection{path: tb.TempDir() + "/ca.db", log: telemetry.Discard(nil)}
	if err := p.reset(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	defer p.close()
	for chunk := range slices.Chunk(records, 3) {
		tx, err := p.write.BeginTx(tb.Context(), nil)
		if err != nil {
			tb.Fatal(err)
		}
		f := &fold{tx: tx, log: p.log}
		for _, r := range chunk {
			if err := f.apply(tb.Context(), r); err != nil {
				tb.Fatal(err)
			}
		}
		if err := f.finish(tb.Context(), "any", 1); err != nil {
			tb.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			tb.Fatal(err)
		}
	}
	var text strings.Builder
	for _, table := range []string{"setup", "cert", "cleaned", "revoked", "request", "done", "ancestor", "latest"} {
		dump(tb.Context(), tb, p, table, &text)
	}
	return text.String()
}

func dump(ctx context.Context, tb testing.TB, p *projection, table string, out *strings.Builder) {
	tb.Helper()
	rows, err := p.read.QueryContext(ctx, "SELECT * FROM "+table+" ORDER BY 1, 2")
	if table == "cleaned" || table == "done" {
		rows, err = p.read.QueryContext(ctx, "SELECT * FROM "+table+" ORDER BY 1")
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		tb.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			tb.Fatal(err)
		}
		fmt.Fprint(out, table)
		for _, v := range values {
			fmt.Fprintf(out, " %x", *v.(*any))
		}
		fmt.Fprintln(out)
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
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

// A revoked serial whose digit has changed on the disk would let a revoked certificate in.
func TestAFlippedBitInTheTablesIsMendedFromTheJournal(t *testing.T) {
	b := newBench(t, testOptions())
	if _, _, err := b.Generate(t.Context(), GenerateRequest{Certname: "gone.example.test", KeyType: EC256}); err != nil {
		t.Fatal(err)
	}
	cert := b.certificate(t, "gone.example.test")
	if err := b.Revoke(t.Context(), "gone.example.test"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, projectionName)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	serial := []byte(serialText(cert.SerialNumber))
	flipped := bytes.Clone(serial)
	flipped[3] ^= 1
	if !bytes.Contains(file, serial) {
		t.Fatal("the serial number is not in the file, so this shows nothing")
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(file, serial, flipped), 0o600); err != nil {
		t.Fatal(err)
	}
	b.open(t, testOptions())
	if !b.Revoked(cert) {
		t.Error("a revoked certificate is let in")
	}
}

func TestRecordsThatCannotBeReadAreSteppedOver(t *testing.T) {
	b := newBench(t, testOptions())
	ctx := t.Context()
	cert := b.sign(t, "before")
	bad := func(kind, body string) journal.Draft {
		return journal.Draft{Stream: journal.State, Kind: kind, Key: "someone", Body: []byte(body)}
	}
	drafts := []journal.Draft{
		bad(kindIssued, "no JSON"), bad(kindIssued, `{"certname":"x","der":"AAAA"}`), bad(kindRequest, `{"certname":"x","der":"AAAA"}`),
		bad(kindAncestor, `{"crl":"AAAA"}`), bad(kindSetup, `{}`), bad(kindSetup, `[]`), bad(kindCleaned, `{"serials":1}`),
		bad(kindRevoked, `{"revoked":[{"serial":"no number","at":"2026-01-01T00:00:00Z"},{"serial":"`+serialText(cert.SerialNumber)+`","at":"2026-01-01T00:00:00Z"}]}`),
	}
	if err := b.append(ctx, drafts...); err != nil {
		t.Fatalf("records that cannot be read: %v", err)
	}
	for _, step := range []string{"folded", "folded anew", "opened again", "folded by another program"} {
		switch step {
		case "folded anew":
			if err := b.Refold(ctx); err != nil {
				t.Fatal(err)
			}
		case "opened again":
			b.reopen(t, testOptions())
		case "folded by another program":
			if _, err := b.db.write.Exec("PRAGMA user_version = 1"); err != nil {
				t.Fatal(err)
			}
			b.reopen(t, testOptions())
		}
		if !b.Revoked(cert) {
			t.Errorf("%s: the revocation beside one that cannot be read does not count", step)
		}
		unread, err := b.Unread(ctx)
		if err != nil || len(unread) != len(drafts) {
			t.Errorf("%s: alarms for %d records, want %d: %q %v", step, len(unread), len(drafts), unread, err)
		}
		name := "after-" + strings.ReplaceAll(step, " ", "-")
		b.sign(t, name)
		if err := b.Revoke(ctx, mustName(t, name)); err != nil || !b.Revoked(b.certificate(t, name)) {
			t.Errorf("%s: what comes behind does not count: %v", step, err)
		}
		if _, err := b.lists(ctx); err != nil {
			t.Errorf("%s: no list can be signed: %v", step, err)
		}
	}
}
