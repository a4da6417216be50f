package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"troupe/internal/failpoint"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file folds records into the tables. Folding is idempotent, and any order
// of the records of several origins gives the same answers: every row is decided
// by the stamps of its records, never by when they came.

const (
	foldStep = 256  // records in one transaction
	foldLag  = 2000 // records behind which a Save no longer waits for its turn in order
)

// A position is how far an origin's records are folded in.
type position struct {
	number uint64
	hash   [32]byte
}

// readPositions reads how far the tables are. An origin whose journal does not
// hold the record at which we stand was put back to an earlier state: it is
// folded again from the beginning, which changes nothing that is right.
func (db *DB) readPositions(ctx context.Context) error {
	db.positions = map[journal.Origin]position{}
	rows, err := db.write.QueryContext(ctx, `SELECT origin, number, hash FROM position WHERE stream = ?`, journal.Bulk)
	if err != nil {
		return fmt.Errorf("read positions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var o journal.Origin
		var p position
		var hash []byte
		if err := rows.Scan(&o, &p.number, &hash); err != nil {
			return fmt.Errorf("read positions: %w", err)
		}
		copy(p.hash[:], hash)
		db.positions[o] = p
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read positions: %w", err)
	}
	for o, p := range db.positions {
		same, err := db.stillThere(ctx, o, p)
		if err != nil {
			return err
		}
		if !same {
			db.o.Log.WarnContext(ctx, "journal is not the one that was folded; folding it again", "origin", o, "number", p.number)
			db.positions[o] = position{}
		}
	}
	return nil
}

func (db *DB) stillThere(ctx context.Context, o journal.Origin, p position) (bool, error) {
	last, err := db.journal.Last(ctx, o, journal.Bulk)
	if err != nil || last < p.number || p.number == 0 || p.hash == [32]byte{} {
		return last >= p.number, err
	}
	recs, err := db.journal.Read(ctx, o, journal.Bulk, p.number-1, 1)
	if _, damaged := errors.AsType[*journal.DamageError](err); damaged {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return len(recs) == 0 || recs[0].Number != p.number || recs[0].Hash == p.hash, nil
}

// show returns when the record is folded in. Whoever comes first folds for all
// who wait behind.
func (db *DB) show(ctx context.Context, r journal.Record) error {
	if err := db.takeFold(ctx); err != nil {
		return err
	}
	defer db.endFold()
	if behind := r.Number - min(db.positions[r.Origin].number, r.Number); behind > foldLag {
		// The tables are being made again. Since order does not matter, this
		// record goes ahead; it is folded once more in its turn.
		alone := []journal.Record{r}
		return db.apply(ctx, alone, db.changes(alone), nil)
	}
	for db.positions[r.Origin].number < r.Number {
		some, err := db.foldSome(ctx, r.Origin)
		if err != nil {
			return err
		}
		if !some {
			return fmt.Errorf("record %d is not in the journal", r.Number)
		}
	}
	return nil
}

// foldAll folds all there is, of all origins.
func (db *DB) foldAll(ctx context.Context) error {
	origins, err := db.journal.Origins(ctx)
	if err != nil {
		return err
	}
	for _, o := range origins {
		if err := db.foldOrigin(ctx, o); err != nil {
			return err
		}
	}
	db.behind.Store(false)
	return nil
}

// foldOrigin folds all there is of one origin. While one group of records is written, the next one is made ready for whoever folds it.
func (db *DB) foldOrigin(ctx context.Context, o journal.Origin) error {
	for {
		if err := db.takeFold(ctx); err != nil {
			return err
		}
		present, err := db.nextGroup(ctx, o)
		if err != nil || present == nil {
			db.endFold()
			return err
		}
		ahead := make(chan *group, 1)
		if len(present.records) == foldStep {
			go func() {
				g, _ := db.readGroup(ctx, o, present.to.number) // an error comes again to who needs the group
				ahead <- g
			}()
		} else {
			ahead <- nil
		}
		err = db.writeGroup(ctx, present)
		db.ahead = <-ahead
		db.endFold()
		if err != nil {
			return err
		}
	}
}

// foldSome folds the next records of an origin and reports whether there were any. The fold token must be held.
func (db *DB) foldSome(ctx context.Context, o journal.Origin) (bool, error) {
	g, err := db.nextGroup(ctx, o)
	if err != nil || g == nil {
		return false, err
	}
	return true, db.writeGroup(ctx, g)
}

// nextGroup returns the records behind the position of an origin, nil when there are none. The fold token must be held.
func (db *DB) nextGroup(ctx context.Context, o journal.Origin) (*group, error) {
	ahead, at := db.ahead, db.positions[o].number
	db.ahead = nil
	if ahead != nil && ahead.origin == o && ahead.after == at {
		return ahead, nil
	}
	return db.readGroup(ctx, o, at)
}

// A group is what one transaction folds.
type group struct {
	origin  journal.Origin
	after   uint64           // the number before it
	records []journal.Record // none where one is damaged
	changes []change         // of the records
	to      position         // where it reaches
}

// A change writes what a record says into the tables. To decode a record and to pack its parts takes as long as to write it, so
// that is done before the transaction begins. What cannot be decoded leaves no trace: its change is the error.
type change func(ctx context.Context, tx *folding) error

// readGroup makes the next records of an origin ready; nil when there are none. It changes nothing.
func (db *DB) readGroup(ctx context.Context, o journal.Origin, after uint64) (*group, error) {
	records, err := db.journal.Read(ctx, o, journal.Bulk, after, foldStep)
	if damage, ok := errors.AsType[*journal.DamageError](err); ok {
		// The journal has said so in its log. What is whole must not wait for it.
		return &group{origin: o, after: after, to: position{number: damage.Number}}, nil
	}
	if err != nil || len(records) == 0 {
		return nil, err
	}
	last := records[len(records)-1]
	return &group{o, after, records, db.changes(records), position{last.Number, last.Hash}}, nil
}

// writeGroup folds a group. The fold token must be held.
func (db *DB) writeGroup(ctx context.Context, g *group) error {
	if len(g.records) == 0 {
		db.metrics.skipped.WithLabelValues("damaged").Inc()
	} else if err := db.noteGap(ctx, g.origin, g.records); err != nil {
		return err
	}
	if err := db.apply(ctx, g.records, g.changes, &moved{g.origin, g.to}); err != nil {
		return err
	}
	db.positions[g.origin] = g.to
	if len(g.records) == foldStep {
		db.backlog.Store(db.o.Now().UnixNano())
	}
	return nil
}

// moved is a new position of an origin.
type moved struct {
	origin journal.Origin
	to     position
}

// apply makes the changes of records in one transaction, together with the position that it reaches; nil leaves the position where
// it is. The fold token must be held.
func (db *DB) apply(ctx context.Context, recs []journal.Record, changes []change, m *moved) error {
	ctx = context.WithoutCancel(ctx) // others wait for this transaction too
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin to fold: %w", err)
	}
	err = db.applyTx(ctx, tx, recs, changes, m)
	failpoint.Here("store.folded")
	if err := finish(tx, err); err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	db.metrics.folded.Add(float64(len(recs)))
	if slices.ContainsFunc(recs, func(r journal.Record) bool { return r.Kind == kindBucket }) {
		select {
		case db.backedUp <- struct{}{}:
		default: // it is to look already
		}
	}
	return nil
}

func (db *DB) applyTx(ctx context.Context, tx *sqlite.Tx, recs []journal.Record, changes []change, m *moved) error {
	f := &folding{Tx: tx, nodes: map[puppet.Certname]*news{}}
	for i := range recs {
		err := changes[i](ctx, f)
		if bad, ok := errors.AsType[*malformedError](err); ok {
			db.metrics.skipped.WithLabelValues("malformed").Inc()
			db.o.Log.ErrorContext(ctx, "record cannot be folded", telemetry.KeyErr, bad)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s record %d of origin %s: %w", recs[i].Kind, recs[i].Number, recs[i].Origin, err)
		}
	}
	if err := db.writeNews(ctx, f); err != nil || m == nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO position (origin, stream, number, hash) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET number = excluded.number, hash = excluded.hash`, m.origin, journal.Bulk, m.to.number, m.to.hash[:])
	return err
}

// changes makes records ready.
func (db *DB) changes(recs []journal.Record) []change {
	all := make([]change, len(recs))
	for i := range recs {
		r := &recs[i]
		c, err := db.fold(r)
		all[i] = func(ctx context.Context, tx *folding) error {
			if known, ferr := foldNext(ctx, tx.Tx, r); known || ferr != nil || err != nil {
				return cmp.Or(ferr, err)
			}
			return c(ctx, tx)
		}
	}
	return all
}

// fold decodes a record and returns what brings it into the tables.
func (db *DB) fold(r *journal.Record) (change, error) {
	switch r.Kind {
	case kindFacts:
		return db.foldFacts(r)
	case kindCatalog:
		return db.foldCatalog(r)
	case kindCompile:
		return db.foldCompile(r)
	case kindReport:
		return db.foldReport(r)
	case kindENC:
		return foldENC(r)
	case kindBucket:
		return foldBucket(r)
	case kindDeactivate:
		return foldDeactivate(r)
	case kindNode:
		return foldNode(r)
	}
	return func(ctx context.Context, tx *folding) error { return noteUnknown(ctx, tx.Tx, r) }, nil
}

// noteUnknown remembers the first record of a kind that a newer member writes. It is kept and passed on as any other; the
// program that knows the kind folds on from there.
func noteUnknown(ctx context.Context, tx *sqlite.Tx, r *journal.Record) error {
	if r.Number == 0 { // of a snapshot, which a newer member gave
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO unknown (origin, kind, number) VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET number = min(number, excluded.number)`, r.Origin, r.Kind, r.Number)
	return err
}

// foldWhatWasUnknown moves positions back to the first record of a kind that this program knows and the last one did not.
func (db *DB) foldWhatWasUnknown(ctx context.Context) error {
	for _, kind := range kinds() {
		tx, err := db.write.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		origins, err := texts[journal.Origin](ctx, tx, `SELECT origin FROM unknown WHERE kind = ?`, kind)
		if err == nil && len(origins) > 0 {
			db.o.Log.InfoContext(ctx, "records that an older troupe did not know are folded now", "kind", kind, "origins", len(origins))
			_, err = tx.ExecContext(ctx, `UPDATE position SET number = u.number - 1, hash = zeroblob(32) FROM unknown u
				WHERE u.kind = ?1 AND u.origin = position.origin AND position.stream = ?2 AND u.number <= position.number`, kind, journal.Bulk)
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM unknown WHERE kind = ?`, kind)
		}
		if err := finish(tx, err); err != nil {
			return fmt.Errorf("look for records that were not known: %w", err)
		}
	}
	return nil
}

func (db *DB) takeFold(ctx context.Context) error {
	select {
	case db.folding <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the store: %w", ctx.Err())
	}
}

func (db *DB) endFold() { <-db.folding }

// update runs fn in a transaction of its own.
func (db *DB) update(ctx context.Context, fn func(tx *sqlite.Tx) error) error {
	if err := db.takeFold(ctx); err != nil {
		return err
	}
	defer db.endFold()
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	return finish(tx, fn(tx))
}
