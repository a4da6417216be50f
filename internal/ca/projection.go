package ca

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"troupe/internal/journal"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file keeps ca.db, the tables folded from the journal. It holds nothing of
// its own: when it is missing, damaged, of another version or ahead of the
// journal, it is folded anew.

const (
	projectionName    = "ca.db"
	projectionVersion = 5 // raise it with every change of the schema or of the fold
)

const projectionSchema = `
CREATE TABLE position (
	origin TEXT PRIMARY KEY,
	number INTEGER NOT NULL,              -- the last folded record of the stream "state"
	sum INTEGER NOT NULL AS (troupe_sum(origin, number)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE setup (
	time   INTEGER NOT NULL,
	origin TEXT NOT NULL,
	body   BLOB NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(time, origin, body)) STORED,
	PRIMARY KEY (time, origin)
) STRICT, WITHOUT ROWID;

CREATE TABLE rollover (
	time   INTEGER NOT NULL,
	origin TEXT NOT NULL,
	body   BLOB NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(time, origin, body)) STORED,
	PRIMARY KEY (time, origin)
) STRICT, WITHOUT ROWID;

CREATE TABLE seen (
	key     TEXT NOT NULL,                -- of an issuer that followed another
	accepts INTEGER NOT NULL,             -- 0: it came with a certificate of it; 1: it went on when a server showed one
	name    TEXT NOT NULL,                -- certname
	sum INTEGER NOT NULL AS (troupe_sum(key, accepts, name)) STORED,
	PRIMARY KEY (key, accepts, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE cert (
	serial     TEXT PRIMARY KEY,          -- hex; the unique index over serial numbers
	name       TEXT NOT NULL,
	time       INTEGER NOT NULL,          -- of the record; the newest certificate of a name is the current one
	origin     TEXT NOT NULL,
	not_before INTEGER NOT NULL,          -- Unix seconds
	not_after  INTEGER NOT NULL,
	der        BLOB,                      -- NULL when only an inventory tells of it
	prefix     BLOB NOT NULL,             -- its status as JSON, before and after the state
	suffix     BLOB NOT NULL,
	issuer     TEXT NOT NULL,             -- authority key identifier, hex; empty when nothing tells it
	cleaned    INTEGER NOT NULL,          -- 1 when its serial is in the table of that name
	revoked    INTEGER NOT NULL,          -- likewise
	current    INTEGER NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(serial, name, time, origin, not_before, not_after, der, prefix, suffix, issuer, cleaned, revoked, current)) STORED
) STRICT;
CREATE INDEX cert_name ON cert (name);
CREATE INDEX cert_state ON cert (revoked, name) WHERE current = 1;

CREATE TABLE cleaned (serial TEXT PRIMARY KEY, sum INTEGER NOT NULL AS (troupe_sum(serial)) STORED) STRICT, WITHOUT ROWID;

CREATE TABLE revoked (
	serial TEXT PRIMARY KEY,
	at     INTEGER NOT NULL,              -- Unix seconds; the earliest told
	reason INTEGER NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(serial, at, reason)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE request (
	id      TEXT PRIMARY KEY,
	name    TEXT NOT NULL,
	time    INTEGER NOT NULL,
	origin  TEXT NOT NULL,
	der     BLOB NOT NULL,
	prefix  BLOB NOT NULL,
	suffix  BLOB NOT NULL,
	current INTEGER NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(id, name, time, origin, der, prefix, suffix, current)) STORED
) STRICT;
CREATE INDEX request_name ON request (name);

CREATE TABLE done (id TEXT PRIMARY KEY, sum INTEGER NOT NULL AS (troupe_sum(id)) STORED) STRICT, WITHOUT ROWID;

CREATE TABLE ancestor (
	key    TEXT PRIMARY KEY,              -- authority key identifier, hex
	number TEXT NOT NULL,                 -- CRL number, hex, padded so that text order is number order
	crl    BLOB NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(key, number, crl)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE unread (                     -- records that cannot be folded, for an alarm
	origin TEXT NOT NULL,
	number INTEGER NOT NULL,
	kind   TEXT NOT NULL,
	key    TEXT NOT NULL,
	why    TEXT NOT NULL,
	sum INTEGER NOT NULL AS (troupe_sum(origin, number, kind, key, why)) STORED,
	PRIMARY KEY (origin, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE latest (
	id   INTEGER PRIMARY KEY CHECK (id = 1),
	time INTEGER NOT NULL,                -- of the newest record that changes the issuer's list
	sum INTEGER NOT NULL AS (troupe_sum(id, time)) STORED
) STRICT;
`

// A projection is the open ca.db.
type projection struct {
	path  string
	j     *journal.Journal
	log   *slog.Logger
	write *sqlite.Writer
	read  *sql.DB

	mu sync.Mutex // held while records are folded, so that they are learned in their order
}

func openProjection(ctx context.Context, dir string, j *journal.Journal, log *slog.Logger) (*projection, error) {
	p := &projection{path: filepath.Join(dir, projectionName), j: j, log: log}
	usable, err := p.open(ctx)
	if err == nil && usable {
		return p, nil
	}
	if err != nil {
		log.WarnContext(ctx, "list of certificates is unreadable: folding it anew from the journal", telemetry.KeyErr, err)
	}
	if err := p.reset(ctx); err != nil {
		return nil, fmt.Errorf("begin %s anew: %w", p.path, err)
	}
	return p, nil
}

// page is how the file is divided: with 100,000 certificates the check before a start takes two thirds of the time that it takes with pages of 4 KiB.
const page = "page_size(16384)"

// open opens the file and says whether it can be used as it is.
func (p *projection) open(ctx context.Context) (usable bool, err error) {
	if p.write, err = sqlite.OpenWriter(p.path, "synchronous(NORMAL)", page); err != nil {
		return false, err
	}
	if p.read, err = sqlite.Open(p.path, 4, "query_only(1)"); err != nil {
		return false, err
	}
	var version int
	if err := p.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return false, err
	}
	if version != projectionFormat() {
		return false, nil
	}
	if err := sqlite.CheckSums(ctx, p.read); err != nil {
		return false, err
	}
	positions, err := p.positions(ctx)
	if err != nil {
		return false, err
	}
	for origin, number := range positions {
		last, err := p.j.Last(ctx, origin, journal.State)
		if err != nil {
			return false, err
		}
		if number > last {
			return false, fmt.Errorf("%s was folded up to record %d of %s, but the journal ends at %d", p.path, number, origin, last)
		}
	}
	return true, nil
}

// reset begins with empty tables.
func (p *projection) reset(ctx context.Context) error {
	if err := p.close(); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(p.path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, err := p.open(ctx); err != nil {
		return err
	}
	if _, err := p.write.ExecContext(ctx, projectionSchema); err != nil {
		return err
	}
	_, err := p.write.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", projectionFormat()))
	return err
}

func (p *projection) close() error {
	var errs []error
	if p.read != nil {
		errs = append(errs, p.read.Close())
	}
	if p.write != nil {
		errs = append(errs, p.write.Close())
	}
	return errors.Join(errs...)
}

func (p *projection) positions(ctx context.Context) (map[journal.Origin]uint64, error) {
	return positionsOf(ctx, p.write)
}

// followBatch is how many records one transaction folds.
const followBatch = 500

// follow folds what is new of the given origins. learn hears of each transaction
// after it, in order.
func (p *projection) follow(ctx context.Context, origins []journal.Origin, learn func(context.Context, learned) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, origin := range origins {
		for {
			more, err := p.followOne(ctx, origin, learn)
			if err != nil {
				return fmt.Errorf("fold the journal of %s into the list of certificates: %w", origin, err)
			}
			if !more {
				break
			}
		}
	}
	return nil
}

func (p *projection) followOne(ctx context.Context, origin journal.Origin, learn func(context.Context, learned) error) (more bool, err error) {
	tx, err := p.write.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() {
		if rollback := tx.Rollback(); rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
			err = errors.Join(err, rollback)
		}
	}()
	var position uint64
	err = tx.QueryRowContext(ctx, "SELECT number FROM position WHERE origin = ?", origin).Scan(&position)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	records, end, err := p.next(ctx, origin, position)
	if err != nil || end == position {
		return false, err
	}

	f := &fold{tx: tx, log: p.log, self: p.j.Origin()}
	for _, r := range records {
		if err := f.take(ctx, r); err != nil {
			return false, err
		}
	}
	if err := f.finish(ctx, origin, end); err != nil {
		return false, err
	}
	if err := tx.Commit(); err != nil {
		return false, err
	}
	return true, learn(ctx, f.learned)
}

// next reads records, and steps over one that is damaged: what it said is lost
// on this member until it is fetched again, but all others must be seen.
func (p *projection) next(ctx context.Context, origin journal.Origin, after uint64) (records []journal.Record, end uint64, err error) {
	records, err = p.j.Read(ctx, origin, journal.State, after, followBatch)
	if damage, ok := errors.AsType[*journal.DamageError](err); ok {
		p.log.ErrorContext(ctx, "record of the journal is damaged: certificates or revocations may be missing",
			telemetry.KeyErr, err, "remedy", "a copy is fetched from another member; if none has it whole (troupe journal verify), restore the journal from a backup")
		return nil, damage.Number, nil
	}
	if err != nil || len(records) == 0 {
		return nil, after, err
	}
	return records, records[len(records)-1].Number, nil
}
