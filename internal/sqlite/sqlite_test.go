package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"troupe/internal/fault"
)

// open returns a database with a table that takes blobs, on one connection.
func open(t *testing.T) (db *sql.DB, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file.db")
	db, err := Open(path, 1, "synchronous(FULL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	execute(t, db, "CREATE TABLE blobs (content)")
	return db, path
}

func execute(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.Exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

const write = "INSERT INTO blobs VALUES (zeroblob(100000))"

func TestWhatTheDiskDoesIsToldToTheCaller(t *testing.T) {
	const (
		full     = "The disk of the server is full: nothing was stored"
		readOnly = "The disk of the server is read-only: nothing was stored"
		failing  = "The disk of the server fails: nothing can be stored"
	)
	system := func(errno syscall.Errno) func(*testing.T) error {
		return func(*testing.T) error {
			return fmt.Errorf("store: %w", &fs.PathError{Op: "write", Path: "x", Err: errno})
		}
	}
	after := func(pragma, statement string) func(*testing.T) error {
		return func(t *testing.T) error {
			t.Helper()
			db, _ := open(t)
			execute(t, db, pragma)
			_, err := db.Exec(statement)
			return err
		}
	}
	for name, test := range map[string]struct {
		meet func(*testing.T) error
		want string // empty: no fault
	}{
		"no room":                       {system(syscall.ENOSPC), full},
		"no quota":                      {system(syscall.EDQUOT), full},
		"no room, in SQLite's words":    {after("PRAGMA max_page_count = 4", write), full},
		"read-only":                     {system(syscall.EROFS), readOnly},
		"read-only, in SQLite's words":  {after("PRAGMA query_only = on", write), readOnly},
		"input/output":                  {system(syscall.EIO), failing},
		"input/output, in SQLite's own": {refusedBySystem, failing},
		"no permission":                 {system(syscall.EACCES), ""},
		"no such table":                 {after("PRAGMA query_only = off", "INSERT INTO nowhere VALUES (1)"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.meet(t)
			got := DiskFault(err)
			if !errors.Is(got, err) || err == nil {
				t.Fatalf("%v became %v, which has lost its cause", err, got)
			}
			if test.want == "" {
				if got != err {
					t.Errorf("%v became %v, want it as it was", err, got)
				}
				return
			}
			if fault.KindOf(got) != fault.Unavailable || fault.Message(got) != test.want {
				t.Errorf("%v became a fault of kind %v %q, want Unavailable %q", err, fault.KindOf(got), fault.Message(got), test.want)
			}
		})
	}
}

// refusedBySystem is what SQLite says when write(2) fails under an open file. Here the process may write no further
// than the log reaches; a file system that has turned read-only gives the same code.
func refusedBySystem(t *testing.T) error {
	t.Helper()
	db, path := open(t)
	log, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	tight := limit
	tight.Cur = uint64(log.Size())
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &tight); err != nil {
		t.Fatal(err)
	}
	_, refused := db.Exec(write)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	execute(t, db, write) // it passes without opening the file again
	return refused
}
