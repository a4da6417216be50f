//go:build nextversion

package store

import (
	"context"
	"encoding/binary"
	"encoding/json"

	"troupe/internal/journal"
	"troupe/internal/sqlite"
)

// This file makes of this program a next version, for the test of rolling upgrades: one that writes a kind of record that the
// present one does not know, and a facts record with one more key and one more part, and that has a table for both.

const kindNext = "next"

func nextKinds() []string { return []string{kindNext} }

// nextMigrations also folds anew what the journal holds: the last version did not look at the new part of facts.
func nextMigrations() []string {
	return []string{`CREATE TABLE next (certname TEXT NOT NULL, what TEXT NOT NULL, PRIMARY KEY (certname, what)) STRICT, WITHOUT ROWID;
		UPDATE position SET number = 0, hash = zeroblob(32)`}
}

func nextForm(d journal.Draft) ([]journal.Draft, error) {
	if d.Kind != kindFacts {
		return []journal.Draft{d}, nil
	}
	var meta map[string]any
	parts, err := splitParts(&journal.Record{Body: d.Body}, &meta, 1)
	if err != nil {
		return nil, err
	}
	meta["next"] = 1
	if d.Body, err = joinParts(meta, append(parts, []byte("one more part"))...); err != nil {
		return nil, err
	}
	return []journal.Draft{d, {Stream: journal.Bulk, Kind: kindNext, Key: d.Key, Body: binary.AppendUvarint(nil, 7)}}, nil
}

func foldNext(ctx context.Context, tx *sqlite.Tx, r *journal.Record) (known bool, err error) {
	what := "record"
	if r.Kind == kindFacts {
		var meta map[string]json.RawMessage
		parts, err := splitParts(r, &meta, 1)
		if err != nil || len(parts) < 2 || meta["next"] == nil {
			return false, err
		}
		what = string(parts[1])
	} else if r.Kind != kindNext {
		return false, nil
	}
	_, err = tx.ExecContext(ctx, `INSERT OR IGNORE INTO next (certname, what) VALUES (?, ?)`, r.Key, what)
	return r.Kind == kindNext, err
}
