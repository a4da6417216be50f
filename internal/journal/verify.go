package journal

import (
	"context"
	"fmt"

	"troupe/internal/sqlite"
)

// This file reads the whole journal again and names what is damaged.

// A Verification is the outcome of reading every record.
type Verification struct {
	Records uint64         // that were read and hashed
	Damaged []*DamageError // the first of each chain
	File    []string       // what SQLite says about the structure of its file
}

// OK reports whether nothing is damaged.
func (v Verification) OK() bool { return len(v.Damaged) == 0 && len(v.File) == 0 }

// verifyStep is the number of records that are read at a time.
const verifyStep = 200

// maxComplaints bounds what is asked of SQLite's own check.
const maxComplaints = 20

// Verify recomputes the hash of every body and record, and runs SQLite's own
// check. It goes on after damage and names the first damaged record of each
// chain. Appends may go on meanwhile: each chain is verified up to the end that
// it had at the beginning. progress may be nil.
func (j *Journal) Verify(ctx context.Context, progress func(done, total uint64)) (Verification, error) {
	var v Verification
	if err := j.takeScan(ctx); err != nil {
		return v, err
	}
	defer j.endScan()
	chains, err := j.chains(ctx)
	if err != nil {
		return v, err
	}
	var total, done uint64
	for _, c := range chains {
		total += c.last - min(c.base, c.last)
	}
	for _, c := range chains {
		w := walk{j: j, chain: c, previous: c.baseHash, number: c.base, linked: true}
		for !w.ended() {
			before := w.number
			if err := w.step(ctx); err != nil {
				return v, err
			}
			for _, s := range w.spots {
				j.found(ctx, s.DamageError, s.Number, s.to)
			}
			w.spots = nil
			done += w.number - before
			if progress != nil {
				progress(done, total)
			}
		}
		v.Records += w.records
		if w.damage != nil {
			v.Damaged = append(v.Damaged, w.damage)
		}
	}
	v.File, err = j.quickCheck(ctx)
	return v, err
}

// A walk goes along one chain.
type walk struct {
	j        *Journal
	chain    chainRow
	number   uint64   // the last number that was dealt with
	previous [32]byte // its stored hash
	linked   bool     // previous is known: no record was missing before this one
	records  uint64
	damage   *DamageError // the first; nil while all is well
	spots    []spot       // all, those not yet remembered

	// After a record whose hash does not fit, computed is what its hash should be.
	// The next record tells which of the two is wrong: the hash, or what it covers.
	computed [32]byte
	doubt    bool
}

func (w *walk) ended() bool { return w.number >= w.chain.last }

// step deals with the next few records, of which there is at least one.
func (w *walk) step(ctx context.Context) error {
	limit := int(min(uint64(verifyStep), w.chain.last-w.number))
	rows, err := w.j.rows(ctx, w.chain.origin, w.chain.stream, w.number, limit)
	if err != nil && !sqlite.IsCorrupt(err) {
		return fmt.Errorf("read journal: %w", err)
	}
	for i := range rows {
		if rows[i].Number > w.chain.last {
			break
		}
		w.record(&rows[i])
	}
	switch {
	case err != nil:
		d := w.j.unreadable(ctx, w.chain.origin, w.chain.stream, w.number, err)
		w.skipTo(min(d.Number, w.chain.last), Unreadable, d.Detail)
	case !w.ended() && (len(rows) == 0 || rows[len(rows)-1].Number > w.chain.last):
		w.skipTo(w.chain.last, Missing, fmt.Sprintf("records %d to %d are not there", w.number+1, w.chain.last))
	}
	if w.ended() && w.linked && !w.doubt && w.previous != w.chain.lastHash {
		w.report(w.number, DamagedChain, "it is not the record with which the chain is said to end")
	}
	return nil
}

// record checks one stored record against its own sums and the one before it.
func (w *walk) record(r *row) {
	if r.Number > w.number+1 {
		w.skipTo(r.Number-1, Missing, fmt.Sprintf("records %d to %d are not there", w.number+1, r.Number-1))
	}
	w.records++
	w.number = r.Number
	if _, err := w.j.pack.unpack(r.stored); err != nil {
		w.report(r.Number, DamagedBody, err.Error())
	}
	hash := r.chain(w.previous, r.stored.length, r.stored.sum)
	if w.doubt && r.chain(w.computed, r.stored.length, r.stored.sum) == r.Hash {
		hash = r.Hash
		if w.damage != nil && w.damage.Number == r.Number-1 && w.damage.What == DamagedHeader {
			w.damage.What, w.damage.Detail = DamagedChain, "its own hash is damaged; what it covers is whole"
		}
	}
	w.doubt = w.linked && hash != r.Hash
	if w.doubt {
		w.computed = hash
		w.report(r.Number, DamagedHeader, "number, time, kind, key, length or sum is not the one that was written")
	}
	w.previous, w.linked = r.Hash, true
}

// skipTo reports that the records up to and including number cannot be checked.
// The next one is taken as it is, since the hash before it is not known.
func (w *walk) skipTo(number uint64, what Damage, detail string) {
	w.reportTo(w.number+1, number, what, detail)
	w.number, w.linked, w.doubt = number, false, false
}

func (w *walk) report(number uint64, what Damage, detail string) {
	w.reportTo(number, number, what, detail)
}

// reportTo reports the records of a stretch. All are remembered, so that they can be mended; the first is told.
func (w *walk) reportTo(from, to uint64, what Damage, detail string) {
	d := &DamageError{Origin: w.chain.origin, Stream: w.chain.stream, Number: from, What: what, Detail: detail}
	if w.damage == nil {
		w.damage = d
	}
	w.spots = append(w.spots, spot{d, to})
}

// A spot is damage that reaches from its number to another one.
type spot struct {
	*DamageError

	to uint64
}

// quickCheck asks SQLite about the structure of the file.
func (j *Journal) quickCheck(ctx context.Context) ([]string, error) {
	rows, err := j.read.QueryContext(ctx, fmt.Sprintf("PRAGMA quick_check(%d)", maxComplaints))
	if sqlite.IsCorrupt(err) {
		return []string{err.Error()}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check file of journal: %w", err)
	}
	defer rows.Close()
	var said []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, fmt.Errorf("check file of journal: %w", err)
		}
		if s != "ok" {
			said = append(said, s)
		}
	}
	if err := rows.Err(); sqlite.IsCorrupt(err) {
		return append(said, err.Error()), nil
	} else if err != nil {
		return nil, fmt.Errorf("check file of journal: %w", err)
	}
	return said, nil
}
