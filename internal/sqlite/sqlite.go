// Package sqlite opens SQLite files as all of troupe wants them: in WAL mode,
// with mode 0600, and with transactions that take the write lock at once. It also
// tells what the errors of a disk mean, from SQLite or from the system itself.
//
// It is the one place that knows which driver is behind database/sql.
package sqlite

import (
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"troupe/internal/fault"
)

// cache is what a connection keeps of its file, in KiB: it takes twice as much memory, since the allocator of the driver rounds a page
// of 4 KiB with its header up to 8. What is not in it is in the kernel's cache, and costs some microseconds.
const cache = "cache_size(-1024)"

// patience is for how long, in ms, a connection waits for the locks of others.
const patience = "busy_timeout(10000)"

// Open opens the file at path, creating it, with at most conns connections. A
// pragma, such as "synchronous(FULL)", holds for each of them; one that fails
// makes the first use of a connection fail.
func Open(path string, conns int, pragmas ...string) (*sql.DB, error) {
	if err := register(); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	// The driver sets the mode after all pragmas. It writes the first page of a new file, and then page_size stays as it is.
	q := url.Values{"_txlock": {"immediate"}, "_journal_mode": {"WAL"}}
	for _, p := range append([]string{patience, cache}, pragmas...) {
		q.Add("_pragma", p)
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// create makes the file if there is none. SQLite gives its companions the same mode. One that exists is not even opened: to close it again
// takes away all locks that this process has on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS); err != nil { // SQLite would only say that it cannot
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Look opens the file at path for reading, and neither creates nor changes anything beside it: for a file that no process
// has open. What a process that was killed has left in the write-ahead log is seen.
func Look(path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	// Without a log the file is all there is, and SQLite need not make the log's index. With one, its index is there too
	// and must stay as it is.
	q := url.Values{"mode": {"ro"}, "immutable": {"1"}, "_pragma": {"query_only(1)"}}
	if log, err := os.Stat(path + "-wal"); err == nil && log.Size() > 0 {
		q = url.Values{"mode": {"ro"}, "readonly_shm": {"1"}, "_pragma": {"query_only(1)", "busy_timeout(1000)"}}
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(2)
	return db, nil
}

// IsCorrupt reports whether SQLite found its own structures damaged.
func IsCorrupt(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	primary := e.Code() & 0xff
	return primary == sqlite3.SQLITE_CORRUPT || primary == sqlite3.SQLITE_NOTADB
}

// IsFull reports whether a write found no room: it succeeds when there is some again.
func IsFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_FULL
}

// IsReadOnly reports whether the file, or the whole file system, takes no writes now.
func IsReadOnly(err error) bool {
	if errors.Is(err, syscall.EROFS) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_READONLY
}

// IsFailing reports whether the system refused to read or write the file. SQLite does not keep its reason: a file system
// that turns read-only under an open file looks like this too.
func IsFailing(err error) bool {
	if errors.Is(err, syscall.EIO) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_IOERR && e.Code() != sqlite3.SQLITE_IOERR_NOMEM
}

// DiskFault gives words for the caller to what a write met on the disk. The caller can come back, or ask another
// server; other errors are returned as they are.
func DiskFault(err error) error {
	switch {
	case IsFull(err):
		return fault.Wrap(fault.Unavailable, err, "The disk of the server is full: nothing was stored")
	case IsReadOnly(err):
		return fault.Wrap(fault.Unavailable, err, "The disk of the server is read-only: nothing was stored")
	case IsFailing(err): // a record may be there all the same when only the flush failed
		return fault.Wrap(fault.Unavailable, err, "The disk of the server fails: nothing can be stored")
	}
	return err
}
