package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
)

// TestMain lets the test binary be the second process of some tests.
func TestMain(m *testing.M) {
	switch dir := os.Getenv("JOURNAL_TEST_DIR"); os.Getenv("JOURNAL_TEST_CHILD") {
	case "append":
		os.Exit(appendForEver(dir))
	case "open":
		os.Exit(openOnce(dir))
	}
	os.Exit(m.Run())
}

func open(tb testing.TB, dir string, o Options) *Journal {
	tb.Helper()
	j, err := Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := j.Close(); err != nil {
			tb.Error(err)
		}
	})
	return j
}

func mustAppend(tb testing.TB, j *Journal, d ...Draft) []Record {
	tb.Helper()
	recs, err := j.Append(tb.Context(), d...)
	if err != nil {
		tb.Fatal(err)
	}
	return recs
}

func readAll(tb testing.TB, j *Journal, s Stream) []Record {
	tb.Helper()
	var all []Record
	for {
		var after uint64
		if len(all) > 0 {
			after = all[len(all)-1].Number
		}
		recs, err := j.Read(tb.Context(), j.Origin(), s, after, 100)
		if err != nil {
			tb.Fatal(err)
		}
		if len(recs) == 0 {
			return all
		}
		all = append(all, recs...)
	}
}

func mustVerify(tb testing.TB, j *Journal) Verification {
	tb.Helper()
	v, err := j.Verify(tb.Context(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestRecordsComeBackAsTheyWereAppended(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder with spaces & signs?", "journal")
	j := open(t, dir, Options{Registerer: prometheus.NewRegistry()})
	bodies := map[string][]byte{
		"empty": nil, "small": []byte("x"), "zeros": make([]byte, 100_000),
		"text": bytes.Repeat([]byte("facts "), 5000), "binary": {0, 1, 0xff, '\n'},
	}
	var want []Record
	for _, name := range []string{"empty", "small", "zeros", "text", "binary"} {
		want = append(want, mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts", Key: name, Body: bodies[name]})...)
	}
	state := mustAppend(t, j, Draft{Stream: State, Kind: "ca.issued", Key: "a"}, Draft{Stream: State, Kind: "ca.issued", Key: "b"})

	same := cmp.Comparer(bytes.Equal) // nil and empty bodies are the same
	if diff := cmp.Diff(want, readAll(t, j, Bulk), same); diff != "" {
		t.Errorf("bulk records differ (-appended +read):\n%s", diff)
	}
	if diff := cmp.Diff(state, readAll(t, j, State), same); diff != "" {
		t.Errorf("state records differ (-appended +read):\n%s", diff)
	}

	origin := j.Origin()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, Options{})
	if j.Origin() != origin {
		t.Errorf("origin is %s after reopening, was %s", j.Origin(), origin)
	}
	next := mustAppend(t, j, Draft{Stream: State, Kind: "ca.issued", Key: "c"})
	if next[0].Number != 3 || next[0].Time <= state[1].Time {
		t.Errorf("record after reopening is %d at %d, want 3 after %d", next[0].Number, next[0].Time, state[1].Time)
	}
	if v := mustVerify(t, j); !v.OK() || v.Records != 8 {
		t.Errorf("verification = %+v, want 8 whole records", v)
	}
	if last, err := j.Last(t.Context(), origin, Bulk); err != nil || last != 5 {
		t.Errorf("Last = %d, %v; want 5", last, err)
	}
	if last, err := j.Last(t.Context(), "nobody", Bulk); err != nil || last != 0 {
		t.Errorf("Last of an unknown origin = %d, %v; want 0", last, err)
	}
}

// TestHashIsStable pins the canonical form: members of different versions must agree on it.
func TestHashIsStable(t *testing.T) {
	r := Record{Origin: "origin", Stream: State, Number: 7, Time: 0x0123456789abcdef, Kind: "ca.issued", Key: "web1.example.com"}
	s := stored{length: 3, sum: [32]byte{1, 2, 3}}
	const want = "313105927637f8936fe5b7823065c19d20971a4fcf97ae3fa7010fabde9a7f78"
	if got := fmt.Sprintf("%x", r.chain([32]byte{9}, s.length, s.sum)); got != want {
		t.Errorf("hash = %s, want %s", got, want)
	}
}

func TestConcurrentAppendsAreNumberedWithoutGaps(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	const callers, each = 32, 20
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				recs, err := j.Append(t.Context(),
					Draft{Stream: Bulk, Kind: "facts", Key: fmt.Sprint(c), Body: fmt.Appendf(nil, "%d/%d", c, i)},
					Draft{Stream: State, Kind: "pointer", Key: fmt.Sprint(c)})
				if err != nil {
					t.Error(err)
					return
				}
				if len(recs) != 2 || recs[0].Number != recs[1].Number || recs[0].Time >= recs[1].Time {
					t.Errorf("records of one append are %v, want a pair in order", recs)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for i, r := range readAll(t, j, Bulk) {
		if r.Number != uint64(i+1) {
			t.Fatalf("record %d has number %d", i+1, r.Number)
		}
		seen[string(r.Body)] = true
	}
	if len(seen) != callers*each {
		t.Errorf("%d different records, want %d", len(seen), callers*each)
	}
	if v := mustVerify(t, j); !v.OK() {
		t.Errorf("verification = %+v", v)
	}
}

func TestAppendRefusesWhatDoesNotFit(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	for name, tt := range map[string]struct {
		draft Draft
		want  fault.Kind
	}{
		"no stream":   {Draft{Kind: "facts"}, fault.Internal},
		"no kind":     {Draft{Stream: Bulk}, fault.Internal},
		"long key":    {Draft{Stream: Bulk, Kind: "facts", Key: strings.Repeat("k", maxName+1)}, fault.TooLarge},
		"large body":  {Draft{Stream: Bulk, Kind: "facts", Body: make([]byte, MaxBody+1)}, fault.TooLarge},
		"second part": {Draft{Stream: 9, Kind: "facts"}, fault.Internal},
	} {
		_, err := j.Append(t.Context(), Draft{Stream: Bulk, Kind: "facts"}, tt.draft)
		if err == nil || fault.KindOf(err) != tt.want {
			t.Errorf("%s: error is %v, want one of kind %d", name, err, tt.want)
		}
	}
	if recs := readAll(t, j, Bulk); len(recs) != 0 {
		t.Errorf("%d records were written by refused appends", len(recs))
	}
}

func TestAppendOfTheLargestBody(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	body := make([]byte, MaxBody)
	body[MaxBody-1] = 1
	mustAppend(t, j, Draft{Stream: Bulk, Kind: "catalog", Body: body})
	recs := readAll(t, j, Bulk)
	if len(recs) != 1 || !bytes.Equal(recs[0].Body, body) {
		t.Errorf("the body did not come back whole")
	}
}

func TestAppendAbandonedBeforeItsCommitWritesNothing(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	j.turn <- struct{}{} // somebody is writing
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := j.Append(ctx, Draft{Stream: Bulk, Kind: "facts", Key: "gone"})
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that of the context", err)
	}
	j.endTurn()
	mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts", Key: "stays"})
	if recs := readAll(t, j, Bulk); len(recs) != 1 || recs[0].Key != "stays" {
		t.Errorf("records are %v, want only the one that was not abandoned", recs)
	}
}

func TestClosedJournalRefusesAppends(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), Draft{Stream: Bulk, Kind: "facts"}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("error is %v, want Unavailable", err)
	}
}

func TestChangedTellsOfAnAppend(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	changed := j.Changed()
	select {
	case <-changed:
		t.Fatal("changed before anything was appended")
	default:
	}
	mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts"})
	select {
	case <-changed:
	default:
		t.Error("not changed after an append")
	}
}

// SQLite's limit on the number of pages gives the error of a full disk.
func TestFullDiskIsAnErrorAndPasses(t *testing.T) {
	var log bytes.Buffer
	j := open(t, t.TempDir(), Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	before := mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts", Key: "before"})
	var pages int
	if err := j.write.QueryRow("PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit := func(n int) {
		t.Helper()
		if _, err := j.write.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	limit(pages + 2)
	noise := make([]byte, 900) // below the size that is compressed
	var err error
	for range 100 {
		if _, err = j.Append(t.Context(), Draft{Stream: Bulk, Kind: "facts", Key: "full", Body: noise}, Draft{Stream: State, Kind: "x", Body: noise}); err != nil {
			break
		}
	}
	if fault.KindOf(err) != fault.Unavailable || fault.Message(err) != "The disk of the server is full: nothing was stored" {
		t.Fatalf("appends to a full disk ended with %v, want a fault of kind Unavailable", err)
	}
	if _, err := j.Append(t.Context(), Draft{Stream: Bulk, Kind: "facts", Body: make([]byte, 1<<10)}, Draft{Stream: State, Kind: "x", Body: bytes.Repeat(noise, 1)}); err == nil {
		t.Error("an append succeeded while the disk was full")
	}
	limit(1 << 30)
	after := mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts", Key: "after"})
	if after[0].Number <= before[0].Number {
		t.Errorf("number %d after the disk had space again, want more than %d", after[0].Number, before[0].Number)
	}
	if v := mustVerify(t, j); !v.OK() {
		t.Errorf("verification = %+v", v)
	}
	for _, line := range []string{"journal commits fail", "make room on the disk", "journal commits succeed again"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("the log says %q %d times, want once:\n%s", line, n, log.String())
		}
	}
}

func TestPruneKeepsWhatIsLeftVerifiable(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	dir := t.TempDir()
	j := open(t, dir, Options{Now: func() time.Time { return now }})
	for range 1200 {
		now = now.Add(time.Minute)
		mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts"}, Draft{Stream: State, Kind: "pointer"})
	}
	removed, err := j.Prune(t.Context(), Bulk, now.Add(-99*time.Minute))
	if err != nil || removed != 1100 {
		t.Fatalf("Prune = %d, %v; want 1100 removed", removed, err)
	}
	if recs := readAll(t, j, Bulk); len(recs) != 100 || recs[0].Number != 1101 {
		t.Errorf("%d records are left from number %d, want 100 from 1101", len(recs), recs[0].Number)
	}
	if recs := readAll(t, j, State); len(recs) != 1200 {
		t.Errorf("%d state records are left, want all 1200", len(recs))
	}
	if v := mustVerify(t, j); !v.OK() || v.Records != 1300 {
		t.Errorf("verification = %+v, want 1300 whole records", v)
	}
	if _, err := j.Prune(t.Context(), State, now); err == nil {
		t.Error("the state stream was pruned")
	}

	// The newest record stays, so that numbers and the clock go on after a restart.
	if removed, err := j.Prune(t.Context(), Bulk, now.Add(time.Hour)); err != nil || removed != 99 {
		t.Errorf("Prune = %d, %v; want 99 removed", removed, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, Options{Now: func() time.Time { return now }})
	if recs := mustAppend(t, j, Draft{Stream: Bulk, Kind: "facts"}); recs[0].Number != 1201 {
		t.Errorf("next number is %d, want 1201", recs[0].Number)
	}
	if v := mustVerify(t, j); !v.OK() {
		t.Errorf("verification = %+v", v)
	}
}

func TestFolderIsRefusedToASecondProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "JOURNAL_TEST_CHILD=open", "JOURNAL_TEST_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the second process opened the journal: %s", out)
	}
	if want := fmt.Sprintf("is in use by process %d", os.Getpid()); !strings.Contains(string(out), want) {
		t.Errorf("the second process says %q, want %q in it", out, want)
	}
}

func openOnce(dir string) int {
	if _, err := Open(dir, Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"newer format": {func(path string) error { return setPragma(path, "user_version = 99") }, "start a newer troupe"},
		"other file":   {func(path string) error { return setPragma(path, "application_id = 1") }, "is not a journal"},
		"not SQLite": {func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("no database "), 1000), 0o600)
		}, "restore the folder from a backup"},
		"of another user": {func(path string) error { return os.Chown(filepath.Dir(path), 12345, -1) }, "belongs to user 12345"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "of another user" && os.Geteuid() != 0 {
				return // only root can give a folder away
			}
			dir := t.TempDir()
			j, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(j.Close(), tt.spoil(filepath.Join(dir, fileName))); err != nil {
				t.Fatal(err)
			}
			_, err = Open(dir, Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
}

func setPragma(path, set string) error {
	db, err := sqlite.Open(path, 1, "foreign_keys(1)")
	if err != nil {
		return err
	}
	_, err = db.Exec("PRAGMA " + set)
	return errors.Join(err, db.Close())
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := open(t, dir, Options{})
	mustAppend(t, j, Draft{Stream: State, Kind: "secret"})
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o", path, st.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	mustAppend(t, j, Draft{Stream: State, Kind: "x"})
	if err := j.checkpoint(t.Context()); err != nil {
		t.Errorf("checkpoint: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		if err := j.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}
