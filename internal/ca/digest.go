package ca

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"

	"troupe/internal/journal"
	"troupe/internal/sqlite"
)

// This file compares the tables with those of other members, and makes them anew from the journal when they differ.

// DigestName is the name of the digest of this package.
const DigestName = "ca"

// digested are the tables and what of them follows from the records alone. How a status is written (prefix, suffix) may
// differ between versions of this program.
func digested() []string {
	return []string{
		"SELECT time, origin, body FROM setup ORDER BY time, origin",
		"SELECT serial, name, time, origin, not_before, not_after, der, cleaned, revoked, current FROM cert ORDER BY serial",
		"SELECT serial FROM cleaned ORDER BY serial",
		"SELECT serial, at, reason FROM revoked ORDER BY serial",
		"SELECT id, name, time, origin, der, current FROM request ORDER BY id",
		"SELECT id FROM done ORDER BY id",
		"SELECT key, number, crl FROM ancestor ORDER BY key",
		"SELECT time FROM latest",
		"SELECT time, origin, body FROM rollover ORDER BY time, origin",
		"SELECT key, accepts, name FROM seen ORDER BY key, accepts, name",
	}
}

// tables are all that the projection has.
func tables() []string {
	return []string{"position", "setup", "cert", "cleaned", "revoked", "request", "done", "ancestor", "latest", "rollover", "seen", "unread"}
}

// projectionFormat is PRAGMA user_version. It depends on the kinds of records that are known: an older program has stepped over
// the others, and a newer one must fold them.
func projectionFormat() int {
	return int(crc32.ChecksumIEEE(fmt.Append(nil, projectionVersion, kinds())) &^ (1 << 31))
}

// Digest sums what was folded: issued and revoked certificates, requests, issuers and lists.
func (a *Authority) Digest(ctx context.Context) (journal.Digest, error) { return a.db.digest(ctx) }

func (p *projection) digest(ctx context.Context) (d journal.Digest, err error) {
	tx, err := p.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // one moment for all tables
	if err != nil {
		return d, fmt.Errorf("sum the list of certificates: %w", err)
	}
	defer func() {
		if back := tx.Rollback(); back != nil && !errors.Is(back, sql.ErrTxDone) {
			err = errors.Join(err, back)
		}
	}()
	positions, err := positionsOf(ctx, tx)
	if err != nil {
		return d, err
	}
	h := sha256.New()
	for _, query := range digested() {
		if err := sqlite.Sum(ctx, tx, h, query); err != nil {
			return d, fmt.Errorf("sum the list of certificates: %w", err)
		}
		h.Write([]byte{0})
	}
	return journal.Digest{Name: DigestName, At: journal.SumPositions(positions), Sum: journal.Hash(h.Sum(nil))}, nil
}

// Refold makes all tables anew from the journal. Readers see the old ones until it is done; who signs or revokes meanwhile waits.
func (a *Authority) Refold(ctx context.Context) error {
	origins, err := a.j.Origins(ctx)
	if err != nil {
		return fmt.Errorf("list origins of the journal: %w", err)
	}
	if err := a.db.refold(ctx, origins, a.learn); err != nil {
		return fmt.Errorf("make the list of certificates anew: %w", err)
	}
	return nil
}

func (p *projection) refold(ctx context.Context, origins []journal.Origin, learn func(context.Context, learned) error) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tx, err := p.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if back := tx.Rollback(); back != nil && !errors.Is(back, sql.ErrTxDone) {
			err = errors.Join(err, back)
		}
	}()
	for _, table := range tables() {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table); err != nil {
			return err
		}
	}
	// What is learned counts for the whole: an issuer, or a revocation, may be one that was not known before.
	all := learned{setup: true, lists: true}
	for _, origin := range origins {
		for at := uint64(0); ; {
			records, end, err := p.next(ctx, origin, at)
			if err != nil {
				return err
			}
			if end == at {
				break
			}
			f := &fold{tx: tx, log: p.log, self: p.j.Origin()}
			for _, r := range records {
				if err := f.take(ctx, r); err != nil {
					return err
				}
			}
			if err := f.finish(ctx, origin, end); err != nil {
				return err
			}
			all.revoked = append(all.revoked, f.learned.revoked...)
			all.elsewhere = append(all.elsewhere, f.learned.elsewhere...)
			all.seen = append(all.seen, f.learned.seen...)
			at = end
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return learn(ctx, all)
}

// A querier is the file, or one moment of it.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// positionsOf is how far each chain is folded.
func positionsOf(ctx context.Context, tx querier) (map[journal.Origin]uint64, error) {
	rows, err := tx.QueryContext(ctx, "SELECT origin, number FROM position")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[journal.Origin]uint64{}
	for rows.Next() {
		var origin journal.Origin
		var number uint64
		if err := rows.Scan(&origin, &number); err != nil {
			return nil, err
		}
		all[origin] = number
	}
	return all, rows.Err()
}

// maxUnread bounds what a list of alarms shows.
const maxUnread = 20

// Unread says which records of the authority cannot be read and do not count, in words for an operator.
func (a *Authority) Unread(ctx context.Context) (all []string, err error) {
	rows, err := a.db.read.QueryContext(ctx, "SELECT origin, number, kind, key, why FROM unread ORDER BY origin, number LIMIT ?", maxUnread)
	if err != nil {
		return nil, fmt.Errorf("look for records that cannot be read: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var origin journal.Origin
		var number uint64
		var kind, key, why string
		if err := rows.Scan(&origin, &number, &kind, &key, &why); err != nil {
			return nil, fmt.Errorf("look for records that cannot be read: %w", err)
		}
		all = append(all, fmt.Sprintf("record %d of member %s (%s of %s) cannot be read and does not count: %s; %s", number, origin, kind, key, why, unreadRemedy))
	}
	return all, rows.Err()
}
