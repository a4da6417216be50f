package ca

import (
	"testing"

	"troupe/internal/journal"
)

func digestOf(tb testing.TB, a *Authority) journal.Digest {
	tb.Helper()
	d, err := a.Digest(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestARowThatWasChangedByHandIsFoundAndMadeAnew(t *testing.T) {
	o := testOptions()
	o.Policy.AllowDuplicateCerts = true
	b := newBench(t, o)
	for _, name := range []string{"a", "b", "c", "d"} {
		b.sign(t, name)
	}
	if err := b.Revoke(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Clean(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	b.submit(t, "e")
	b.submit(t, "f")
	if err := b.DeleteRequest(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	want := digestOf(t, b.Authority)
	for _, statement := range []string{
		`UPDATE cert SET name = 'z' WHERE name = 'c'`,
		`UPDATE cert SET revoked = 0 WHERE name = 'a'`,
		`UPDATE cert SET current = 0 WHERE name = 'd'`,
		`UPDATE cert SET not_after = not_after + 1 WHERE name = 'd'`,
		`DELETE FROM cert WHERE name = 'd'`,
		`DELETE FROM revoked WHERE serial = (SELECT serial FROM cert WHERE name = 'a')`,
		`INSERT INTO revoked (serial, at, reason) SELECT serial, 1, 1 FROM cert WHERE name = 'c'`,
		`UPDATE revoked SET reason = reason + 1`,
		`DELETE FROM cleaned`,
		`UPDATE request SET der = x'00'`,
		`DELETE FROM request`,
		`DELETE FROM done`,
		`UPDATE setup SET body = x'00'`,
		`UPDATE latest SET time = time + 1`,
	} {
		res, err := b.db.write.Exec(statement)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			t.Fatalf("%s: %d rows, %v", statement, n, err)
		}
		got := digestOf(t, b.Authority)
		if got.At != want.At || got.Sum == want.Sum {
			t.Errorf("after %s the digest is %+v, before it was %+v", statement, got, want)
		}
		if err := b.Refold(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := digestOf(t, b.Authority); got != want {
			t.Errorf("after %s, made anew: %+v, want %+v", statement, got, want)
		}
	}
	if status, err := b.Status(t.Context(), "a"); err != nil || status.State != "revoked" {
		t.Errorf("a is %+v, %v", status, err)
	}
	b.sign(t, "g")
	if got := digestOf(t, b.Authority); got == want {
		t.Error("one more certificate and the same digest")
	}
}
