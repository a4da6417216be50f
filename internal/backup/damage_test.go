package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
)

// This file cuts, flips and forges.

// TestATruncatedBackupIsNeverGood cuts a backup off at each byte of its ends, and at many in between.
func TestATruncatedBackupIsNeverGood(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	made := a.mustBackUp(p)
	path := filepath.Join(p.dir, made.Name)
	whole, err := os.ReadFile(path)
	a.must(err)
	var cuts []int
	for n := range len(whole) {
		if n < 500 || n > len(whole)-300 || n%1500 == 0 {
			cuts = append(cuts, n)
		}
	}
	for _, n := range cuts {
		a.must(os.WriteFile(path, whole[:n], 0o600))
		all, err := List(t.Context(), p)
		a.must(err)
		if len(all) != 1 || all[0].Whole || all[0].Problem == "" || all[0].Size != int64(n) {
			t.Fatalf("cut to %d bytes, it is listed as %+v", n, all)
		}
		if _, err := Verify(t.Context(), p, made, keys(), nil); fault.KindOf(err) != fault.Invalid {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	a.must(os.WriteFile(path, append(bytes.Clone(whole), 0), 0o600))
	if _, err := Verify(t.Context(), p, made, keys(), nil); err == nil {
		t.Error("a byte too much is not noticed")
	}
}

// TestATruncatedBackupWithAnEndOfItsOwnIsNotGood takes bytes out of the middle, and writes an end that fits.
func TestATruncatedBackupWithAnEndOfItsOwnIsNotGood(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	made := a.mustBackUp(p)
	path := filepath.Join(p.dir, made.Name)
	whole, err := os.ReadFile(path)
	a.must(err)
	_, begin, err := readHeader(bytes.NewReader(whole))
	a.must(err)
	e, err := readEnd(whole[begin:], int64(len(whole)), begin)
	a.must(err)
	for n := int64(0); n < e.Content; n += 1 + e.Content/60 {
		var forged bytes.Buffer
		forged.Write(whole[:begin+n])
		sum := sha256.Sum256(forged.Bytes())
		a.must(writeEnd(&forged, end{Content: n, Sum: hex.EncodeToString(sum[:]), Summary: e.Summary}))
		a.must(os.WriteFile(path, forged.Bytes(), 0o600))
		if i := examine(t.Context(), p, Object{Name: made.Name, Size: int64(forged.Len())}); !i.Whole {
			t.Fatalf("the forgery does not fit: %s", i.Problem)
		}
		if _, err := Verify(t.Context(), p, made, keys(), nil); err == nil {
			t.Fatalf("%d of %d bytes of content are good", n, e.Content)
		}
	}
}

func TestAFlippedBitIsFound(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	made := a.mustBackUp(p)
	path := filepath.Join(p.dir, made.Name)
	whole, err := os.ReadFile(path)
	a.must(err)
	ends := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		at := r.IntN(len(whole))
		switch seed % 4 {
		case 0:
			at = r.IntN(700) // header, and that of the encryption
		case 1:
			at = len(whole) - 1 - r.IntN(250)
			ends++
		}
		bad := bytes.Clone(whole)
		bad[at] ^= 1 << r.IntN(8)
		a.must(os.WriteFile(path, bad, 0o600))
		if got, err := Verify(t.Context(), p, made, keys(), nil); err == nil {
			t.Errorf("seed %d: bit in byte %d of %d is not noticed: %+v", seed, at, len(whole), got)
		}
	}
	if ends < 90 {
		t.Errorf("only %d flips at the end", ends)
	}
	to := target(t)
	whole[len(whole)/2] ^= 1
	a.must(os.WriteFile(path, whole, 0o600))
	if _, err := Extract(t.Context(), p, made, keys(), to, nil); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), made.Name) {
		t.Errorf("a damaged backup is extracted: %v", err)
	}
	if entries, err := os.ReadDir(to.Environments); err == nil {
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				t.Errorf("there is environment %s of a damaged backup", e.Name())
			}
		}
	}
}

// TestTheHeaderOfAnotherBackupIsNoticed puts a header before a content that was not made with it: whoever writes to a bucket could
// make an old backup look new.
func TestTheHeaderOfAnotherBackupIsNoticed(t *testing.T) {
	a, p := newBench(t, t.TempDir()), place(t)
	made := a.mustBackUp(p)
	whole, err := os.ReadFile(filepath.Join(p.dir, made.Name))
	a.must(err)
	h, begin, err := readHeader(bytes.NewReader(whole))
	a.must(err)
	e, err := readEnd(whole[begin:], int64(len(whole)), begin)
	a.must(err)
	h.Time = h.Time.Add(time.Hour)
	var forged bytes.Buffer
	a.must(writeHeader(&forged, h))
	forged.Write(whole[begin : begin+e.Content])
	sum := sha256.Sum256(forged.Bytes())
	a.must(writeEnd(&forged, end{Content: e.Content, Sum: hex.EncodeToString(sum[:]), Summary: e.Summary}))
	a.must(os.WriteFile(filepath.Join(p.dir, nameOf(h)), forged.Bytes(), 0o600))
	info, err := Newest(t.Context(), p, "")
	a.must(err)
	if info.Name == made.Name {
		t.Fatal("the forgery is not the newest")
	}
	if _, err := Verify(t.Context(), p, info, keys(), nil); err == nil || !strings.Contains(err.Error(), "header is not the one") {
		t.Errorf("verify says %v", err)
	}
}

// TestADamagedJournal damages the journal that is to be backed up: facts and reports may be left out, the state never.
func TestADamagedJournal(t *testing.T) {
	for stream, name := range map[int]string{1: "state", 2: "bulk"} {
		t.Run(name, func(t *testing.T) {
			a, p := newBench(t, t.TempDir()).live(), place(t)
			db, err := sqlite.Open(filepath.Join(a.Data, "journal", "journal.db"), 1)
			a.must(err)
			damage(t, db, stream)
			a.must(db.Close())
			info, err := a.backUp(p, time.Now())
			if name == "state" {
				if err == nil || !strings.Contains(err.Error(), "no backup was made") {
					t.Errorf("a backup of a damaged state: %+v, %v", info, err)
				}
				if entries, _ := os.ReadDir(p.dir); len(entries) > 0 {
					t.Errorf("there is %v", entries)
				}
				return
			}
			a.must(err)
			if len(info.Summary.LeftOut) != 1 || !strings.Contains(info.Summary.LeftOut[0], "bulk record") {
				t.Errorf("left out: %q", info.Summary.LeftOut)
			}
			if _, err := Verify(t.Context(), p, info, keys(), nil); err != nil {
				t.Error(err)
			}
			if _, err := Extract(t.Context(), p, info, keys(), target(t), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// damage flips a bit in the body of the fourth record of a stream.
func damage(t *testing.T, db *sql.DB, stream int) {
	t.Helper()
	var id int64
	var body []byte
	err := db.QueryRowContext(t.Context(), `SELECT r.id, r.body FROM record r JOIN chain c ON c.id = r.chain WHERE c.stream = ? AND r.number = 4`, stream).Scan(&id, &body)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 4
	if _, err := db.ExecContext(t.Context(), `UPDATE record SET body = ? WHERE id = ?`, body, id); err != nil {
		t.Fatal(err)
	}
}

func TestAnEnvironmentThatCannotBeReadIsLeftOutAndSaid(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	a.lay("broken/environment.conf", strings.Repeat("# long\n", 1<<20), 0o644)
	a.lay("broken/manifests/site.pp", "", 0o644)
	info := a.mustBackUp(p)
	if info.Summary.Environments != 2 || len(info.Summary.LeftOut) != 1 || !strings.Contains(info.Summary.LeftOut[0], "environment broken") {
		t.Errorf("the backup has %+v", info.Summary)
	}
}

// TestAForgedContentGoesNowhere has contents that a member would not write: whoever knows a recipient can make them.
func TestAForgedContentGoesNowhere(t *testing.T) {
	a := newBench(t, t.TempDir())
	h := a.Header(time.Now())
	secret, err := a.Authority.Keys()
	a.must(err)
	begin := func(w *writer) error {
		return errors.Join(w.json(headerEntry, h), w.json(keysEntry, secrets{Authority: secret, Store: a.Store.Key()}))
	}
	file := func(name string) func(w *writer) error {
		return func(w *writer) error {
			return errors.Join(begin(w), w.file(name, 0o644, 2, h.Time, strings.NewReader("{}")))
		}
	}
	for name, write := range map[string]func(w *writer) error{
		"no header":       func(w *writer) error { return w.json(keysEntry, secrets{Authority: secret}) },
		"no keys":         func(w *writer) error { return errors.Join(w.json(headerEntry, h), w.json(endEntry, contentEnd{})) },
		"keys of nothing": func(w *writer) error { return errors.Join(w.json(headerEntry, h), w.json(keysEntry, secrets{})) },
		"no end":          begin,
		"unknown":         file("etc/passwd"),
		"out of a bucket": file("bucket/../../x"),
		"out of code":     file("code/production/../../../x"),
		"absolute":        file("code//etc/passwd"),
		"no environment":  file("code/.ssh/x"),
		"no sum":          file("bucket/" + strings.Repeat("ab", 32)),
		"no records":      file("journal/00000001"),
		"file as folder":  file("code/production"),
		"twice": func(w *writer) error {
			return errors.Join(begin(w), w.json(endEntry, contentEnd{}), w.json(endEntry, contentEnd{}))
		},
		"wrong order": func(w *writer) error {
			return errors.Join(file("code/production/x")(w), w.json(keysEntry, secrets{Authority: secret}))
		},
		"wrong counts": func(w *writer) error {
			return errors.Join(begin(w), w.json(endEntry, contentEnd{Summary: Summary{Files: 1}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := place(t)
			info, err := Create(t.Context(), p, h, locks(), forge(h, write), nil)
			a.must(err)
			_, verr := Verify(t.Context(), p, info, keys(), nil)
			to := target(t)
			_, xerr := Extract(t.Context(), p, info, keys(), to, nil)
			if fault.KindOf(verr) != fault.Invalid || xerr == nil {
				t.Errorf("verify says %v, extract %v", verr, xerr)
			}
			for path := range tree(t, to.Data) {
				if strings.HasSuffix(path, "/x") && !strings.Contains(path, ".troupe-restore-") {
					t.Errorf("there is %s", path)
				}
			}
		})
	}
}

func forge(_ Header, write func(w *writer) error) Source {
	return func(_ context.Context, out io.Writer) (Summary, error) {
		w := newWriter(out, time.Now())
		return w.sum, errors.Join(write(w), w.tar.Close())
	}
}

// FuzzFrame reads what stands around a content. Whatever it is, nothing large is allocated on the word of a length, and what can be
// read is written the same way.
func FuzzFrame(f *testing.F) {
	h := Header{Format: formatVersion, Time: time.Unix(1_800_000_000, 0).UTC(), Member: "a", Origin: "b", Locks: []string{"passphrase"}}
	var good bytes.Buffer
	if err := errors.Join(writeHeader(&good, h), writeEnd(&good, end{Sum: "ab"})); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(bytes.Replace(good.Bytes(), []byte("backup 1"), []byte("backup 2"), 1))
	f.Add([]byte(magic + "\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, begin, err := readHeader(bytes.NewReader(b))
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%v is no error for an operator", err)
			}
			return
		}
		if begin > int64(len(b)) {
			t.Fatalf("a header of %d bytes in %d", begin, len(b))
		}
		var again bytes.Buffer
		if err := writeHeader(&again, h); err != nil {
			return // quoted, it has become too long
		}
		same, _, err := readHeader(&again)
		x, _ := json.Marshal(h)
		y, _ := json.Marshal(same)
		if err != nil || !bytes.Equal(x, y) {
			t.Fatalf("%s is read again as %s, %v", x, y, err)
		}
		e, err := readEnd(b[begin:], int64(len(b)), begin)
		if err == nil && begin+e.Content > int64(len(b)) {
			t.Fatalf("a content of %d bytes in %d", e.Content, len(b))
		}
	})
}
