package journal

import (
	"slices"
	"sync"
)

// This file keeps the newest records at hand. Whoever folds a record right after it
// was written need not read, decompress and sum it once more.

const (
	tailRecords = 256
	tailBytes   = 4 << 20 // of bodies
)

// A tail is the end of one of our own chains, without a gap. Only what is durable is
// in it, so that reading from it and from the file are the same.
type tail struct {
	mu   sync.Mutex
	recs []Record
	size int
}

// add appends what was committed just now.
func (t *tail) add(r Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.recs); n > 0 && t.recs[n-1].Number+1 != r.Number {
		t.recs, t.size = nil, 0 // a commit failed and was written all the same
	}
	if len(r.Body) == 0 {
		r.Body = nil // as it comes from the file
	}
	t.recs = append(t.recs, r)
	t.size += len(r.Body)
	drop := 0
	for ; t.size > tailBytes || len(t.recs)-drop > tailRecords; drop++ {
		t.size -= len(t.recs[drop].Body)
	}
	t.recs = slices.Delete(t.recs, 0, drop) // and lets the bodies go
}

// reset forgets everything: the chain did not grow by add.
func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recs, t.size = nil, 0
}

// forget drops the records up to a number, which were pruned.
func (t *tail) forget(number uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.recs) > 0 && t.recs[0].Number <= number {
		t.size -= len(t.recs[0].Body)
		t.recs = slices.Delete(t.recs, 0, 1)
	}
}

// after returns up to limit records that follow a number; none when the file must be
// asked.
func (t *tail) after(number uint64, limit int) []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.recs) == 0 || number+1 < t.recs[0].Number {
		return nil
	}
	from := min(number+1-t.recs[0].Number, uint64(len(t.recs)))
	found := t.recs[from:]
	return slices.Clone(found[:min(len(found), limit)])
}
