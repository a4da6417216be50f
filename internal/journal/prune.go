package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"troupe/internal/sqlite"
)

// This file forgets old records of the bulk streams and keeps a checkpoint, so
// that the rest still verifies.

// pruneStep is the number of records that one transaction removes: appends get
// their turn in between.
const pruneStep = 500

// Prune removes the records of a stream, of all origins, that are older than
// before, and returns how many. Only the Bulk stream may be pruned. The newest
// record of a chain always stays.
func (j *Journal) Prune(ctx context.Context, s Stream, before time.Time) (removed int, err error) {
	if s != Bulk {
		return 0, fmt.Errorf("prune journal: the %s stream is kept for ever", s)
	}
	if err := j.takeScan(ctx); err != nil {
		return 0, err
	}
	defer j.endScan()
	chains, err := j.chains(ctx)
	if err != nil {
		return 0, err
	}
	for _, c := range chains {
		if c.stream != s {
			continue
		}
		for {
			n, err := j.pruneSome(ctx, c, At(before))
			removed += n
			if err != nil {
				return removed, fmt.Errorf("prune journal: %w", err)
			}
			if n < pruneStep {
				break
			}
		}
	}
	return removed, nil
}

// pruneSome removes at most pruneStep records from the beginning of a chain.
func (j *Journal) pruneSome(ctx context.Context, c chainRow, before Time) (removed int, err error) {
	if err := j.takeTurn(ctx); err != nil {
		return 0, err
	}
	defer j.endTurn()
	tx, err := j.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rollback(tx)) }()

	number, hash, removed, err := oldest(ctx, tx, c, before)
	if err != nil || removed == 0 {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM record WHERE chain = ? AND number <= ?`, c.id, number); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE chain SET base = ?, base_hash = ? WHERE id = ?`, number, hash, c.id); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	if c.origin == j.origin {
		j.tails[c.stream].forget(number)
	}
	return removed, nil
}

// oldest finds how far the records from the beginning of a chain are older than
// before: the last such number, its hash, and how many there are, up to pruneStep.
func oldest(ctx context.Context, tx *sqlite.Tx, c chainRow, before Time) (number uint64, hash []byte, n int, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT number, time, hash FROM record
		WHERE chain = ?1 AND number < (SELECT last FROM chain WHERE id = ?1) ORDER BY number LIMIT ?2`, c.id, pruneStep)
	if err != nil {
		return 0, nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var at Time
		var next uint64
		var h []byte
		if err := rows.Scan(&next, &at, &h); err != nil {
			return 0, nil, 0, err
		}
		if at >= before { // times grow along a chain
			break
		}
		number, hash, n = next, h, n+1
	}
	return number, hash, n, rows.Err()
}
