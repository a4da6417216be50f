package journal

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"troupe/internal/sqlite"
)

// This file puts the copies that another member has in the place of damaged records.

// mendWindow bounds the records that are looked at for one mending.
const mendWindow = 1000

// Before is the number after which the frames for [Journal.Mend] must begin: the record before the stretch comes, too, since
// its hash is part of what is checked.
func (s Stretch) Before() uint64 { return max(s.From, 2) - 2 }

// Mend replaces records of a stretch by those that r gives, as [Journal.Export] of another member writes them, and returns how
// many. They begin after [Stretch.Before], and need not reach to the end of the stretch: what is mended is no longer in
// [Journal.Damaged], the rest is.
//
// Nothing is believed. A record is taken only if the hash of a record at or behind it is the one that this journal holds at
// that number, and the chain leads from there to the record: that hash was made when the record was written.
func (j *Journal) Mend(ctx context.Context, s Stretch, r io.Reader) (mended int, err error) {
	frames, err := j.readStretch(s, r)
	if err != nil {
		return 0, err
	}
	if err := j.takeTurn(ctx); err != nil {
		return 0, err
	}
	defer j.endTurn()
	ctx = context.WithoutCancel(ctx)
	tx, err := j.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("mend journal: %w", sqlite.DiskFault(err))
	}
	m := mending{j: j, tx: tx, stretch: s, frames: frames}
	if err := m.all(ctx); err != nil {
		return 0, errors.Join(err, rollback(tx))
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("mend journal: %w", sqlite.DiskFault(err))
	}
	j.damages.forget(s)
	if m.upTo < s.To {
		rest := s
		rest.From = max(m.upTo+1, s.From)
		j.damages.note(rest)
	}
	if m.end {
		j.heads = nil // read again before the next append
	}
	j.metrics.mended.Add(float64(m.mended))
	if m.mended > 0 {
		j.log.InfoContext(ctx, "damaged journal records were replaced by the copies of another member",
			"origin", s.Origin, "stream", s.Stream.String(), "from", s.From, "to", m.upTo, "records", m.mended)
		j.changes.send()
	}
	return m.mended, nil
}

// Forget drops a stretch that was pruned meanwhile, and reports whether it was.
func (j *Journal) Forget(ctx context.Context, s Stretch) (bool, error) {
	c, err := j.chainOf(ctx, s.Origin, s.Stream)
	if err != nil || s.To > c.base {
		return false, err
	}
	j.damages.forget(s)
	return true, nil
}

// readStretch reads frames that follow each other in the chain of a stretch, up to the first that is not whole.
func (j *Journal) readStretch(s Stretch, r io.Reader) (frames []*frame, err error) {
	for size := 0; len(frames) < mendWindow+2 && size < 2*maxReadSize; {
		f, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if f.Origin != s.Origin || f.Stream != s.Stream || len(frames) > 0 && f.Number != frames[len(frames)-1].Number+1 {
			return nil, fmt.Errorf("mend journal: %s record %d of %s came where others were asked for", f.Stream, f.Number, f.Origin)
		}
		if !f.base {
			if _, err := j.pack.unpack(f.stored); err != nil {
				break
			}
		}
		size += len(f.stored.data)
		frames = append(frames, f)
	}
	if len(frames) > 0 && frames[0].base && frames[0].Number >= s.From {
		return nil, fmt.Errorf("mend journal: the other member has pruned the %s records of %s up to %d", s.Stream, s.Origin, frames[0].Number)
	}
	if len(frames) == 0 {
		return nil, fmt.Errorf("mend journal: the other member has no %s records of %s from %d on", s.Stream, s.Origin, s.From)
	}
	return frames, nil
}

// A mending is one transaction that replaces records.
type mending struct {
	j       *Journal
	tx      *sqlite.Tx
	stretch Stretch
	frames  []*frame // in order, without gaps; the first may be a base
	chain   chainRow

	mended int
	upTo   uint64 // all records of the stretch up to this are whole
	end    bool   // the chain's row was mended, too
}

func (m *mending) all(ctx context.Context) error {
	m.upTo = m.stretch.From - 1
	c := &m.chain
	var base, last []byte
	if err := m.tx.QueryRowContext(ctx, `SELECT id, base, base_hash, last, last_hash, last_time FROM chain WHERE origin = ? AND stream = ?`, m.stretch.Origin, m.stretch.Stream).
		Scan(&c.id, &c.base, &base, &c.last, &last, &c.lastTime); err != nil {
		return fmt.Errorf("mend journal: %w", err)
	}
	copy(c.baseHash[:], base)
	copy(c.lastHash[:], last)
	proven, err := m.prove(ctx)
	if err != nil {
		return err
	}
	for _, f := range proven {
		if f.Number <= max(c.base, m.upTo) {
			continue
		}
		if f.Number > min(m.stretch.To, c.last) || f.Number != max(m.upTo, c.base)+1 {
			break
		}
		if err := m.replace(ctx, f); err != nil {
			return err
		}
		m.upTo = f.Number
	}
	if m.upTo < m.stretch.From {
		return fmt.Errorf("mend journal: what the other member has of %s record %d of %s does not lead to a record of this journal", m.stretch.Stream, m.stretch.From, m.stretch.Origin)
	}
	return nil
}

// prove returns those frames that must be what was written: each is covered by a hash of this journal.
func (m *mending) prove(ctx context.Context) ([]*frame, error) {
	end := -1
	for i, f := range m.frames {
		if f.base || f.Number > m.chain.last {
			continue
		}
		if f.Number == m.chain.last && f.Hash == m.chain.lastHash {
			end = i
			continue
		}
		var stored []byte
		err := m.tx.QueryRowContext(ctx, `SELECT hash FROM record WHERE chain = ? AND number = ?`, m.chain.id, f.Number).Scan(&stored)
		if err != nil && !errors.Is(err, sql.ErrNoRows) && !sqlite.IsCorrupt(err) {
			return nil, fmt.Errorf("mend journal: %w", err)
		}
		if err == nil && bytes.Equal(stored, f.Hash[:]) {
			end = i
		}
	}
	begin := end + 1
	for i := end; i >= 0; i-- {
		f, previous := m.frames[i], [32]byte{}
		switch {
		case f.base || i == 0 && f.Number > 1: // nothing tells its own previous hash
			return m.frames[begin : end+1], nil
		case i > 0:
			previous = m.frames[i-1].Hash
		}
		if f.chain(previous, f.stored.length, f.stored.sum) != f.Hash {
			break
		}
		begin = i
	}
	return m.frames[begin : end+1], nil
}

// replace puts a proven record into its place, unless the one there is whole.
func (m *mending) replace(ctx context.Context, f *frame) error {
	if f.Number == m.chain.last && f.Hash != m.chain.lastHash {
		if _, err := m.tx.ExecContext(ctx, `UPDATE chain SET last_hash = ?, last_time = ? WHERE id = ?`, f.Hash[:], f.Time, m.chain.id); err != nil {
			return m.failed(f, err)
		}
		m.end = true
	}
	var old row
	var sum, hash []byte
	err := m.tx.QueryRowContext(ctx, `SELECT time, kind, key, length, sum, hash, form, body FROM record WHERE chain = ? AND number = ?`, m.chain.id, f.Number).
		Scan(&old.Time, &old.Kind, &old.Key, &old.stored.length, &sum, &hash, &old.stored.form, &old.stored.data)
	if err == nil {
		copy(old.stored.sum[:], sum)
		_, packed := m.j.pack.unpack(old.stored)
		if packed == nil && bytes.Equal(hash, f.Hash[:]) && old.Time == f.Time && old.Kind == f.Kind && old.Key == f.Key && old.stored.length == f.stored.length && old.stored.sum == f.stored.sum {
			return nil
		}
	} else if !errors.Is(err, sql.ErrNoRows) && !sqlite.IsCorrupt(err) {
		return fmt.Errorf("mend journal: %w", err)
	}
	if _, err := m.tx.ExecContext(ctx, `DELETE FROM record WHERE chain = ? AND number = ?`, m.chain.id, f.Number); err != nil {
		return m.failed(f, err)
	}
	if _, err := m.tx.ExecContext(ctx, `INSERT INTO record (chain, number, time, kind, key, length, sum, hash, form, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		m.chain.id, f.Number, f.Time, f.Kind, f.Key, f.stored.length, f.stored.sum[:], f.Hash[:], f.stored.form, notNil(f.stored.data)); err != nil {
		return m.failed(f, err)
	}
	m.mended++
	return nil
}

// failed names the remedy where the file itself is broken, not only what lies in it.
func (m *mending) failed(f *frame, err error) error {
	if sqlite.IsCorrupt(err) {
		return fmt.Errorf("mend %s record %d of %s: the structure of the file is broken, so nothing can be put into it: stop this member, "+
			"move its data folder away, remove it from the troupe and let it join again: %w", f.Stream, f.Number, f.Origin, err)
	}
	return fmt.Errorf("mend %s record %d of %s: %w", f.Stream, f.Number, f.Origin, sqlite.DiskFault(err))
}
