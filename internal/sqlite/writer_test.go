package sqlite

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func writer(t *testing.T) *Writer {
	t.Helper()
	w, err := OpenWriter(filepath.Join(t.TempDir(), "file.db"), "synchronous(NORMAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := w.Exec("CREATE TABLE words (word TEXT PRIMARY KEY, number INTEGER) STRICT"); err != nil {
		t.Fatal(err)
	}
	return w
}

// transaction runs fn and commits, or rolls back when it fails.
func transaction(t *testing.T, w *Writer, fn func(*Tx) error) error {
	t.Helper()
	tx, err := w.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := fn(tx); err != nil {
		if back := tx.Rollback(); back != nil {
			t.Fatal(back)
		}
		return err
	}
	return tx.Commit()
}

func TestAWriterParsesAStatementOnce(t *testing.T) {
	w := writer(t)
	const insert, count = "INSERT INTO words VALUES (?, ?)", "SELECT count(*), sum(number) FROM words WHERE number >= ?"
	var kept any
	for round := range 5 {
		err := transaction(t, w, func(tx *Tx) error {
			for i := range 10 {
				if _, err := tx.ExecContext(t.Context(), insert, fmt.Sprint("word", round, i), i); err != nil {
					return err
				}
			}
			var rows, sum int
			if err := tx.QueryRowContext(t.Context(), count, 5).Scan(&rows, &sum); err != nil {
				return err
			}
			if rows != (round+1)*5 || sum != (round+1)*35 {
				t.Errorf("round %d: %d rows with the sum %d", round, rows, sum)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			kept = w.kept[insert]
		}
	}
	if len(w.kept) != 2 || kept == nil || w.kept[insert] != kept {
		t.Errorf("%d statements are kept, of which the first is another one now: %v, %v", len(w.kept), kept, w.kept[insert])
	}
}

func TestAWriterGoesOnAfterAStatementThatFailed(t *testing.T) {
	w := writer(t)
	insert := func(tx *Tx) error {
		_, err := tx.ExecContext(t.Context(), "INSERT INTO words VALUES (?, ?)", "one", 1)
		return err
	}
	for round := range 4 { // parsed anew, then kept
		if err := transaction(t, w, func(tx *Tx) error {
			if _, err := tx.ExecContext(t.Context(), "INSERT INTO nowhere VALUES (1)"); err == nil {
				t.Error("what cannot be parsed was run")
			}
			var n int
			if err := tx.QueryRowContext(t.Context(), "SELECT n FROM nowhere").Scan(&n); err == nil {
				t.Error("what cannot be parsed gave a row")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := transaction(t, w, insert); (err == nil) != (round == 0) {
			t.Errorf("round %d: %v, and the word is to be there once", round, err)
		}
	}
	if _, err := w.Exec("DROP TABLE words"); err != nil {
		t.Fatal(err)
	}
	if err := transaction(t, w, insert); err == nil {
		t.Error("a row went into a table that is gone")
	}
	if _, err := w.Exec("CREATE TABLE words (word TEXT PRIMARY KEY, number INTEGER, more TEXT) STRICT"); err != nil {
		t.Fatal(err)
	}
	if err := transaction(t, w, func(tx *Tx) error {
		_, err := tx.ExecContext(t.Context(), "INSERT INTO words (word, number) VALUES (?, ?)", "one", 1)
		return err
	}); err != nil {
		t.Errorf("after the table was made anew: %v", err)
	}
}

func TestAWriterKeepsABoundedNumberOfStatements(t *testing.T) {
	w := writer(t)
	for i := range 2 * maxKept {
		if err := transaction(t, w, func(tx *Tx) error {
			_, err := tx.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO words VALUES ('%d', 0)", i))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.kept) + len(w.wanted); n > maxKept {
		t.Errorf("%d statements are kept", n)
	}
}

func TestAConnectionKeepsLittleOfItsFile(t *testing.T) {
	w := writer(t)
	var kept int
	if err := w.QueryRow("PRAGMA cache_size").Scan(&kept); err != nil || kept != -1024 {
		t.Errorf("cache_size is %d, want -1024, in KiB, for each of the many connections of a member: %v", kept, err)
	}
}

func TestWritersWaitForEachOtherAndNotForever(t *testing.T) {
	w := writer(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 50 {
				if err := transaction(t, w, func(tx *Tx) error {
					for n := range 3 {
						if _, err := tx.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO words VALUES (?, %d)", (i+k+n)%40), fmt.Sprint(i, " ", k, " ", n)); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestTruncateWaitsForNobody(t *testing.T) {
	w := writer(t)
	add := func(word string) {
		t.Helper()
		if err := transaction(t, w, func(tx *Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO words VALUES (?, 1)", word)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	add("before")
	var path string
	if err := w.QueryRow("SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path); err != nil {
		t.Fatal(err)
	}
	readers, err := Open(path, 1, "query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer readers.Close()
	reading, err := readers.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reading.QueryRow("SELECT count(*) FROM words").Scan(&n); err != nil || n != 1 {
		t.Fatalf("%d words: %v", n, err)
	}
	add("after")
	begin := time.Now()
	if done, err := w.Truncate(t.Context()); done || err != nil {
		t.Errorf("with a reader: done %t, %v", done, err)
	}
	if waited := time.Since(begin); waited > 5*time.Second {
		t.Errorf("it waited %v for a reader", waited)
	}
	add("behind it")
	if err := reading.Rollback(); err != nil {
		t.Fatal(err)
	}
	if done, err := w.Truncate(t.Context()); !done || err != nil {
		t.Errorf("without a reader: done %t, %v", done, err)
	}
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the log is not empty: %v, %v", info, err)
	}
	var patient int
	if err := w.QueryRow("PRAGMA busy_timeout").Scan(&patient); err != nil || patient != 10000 {
		t.Errorf("the writer waits %d ms for locks: %v", patient, err)
	}
}
