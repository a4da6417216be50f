package sqlite_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/sqlite"
)

// killedVariable makes the test binary write to a file and die with it open.
const killedVariable = "TROUPE_SQLITE_KILLED"

func TestMain(m *testing.M) {
	if path := os.Getenv(killedVariable); path != "" {
		db, err := sqlite.Open(path, 1, "wal_autocheckpoint(0)")
		if err == nil {
			_, err = db.Exec("INSERT INTO t VALUES ('in the log')")
		}
		if err != nil {
			panic(err)
		}
		os.Exit(0) // without closing, as a process that is killed
	}
	os.Exit(m.Run())
}

// kept is what must not change while somebody looks.
func kept(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = info.ModTime().Format(time.RFC3339Nano) + string(text)
	}
	return all
}

func TestLookSeesAllAndChangesNothing(t *testing.T) {
	for _, row := range []struct {
		name   string
		killed bool
		want   int
	}{{"a file that was closed", false, 1}, {"a file of a process that was killed", true, 2}} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a b?.db")
			db, err := sqlite.Open(path, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec("CREATE TABLE t (x TEXT); INSERT INTO t VALUES ('in the file')"); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if row.killed {
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), killedVariable+"="+path)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			before := kept(t, dir)
			if got := len(before); row.killed != (got == 3) {
				t.Fatalf("%d files before", got)
			}
			look, err := sqlite.Look(path)
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if err := look.QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil || n != row.want {
				t.Errorf("%d rows, want %d: %v", n, row.want, err)
			}
			if _, err := look.Exec("INSERT INTO t VALUES ('no')"); err == nil {
				t.Error("a file that is looked at was written")
			}
			if err := look.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, kept(t, dir)); diff != "" {
				t.Errorf("the folder changed:\n%s", diff)
			}
		})
	}
}

// locked reports whether this process has a lock on the file, as far as the kernel knows.
func locked(t *testing.T, path string) bool {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(fmt.Sprintf(` %d [0-9a-f]+:[0-9a-f]+:%d `, os.Getpid(), info.Sys().(*syscall.Stat_t).Ino)).Match(locks)
}

func TestOpenLeavesTheLocksOfOthersInTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	first, err := sqlite.Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Exec("CREATE TABLE t (x TEXT)"); err != nil {
		t.Fatal(err)
	}
	if !locked(t, path) {
		t.Fatal("SQLite has no lock on an open file")
	}
	second, err := sqlite.Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if !locked(t, path) {
		t.Error("the lock is gone")
	}
}

func TestLookMakesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	if _, err := sqlite.Look(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a file was made")
	}
}
