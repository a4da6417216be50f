package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"troupe/internal/fault"
)

func TestAJournalIsLookedAtWithoutAChange(t *testing.T) {
	dir := seeded(t, 5)
	before := listing(t, dir)
	j, err := Look(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := j.Examine(t.Context())
	if err != nil || c.Records != 10 || c.Origins != 1 || !c.Checked || len(c.Damage) > 0 || c.Size == 0 || time.Since(c.Newest).Abs() > time.Hour {
		t.Errorf("condition %+v, %v", c, err)
	}
	if recs := readAll(t, j, State); len(recs) == 0 {
		t.Error("no record can be read")
	}
	if _, err := j.Append(t.Context(), Draft{Stream: State, Kind: "k"}); !errors.Is(err, errLooking) {
		t.Errorf("append: %v, want %v", err, errLooking)
	}
	if err := j.checkpoint(t.Context()); !errors.Is(err, errLooking) {
		t.Errorf("checkpoint: %v, want %v", err, errLooking)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the folder was\n%s\nand is\n%s", before, after)
	}
}

// listing tells names, sizes and times of files.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(e.Name() + " " + info.ModTime().String() + " " + strconv.FormatInt(info.Size(), 10) + "\n")
	}
	return b.String()
}

func TestAJournalThatIsInUseNamesItsProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	_, err := Look(t.Context(), dir, Options{})
	if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("err = %v", err)
	}
}

func TestWhereNoJournalIsNoneIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	if _, err := Look(t.Context(), dir, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made")
	}
}

func TestAQuickLookFindsAChainWithoutItsEnd(t *testing.T) {
	for name, row := range map[string]struct{ statement, want string }{
		"the last record is missing": {"DELETE FROM record WHERE number = (SELECT max(number) FROM record)", "missing number"},
		"another hash":               {"UPDATE chain SET last_hash = zeroblob(32)", "chain"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := seeded(t, 5)
			tamper(t, dir, row.statement)
			j, err := Look(t.Context(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			c, err := j.Examine(t.Context())
			if err != nil || len(c.Damage) == 0 || !strings.Contains(c.Damage[0], row.want) {
				t.Errorf("condition %+v, %v; want %q", c, err, row.want)
			}
		})
	}
}

func TestAQuickLookFindsADamagedFile(t *testing.T) {
	dir := seeded(t, 60)
	path := filepath.Join(dir, fileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 8192; i < len(text)-4096; i++ {
		text[i] ^= 0x55
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := Look(t.Context(), dir, Options{})
	if err != nil {
		return // so damaged that its first pages say so
	}
	defer j.Close()
	if c, err := j.Examine(t.Context()); err == nil && len(c.Damage) == 0 {
		t.Errorf("condition %+v", c)
	}
}
