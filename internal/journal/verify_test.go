package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"troupe/internal/sqlite"
)

// seeded makes a closed journal with n records in each stream and returns its folder.
func seeded(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	j, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		mustAppend(t, j,
			Draft{Stream: Bulk, Kind: "facts", Key: fmt.Sprintf("node%d", i), Body: fmt.Appendf(nil, "body of bulk %d", i+1)},
			Draft{Stream: State, Kind: "ca.issued", Key: fmt.Sprintf("node%d", i), Body: fmt.Appendf(nil, "body of state %d", i+1)})
	}
	if err := j.checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func damaged(t *testing.T, dir string) []DamageError {
	t.Helper()
	j := open(t, dir, Options{})
	var all []DamageError
	for _, d := range mustVerify(t, j).Damaged {
		if d.Origin != j.Origin() {
			t.Errorf("damage is in origin %s, want %s", d.Origin, j.Origin())
		}
		all = append(all, *d)
	}
	return all
}

func TestFlippedBitInABodyIsNamed(t *testing.T) {
	dir := seeded(t, 50)
	path := filepath.Join(dir, fileName)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.ReplaceAll(file, []byte("body of bulk 17"), []byte("body of bunk 17")) // SQLite keeps stale copies in free space
	if bytes.Equal(file, flipped) {
		t.Fatal("the body is not in the file")
	}
	if err := os.WriteFile(path, flipped, 0o600); err != nil {
		t.Fatal(err)
	}

	got := damaged(t, dir)
	if len(got) != 1 || got[0].Stream != Bulk || got[0].Number != 17 || got[0].What != DamagedBody {
		t.Errorf("damage = %+v, want the body of bulk record 17", got)
	}
}

func TestReadNeverReturnsADamagedBody(t *testing.T) {
	dir := seeded(t, 20)
	tamper(t, dir, `UPDATE record SET body = CAST('other' AS BLOB) WHERE number = 11 AND key = 'node10'`)
	j := open(t, dir, Options{})
	recs, err := j.Read(t.Context(), j.Origin(), Bulk, 0, 100)
	if err != nil || len(recs) != 10 {
		t.Fatalf("Read = %d records, %v; want the 10 before the damage", len(recs), err)
	}
	_, err = j.Read(t.Context(), j.Origin(), Bulk, 10, 100)
	d, ok := errors.AsType[*DamageError](err)
	if !ok || d.Number != 11 || d.What != DamagedBody {
		t.Fatalf("error is %v, want damage of record 11", err)
	}
	if recs, err := j.Read(t.Context(), j.Origin(), Bulk, d.Number, 100); err != nil || len(recs) != 9 {
		t.Errorf("Read after the damage = %d records, %v; want 9", len(recs), err)
	}
}

// tamper changes the closed journal behind its back.
func tamper(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(dir, fileName), 1)
	if err != nil {
		t.Fatal(err)
	}
	res, err := db.Exec(statement)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s: changed %d rows, %v", statement, n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyNamesTheFirstDamageOfEachChain(t *testing.T) {
	const bulk, state = `chain = (SELECT id FROM chain WHERE stream = 2)`, `chain = (SELECT id FROM chain WHERE stream = 1)`
	type want struct {
		stream Stream
		number uint64
		what   Damage
	}
	for name, tt := range map[string]struct {
		statements []string
		want       []want
	}{
		"nothing": {},
		"a body": {
			[]string{`UPDATE record SET body = x'00' WHERE number = 5 AND ` + bulk},
			[]want{{Bulk, 5, DamagedBody}},
		},
		"a key": {
			[]string{`UPDATE record SET key = 'mallory' WHERE number = 5 AND ` + state},
			[]want{{State, 5, DamagedHeader}},
		},
		"a time": {
			[]string{`UPDATE record SET time = time + 1 WHERE number = 10 AND ` + state},
			[]want{{State, 10, DamagedHeader}},
		},
		"a hash": {
			[]string{`UPDATE record SET hash = zeroblob(32) WHERE number = 5 AND ` + bulk},
			[]want{{Bulk, 5, DamagedChain}},
		},
		"the last hash": {
			[]string{`UPDATE chain SET last_hash = zeroblob(32) WHERE stream = 1`},
			[]want{{State, 10, DamagedChain}},
		},
		"a body and its sum": {
			[]string{`UPDATE record SET body = x'00', sum = unhex('6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d') WHERE number = 2 AND ` + state},
			[]want{{State, 2, DamagedHeader}},
		},
		"a record in the middle is gone": {
			[]string{`DELETE FROM record WHERE number IN (4, 5) AND ` + bulk},
			[]want{{Bulk, 4, Missing}},
		},
		"the first is gone": {
			[]string{`DELETE FROM record WHERE number = 1 AND ` + bulk},
			[]want{{Bulk, 1, Missing}},
		},
		"the tail is gone": {
			[]string{`DELETE FROM record WHERE number > 8 AND ` + bulk},
			[]want{{Bulk, 9, Missing}},
		},
		"two chains, the first damage of each": {
			[]string{
				`UPDATE record SET body = x'00' WHERE number IN (3, 7) AND ` + bulk,
				`DELETE FROM record WHERE number = 6 AND ` + state,
			},
			[]want{{State, 6, Missing}, {Bulk, 3, DamagedBody}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := seeded(t, 10)
			for _, s := range tt.statements {
				tamper(t, dir, s)
			}
			var got []want
			for _, d := range damaged(t, dir) {
				got = append(got, want{d.Stream, d.Number, d.What})
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("damage = %v, want %v", got, tt.want)
			}
		})
	}
}

// Any flipped bit is either harmless, or found, or refused when opening.
func TestVerifySurvivesFlipsAnywhere(t *testing.T) {
	dir := seeded(t, 40)
	path := filepath.Join(dir, fileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(4, 2))
	found := 0
	for range 150 {
		file := bytes.Clone(whole)
		at := r.IntN(len(file))
		file[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, Options{})
		if err != nil {
			found++
			continue
		}
		v, err := j.Verify(t.Context(), nil)
		if err != nil {
			found++
		} else if !v.OK() {
			found++
		} else if v.Records != 80 {
			t.Errorf("bit at %d flipped: all is well, but %d records were read, want 80", at, v.Records)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	if found == 0 {
		t.Error("no flipped bit was found")
	}
}

func TestVerifyTellsItsProgress(t *testing.T) {
	dir := seeded(t, 300)
	j := open(t, dir, Options{})
	var dones []uint64
	_, err := j.Verify(t.Context(), func(done, total uint64) {
		if total != 600 {
			t.Errorf("total = %d, want 600", total)
		}
		dones = append(dones, done)
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "[200 300 500 600]"; fmt.Sprint(dones) != want {
		t.Errorf("progress = %v, want %s", dones, want)
	}
}
