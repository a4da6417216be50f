package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"troupe/internal/sqlite"
)

// This file reads records back, and never returns a body that was not written.

const (
	maxRead     = 1000     // records in one answer
	maxReadSize = 32 << 20 // bytes of bodies after which an answer takes no more
)

// Read returns up to limit records of a chain whose number is greater than
// after, in order; fewer when their bodies are large. None means the end.
//
// A damaged record ends the answer. When it is the first, the error is a
// [*DamageError], and the caller may go on after its Number.
func (j *Journal) Read(ctx context.Context, o Origin, s Stream, after uint64, limit int) ([]Record, error) {
	if t := j.tails[s]; t != nil && o == j.origin {
		if recs := t.after(after, limit); len(recs) > 0 {
			return recs, nil
		}
	}
	rows, err := j.rows(ctx, o, s, after, min(limit, maxRead))
	if sqlite.IsCorrupt(err) && len(rows) == 0 {
		return nil, j.unreadable(ctx, o, s, after, err)
	}
	if err != nil && !sqlite.IsCorrupt(err) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	recs := make([]Record, 0, len(rows))
	for i := range rows {
		body, err := j.pack.unpack(rows[i].stored)
		if err != nil && len(recs) > 0 {
			return recs, nil
		}
		if err != nil {
			d := &DamageError{Origin: o, Stream: s, Number: rows[i].Number, What: DamagedBody, Detail: err.Error()}
			j.found(ctx, d, d.Number, d.Number)
			return nil, d
		}
		rows[i].Body = body
		recs = append(recs, rows[i].Record)
	}
	return recs, nil
}

// Last returns the number of the newest record of a chain, 0 when there is none.
func (j *Journal) Last(ctx context.Context, o Origin, s Stream) (uint64, error) {
	var n uint64
	err := j.read.QueryRowContext(ctx, `SELECT last FROM chain WHERE origin = ? AND stream = ?`, o, s).Scan(&n)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("read end of journal: %w", err)
	}
	return n, nil
}

// Origins returns the members whose records are in this journal, itself included.
func (j *Journal) Origins(ctx context.Context) ([]Origin, error) {
	chains, err := j.chains(ctx)
	if err != nil {
		return nil, err
	}
	all := []Origin{j.origin}
	for _, c := range chains {
		all = append(all, c.origin)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// A chainRow is what the file says about a chain as a whole.
type chainRow struct {
	id         int64
	origin     Origin
	stream     Stream
	base, last uint64
	baseHash   [32]byte
	lastHash   [32]byte
	lastTime   Time
}

func (j *Journal) chains(ctx context.Context) ([]chainRow, error) {
	rows, err := j.read.QueryContext(ctx, `SELECT id, origin, stream, base, base_hash, last, last_hash, last_time FROM chain ORDER BY origin, stream`)
	if err != nil {
		return nil, fmt.Errorf("read chains of journal: %w", err)
	}
	defer rows.Close()
	var all []chainRow
	for rows.Next() {
		var c chainRow
		var base, last []byte
		if err := rows.Scan(&c.id, &c.origin, &c.stream, &c.base, &base, &c.last, &last, &c.lastTime); err != nil {
			return nil, fmt.Errorf("read chains of journal: %w", err)
		}
		copy(c.baseHash[:], base)
		copy(c.lastHash[:], last)
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read chains of journal: %w", err)
	}
	return all, nil
}

// chainOf returns one chain; the zero one, but for its name, when there is none.
func (j *Journal) chainOf(ctx context.Context, o Origin, s Stream) (chainRow, error) {
	c := chainRow{origin: o, stream: s}
	var base, last []byte
	err := j.read.QueryRowContext(ctx, `SELECT id, base, base_hash, last, last_hash, last_time FROM chain WHERE origin = ? AND stream = ?`, o, s).
		Scan(&c.id, &c.base, &base, &c.last, &last, &c.lastTime)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return c, fmt.Errorf("read chains of journal: %w", err)
	}
	copy(c.baseHash[:], base)
	copy(c.lastHash[:], last)
	return c, nil
}

// A row is a record as the file holds it; its Body is not unpacked yet.
type row struct {
	Record
	stored stored
}

// rows returns stored records after a number. On an error it returns those that
// it has read before it.
func (j *Journal) rows(ctx context.Context, o Origin, s Stream, after uint64, limit int) ([]row, error) {
	return j.query(ctx, "", o, s, after, limit)
}

// query is rows for those that fulfil a further condition; a limit of -1 is none.
func (j *Journal) query(ctx context.Context, condition string, o Origin, s Stream, after uint64, limit int, args ...any) ([]row, error) {
	rows, err := j.read.QueryContext(ctx, `SELECT number, time, kind, r.key, length, sum, hash, form, body
		FROM record r JOIN chain c ON c.id = r.chain
		WHERE c.origin = ? AND c.stream = ? AND r.number > ?`+condition+` ORDER BY r.number LIMIT ?`, append(append([]any{o, s, after}, args...), limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []row
	for size := 0; size < maxReadSize && rows.Next(); {
		r := row{Record: Record{Origin: o, Stream: s}}
		var sum, hash []byte
		if err := rows.Scan(&r.Number, &r.Time, &r.Kind, &r.Key, &r.stored.length, &sum, &hash, &r.stored.form, &r.stored.data); err != nil {
			return all, err
		}
		copy(r.stored.sum[:], sum)
		copy(r.Hash[:], hash)
		size += max(r.stored.length, len(r.stored.data))
		all = append(all, r)
	}
	return all, rows.Err()
}

// unreadable names the record at which SQLite fails: the next number that the
// index knows, or the very next one.
func (j *Journal) unreadable(ctx context.Context, o Origin, s Stream, after uint64, cause error) *DamageError {
	d := &DamageError{Origin: o, Stream: s, Number: after + 1, What: Unreadable, Detail: cause.Error()}
	var next sql.Null[uint64]
	err := j.read.QueryRowContext(ctx, `SELECT min(number) FROM record r JOIN chain c ON c.id = r.chain
		WHERE c.origin = ? AND c.stream = ? AND number > ?`, o, s, after).Scan(&next)
	if err == nil && next.Valid {
		d.Number = next.V
	}
	j.found(ctx, d, after+1, d.Number)
	return d
}

// Select returns the records of a chain after a number whose kind begins with prefix, and the number up to which it has looked.
// It is for the few records of a kind among many. A damaged one ends the answer; when it is the first, the error is a
// [*DamageError], and the caller may go on after its Number.
func (j *Journal) Select(ctx context.Context, o Origin, s Stream, prefix string, after uint64) (found []Record, end uint64, err error) {
	if end, err = j.Last(ctx, o, s); err != nil || end <= after {
		return nil, max(after, end), err
	}
	rows, err := j.query(ctx, ` AND r.number <= ? AND kind >= ? AND kind < ?`, o, s, after, -1, end, prefix, prefix+"\uffff")
	if sqlite.IsCorrupt(err) {
		if len(rows) == 0 {
			return nil, after, j.unreadable(ctx, o, s, after, err)
		}
		end = rows[len(rows)-1].Number
	} else if err != nil {
		return nil, after, fmt.Errorf("read journal: %w", err)
	}
	size := 0
	for i := range rows {
		if size += rows[i].stored.length; size >= maxReadSize {
			end = rows[i].Number // the answer is full: more may follow
		}
		if rows[i].Body, err = j.pack.unpack(rows[i].stored); err != nil {
			d := &DamageError{Origin: o, Stream: s, Number: rows[i].Number, What: DamagedBody, Detail: err.Error()}
			j.found(ctx, d, d.Number, d.Number)
			if len(found) > 0 {
				return found, d.Number - 1, nil
			}
			return nil, after, d
		}
		found = append(found, rows[i].Record)
	}
	return found, end, nil
}
