package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// twins are a member that wrote n records in each stream, in a closed folder, and one that has them all.
func twins(t *testing.T, n int) (dir string, other *Journal) {
	t.Helper()
	dir = seeded(t, n)
	j, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	other = open(t, t.TempDir(), Options{})
	for _, s := range []Stream{State, Bulk} {
		mustImport(t, other, exported(t, j, s, 0))
	}
	if err := errors.Join(j.checkpoint(t.Context()), j.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, other
}

// mendAll mends everything that is known to be damaged from another journal.
func mendAll(t *testing.T, j, from *Journal) {
	t.Helper()
	for range 100 {
		all, _ := j.Damaged()
		if len(all) == 0 {
			return
		}
		var frames bytes.Buffer
		if _, err := from.Export(t.Context(), &frames, all[0].Origin, all[0].Stream, all[0].Before(), 1000); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Mend(t.Context(), all[0], &frames); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("there is no end of damage")
}

func TestDamageIsMendedFromAnotherMember(t *testing.T) {
	whole, other := twins(t, 50)
	const bulk, state = `chain = (SELECT id FROM chain WHERE stream = 2)`, `chain = (SELECT id FROM chain WHERE stream = 1)`
	for name, statements := range map[string][]string{
		"a body":               {`UPDATE record SET body = CAST('other' AS BLOB) WHERE number = 17 AND ` + bulk},
		"a key":                {`UPDATE record SET key = 'somebody' WHERE number = 17 AND ` + state},
		"a hash":               {`UPDATE record SET hash = zeroblob(32) WHERE number = 17 AND ` + state},
		"a body and its sum":   {`UPDATE record SET body = CAST('other' AS BLOB), sum = zeroblob(32) WHERE number = 1 AND ` + bulk},
		"the first hash":       {`UPDATE record SET hash = zeroblob(32) WHERE number = 1 AND ` + bulk},
		"the last hash":        {`UPDATE record SET hash = zeroblob(32) WHERE number = 50 AND ` + bulk},
		"the last body":        {`UPDATE record SET body = x'00' WHERE number = 50 AND ` + bulk},
		"the end of the chain": {`UPDATE chain SET last_hash = zeroblob(32) WHERE stream = 1`},
		"some are missing":     {`DELETE FROM record WHERE number BETWEEN 20 AND 29 AND ` + state},
		"the tail is missing":  {`DELETE FROM record WHERE number > 40 AND ` + state},
		"all are missing":      {`DELETE FROM record WHERE ` + state},
		"neighbours":           {`UPDATE record SET hash = zeroblob(32) WHERE number = 17 AND ` + bulk, `UPDATE record SET key = 'x' WHERE number = 18 AND ` + bulk, `UPDATE record SET body = x'01' WHERE number = 19 AND ` + bulk},
		"many":                 {`UPDATE record SET body = x'00' WHERE number % 7 = 0`, `UPDATE record SET time = time + 1 WHERE number % 11 = 0`},
	} {
		for _, how := range []string{"verified", "exported"} {
			t.Run(name+", "+how, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				for _, s := range statements {
					tamper(t, dir, s)
				}
				j := open(t, dir, Options{})
				for round := 0; ; round++ {
					if how == "verified" {
						mustVerify(t, j)
					} else {
						exportAll(t, j)
					}
					if all, _ := j.Damaged(); len(all) == 0 {
						if round == 0 && name != "the end of the chain" { // which an export does not read
							t.Error("no damage was found")
						}
						break
					}
					mendAll(t, j, other)
				}
				if how == "exported" && name == "the end of the chain" {
					return
				}
				if v := mustVerify(t, j); !v.OK() || v.Records != 100 {
					t.Errorf("after it was mended: %+v %v", v, v.Damaged)
				}
				if diff := cmp.Diff(readChain(t, other, j.Origin(), State), readAll(t, j, State)); diff != "" {
					t.Errorf("the records differ:\n%s", diff)
				}
				mustAppend(t, j, Draft{Stream: State, Kind: "x"}, Draft{Stream: Bulk, Kind: "x"})
				if v := mustVerify(t, j); !v.OK() {
					t.Errorf("after one more record: %v", v.Damaged)
				}
			})
		}
	}
}

// exportAll exports until there is damage, or all is done.
func exportAll(t *testing.T, j *Journal) {
	t.Helper()
	for _, s := range []Stream{State, Bulk} {
		for after := uint64(0); ; {
			var b bytes.Buffer
			n, err := j.Export(t.Context(), &b, j.Origin(), s, after, 20)
			if _, damaged := errors.AsType[*DamageError](err); damaged {
				if b.Len() > 0 {
					t.Errorf("%d bytes came with the error", b.Len())
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			after += uint64(n)
		}
	}
}

func TestNoOtherRecordTakesThePlaceOfADamagedOne(t *testing.T) {
	dir, other := twins(t, 50)
	stranger := open(t, seeded(t, 50), Options{})
	tamper(t, dir, `UPDATE record SET body = CAST('other' AS BLOB) WHERE number = 17`)
	j := open(t, dir, Options{})
	mustVerify(t, j)
	all, _ := j.Damaged()
	if len(all) != 2 {
		t.Fatalf("damaged: %+v", all)
	}
	s := all[1] // bulk
	take := func(from *Journal, o Origin, after uint64, change func([]byte) []byte) error {
		var b bytes.Buffer
		if _, err := from.Export(t.Context(), &b, o, s.Stream, after, 5); err != nil {
			t.Fatal(err)
		}
		_, err := j.Mend(t.Context(), s, bytes.NewReader(change(b.Bytes())))
		return err
	}
	same := func(b []byte) []byte { return b }
	for name, err := range map[string]error{
		"of another chain": take(stranger, stranger.Origin(), s.Before(), same),
		"under its name": take(stranger, stranger.Origin(), s.Before(), func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(stranger.Origin()), []byte(j.Origin()))
		}),
		"of other numbers": take(other, j.Origin(), s.Before()+8, same),
		"none":             take(other, j.Origin(), 50, same),
		"changed": take(other, j.Origin(), s.Before(), func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("node16"), []byte("node99"))
		}),
	} {
		if err == nil {
			t.Errorf("records %s were taken", name)
		}
	}
	if v := mustVerify(t, j); len(v.Damaged) != 2 {
		t.Errorf("damage = %v", v.Damaged)
	}
	if err := take(other, j.Origin(), s.Before(), same); err != nil {
		t.Error(err)
	}
}

func TestAPrunedRecordNeedNotBeMended(t *testing.T) {
	dir, _ := twins(t, 50)
	tamper(t, dir, `UPDATE record SET body = x'00' WHERE number = 17 AND key = 'node16'`)
	j := open(t, dir, Options{})
	mustVerify(t, j)
	all, _ := j.Damaged()
	if len(all) != 2 || !strings.Contains(all[0].Why, "SHA-256") {
		t.Fatalf("damaged: %+v", all)
	}
	for _, s := range all {
		if gone, err := j.Forget(t.Context(), s); gone || err != nil {
			t.Errorf("%+v is forgotten: %v", s, err)
		}
	}
	if _, err := j.Prune(t.Context(), Bulk, j.clock.now().AddDate(0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if gone, err := j.Forget(t.Context(), s); gone != (s.Stream == Bulk) || err != nil {
			t.Errorf("%+v is forgotten: %t, %v", s, gone, err)
		}
	}
	if left, _ := j.Damaged(); len(left) != 1 {
		t.Errorf("left: %+v", left)
	}
}

func TestARecordOfALaterFormatWaitsForTheUpgrade(t *testing.T) {
	a, b := open(t, t.TempDir(), Options{}), open(t, t.TempDir(), Options{})
	appendSome(t, a, 6, "a")
	frames := exported(t, a, State, 0)
	second := 4 + int(binary.BigEndian.Uint32(frames)) // behind the first
	later := bytes.Clone(frames)
	later[second+5] = Format + 1
	n, err := b.Import(t.Context(), bytes.NewReader(later))
	if f, ok := errors.AsType[*FormatError](err); !ok || f.Format != Format+1 || n != 1 || !strings.Contains(err.Error(), "upgrade this member") {
		t.Errorf("%d records were taken, %v", n, err)
	}
	mustImport(t, b, frames)
}
