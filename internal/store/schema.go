package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// This file holds the tables and brings older ones up to date.

const (
	fileName = "store.db"
	readers  = 4 // connections that read at the same time
)

// migrations lead from an empty file to the present tables; PRAGMA user_version
// counts those that were done. A step is never changed once it was released.
func migrations() []string {
	return append([]string{firstTables, integrityTables, sumTables()}, nextMigrations()...)
}

// A stamp orders records of all origins: eight bytes of journal time, then the
// origin. It is a blob so that SQLite compares it as one value; the empty one is before all.
const firstTables = `
CREATE TABLE position (
	origin TEXT    NOT NULL,
	stream INTEGER NOT NULL,
	number INTEGER NOT NULL,           -- of the last record that is folded in
	hash   BLOB    NOT NULL,           -- its hash; zeros when it was damaged
	PRIMARY KEY (origin, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE node (
	certname          TEXT PRIMARY KEY,
	seen              BLOB    NOT NULL DEFAULT x'',  -- the newest of the next four
	facts             BLOB    NOT NULL DEFAULT x'',
	catalog           BLOB    NOT NULL DEFAULT x'',
	compile           BLOB    NOT NULL DEFAULT x'',
	report            BLOB    NOT NULL DEFAULT x'',
	environment       TEXT    NOT NULL DEFAULT '',
	environment_stamp BLOB    NOT NULL DEFAULT x'',
	report_id         TEXT    NOT NULL DEFAULT '',
	status            TEXT    NOT NULL DEFAULT '',   -- of the last report
	noop              INTEGER NOT NULL DEFAULT 0,    -- so was the last run
	cached_catalog    TEXT    NOT NULL DEFAULT '',   -- its cached_catalog_status
	compile_failed    INTEGER NOT NULL DEFAULT 0,    -- so did the last compile
	deactivated       BLOB    NOT NULL DEFAULT x'',
	expired           INTEGER NOT NULL DEFAULT 0,    -- silent for too long
	exported_sum      BLOB    NOT NULL DEFAULT x''   -- of what table exported holds of it
) STRICT, WITHOUT ROWID;
CREATE INDEX node_environment ON node (environment, seen);
CREATE INDEX node_seen ON node (seen);

CREATE TABLE facts (
	certname    TEXT PRIMARY KEY,
	stamp       BLOB    NOT NULL,
	environment TEXT    NOT NULL,
	time        INTEGER NOT NULL,      -- microseconds, by the agent's clock
	producer    TEXT    NOT NULL,
	facts       BLOB    NOT NULL       -- zstd of the JSON object
) STRICT;

CREATE TABLE catalog (                 -- the newest record of each different catalog
	certname         TEXT    NOT NULL,
	hash             TEXT    NOT NULL,
	stamp            BLOB    NOT NULL,
	environment      TEXT    NOT NULL,
	code_id          TEXT    NOT NULL,
	catalog_uuid     TEXT    NOT NULL,
	transaction_uuid TEXT    NOT NULL,
	version          TEXT    NOT NULL,
	bytes            INTEGER NOT NULL,
	PRIMARY KEY (certname, hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE catalog_body (
	certname     TEXT    NOT NULL,
	hash         TEXT    NOT NULL,
	journalled   BLOB    NOT NULL,     -- stamp of the newest record that holds the body
	exported_sum BLOB    NOT NULL,     -- x'' when the catalog exports nothing
	exported     BLOB    NOT NULL,     -- zstd of a JSON array
	body         BLOB    NOT NULL,     -- zstd of JSON
	PRIMARY KEY (certname, hash)
) STRICT;

CREATE TABLE exported (                -- of the newest catalog of each active node
	type       TEXT    NOT NULL,
	title      TEXT    NOT NULL,
	certname   TEXT    NOT NULL,
	tags       TEXT    NOT NULL,       -- lower case, a line break around each
	virtual    INTEGER NOT NULL,
	file       TEXT    NOT NULL,
	line       INTEGER NOT NULL,
	parameters TEXT    NOT NULL,
	PRIMARY KEY (type, title, certname)
) STRICT, WITHOUT ROWID;
CREATE INDEX exported_certname ON exported (certname);

CREATE TABLE compile (
	stamp            BLOB PRIMARY KEY,
	certname         TEXT    NOT NULL,
	environment      TEXT    NOT NULL,
	code_id          TEXT    NOT NULL,
	transaction_uuid TEXT    NOT NULL,
	start            INTEGER NOT NULL, -- microseconds
	duration         INTEGER NOT NULL, -- nanoseconds
	failed           INTEGER NOT NULL,
	error            TEXT    NOT NULL,
	resources        INTEGER NOT NULL,
	bytes            INTEGER NOT NULL,
	timings          TEXT    NOT NULL, -- JSON
	logs             BLOB    NOT NULL  -- zstd of JSON
) STRICT;
CREATE INDEX compile_certname ON compile (certname, stamp);

CREATE TABLE report (
	id          TEXT PRIMARY KEY,
	stamp       BLOB NOT NULL,         -- of the first record of this report
	certname    TEXT NOT NULL,
	environment TEXT NOT NULL,
	status      TEXT NOT NULL,
	summary     TEXT NOT NULL,         -- JSON of ReportSummary
	body        BLOB NOT NULL          -- zstd of the report as JSON
) STRICT;
CREATE INDEX report_stamp ON report (stamp);
CREATE INDEX report_certname ON report (certname, stamp);
CREATE INDEX report_environment ON report (environment, stamp);
CREATE INDEX report_status ON report (status, stamp);

CREATE TABLE enc (
	certname TEXT PRIMARY KEY,
	stamp    BLOB NOT NULL,
	body     BLOB NOT NULL
) STRICT;

CREATE TABLE bucket_file (
	sha256 TEXT PRIMARY KEY,
	size   INTEGER NOT NULL,
	stamp  BLOB    NOT NULL            -- of its newest backup
) STRICT, WITHOUT ROWID;
CREATE INDEX bucket_file_stamp ON bucket_file (stamp);
CREATE TABLE bucket_sum (
	algo   TEXT NOT NULL,
	sum    TEXT NOT NULL,
	sha256 TEXT NOT NULL,
	PRIMARY KEY (algo, sum)
) STRICT, WITHOUT ROWID;
CREATE INDEX bucket_sum_sha256 ON bucket_sum (sha256);
CREATE TABLE bucket_path (
	sha256 TEXT NOT NULL,
	path   TEXT NOT NULL,
	stamp  BLOB NOT NULL,
	PRIMARY KEY (sha256, path)
) STRICT, WITHOUT ROWID;
`

const integrityTables = `
CREATE TABLE catalog_record (          -- where the journal has the body of a catalog, also of one that was trimmed
	certname TEXT    NOT NULL,
	hash     TEXT    NOT NULL,
	stamp    BLOB    NOT NULL,         -- of the newest such record
	origin   TEXT    NOT NULL,
	number   INTEGER NOT NULL,
	PRIMARY KEY (certname, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX catalog_record_stamp ON catalog_record (stamp);

CREATE TABLE unknown (                 -- kinds that this program does not know, for one that does
	origin TEXT    NOT NULL,
	kind   TEXT    NOT NULL,
	number INTEGER NOT NULL,           -- of the first such record
	PRIMARY KEY (origin, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE gap (                     -- records that were pruned before this member could have them
	origin TEXT    NOT NULL PRIMARY KEY,
	number INTEGER NOT NULL,           -- of the last of them
	stamp  BLOB    NOT NULL            -- of the first record behind them
) STRICT, WITHOUT ROWID;
`

// migrate brings the tables up to date, one transaction for each step.
func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	steps := migrations()
	if version > len(steps) {
		return fmt.Errorf("it has format %d, and this troupe knows formats up to %d: start a newer troupe, "+
			"or remove the file to have it made again from the journal", version, len(steps))
	}
	for ; version < len(steps); version++ {
		if err := migrateStep(ctx, db, steps[version], version+1); err != nil {
			return fmt.Errorf("bring tables to format %d: %w", version+1, err)
		}
	}
	return nil
}

func migrateStep(ctx context.Context, db *sql.DB, step string, version int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, step+fmt.Sprintf("; PRAGMA user_version = %d", version))
	return finish(tx, err)
}

// finish commits, or rolls back when err says that the work is not done.
func finish(tx driver.Tx, err error) error {
	if err == nil {
		return tx.Commit()
	}
	if back := tx.Rollback(); back != nil && !errors.Is(back, sql.ErrTxDone) {
		err = errors.Join(err, fmt.Errorf("roll back: %w", back))
	}
	return err
}

// setAside renames a damaged file and its companions.
func setAside(path, aside string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set damaged store aside: %w", err)
		}
	}
	return nil
}
