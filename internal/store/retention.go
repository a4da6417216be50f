package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file forgets what is too old, in transactions so small that nobody waits.

const retainStep = 200 // rows in one transaction

// retain goes through everything that has an age. What has a count is trimmed
// when it is folded.
func (db *DB) retain(ctx context.Context) error {
	return errors.Join(
		db.expireNodes(ctx),
		db.forgetNodes(ctx),
		db.removeReports(ctx),
		db.removeBucket(ctx),
		db.forgetPlaces(ctx),
		db.pruneJournal(ctx),
	)
}

// repeat runs step in transactions of its own until it deals with fewer rows than
// fit into one.
func (db *DB) repeat(ctx context.Context, what string, step func(tx *sqlite.Tx) (int, error)) error {
	for {
		var n int
		err := db.update(ctx, func(tx *sqlite.Tx) (err error) {
			n, err = step(tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("remove old %s: %w", what, err)
		}
		db.metrics.removed.WithLabelValues(what).Add(float64(n))
		if n < retainStep {
			return nil
		}
	}
}

// expireNodes marks the nodes that were silent for too long and takes their
// exported resources out of the index. The next news of them brings them back.
func (db *DB) expireNodes(ctx context.Context) error {
	return db.repeat(ctx, "nodes' exports", func(tx *sqlite.Tx) (int, error) {
		names, err := texts[puppet.Certname](ctx, tx, `SELECT certname FROM node WHERE seen < ? AND expired = 0 LIMIT ?`, db.silentSince(), retainStep)
		if err != nil {
			return 0, err
		}
		for _, n := range names {
			if _, err := tx.ExecContext(ctx, `UPDATE node SET expired = 1 WHERE certname = ?`, n); err != nil {
				return 0, err
			}
			if err := db.indexExported(ctx, tx, n); err != nil {
				return 0, err
			}
		}
		return len(names), nil
	})
}

// forgetNodes removes all that is known of nodes that were silent for very long,
// except their reports, which have an age of their own.
func (db *DB) forgetNodes(ctx context.Context) error {
	old := stampAt(db.o.Now().Add(-db.o.ForgetAfter))
	return db.repeat(ctx, "nodes", func(tx *sqlite.Tx) (int, error) {
		names, err := texts[puppet.Certname](ctx, tx, `SELECT certname FROM node WHERE seen < ?1 AND deactivated < ?1 LIMIT ?2`, old, retainStep)
		if err != nil {
			return 0, err
		}
		for _, n := range names {
			for _, table := range []string{"exported", "facts", "catalog_body", "catalog", "compile", "enc", "node"} {
				if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE certname = ?`, n); err != nil {
					return 0, err
				}
			}
		}
		return len(names), nil
	})
}

// A querier is a transaction that reads, or one that writes.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// texts reads the one column of a query.
func texts[T ~string](ctx context.Context, tx querier, query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

func (db *DB) removeReports(ctx context.Context) error {
	old := stampAt(db.o.Now().Add(-db.o.ReportAge))
	return db.repeat(ctx, "reports", func(tx *sqlite.Tx) (int, error) {
		res, err := tx.ExecContext(ctx, `DELETE FROM report WHERE id IN (SELECT id FROM report WHERE stamp < ? LIMIT ?)`, old, retainStep)
		if err != nil {
			return 0, err
		}
		n, err := res.RowsAffected()
		return int(n), err
	})
}

// forgetPlaces removes where the journal had bodies of catalogs that are pruned by now.
func (db *DB) forgetPlaces(ctx context.Context) error {
	old := stampAt(db.o.Now().Add(-db.o.JournalAge - day))
	return db.repeat(ctx, "places of catalogs", func(tx *sqlite.Tx) (int, error) {
		res, err := tx.ExecContext(ctx, `DELETE FROM catalog_record WHERE (certname, hash) IN (SELECT certname, hash FROM catalog_record WHERE stamp < ? LIMIT ?)`, old, retainStep)
		if err != nil {
			return 0, err
		}
		n, err := res.RowsAffected()
		return int(n), err
	})
}

// removeBucket removes rows first and files after: a kill in between leaves files
// that adoptBucket finds, not rows without files.
func (db *DB) removeBucket(ctx context.Context) error {
	db.bucket.Lock()
	defer db.bucket.Unlock()
	old := stampAt(db.o.Now().Add(-db.o.BucketAge))
	var gone []string
	err := db.repeat(ctx, "bucket files", func(tx *sqlite.Tx) (int, error) {
		names, err := texts[string](ctx, tx, `SELECT sha256 FROM bucket_file WHERE stamp < ? LIMIT ?`, old, retainStep)
		if err != nil {
			return 0, err
		}
		for _, n := range names {
			for _, table := range []string{"bucket_path", "bucket_sum", "bucket_file"} {
				if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE sha256 = ?`, n); err != nil {
					return 0, err
				}
			}
		}
		gone = append(gone, names...)
		return len(names), nil
	})
	if err != nil {
		return err // files of rows that are gone are adopted at the next start
	}
	for _, n := range gone {
		if err := os.Remove(db.bucketPath(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old bucket files: %w", err)
		}
	}
	return nil
}

// pruneJournal removes old bulk records, but only when everything is folded in
// and the tables themselves are on the disk; otherwise the next time will do.
func (db *DB) pruneJournal(ctx context.Context) error {
	if err := db.foldAll(ctx); err != nil {
		return err
	}
	if err := db.takeFold(ctx); err != nil {
		return err
	}
	done, err := db.write.Truncate(ctx)
	db.endFold()
	if err != nil {
		return fmt.Errorf("checkpoint store: %w", err)
	}
	if !done {
		return nil // a query is reading
	}
	n, err := db.journal.Prune(ctx, journal.Bulk, db.o.Now().Add(-db.o.JournalAge))
	db.metrics.removed.WithLabelValues("journal records").Add(float64(n))
	return err
}
