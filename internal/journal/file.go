package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"troupe/internal/sqlite"
)

// This file is the journal on disk: its folder, its lock, its tables.

const (
	fileName = "journal.db"
	lockName = "journal.lock"

	applicationID = 0x74726a6c // "trjl", in the header of the file
	formatVersion = 1          // PRAGMA user_version
)

const schema = `
CREATE TABLE self (origin TEXT NOT NULL) STRICT;

CREATE TABLE chain (
	id          INTEGER PRIMARY KEY,   -- local, never leaves this file
	origin      TEXT    NOT NULL,
	stream      INTEGER NOT NULL,
	base        INTEGER NOT NULL,      -- the last pruned record: its number,
	base_hash   BLOB    NOT NULL,      --   its hash; 0 and zeros before any
	last        INTEGER NOT NULL,
	last_hash   BLOB    NOT NULL,
	last_time   INTEGER NOT NULL,
	UNIQUE (origin, stream)
) STRICT;

CREATE TABLE record (
	id     INTEGER PRIMARY KEY,        -- order of arrival, local
	chain  INTEGER NOT NULL REFERENCES chain (id),
	number INTEGER NOT NULL,
	time   INTEGER NOT NULL,
	kind   TEXT    NOT NULL,
	key    TEXT    NOT NULL,
	length INTEGER NOT NULL,           -- of the body as it was given
	sum    BLOB    NOT NULL,           -- SHA-256 of the same
	hash   BLOB    NOT NULL,
	form   INTEGER NOT NULL,           -- 0: plain, 1: zstd
	body   BLOB    NOT NULL,
	UNIQUE (chain, number)
) STRICT;
`

// prepareFolder creates dir, for its owner only, or checks that it is ours.
func prepareFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create data folder: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("examine data folder: %w", err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("data folder %s belongs to user %d, and this process runs as user %d: "+
			"run it as the owner, or chown -R the folder", dir, sys.Uid, os.Geteuid())
	}
	return nil
}

// lockFolder makes this process the only one that uses dir. The lock goes with
// the process, however it ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, readErr := os.ReadFile(f.Name())
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("data folder %s is in use by process %s: stop it first, or choose another folder",
				dir, strings.TrimSpace(string(owner)))
		}
		return nil, errors.Join(err, readErr, f.Close())
	}
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock data folder: %w", err), f.Close())
	}
	return f, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// openFile opens the database, creates its tables when it is new, and reads
// where the clock stood.
func (j *Journal) openFile() error {
	ctx := context.Background()
	path := filepath.Join(j.dir, fileName)
	if err := touch(path); err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	var err error
	if j.pack, err = newPacker(); err != nil {
		return err
	}
	if j.write, err = sqlite.OpenWriter(path, "synchronous(FULL)", "foreign_keys(1)"); err != nil {
		return fmt.Errorf("open journal %s: %w", path, err)
	}
	if j.read, err = sqlite.Open(path, readers, "query_only(1)"); err != nil {
		return fmt.Errorf("open journal %s: %w", path, err)
	}
	if err := j.checkFormat(ctx, path); err != nil {
		return err
	}
	if err := syncFolder(j.dir); err != nil {
		return fmt.Errorf("sync data folder: %w", err)
	}
	if err := j.write.QueryRowContext(ctx, "SELECT origin FROM self").Scan(&j.origin); err != nil {
		return fmt.Errorf("read origin from journal %s: %w", path, err)
	}
	return j.seedClock(ctx)
}

// readers bounds the connections that read at the same time.
const readers = 4

// checkFormat creates the tables in an empty file and refuses a file that is not
// a journal, or one of a later format.
func (j *Journal) checkFormat(ctx context.Context, path string) error {
	var app, version int
	if err := j.write.QueryRowContext(ctx, "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version").Scan(&app, &version); err != nil {
		return fmt.Errorf("journal %s cannot be read: %w; restore the folder from a backup", path, err)
	}
	switch {
	case app == 0 && version == 0:
		return j.create(ctx)
	case app != applicationID:
		return fmt.Errorf("%s is not a journal of troupe", path)
	case version > formatVersion:
		return fmt.Errorf("journal %s has format %d, and this troupe knows formats up to %d: start a newer troupe on it", path, version, formatVersion)
	}
	return nil
}

func (j *Journal) create(ctx context.Context) error {
	tx, err := j.write.DB.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // a no-op after Commit
	for _, q := range []string{
		schema,
		fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, formatVersion),
		fmt.Sprintf("INSERT INTO self (origin) VALUES ('%s')", strings.ToLower(rand.Text())),
	} {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("create journal: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	return nil
}

// seedClock lets the clock go on from the newest record of any origin.
func (j *Journal) seedClock(ctx context.Context) error {
	if err := j.write.QueryRowContext(ctx, "SELECT coalesce(max(last_time), 0) FROM chain").Scan(&j.clock.last); err != nil {
		return fmt.Errorf("read the clock of the journal: %w", err)
	}
	if d := j.clock.ahead(); d > maxDrift {
		j.drift = true
		j.log.Warn("journal is ahead of the clock of this machine", "ahead", d, "remedy", "check the time of this machine; records keep their order")
	}
	return nil
}

// touch creates the file with the mode that SQLite then gives to its companions.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
