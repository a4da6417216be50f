package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
)

// appendSome writes n records of both streams, small and large.
func appendSome(t *testing.T, j *Journal, n int, word string) {
	t.Helper()
	for i := range n {
		s := State
		if i%3 == 0 {
			s = Bulk
		}
		mustAppend(t, j, Draft{Stream: s, Kind: "x", Key: fmt.Sprint(word, i), Body: []byte(strings.Repeat(word, i*7%3000))})
	}
}

// exported returns the frames of a chain after a number.
func exported(t *testing.T, j *Journal, s Stream, after uint64) []byte {
	t.Helper()
	var b bytes.Buffer
	for {
		n, err := j.Export(t.Context(), &b, j.Origin(), s, after, 50)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return b.Bytes()
		}
		after += uint64(n)
	}
}

func mustImport(t *testing.T, j *Journal, frames []byte) int {
	t.Helper()
	n, err := j.Import(t.Context(), bytes.NewReader(frames))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func readChain(t *testing.T, j *Journal, o Origin, s Stream) (all []Record) {
	t.Helper()
	for after := uint64(0); ; after = all[len(all)-1].Number {
		recs, err := j.Read(t.Context(), o, s, after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return all
		}
		all = append(all, recs...)
	}
}

func TestARecordIsTheSameInTheJournalOfAnotherMember(t *testing.T) {
	a, b := open(t, t.TempDir(), Options{}), open(t, t.TempDir(), Options{})
	appendSome(t, a, 600, "a")
	appendSome(t, b, 20, "b")
	for _, s := range []Stream{State, Bulk} {
		frames, want := exported(t, a, s, 0), readAll(t, a, s)
		changed := b.Changed()
		if n := mustImport(t, b, frames); n != len(want) {
			t.Errorf("%d records of %s were taken, want %d", n, s, len(want))
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told of the new records")
		}
		if diff := cmp.Diff(want, readChain(t, b, a.Origin(), s)); diff != "" {
			t.Errorf("%s differs (-written +copied):\n%s", s, diff)
		}
		if n := mustImport(t, b, frames); n != 0 {
			t.Errorf("%d records were taken twice", n)
		}
	}
	if v := mustVerify(t, b); !v.OK() || v.Records != 620 {
		t.Errorf("verification = %+v", v)
	}
	mine, theirs := heads(t, a), heads(t, b)
	for chain, h := range mine {
		if diff := cmp.Diff(h, theirs[chain]); diff != "" {
			t.Errorf("heads differ (-writer +copy):\n%s", diff)
		}
	}
	last := mustAppend(t, b, Draft{Stream: State, Kind: "x"})
	if newest := mine[chainName{a.Origin(), State}].Time; last[0].Time <= newest {
		t.Errorf("a record after the import has time %d, not after %d", last[0].Time, newest)
	}
}

func heads(t *testing.T, j *Journal) map[chainName]Head {
	t.Helper()
	all, err := j.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := map[chainName]Head{}
	for _, h := range all {
		m[chainName{h.Origin, h.Stream}] = h
	}
	return m
}

// TestNoDamageOnTheWayIsTaken flips a bit, or cuts the frames off, anywhere.
func TestNoDamageOnTheWayIsTaken(t *testing.T) {
	a := open(t, t.TempDir(), Options{})
	appendSome(t, a, 60, "word ")
	frames, want := exported(t, a, State, 0), readAll(t, a, State)
	b := open(t, t.TempDir(), Options{})
	refused := 0
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 1))
		bad := bytes.Clone(frames)
		if at := r.IntN(len(bad)); seed%5 == 0 {
			bad = bad[:at]
		} else {
			bad[at] ^= 1 << r.IntN(8)
		}
		if _, err := b.Import(t.Context(), bytes.NewReader(bad)); err != nil {
			refused++
		}
		got := readChain(t, b, a.Origin(), State)
		if diff := cmp.Diff(want[:len(got)], got); diff != "" {
			t.Fatalf("seed %d: what was taken differs:\n%s", seed, diff)
		}
		if others := heads(t, b); len(others) > 2 { // our own are there from the first append on
			t.Fatalf("seed %d: a chain appeared that nobody wrote: %+v", seed, others)
		}
	}
	if refused < 72 {
		t.Errorf("only %d of 80 damaged exports were refused", refused)
	}
	mustImport(t, b, frames)
	if v := mustVerify(t, b); !v.OK() || v.Records != uint64(len(want)) {
		t.Errorf("verification = %+v", v)
	}
}

// backedUp returns the folder of a journal with 30 records, and that of its backup.
func backedUp(t *testing.T) (dir, backup string) {
	t.Helper()
	dir, backup = t.TempDir(), t.TempDir()
	a, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	appendSome(t, a, 30, "a")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(dir, fileName), filepath.Join(backup, fileName))
	return dir, backup
}

func TestAJournalThatWasPutBackAndWentOnIsAFork(t *testing.T) {
	dir, old := backedUp(t)
	a := open(t, dir, Options{})
	appendSome(t, a, 30, "went on ")
	b := open(t, t.TempDir(), Options{})
	for _, s := range []Stream{State, Bulk} {
		mustImport(t, b, exported(t, a, s, 0))
	}
	was := heads(t, b)

	back := open(t, old, Options{})
	appendSome(t, back, 5, "differently ")
	_, err := b.Import(t.Context(), bytes.NewReader(exported(t, back, State, 0)))
	if fork, ok := errors.AsType[*ForkError](err); !ok || fork.Origin != a.Origin() || fork.Number != 21 || fork.Own {
		t.Errorf("the fork was told as %v", err)
	}
	_, err = back.Import(t.Context(), bytes.NewReader(exported(t, a, State, 0)))
	if fork, ok := errors.AsType[*ForkError](err); !ok || !fork.Own {
		t.Errorf("the member that was put back hears %v", err)
	}
	if diff := cmp.Diff(was, heads(t, b)); diff != "" {
		t.Errorf("a fork changed the journal:\n%s", diff)
	}
}

func TestAJournalThatWasPutBackGetsWhatItLost(t *testing.T) {
	dir, old := backedUp(t)
	a := open(t, dir, Options{})
	appendSome(t, a, 30, "went on ")
	want := readAll(t, a, State)

	back := open(t, old, Options{})
	if n := mustImport(t, back, exported(t, a, State, 0)); n != 20 {
		t.Errorf("%d records came back, want 20", n)
	}
	next := mustAppend(t, back, Draft{Stream: State, Kind: "next"})
	if diff := cmp.Diff(append(want, next...), readAll(t, back, State)); diff != "" {
		t.Errorf("the journal that was put back differs:\n%s", diff)
	}
	if v := mustVerify(t, back); !v.OK() {
		t.Errorf("verification = %+v", v)
	}
}

func TestARecordIsNotTakenBeforeItsTimeNorBeforeItsTurn(t *testing.T) {
	ahead := func() time.Time { return time.Now().Add(maxDrift + time.Minute) }
	a, b := open(t, t.TempDir(), Options{Now: ahead}), open(t, t.TempDir(), Options{})
	appendSome(t, a, 9, "a")
	_, err := b.Import(t.Context(), bytes.NewReader(exported(t, a, State, 0)))
	if future, ok := errors.AsType[*FutureError](err); !ok || future.Ahead < maxDrift || future.Origin != a.Origin() {
		t.Errorf("a record of tomorrow gives %v", err)
	}
	if recs := readChain(t, b, a.Origin(), State); len(recs) > 0 {
		t.Errorf("%d records of tomorrow were taken", len(recs))
	}

	c := open(t, t.TempDir(), Options{Now: ahead})
	_, err = c.Import(t.Context(), bytes.NewReader(exported(t, a, State, 2)))
	if gap, ok := errors.AsType[*GapError](err); !ok || gap.Want != 1 || gap.Got != 3 {
		t.Errorf("a record before its turn gives %v", err)
	}
}

func TestAChainWhoseBeginningIsPrunedIsTakenFromThere(t *testing.T) {
	now := time.Now().Add(-48 * time.Hour)
	a, b := open(t, t.TempDir(), Options{Now: func() time.Time { return now }}), open(t, t.TempDir(), Options{})
	appendSome(t, a, 30, "old ")
	away := open(t, t.TempDir(), Options{})
	mustImport(t, away, exported(t, a, Bulk, 0)[:len(exported(t, a, Bulk, 0))])
	now = time.Now()
	appendSome(t, a, 60, "new ")
	if _, err := a.Prune(t.Context(), Bulk, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	want := readAll(t, a, Bulk)
	for name, j := range map[string]*Journal{"a new member": b, "one that was away": away} {
		after, err := j.Last(t.Context(), a.Origin(), Bulk)
		if err != nil {
			t.Fatal(err)
		}
		var frames bytes.Buffer
		if _, err := a.Export(t.Context(), &frames, a.Origin(), Bulk, after, 1000); err != nil {
			t.Fatal(err)
		}
		mustImport(t, j, frames.Bytes())
		got := readChain(t, j, a.Origin(), Bulk)
		if diff := cmp.Diff(want, got[len(got)-len(want):]); diff != "" {
			t.Errorf("%s has other records:\n%s", name, diff)
		}
		if v := mustVerify(t, j); !v.OK() {
			t.Errorf("%s: verification = %+v", name, v)
		}
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	for name, frames := range map[string]string{
		"a word": "hello, journal", "an empty frame": "\x00\x00\x00\x00", "a huge frame": "\xff\xff\xff\xff",
		"another type": "\x00\x00\x00\x01z", "a newer format": "\x00\x00\x00\x02r\x63", "a short base": "\x00\x00\x00\x03b\x02\x00",
	} {
		if _, err := j.Import(t.Context(), strings.NewReader(frames)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s gives %v", name, err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestSelectFindsRecordsByTheBeginningOfTheirKind(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	for i := range 50 {
		mustAppend(t, j, Draft{Stream: State, Kind: []string{"ca.issued", "troupe.member", "troupe.token"}[i%3], Key: fmt.Sprint(i)})
	}
	found, end, err := j.Select(t.Context(), j.Origin(), State, "troupe.", 10)
	if err != nil || end != 50 || len(found) != 27 || found[0].Number != 11 {
		t.Errorf("found %d records up to %d, %v", len(found), end, err)
	}
	if found, end, err = j.Select(t.Context(), j.Origin(), State, "troupe.", end); err != nil || end != 50 || len(found) != 0 {
		t.Errorf("found %d records up to %d, %v", len(found), end, err)
	}
}

func FuzzFrame(f *testing.F) {
	j, err := Open(f.TempDir(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			f.Error(err)
		}
	}()
	if _, err := j.Append(f.Context(), Draft{Stream: State, Kind: "k", Key: "web1", Body: bytes.Repeat([]byte("x"), 2000)}); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := j.Export(f.Context(), &b, j.Origin(), State, 0, 10); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, frames []byte) {
		for r := bytes.NewReader(frames); ; {
			f, err := readFrame(r)
			if err != nil {
				if !errors.Is(err, io.EOF) && fault.KindOf(err) != fault.Invalid {
					t.Fatalf("%v is no fault.Invalid", err)
				}
				return
			}
			if !f.base {
				if again, err := parseFrame(f.frame()); err != nil || !cmp.Equal(again.Record, f.Record) {
					t.Fatalf("written again it is %+v, %v", again, err)
				}
			}
		}
	})
}

func TestAnExportOfManyStepsEndsBeforeDamage(t *testing.T) {
	const count = 2*exportStep + 50
	whole := t.TempDir()
	j := open(t, whole, Options{})
	for range count {
		mustAppend(t, j, Draft{Stream: Bulk, Kind: "x", Body: []byte("body")})
	}
	o := j.Origin()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for bad, want := range map[int]int{1: 0, exportStep: exportStep - 1, exportStep + 1: exportStep, exportStep + 2: exportStep + 1, count: count - 1, count + 1: count} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		if bad <= count {
			tamper(t, dir, fmt.Sprintf(`UPDATE record SET body = CAST('bodY' AS BLOB) WHERE number = %d`, bad))
		}
		from, to := open(t, dir, Options{}), open(t, t.TempDir(), Options{})
		var frames bytes.Buffer
		n, err := from.Export(t.Context(), &frames, o, Bulk, 0, count)
		if _, damaged := errors.AsType[*DamageError](err); n != want || damaged != (want == 0) {
			t.Errorf("record %d is damaged: %d were given, want %d: %v", bad, n, want, err)
		}
		if got := mustImport(t, to, frames.Bytes()); got != want {
			t.Errorf("record %d is damaged: %d were taken, want %d", bad, got, want)
		}
		if want == 0 || bad > count {
			continue
		}
		frames.Reset()
		n, err = from.Export(t.Context(), &frames, o, Bulk, uint64(want), count)
		if _, damaged := errors.AsType[*DamageError](err); !damaged || n != 0 {
			t.Errorf("record %d is damaged, and who asks for the rest is told %d %v", bad, n, err)
		}
	}
}
