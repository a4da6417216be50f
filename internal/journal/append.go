package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"troupe/internal/failpoint"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file appends records: whoever gets the turn commits for all who wait.

const (
	maxWaiting   = 1024     // appends in the queue; further ones wait before it
	maxBatch     = 256      // appends in one commit
	maxBatchSize = 16 << 20 // stored bytes after which a commit takes no more
)

// maxDrift is how far the clock may run ahead before the operator hears of it.
const maxDrift = 5 * time.Minute

// The states of a batch.
const (
	batchWaiting   = iota
	batchTaken     // a commit has begun with it: its fate is no longer the caller's
	batchAbandoned // its caller left before
)

// A batch is the drafts of one Append.
type batch struct {
	drafts []Draft
	bodies []stored
	state  atomic.Int32
	done   chan struct{} // closed when records and err are set
	recs   []Record
	err    error
}

// Append writes the drafts in their order, all or none, and returns when they
// are on the disk. Concurrent calls share a commit.
//
// Bulk drafts are refused while the disk is nearly full: see [Journal.Room].
//
// When ctx ends before the commit began, nothing is written. When it ends
// during the commit, Append says that the outcome is unknown.
func (j *Journal) Append(ctx context.Context, drafts ...Draft) ([]Record, error) {
	if j.write == nil {
		return nil, errLooking
	}
	if len(drafts) == 0 {
		return nil, nil
	}
	if slices.ContainsFunc(drafts, func(d Draft) bool { return d.Stream == Bulk }) {
		if err := j.Room(ctx); err != nil {
			return nil, fmt.Errorf("append to journal: %w", err)
		}
	}
	b := &batch{drafts: drafts, bodies: make([]stored, len(drafts)), done: make(chan struct{})}
	for i := range drafts {
		if err := drafts[i].check(); err != nil {
			return nil, err
		}
		b.bodies[i] = j.pack.pack(drafts[i].Body)
	}

	select {
	case j.queue <- b:
	case <-j.closed:
		return nil, errClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the journal: %w", ctx.Err())
	}
	for {
		select {
		case <-b.done:
			return b.recs, b.err
		default:
		}
		select {
		case <-b.done:
		case j.turn <- struct{}{}:
			j.commitQueued(context.WithoutCancel(ctx))
			j.endTurn()
		case <-j.closed:
			return b.afterClose()
		case <-ctx.Done():
			if b.state.CompareAndSwap(batchWaiting, batchAbandoned) {
				return nil, fmt.Errorf("wait for the journal: %w", ctx.Err())
			}
			return nil, fmt.Errorf("commit to the journal, outcome unknown: %w", ctx.Err())
		}
	}
}

// afterClose returns the outcome of a batch when the journal has closed: the last
// commit may still have taken it.
func (b *batch) afterClose() ([]Record, error) {
	select {
	case <-b.done:
		return b.recs, b.err
	default:
		return nil, errClosed
	}
}

// commitQueued commits what waits, up to the limits of one commit, and tells
// each caller. The turn must be held. It does not depend on the context of the
// caller that happens to run it, since others wait for it too.
func (j *Journal) commitQueued(ctx context.Context) {
	start := time.Now()
	batches := j.takeQueued()
	if len(batches) == 0 {
		return
	}
	err := j.commit(ctx, batches)
	if err != nil {
		j.heads = nil // what the file holds now must be read again
	}
	j.watchDisk(ctx, err)
	for _, b := range batches {
		if err != nil {
			b.recs, b.err = nil, fmt.Errorf("append to journal: %w", sqlite.DiskFault(err))
		}
		close(b.done)
	}
	j.metrics.commit(batches, time.Since(start), err)
	if err == nil {
		j.changes.send()
	}
}

func (j *Journal) takeQueued() []*batch {
	var batches []*batch
	for size := 0; len(batches) < maxBatch && size < maxBatchSize; {
		select {
		case b := <-j.queue:
			if !b.state.CompareAndSwap(batchWaiting, batchTaken) {
				continue
			}
			for _, s := range b.bodies {
				size += len(s.data)
			}
			batches = append(batches, b)
		default:
			return batches
		}
	}
	return batches
}

// A head is the end of a chain.
type head struct {
	chain  int64
	number uint64
	hash   [32]byte
	time   Time
}

const insertRecord = `INSERT INTO record (chain, number, time, kind, key, length, sum, hash, form, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// commit writes the batches in one transaction. The heads in memory change only
// after it.
func (j *Journal) commit(ctx context.Context, batches []*batch) (err error) {
	if j.heads == nil {
		if j.heads, err = j.readHeads(ctx); err != nil {
			return err
		}
	}
	heads := map[Stream]head{State: j.heads[State], Bulk: j.heads[Bulk]}
	tx, err := j.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, rollback(tx))
		}
	}()
	for _, b := range batches {
		b.recs = make([]Record, len(b.drafts))
		for i, d := range b.drafts {
			h, s := heads[d.Stream], b.bodies[i]
			r := Record{Origin: j.origin, Stream: d.Stream, Number: h.number + 1, Time: j.clock.next(), Kind: d.Kind, Key: d.Key, Body: d.Body}
			r.Hash = r.chain(h.hash, s.length, s.sum)
			if _, err := tx.ExecContext(ctx, insertRecord, h.chain, r.Number, r.Time, r.Kind, r.Key, s.length, s.sum[:], r.Hash[:], s.form, notNil(s.data)); err != nil {
				return fmt.Errorf("write %s record %d: %w", r.Stream, r.Number, err)
			}
			h.number, h.hash, h.time = r.Number, r.Hash, r.Time
			heads[d.Stream], b.recs[i] = h, r
		}
	}
	for s, h := range heads {
		if h == j.heads[s] {
			continue
		}
		if _, err := tx.ExecContext(ctx, `UPDATE chain SET last = ?, last_hash = ?, last_time = ? WHERE id = ?`, h.number, h.hash[:], h.time, h.chain); err != nil {
			return fmt.Errorf("move the end of %s: %w", s, err)
		}
	}
	failpoint.Here("journal.written")
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	failpoint.Here("journal.committed")
	j.heads = heads
	for _, b := range batches {
		for _, r := range b.recs {
			j.tails[r.Stream].add(r)
		}
	}
	j.watchDrift(ctx)
	return nil
}

// readHeads reads the ends of our own chains, and begins the chains of a new journal.
func (j *Journal) readHeads(ctx context.Context) (map[Stream]head, error) {
	heads := map[Stream]head{}
	for _, s := range []Stream{State, Bulk} {
		zero := make([]byte, 32)
		if _, err := j.write.ExecContext(ctx, `INSERT INTO chain (origin, stream, base, base_hash, last, last_hash, last_time)
			VALUES (?, ?, 0, ?, 0, ?, 0) ON CONFLICT DO NOTHING`, j.origin, s, zero, zero); err != nil {
			return nil, fmt.Errorf("begin chain of %s: %w", s, err)
		}
		var h head
		var hash []byte
		if err := j.write.QueryRowContext(ctx, `SELECT id, last, last_hash, last_time FROM chain WHERE origin = ? AND stream = ?`, j.origin, s).
			Scan(&h.chain, &h.number, &hash, &h.time); err != nil {
			return nil, fmt.Errorf("read end of %s: %w", s, err)
		}
		copy(h.hash[:], hash)
		heads[s] = h
	}
	return heads, nil
}

// watchDisk tells the operator once when commits begin to fail, and once when they
// succeed again: agents go on asking, and each of them gets the error.
func (j *Journal) watchDisk(ctx context.Context, err error) {
	switch {
	case err == nil && j.failing != "":
		j.log.InfoContext(ctx, "journal commits succeed again")
		j.failing = ""
	case err != nil && j.failing != err.Error():
		j.failing = err.Error()
		j.log.ErrorContext(ctx, "journal commits fail, nothing can be stored", telemetry.KeyErr, err, "folder", j.dir, "remedy", remedy(err))
	}
}

func remedy(err error) string {
	switch {
	case sqlite.IsFull(err):
		return "make room on the disk of this folder; no restart is needed"
	case sqlite.IsReadOnly(err):
		return "make the file system of this folder writable; no restart is needed"
	case sqlite.IsFailing(err):
		return "look at the disk of this folder and at the kernel's log: the file system may have turned read-only"
	}
	return "look at the disk of this folder; troupe journal verify tells what is damaged"
}

// watchDrift tells the operator once when the clock begins to run ahead of the
// machine's, and once when it no longer does.
func (j *Journal) watchDrift(ctx context.Context) {
	d := j.clock.ahead()
	switch {
	case d > maxDrift && !j.drift:
		j.log.WarnContext(ctx, "journal is ahead of the clock of this machine", "ahead", d, "remedy", "check the time of this machine; records keep their order")
	case d <= maxDrift && j.drift:
		j.log.InfoContext(ctx, "clock of this machine has caught up with the journal")
	}
	j.drift = d > maxDrift
}

// rollback ends a transaction that failed; one that SQLite has rolled back by
// itself is no further error.
func rollback(tx *sqlite.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// notNil lets an empty body be stored as an empty blob, not as NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
