// Package journal is a member's own append-only log, and the one place where a
// write becomes durable.
//
// A [Record] belongs to an [Origin], the member that wrote it, and to one of two
// streams: [State] is kept for ever, [Bulk] is pruned by age. Per origin and
// stream the records are numbered from 1 and hash-chained, so that a gap or a
// flipped bit is found and named. Everything else in a member's data folder is a
// fold of the journal.
//
// Begin with [Open], [Journal.Append] and [Journal.Read]; DESIGN.md beside this
// file tells what must stay true and why.
//
//	j, err := journal.Open(dir, journal.Options{})
//	…
//	recs, err := j.Append(ctx, journal.Draft{Stream: journal.State, Kind: "ca.issued", Key: "web1.example.com", Body: der})
//	// here the record is on the disk
package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// An Origin is the random name of the member that wrote a record. A member gets
// it when its data folder is created and keeps it for ever.
type Origin string

// A Stream is one of the two chains of an origin.
type Stream uint8

// The streams. The numbers are part of the record format.
const (
	State Stream = 1 // kept for ever: certificates, revocations, pointers, tokens
	Bulk  Stream = 2 // facts, catalogs, reports: pruned by age
)

func (s Stream) String() string {
	switch s {
	case State:
		return "state"
	case Bulk:
		return "bulk"
	}
	return fmt.Sprintf("stream %d", uint8(s))
}

// Limits of a record.
const (
	MaxBody = 64 << 20
	maxName = 1 << 10 // of a kind or a key
)

// A Draft is a record that is not written yet. Its Body must never change again:
// the record returned by Append shares it.
type Draft struct {
	Stream Stream
	Kind   string // what the body is: "ca.issued", "facts", …
	Key    string // the certname, or the class, that it is about
	Body   []byte
}

// A Record is one entry of a journal. Records are immutable.
type Record struct {
	Origin Origin
	Stream Stream
	Number uint64 // from 1, without gaps, per origin and stream
	Time   Time
	Kind   string
	Key    string
	Body   []byte
	Hash   [32]byte // see [Record.chain]
}

// Options tunes a Journal. The zero value is right.
type Options struct {
	Now        func() time.Time      // nil means time.Now
	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers no metrics
}

// A Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	dir    string
	origin Origin
	log    *slog.Logger
	lock   *os.File // holds the flock until Close

	write *sqlite.Writer // used only by the holder of turn
	read  *sql.DB
	pack  *packer

	queue  chan *batch   // appends that wait for a commit
	turn   chan struct{} // holds one token while somebody writes
	scan   chan struct{} // holds one token while somebody verifies or prunes, which exclude each other
	closed chan struct{}
	ending sync.Once

	clock *clock          // used only by the holder of turn
	heads map[Stream]head // of our own origin; nil after a failed commit: read them again
	drift bool            // we said that the clock is ahead

	tails   map[Stream]*tail // of our own chains
	failing string           // the error of the last commit, of which we told; used only by the holder of turn
	reserve reserve

	changes *signal
	damages *damages
	metrics *metrics
}

// Open opens the journal in dir and creates it when there is none. It fails when
// another process has it open, when the folder belongs to another user, and when
// a newer troupe wrote it.
func Open(dir string, o Options) (*Journal, error) {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	if err := prepareFolder(dir); err != nil {
		return nil, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir:     dir,
		reserve: reserve{dir: dir},
		log:     telemetry.Discard(o.Log).With(telemetry.KeySystem, "journal"),
		lock:    lock,
		queue:   make(chan *batch, maxWaiting),
		turn:    make(chan struct{}, 1),
		scan:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
		clock:   &clock{now: now},
		tails:   map[Stream]*tail{State: {}, Bulk: {}},
		changes: newSignal(),
		damages: newDamages(),
		metrics: newMetrics(o.Registerer),
	}
	if err := j.openFile(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// Origin returns the name of this member.
func (j *Journal) Origin() Origin { return j.origin }

// Changed returns a channel that is closed when the next append is durable.
// Take it before reading, so that nothing slips through in between.
func (j *Journal) Changed() <-chan struct{} { return j.changes.wait() }

// checkpointEvery bounds how long the write-ahead log keeps its largest size.
const checkpointEvery = 5 * time.Minute

// Run keeps the write-ahead log small until ctx ends. Appending and reading do
// not depend on it.
func (j *Journal) Run(ctx context.Context) error {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := j.checkpoint(ctx); err != nil && ctx.Err() == nil {
			j.log.WarnContext(ctx, "journal checkpoint failed", telemetry.KeyErr, err)
		}
	}
}

func (j *Journal) checkpoint(ctx context.Context) error {
	if err := j.takeTurn(ctx); err != nil {
		return err
	}
	defer j.endTurn()
	_, err := j.write.Truncate(ctx) // what somebody reads stays until the next time
	return err
}

// Close waits for the commit that is under way, refuses later appends and lets
// go of the folder.
func (j *Journal) Close() error {
	var errs []error
	j.ending.Do(func() {
		j.turn <- struct{}{} // never given back
		close(j.closed)
		if j.read != nil {
			errs = append(errs, j.read.Close())
		}
		if j.write != nil {
			errs = append(errs, j.write.Close())
		}
		if j.pack != nil {
			j.pack.close()
		}
		if j.lock != nil {
			errs = append(errs, j.lock.Close())
		}
	})
	return errors.Join(errs...)
}

var errClosed = fault.New(fault.Unavailable, "the journal is closed")

// takeTurn makes the caller the only writer until endTurn.
func (j *Journal) takeTurn(ctx context.Context) error {
	if j.write == nil {
		return errLooking
	}
	return j.take(ctx, j.turn)
}

func (j *Journal) endTurn() { <-j.turn }

// takeScan keeps the beginnings of the chains where they are until endScan.
func (j *Journal) takeScan(ctx context.Context) error { return j.take(ctx, j.scan) }

func (j *Journal) endScan() { <-j.scan }

func (j *Journal) take(ctx context.Context, token chan struct{}) error {
	select {
	case token <- struct{}{}:
		return nil
	case <-j.closed:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A signal wakes everybody who waits for the next change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *signal) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}
