// Package store folds the bulk stream of the journal into tables, and answers
// questions about them: facts, catalogs, exported resources, compiles, reports,
// ENC answers and backed-up files.
//
// Writing means: encode a record, append it to the journal, fold it. A Save
// method returns when its record is durable in the journal and visible to the
// queries of this member. The tables live in SQLite and can be made again from
// the journal; DESIGN.md beside this file tells how far back.
//
// Begin with [Open]; fold.go is the heart, and each noun has a file with its
// record, its fold and its queries side by side.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// Options says how long things are kept. The zero value suits most sites.
type Options struct {
	ReportAge       time.Duration // 0 means 14 days
	CompilesPerNode int           // 0 means 50
	CatalogsPerNode int           // different ones, the newest included; 0 means 3
	JournalAge      time.Duration // of the journal's bulk stream; 0 means 3 days
	InactiveAfter   time.Duration // a silent node's exported resources vanish; 0 means 14 days
	ForgetAfter     time.Duration // a silent node vanishes; 0 means 90 days
	BucketAge       time.Duration // since the last backup of the same content; 0 means 90 days
	MaxBucketFile   int64         // bytes; 0 means 256 MiB

	Fetch Fetch // asks other members for contents of the bucket; nil asks nobody

	Now        func() time.Time      // nil means time.Now
	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers no metrics
}

const day = 24 * time.Hour

func (o *Options) setDefaults() {
	for v, otherwise := range map[*time.Duration]time.Duration{
		&o.ReportAge: 14 * day, &o.JournalAge: 3 * day, &o.InactiveAfter: 14 * day, &o.ForgetAfter: 90 * day, &o.BucketAge: 90 * day,
	} {
		if *v <= 0 {
			*v = otherwise
		}
	}
	if o.CompilesPerNode <= 0 {
		o.CompilesPerNode = 50
	}
	if o.CatalogsPerNode <= 0 {
		o.CatalogsPerNode = 3
	}
	if o.MaxBucketFile <= 0 {
		o.MaxBucketFile = 256 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = telemetry.Discard(o.Log).With(telemetry.KeySystem, "store")
}

// A DB is an open store. Its methods may be called concurrently.
type DB struct {
	o       Options
	dir     string
	journal *journal.Journal
	zip     *zipper
	key     []byte // of what stands for sensitive parameters
	metrics *metrics
	read    *sql.DB
	warmed  *os.File // nil before Run

	folding   chan struct{}  // holds one token while somebody writes to the tables
	write     *sqlite.Writer // used only by the holder of folding
	positions map[journal.Origin]position
	ahead     *group       // made ready while another one was written; used only by the holder of folding
	behind    atomic.Bool  // the tables are being made again: what is collected from them would be a part
	backlog   atomic.Int64 // when a transaction was last full, in ns since 1970: more was left to fold than comes meanwhile

	suspect  chan struct{} // holds one word that a damaged row was read
	backedUp chan struct{} // holds one word that a record of the bucket was folded
	bucket   sync.RWMutex  // read-held while content and its record are written, held while content is removed
}

// Open opens the store in dir, and creates it when there is none or when its
// file is damaged: the journal has what it needs. It folds nothing yet; [DB.Run]
// and every Save do.
func Open(ctx context.Context, dir string, j *journal.Journal, o Options) (*DB, error) {
	o.setDefaults()
	if err := os.MkdirAll(filepath.Join(dir, bucketName), 0o700); err != nil {
		return nil, fmt.Errorf("create folder of store: %w", err)
	}
	key, err := loadKey(dir)
	if err != nil {
		return nil, err
	}
	zip, err := newZipper()
	if err != nil {
		return nil, err
	}
	db := &DB{o: o, dir: dir, journal: j, key: key, zip: zip, metrics: newMetrics(o.Registerer), folding: make(chan struct{}, 1), backedUp: make(chan struct{}, 1), suspect: make(chan struct{}, 1)}
	if err := db.sweepIncoming(); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName)
	err = db.openTables(ctx, path)
	rebuild := toRebuild(dir)
	if sqlite.IsCorrupt(err) || err == nil && rebuild {
		aside := fmt.Sprintf("%s.damaged-%d", path, o.Now().Unix())
		o.Log.ErrorContext(ctx, "store is damaged and will be made again from the journal", telemetry.KeyErr, err, "kept_as", aside)
		if err := errors.Join(db.Close(), setAside(path, aside), rebuilt(dir)); err != nil {
			return nil, err
		}
		db.zip, err = newZipper()
		if err != nil {
			return nil, err
		}
		err = db.openTables(ctx, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return db, nil
}

func (db *DB) openTables(ctx context.Context, path string) error {
	var err error
	if db.write, err = sqlite.OpenWriter(path, "synchronous(NORMAL)", "cache_size(-4096)"); err != nil {
		return err
	}
	if err := migrate(ctx, db.write.DB); err != nil {
		return err
	}
	if db.read, err = sqlite.Open(path, readers, "query_only(1)"); err != nil {
		return err
	}
	if err := db.foldWhatWasUnknown(ctx); err != nil {
		return err
	}
	if err := db.readPositions(ctx); err != nil {
		return err
	}
	heads, err := db.journal.Heads(ctx)
	if err != nil {
		return err
	}
	left := uint64(0)
	for _, h := range heads {
		if h.Stream == journal.Bulk {
			left += h.Last - min(max(db.positions[h.Origin].number, h.Base), h.Last)
		}
	}
	db.behind.Store(left > foldLag)
	return nil
}

// CatchUp folds all that the journal holds by now.
func (db *DB) CatchUp(ctx context.Context) error { return db.foldAll(ctx) }

// Close closes the files. Run must have returned, and no Save be under way.
func (db *DB) Close() error {
	var errs []error
	if db.read != nil {
		errs = append(errs, db.read.Close())
	}
	if db.write != nil {
		errs = append(errs, db.write.Close())
	}
	if db.warmed != nil {
		errs = append(errs, db.warmed.Close())
	}
	db.zip.close()
	return errors.Join(errs...)
}

// How often Run looks after things.
const (
	retainEvery = 10 * time.Minute
	retryFirst  = time.Second
	retryMost   = time.Minute
)

// Run follows the journal and forgets what is too old, until ctx ends. It returns
// an error only when the tables are damaged.
func (db *DB) Run(ctx context.Context) error {
	if err := db.adoptBucket(ctx); err != nil && ctx.Err() == nil {
		db.o.Log.WarnContext(ctx, "files in the bucket could not be examined", telemetry.KeyErr, err)
	}
	var fetching sync.WaitGroup
	fctx, stop := context.WithCancel(ctx)
	fetching.Go(func() { db.warm(fctx) })
	fetching.Go(func() { db.runContents(fctx) })
	broken := make(chan error, 1)
	fetching.Go(func() { broken <- db.runChecks(fctx) })
	defer func() { stop(); fetching.Wait() }()
	retain := time.NewTicker(retainEvery)
	defer retain.Stop()
	wait := retryFirst
	for {
		changed := db.journal.Changed()
		err := db.foldAll(ctx)
		var retry <-chan time.Time
		switch {
		case ctx.Err() != nil:
			return nil
		case sqlite.IsCorrupt(err):
			return fmt.Errorf("%s is damaged: restart this member, and it is made again from the journal: %w", filepath.Join(db.dir, fileName), err)
		case err != nil:
			db.o.Log.ErrorContext(ctx, "journal could not be folded", telemetry.KeyErr, err, "retry_in", wait)
			changed, retry = nil, time.After(wait)
			wait = min(2*wait, retryMost)
		default:
			wait = retryFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case <-changed:
		case <-retry:
		case <-retain.C:
			if err := db.retain(ctx); err != nil && ctx.Err() == nil {
				db.o.Log.WarnContext(ctx, "old data could not be removed", telemetry.KeyErr, err)
			}
		}
	}
}

// save appends one record and makes it visible.
func (db *DB) save(ctx context.Context, kind, key string, body []byte) (journal.Record, error) {
	drafts, err := nextForm(journal.Draft{Stream: journal.Bulk, Kind: kind, Key: key, Body: body})
	if err != nil {
		return journal.Record{}, err
	}
	recs, err := db.journal.Append(ctx, drafts...)
	if err != nil {
		return journal.Record{}, fmt.Errorf("save %s of %s: %w", kind, key, err)
	}
	if err := db.show(ctx, recs[0]); err != nil {
		return recs[0], fault.Wrap(fault.Unavailable, err, "%s of %s is stored but cannot be queried yet", kind, key)
	}
	return recs[0], nil
}
