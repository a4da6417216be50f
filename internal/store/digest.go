package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"math"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file compares the tables with those of other members, and folds what the journal holds once more when they differ.

// DigestName is the name of the digest of this package.
const DigestName = "store"

// digestAge is how far back nodes are compared, or half the journal's age if that is less: the records behind it are in every
// journal, also in that of a member that joined yesterday.
const digestAge = day

// DigestScope is the part of the tables that two members compare at a time. Bodies of facts are read for it, so it is a part:
// after as many times as there are slices all are compared.
func (db *DB) DigestScope(slice, slices int) journal.Scope {
	since := db.o.Now().Add(-min(digestAge, db.o.JournalAge/2, db.o.InactiveAfter/2)).Truncate(time.Hour)
	return journal.Scope{Since: journal.At(since), Slice: slice, Slices: slices}
}

// Digest sums what the records since a time have made of the nodes of a slice: when and how they were seen, their facts, their
// newest catalog and their exported resources. ok is false while not all records are folded, or when the journal does not
// reach back so far.
func (db *DB) Digest(ctx context.Context, s journal.Scope) (d journal.Digest, ok bool, err error) {
	if s.Slices < 1 || s.Slice < 0 || s.Slice >= s.Slices || s.Since.Time().Before(db.o.Now().Add(-db.o.JournalAge*9/10)) {
		return d, false, nil
	}
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // one moment for all tables
	if err != nil {
		return d, false, fmt.Errorf("sum the store: %w", err)
	}
	defer func() {
		if back := tx.Rollback(); back != nil && !errors.Is(back, sql.ErrTxDone) {
			err = errors.Join(err, back)
		}
	}()
	positions, err := db.positionsIn(ctx, tx)
	if err != nil {
		return d, false, err
	}
	heads, err := db.journal.Heads(ctx)
	if err != nil {
		return d, false, err
	}
	for _, h := range heads {
		if h.Stream == journal.Bulk && positions[h.Origin] != h.Last {
			return d, false, nil
		}
	}
	sum, err := db.sum(ctx, tx, s)
	return journal.Digest{Name: DigestName, At: journal.SumPositions(positions), Sum: sum}, err == nil, err
}

// sum sums the nodes of a slice.
func (db *DB) sum(ctx context.Context, tx *sql.Tx, s journal.Scope) (journal.Hash, error) {
	since := stampAt(s.Since.Time())
	names, err := texts[puppet.Certname](ctx, tx, `SELECT certname FROM node WHERE seen >= ? ORDER BY certname`, since)
	if err != nil {
		return journal.Hash{}, fmt.Errorf("sum the store: %w", err)
	}
	h := sha256.New()
	for _, name := range names {
		if sliceOf(name, s.Slices) != s.Slice {
			continue
		}
		if err := db.sumNode(ctx, tx, h, name, since); err != nil {
			return journal.Hash{}, fmt.Errorf("sum node %s: %w", name, err)
		}
	}
	return journal.Hash(h.Sum(nil)), nil
}

func sliceOf(name puppet.Certname, slices int) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return int(h.Sum32() % uint32(slices))
}

// sumNode sums what follows from the records since a time. What is older may be unknown to a member that came later.
func (db *DB) sumNode(ctx context.Context, tx *sql.Tx, h hash.Hash, name puppet.Certname, since stamp) error {
	for _, query := range []string{
		`SELECT certname, seen, max(facts, ?2), max(catalog, ?2), max(compile, ?2), max(report, ?2), max(deactivated, ?2),
			iif(environment_stamp >= ?2, environment, ''), iif(report >= ?2, report_id || ' ' || status || ' ' || noop || ' ' || cached_catalog, ''),
			iif(compile >= ?2, compile_failed, 0) FROM node WHERE certname = ?1`,
		`SELECT hash, stamp, code_id, catalog_uuid, transaction_uuid, version, bytes FROM catalog WHERE certname = ?1 AND stamp >= ?2 ORDER BY stamp DESC LIMIT 1`,
		`SELECT type, title, tags, virtual, file, line, parameters FROM exported
			WHERE certname = ?1 AND EXISTS (SELECT 1 FROM catalog WHERE certname = ?1 AND stamp >= ?2) ORDER BY type, title`,
	} {
		if err := sqlite.Sum(ctx, tx, h, query, name, since); err != nil {
			return err
		}
	}
	var at stamp
	var packed []byte
	var environment, producer string
	var when int64
	err := tx.QueryRowContext(ctx, `SELECT stamp, environment, time, producer, facts FROM facts WHERE certname = ? AND stamp >= ?`, name, since).
		Scan(&at, &environment, &when, &producer, &packed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	values, err := db.zip.unpack(packed)
	if err != nil {
		values = []byte("cannot be read: " + err.Error()) // another sum: it will be folded again
	}
	for _, part := range [][]byte{at, []byte(environment), fmt.Append(nil, when), []byte(producer), values} {
		writePart(h, part)
	}
	return nil
}

func (db *DB) positionsIn(ctx context.Context, tx *sql.Tx) (map[journal.Origin]uint64, error) {
	rows, err := tx.QueryContext(ctx, `SELECT origin, number FROM position WHERE stream = ?`, journal.Bulk)
	if err != nil {
		return nil, fmt.Errorf("read positions: %w", err)
	}
	defer rows.Close()
	all := map[journal.Origin]uint64{}
	for rows.Next() {
		var o journal.Origin
		var n uint64
		if err := rows.Scan(&o, &n); err != nil {
			return nil, fmt.Errorf("read positions: %w", err)
		}
		all[o] = n
	}
	return all, rows.Err()
}

// Refold folds all that the journal holds once more, while the tables stay in use: a row is written again by the record that
// made it. What older records made, or somebody's hand, is left as it is.
func (db *DB) Refold(ctx context.Context) error {
	// With another sum each node's exported resources are written again, too.
	err := db.update(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE node SET exported_sum = x'ff'`)
		return err
	})
	if err != nil {
		return fmt.Errorf("fold the journal once more: %w", err)
	}
	return db.foldFrom(ctx, func(journal.Origin) uint64 { return 0 })
}

// FoldAgain folds an origin's records from a number on once more: one of them could not be read before.
func (db *DB) FoldAgain(ctx context.Context, o journal.Origin, from uint64) error {
	return db.foldFrom(ctx, func(other journal.Origin) uint64 {
		if other == o {
			return from - 1
		}
		return math.MaxUint64
	})
}

// foldFrom folds on from where at says, unless an origin is not so far yet. The position in the tables follows with the first
// records.
func (db *DB) foldFrom(ctx context.Context, at func(journal.Origin) uint64) error {
	if err := db.takeFold(ctx); err != nil {
		return err
	}
	for o, p := range db.positions {
		if n := at(o); n < p.number {
			db.positions[o] = position{number: n}
		}
	}
	db.endFold()
	start := time.Now()
	if err := db.foldAll(ctx); err != nil {
		return fmt.Errorf("fold the journal once more: %w", err)
	}
	db.o.Log.InfoContext(ctx, "the journal was folded once more", telemetry.KeyDuration, time.Since(start))
	return nil
}
