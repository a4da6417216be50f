package journal

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"troupe/internal/failpoint"
	"troupe/internal/sqlite"
)

// This file takes records of other members. Nothing is believed: each record must have the sum of its body, follow the one
// before it in its chain, and not come from the future.

// Import reads records as [Journal.Export] writes them, writes those that are new here, and returns how many. Those are on the
// disk, also when an error ends the reading.
//
// The error is a [*ForkError], [*FutureError], [*GapError] or [*DamageError] for a record that cannot be taken, and a
// fault.Invalid for what is no record. Own records may come back too: a journal that was put back from a backup gets what it
// lost, unless it has gone on differently.
func (j *Journal) Import(ctx context.Context, r io.Reader) (taken int, err error) {
	for {
		group, readErr := j.readGroup(r)
		n, err := j.commitImport(ctx, group)
		taken += n
		if err != nil {
			return taken, err
		}
		if errors.Is(readErr, io.EOF) {
			return taken, nil
		}
		if readErr != nil {
			return taken, readErr
		}
	}
}

// maxImport bounds the records in one commit: each commit waits for the disk.
const maxImport = 1024

// readGroup returns frames for one commit, checked by themselves, and why there are no more of them; nil means that there may be.
func (j *Journal) readGroup(r io.Reader) (group []*frame, err error) {
	for size := 0; len(group) < maxImport && size < maxBatchSize; {
		f, err := readFrame(r)
		if err != nil {
			return group, err
		}
		if !f.base {
			if _, err := j.pack.unpack(f.stored); err != nil {
				return group, &DamageError{Origin: f.Origin, Stream: f.Stream, Number: f.Number, What: DamagedBody, Detail: err.Error()}
			}
		}
		size += len(f.stored.data)
		group = append(group, f)
	}
	return group, nil
}

// commitImport writes one group in one transaction. What comes before a frame that cannot be taken is written all the same.
func (j *Journal) commitImport(ctx context.Context, group []*frame) (taken int, err error) {
	if len(group) == 0 {
		return 0, nil
	}
	if group[0].Stream == Bulk { // it goes on from here when there is room
		if err := j.Room(ctx); err != nil {
			return 0, fmt.Errorf("import into journal: %w", err)
		}
	}
	if err := j.takeTurn(ctx); err != nil {
		return 0, err
	}
	defer j.endTurn()
	ctx = context.WithoutCancel(ctx)
	tx, err := j.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("import into journal: %w", sqlite.DiskFault(err))
	}
	i := importing{j: j, tx: tx, chains: map[chainName]*end{}}
	refused := i.all(ctx, group)
	if _, failed := errors.AsType[*diskError](refused); failed {
		return 0, errors.Join(fmt.Errorf("import into journal: %w", sqlite.DiskFault(refused)), rollback(tx))
	}
	if err := i.moveEnds(ctx); err != nil {
		return 0, errors.Join(fmt.Errorf("import into journal: %w", sqlite.DiskFault(err)), rollback(tx))
	}
	failpoint.Here("journal.import-written")
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("import into journal: %w", sqlite.DiskFault(err))
	}
	failpoint.Here("journal.import-committed")
	if i.own {
		j.heads = nil // read again before the next append
		for _, t := range j.tails {
			t.reset()
		}
	}
	j.clock.last = max(j.clock.last, i.latest)
	j.metrics.imported.Add(float64(i.taken))
	for _, t := range i.times {
		j.metrics.delay.Observe(max(j.clock.now().Sub(t.Time()).Seconds(), 0))
	}
	if i.taken > 0 {
		j.changes.send()
	}
	return i.taken, refused
}

type chainName struct {
	origin Origin
	stream Stream
}

// An importing is one transaction that takes frames.
type importing struct {
	j      *Journal
	tx     *sqlite.Tx
	chains map[chainName]*end // those that are touched, as they will be
	taken  int
	latest Time
	times  []Time // of those that were taken
	own    bool
}

// diskError marks what ends the transaction, unlike a record that is refused.
type diskError struct{ error }

func (e *diskError) Unwrap() error { return e.error }

func (i *importing) all(ctx context.Context, group []*frame) error {
	for _, f := range group {
		c, err := i.chain(ctx, f.Origin, f.Stream)
		if err != nil {
			return &diskError{err}
		}
		if f.base {
			err = i.rebase(c, f)
		} else {
			err = i.record(ctx, c, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// An end is where a chain stops, in the course of an import.
type end struct {
	chainRow

	base *frame // where the sender's chain begins, behind a gap; it counts when the record after it fits
}

// chain returns the end of a chain. One that is new has no row yet: only a record that is taken begins it.
func (i *importing) chain(ctx context.Context, o Origin, s Stream) (*end, error) {
	if c := i.chains[chainName{o, s}]; c != nil {
		return c, nil
	}
	c := &end{chainRow: chainRow{origin: o, stream: s}}
	var hash []byte
	err := i.tx.QueryRowContext(ctx, `SELECT id, last, last_hash, last_time FROM chain WHERE origin = ? AND stream = ?`, o, s).
		Scan(&c.id, &c.last, &hash, &c.lastTime)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("read end of %s: %w", s, err)
	}
	copy(c.lastHash[:], hash)
	i.chains[chainName{o, s}] = c
	return c, nil
}

// rebase notes where the sender's chain begins, if we do not reach so far.
func (i *importing) rebase(c *end, f *frame) error {
	switch {
	case f.Number <= c.last:
	case f.Stream == State || f.Origin == i.j.origin:
		return &GapError{Origin: f.Origin, Stream: f.Stream, Want: c.last + 1, Got: f.Number + 1}
	default:
		c.base = f
	}
	return nil
}

// settle gives a chain its row, and goes on behind a gap that cannot be filled: what the chain had before goes, since it could
// never be verified again.
func (i *importing) settle(ctx context.Context, c *end) error {
	if c.id == 0 {
		zero := make([]byte, 32)
		if err := i.tx.QueryRowContext(ctx, `INSERT INTO chain (origin, stream, base, base_hash, last, last_hash, last_time)
			VALUES (?, ?, 0, ?, 0, ?, 0) RETURNING id`, c.origin, c.stream, zero, zero).Scan(&c.id); err != nil {
			return fmt.Errorf("begin chain of %s: %w", c.stream, err)
		}
	}
	if c.base == nil {
		return nil
	}
	if _, err := i.tx.ExecContext(ctx, `DELETE FROM record WHERE chain = ?`, c.id); err != nil {
		return err
	}
	if _, err := i.tx.ExecContext(ctx, `UPDATE chain SET base = ?, base_hash = ? WHERE id = ?`, c.base.Number, c.base.Hash[:], c.id); err != nil {
		return err
	}
	c.base = nil
	return nil
}

func (i *importing) record(ctx context.Context, c *end, f *frame) error {
	own := f.Origin == i.j.origin
	if f.Number <= c.last {
		return i.known(ctx, c, f)
	}
	last, previous := c.last, c.lastHash
	if c.base != nil {
		last, previous = c.base.Number, c.base.Hash
	}
	if f.Number != last+1 {
		return &GapError{Origin: f.Origin, Stream: f.Stream, Want: last + 1, Got: f.Number}
	}
	if f.chain(previous, f.stored.length, f.stored.sum) != f.Hash || f.Time <= c.lastTime {
		return &ForkError{Origin: f.Origin, Stream: f.Stream, Number: f.Number, Own: own}
	}
	if ahead := f.Time.Time().Sub(i.j.clock.now()); ahead > maxDrift {
		return &FutureError{Origin: f.Origin, Number: f.Number, Ahead: ahead}
	}
	if err := i.settle(ctx, c); err != nil {
		return &diskError{err}
	}
	if _, err := i.tx.ExecContext(ctx, insertRecord,
		c.id, f.Number, f.Time, f.Kind, f.Key, f.stored.length, f.stored.sum[:], f.Hash[:], f.stored.form, notNil(f.stored.data)); err != nil {
		return &diskError{fmt.Errorf("write %s record %d: %w", f.Stream, f.Number, err)}
	}
	c.last, c.lastHash, c.lastTime = f.Number, f.Hash, f.Time
	i.taken++
	i.latest, i.times = max(i.latest, f.Time), append(i.times, f.Time)
	i.own = i.own || own
	return nil
}

// known compares a record with the one that is here already. One that was pruned cannot be compared.
func (i *importing) known(ctx context.Context, c *end, f *frame) error {
	var hash []byte
	err := i.tx.QueryRowContext(ctx, `SELECT hash FROM record WHERE chain = ? AND number = ?`, c.id, f.Number).Scan(&hash)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return &diskError{err}
	case !bytes.Equal(hash, f.Hash[:]):
		return &ForkError{Origin: f.Origin, Stream: f.Stream, Number: f.Number, Own: f.Origin == i.j.origin}
	}
	return nil
}

func (i *importing) moveEnds(ctx context.Context) error {
	for _, c := range i.chains {
		if c.id == 0 {
			continue // nothing was taken
		}
		if _, err := i.tx.ExecContext(ctx, `UPDATE chain SET last = ?, last_hash = ?, last_time = ? WHERE id = ?`, c.last, c.lastHash[:], c.lastTime, c.id); err != nil {
			return fmt.Errorf("move the end of %s: %w", c.stream, err)
		}
	}
	return nil
}
