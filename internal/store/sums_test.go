package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
)

// flip changes the last letter of a text in the tables' file, as a disk may: at one place, or at all for -1. It returns false when
// there are not so many. The store is closed and opened again.
func flip(t *testing.T, m *member, text string, place int) bool {
	t.Helper()
	_, err := m.write.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	must(t, err)
	m.close(t)
	path := filepath.Join(m.dir, "store", fileName)
	file, err := os.ReadFile(path)
	must(t, err)
	found := false
	for at, n := 0, 0; ; n++ {
		next := bytes.Index(file[at:], []byte(text))
		if next < 0 {
			break
		}
		at += next + len(text)
		if place < 0 || n == place {
			file[at-1] ^= 1
			found = true
		}
	}
	must(t, os.WriteFile(path, file, 0o600))
	m.open(t, Options{})
	return found
}

func TestEveryTableHasASum(t *testing.T) {
	m := newMember(t, Options{})
	summed, err := sqlite.SummedTables(t.Context(), m.read)
	must(t, err)
	rows, err := m.read.Query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`)
	must(t, err)
	defer rows.Close()
	all := 0
	for rows.Next() {
		all++
	}
	must(t, rows.Err())
	if all != len(summed) || all != strings.Count(firstTables+integrityTables, "CREATE TABLE") {
		t.Errorf("%d tables, %d have a sum: %v", all, len(summed), summed)
	}
}

func TestTheFirstCheckWaitsForACatchUp(t *testing.T) {
	for _, c := range []struct{ sinceStart, sinceBacklog, want time.Duration }{
		{checkFirst, 56 * 365 * 24 * time.Hour, 0}, // nothing was left to fold
		{checkFirst, 0, checkQuiet},
		{checkFirst, 300 * time.Millisecond, checkQuiet - 300*time.Millisecond},
		{2 * checkFirst, checkQuiet, 0},
		{checkLatest - checkQuiet/2, 0, checkQuiet / 2},
		{checkLatest, 0, 0}, // it goes on and on
	} {
		if got := checkIn(c.sinceStart, c.sinceBacklog); max(got, 0) != c.want {
			t.Errorf("%v after the start and %v after a backlog: wait %v, want %v", c.sinceStart, c.sinceBacklog, got, c.want)
		}
	}
	m := newMember(t, Options{})
	if since := m.sinceBacklog(); since < time.Hour {
		t.Errorf("a new store had a backlog %v ago", since)
	}
	life(t, m.DB, 7, 2*foldStep)
	m.close(t)
	must(t, os.RemoveAll(filepath.Join(m.dir, "store")))
	m.open(t, Options{})
	must(t, m.CatchUp(t.Context()))
	if since := m.sinceBacklog(); since > time.Minute {
		t.Errorf("the whole journal was folded, and the last backlog was %v ago", since)
	}
}

func TestFlippedBitsOfTheTablesAreFoldedAnew(t *testing.T) {
	for _, text := range []string{"producer-of-facts", "a-status", "node-of-report.example.com"} {
		for place := -1; ; place++ { // in rows, in indexes, in both
			m := newMember(t, Options{})
			life(t, m.DB, 7, 30)
			must(t, m.SaveFacts(t.Context(), facts("web1.example.com", `{"a":1}`), "producer-of-facts"))
			_, err := m.SaveReport(t.Context(), report("web1.example.com", "u1", "a-status"))
			must(t, err)
			_, err = m.SaveReport(t.Context(), report("node-of-report.example.com", "u2", "changed"))
			must(t, err)
			before := answers(t, m.DB)
			if !flip(t, m, text, place) {
				if place < 1 {
					t.Errorf("%s lies nowhere", text)
				}
				break
			}
			must(t, m.check(t.Context()))
			if diff := cmp.Diff(before, answers(t, m.DB)); diff != "" {
				t.Errorf("%s, place %d: after the check the answers are others:\n%s", text, place, diff)
			}
			if err := sqlite.CheckSums(t.Context(), m.read); err != nil {
				t.Errorf("%s, place %d: after the check: %v", text, place, err)
			}
			for _, q := range []ReportQuery{{Certname: "node-of-report.example.com"}, {Status: "a-status"}} {
				all, err := m.Reports(t.Context(), q)
				must(t, err)
				if len(all) != 1 {
					t.Errorf("%s, place %d: %d reports for %v", text, place, len(all), q)
				}
			}
			f, err := m.Facts(t.Context(), "web1.example.com")
			if err != nil || string(f.Values) != `{"a":1}` {
				t.Errorf("%s, place %d: facts %v, %v", text, place, f, err)
			}
		}
	}
}

func TestADamagedRowIsNotToldOf(t *testing.T) {
	m := newMember(t, Options{})
	must(t, m.SaveFacts(t.Context(), facts("web1.example.com", `{"a":1}`), "producer-of-facts"))
	_, err := m.SaveReport(t.Context(), report("web1.example.com", "u1", "a-status"))
	must(t, err)
	reports, err := m.Reports(t.Context(), ReportQuery{})
	must(t, err)
	flip(t, m, "producer-of-facts", -1)
	if f, err := m.Facts(t.Context(), "web1.example.com"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("facts of a damaged row: %v %v", f, err)
	}
	if len(m.suspect) != 1 {
		t.Error("the tables are not checked then")
	}
	flip(t, m, "a-status", -1)
	if _, _, err := m.Report(t.Context(), reports[0].ID); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a report of a damaged row: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	for {
		_, _, reportErr := m.Report(t.Context(), reports[0].ID)
		f, factsErr := m.Facts(t.Context(), "web1.example.com")
		if reportErr == nil && factsErr == nil && string(f.Values) == `{"a":1}` {
			break
		}
		for _, err := range []error{reportErr, factsErr} {
			if err != nil && fault.KindOf(err) != fault.Unavailable && fault.KindOf(err) != fault.NotFound {
				t.Fatal(err)
			}
		}
	}
	cancel()
	must(t, <-ended)
}

func TestADamagedPageMakesTheStoreAnew(t *testing.T) {
	m := newMember(t, Options{})
	life(t, m.DB, 7, 100)
	before := answers(t, m.DB)
	var root int64
	must(t, m.read.QueryRow(`SELECT rootpage FROM sqlite_schema WHERE name = 'facts'`).Scan(&root))
	_, err := m.write.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	must(t, err)
	m.close(t)
	path := filepath.Join(m.dir, "store", fileName)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteAt(bytes.Repeat([]byte{0xff}, 64), (root-1)*4096)
	must(t, errors.Join(err, file.Close()))
	m.open(t, Options{})
	if err := m.check(t.Context()); !sqlite.IsCorrupt(err) {
		t.Fatalf("a page that cannot be read: %v", err)
	}
	m.close(t)
	m.open(t, Options{})
	must(t, m.CatchUp(t.Context()))
	if diff := cmp.Diff(before, answers(t, m.DB)); diff != "" {
		t.Errorf("made anew, the answers are others:\n%s", diff)
	}
	if toRebuild(filepath.Join(m.dir, "store")) {
		t.Error("the next start makes it anew once more")
	}
}

func TestTablesOfTheLastFormatGetSums(t *testing.T) {
	m := newMember(t, Options{})
	life(t, m.DB, 3, 80)
	before := answers(t, m.DB)
	dir := t.TempDir()
	old, err := sqlite.OpenWriter(filepath.Join(dir, fileName))
	must(t, err)
	_, err = old.Exec(firstTables + integrityTables + "; PRAGMA user_version = 2")
	must(t, err)
	tables, err := sqlite.SummedTables(t.Context(), m.read)
	must(t, err)
	must(t, old.Close())
	_, err = m.write.Exec(`ATTACH ? AS old`, filepath.Join(dir, fileName))
	must(t, err)
	for _, table := range tables {
		columns, err := sqlite.Columns(t.Context(), m.read, table)
		must(t, err)
		list := strings.Join(columns, ", ")
		_, err = m.write.Exec(fmt.Sprintf(`INSERT INTO old.%[1]s (%[2]s) SELECT %[2]s FROM main.%[1]s`, table, list))
		must(t, err)
	}
	m.close(t)
	must(t, os.Rename(filepath.Join(dir, fileName), filepath.Join(m.dir, "store", fileName)))
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(filepath.Join(m.dir, "store", fileName+suffix))
	}
	m.open(t, Options{})
	if diff := cmp.Diff(before, answers(t, m.DB)); diff != "" {
		t.Errorf("after the migration the answers are others:\n%s", diff)
	}
	must(t, sqlite.CheckSums(t.Context(), m.read))
}
