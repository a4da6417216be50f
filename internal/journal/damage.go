package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"troupe/internal/telemetry"
)

// This file names what can be wrong with a record, and remembers what was found so until it is mended.

// Damage says which part of a record is not as it was written.
type Damage string

// The kinds of damage.
const (
	DamagedBody   Damage = "body"           // the body does not have its sum
	DamagedHeader Damage = "header"         // number, time, kind, key, length or sum does not fit the hash
	DamagedChain  Damage = "chain"          // the hash itself, or the end that the chain is said to have
	Missing       Damage = "missing number" // the record is not there
	Unreadable    Damage = "unreadable"     // SQLite cannot read the page
)

// A DamageError names a damaged record. The remedy is a copy of it: from another
// member, or from a backup.
type DamageError struct {
	Origin Origin
	Stream Stream
	Number uint64
	What   Damage
	Detail string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s record %d of origin %s is damaged (%s): %s", e.Stream, e.Number, e.Origin, e.What, e.Detail)
}

// A Stretch is a part of a chain that was found damaged and is not mended yet.
type Stretch struct {
	Origin   Origin
	Stream   Stream
	From, To uint64
	Why      string
}

// maxStretches bounds what is remembered. Verify finds the rest again when these are mended.
const maxStretches = 10_000

// damages is what was found damaged and is not mended yet.
type damages struct {
	mu    sync.Mutex
	known map[Stretch]bool // without Why
	why   map[Stretch]string
	more  *signal
}

func newDamages() *damages {
	return &damages{known: map[Stretch]bool{}, why: map[Stretch]string{}, more: newSignal()}
}

// note remembers a stretch and reports whether it is news.
func (d *damages) note(s Stretch) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := s
	key.Why = ""
	if d.known[key] || len(d.known) >= maxStretches {
		return false
	}
	d.known[key], d.why[key] = true, s.Why
	d.more.send()
	return true
}

// forget drops what is mended, or pruned.
func (d *damages) forget(s Stretch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Why = ""
	delete(d.known, s)
	delete(d.why, s)
}

// Damaged returns what was found damaged and is not mended yet, and a channel that is closed when more is found.
func (j *Journal) Damaged() (all []Stretch, more <-chan struct{}) {
	d := j.damages
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.known {
		s.Why = d.why[s]
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Stretch) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return all, d.more.wait()
}

// found remembers damage, from the record that d names up to and including another one. An operator gets one line about it.
func (j *Journal) found(ctx context.Context, d *DamageError, from, to uint64) {
	if !j.damages.note(Stretch{Origin: d.Origin, Stream: d.Stream, From: from, To: max(from, to), Why: d.Error()}) {
		return
	}
	j.metrics.damaged.Inc()
	j.log.ErrorContext(ctx, "journal record is damaged", "origin", d.Origin, "stream", d.Stream.String(), "number", d.Number, telemetry.KeyErr, d.Detail)
}
