package store

import (
	"context"
	"crypto/md5"  //nolint:gosec // agents up to 6 name backed-up files by MD5
	"crypto/sha1" //nolint:gosec // digest_algorithm may be sha1 on old nodes
	"crypto/sha256"
	"crypto/sha512"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file is the filebucket: contents that agents replaced, each once, as a
// file named by its SHA-256.

const (
	bucketName    = "bucket"
	incoming      = ".incoming-"
	maxBucketPath = 4096
	bucketRefresh = day // a known content under a known path is journalled once in this time
)

type bucketRecord struct {
	SHA256 string            `json:"sha256"`
	Size   int64             `json:"size"`
	Sums   map[string]string `json:"sums"` // by algorithm
	Path   string            `json:"path"`
}

// newHash returns a checksum that agents may use (lib/puppet/util/checksums.rb).
func newHash(algo string) (hash.Hash, error) {
	switch algo {
	case "md5":
		return md5.New(), nil //nolint:gosec // see the import
	case "sha1":
		return sha1.New(), nil //nolint:gosec // see the import
	case "sha224":
		return sha256.New224(), nil
	case "sha256":
		return sha256.New(), nil
	case "sha384":
		return sha512.New384(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, fault.New(fault.Invalid, "checksum type %q is not supported; use md5, sha1, sha224, sha256, sha384 or sha512", algo)
}

func checkSum(algo, sum string) error {
	h, err := newHash(algo)
	if err != nil {
		return err
	}
	if len(sum) != 2*h.Size() || !isHex(sum) {
		return fault.New(fault.Invalid, "%q is not a checksum of type %s", sum, algo)
	}
	return nil
}

// BucketHas reports whether the bucket holds the content with the given checksum.
func (db *DB) BucketHas(ctx context.Context, algo, sum string) (bool, error) {
	f, _, err := db.BucketGet(ctx, algo, sum)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// BucketGet opens the content with the given checksum and returns its size. The
// caller closes it.
func (db *DB) BucketGet(ctx context.Context, algo, sum string) (content io.ReadCloser, size int64, err error) {
	sum = strings.ToLower(sum)
	if err := checkSum(algo, sum); err != nil {
		return nil, 0, err
	}
	missing := fault.New(fault.NotFound, "could not find file_bucket_file %s/%s", algo, sum)
	var name string
	err = db.read.QueryRowContext(ctx, `SELECT f.sha256, f.size FROM bucket_sum s JOIN bucket_file f ON f.sha256 = s.sha256
		WHERE s.algo = ? AND s.sum = ?`, algo, sum).Scan(&name, &size)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, missing
	}
	if err != nil {
		return nil, 0, fmt.Errorf("look up %s %s in the bucket: %w", algo, sum, err)
	}
	f, err := db.openContent(ctx, name)
	if fault.KindOf(err) == fault.NotFound && db.elsewhere(ctx, name) {
		f, err = db.openContent(ctx, name)
	}
	if fault.KindOf(err) == fault.NotFound {
		return nil, 0, missing // an agent that is told so backs its copy up again
	}
	if err != nil {
		return nil, 0, err
	}
	return f, size, nil
}

// openContent opens a content that is here and whole, else fault.NotFound.
func (db *DB) openContent(ctx context.Context, name string) (*os.File, error) {
	f, err := os.Open(db.bucketPath(name))
	if errors.Is(err, fs.ErrNotExist) { // taken away by hand, or not here yet
		return nil, fault.Wrap(fault.NotFound, err, "%s is not in the bucket", name)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s in the bucket: %w", name, err)
	}
	whole, err := isWhole(f, name)
	if err == nil && !whole {
		db.o.Log.ErrorContext(ctx, "file in the bucket is damaged and not given out", "sha256", name,
			"remedy", "another member's copy is fetched; without one restore it from a backup, or let an agent that still has the content back it up again")
		err = fault.New(fault.NotFound, "%s in the bucket is damaged", name)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// isWhole reports whether the rest of a file has the SHA-256 that names it.
func isWhole(f io.Reader, name string) (bool, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	return hex.EncodeToString(h.Sum(nil)) == name, nil
}

func (db *DB) bucketPath(name string) string { return filepath.Join(db.dir, bucketName, name) }

// BucketPaths returns the paths under which the content with this SHA-256 was backed up.
func (db *DB) BucketPaths(ctx context.Context, sha256 string) ([]string, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT path FROM bucket_path WHERE sha256 = ? ORDER BY path LIMIT ?`, strings.ToLower(sha256), maxRows)
	if err != nil {
		return nil, fmt.Errorf("query paths of %s: %w", sha256, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var p string
		if err := rows.Scan(&p); err != nil {
			return nil, fmt.Errorf("query paths of %s: %w", sha256, err)
		}
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query paths of %s: %w", sha256, err)
	}
	return all, nil
}

// BucketPut stores a content whose checksum must be the given one. path is where
// the agent found it, and may be empty. When it returns, the content and its
// record are on the disk.
func (db *DB) BucketPut(ctx context.Context, algo, sum, path string, r io.Reader) (err error) {
	sum = strings.ToLower(sum)
	if err := checkSum(algo, sum); err != nil {
		return err
	}
	path = strings.ToValidUTF8(path, "\uFFFD")
	if len(path) > maxBucketPath {
		return fault.New(fault.TooLarge, "the path has %d bytes, more than %d", len(path), maxBucketPath)
	}
	if err := db.journal.Room(ctx); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Join(db.dir, bucketName), incoming+"*") // mode 0600
	if err != nil {
		return sqlite.DiskFault(fmt.Errorf("store in the bucket: %w", err))
	}
	defer func() {
		if gone := os.Remove(tmp.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	rec, err := db.receive(tmp, algo, r)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return sqlite.DiskFault(err)
	}
	if got := rec.Sums[algo]; got != sum {
		return fault.New(fault.Invalid, "the content has %s %s, not %s", algo, got, sum)
	}
	rec.Path = path

	// Held until the record is folded in, so that retention does not take the
	// content away under it.
	db.bucket.RLock()
	defer db.bucket.RUnlock()
	if err := db.place(tmp.Name(), rec); err != nil {
		return sqlite.DiskFault(fmt.Errorf("store in the bucket: %w", err))
	}
	known, err := db.bucketKnows(ctx, algo, rec)
	if err != nil || known {
		return err
	}
	body, err := joinParts(rec)
	if err != nil {
		return err
	}
	_, err = db.save(ctx, kindBucket, rec.SHA256, body)
	return err
}

// receive copies r to f, makes it durable and sums it: by SHA-256, which names the
// file, by MD5, for which old agents ask, and by the given algorithm.
func (db *DB) receive(f *os.File, algo string, r io.Reader) (bucketRecord, error) {
	hashes := map[string]hash.Hash{}
	writers := []io.Writer{f}
	for _, a := range []string{"sha256", "md5", algo} {
		if hashes[a] != nil {
			continue
		}
		h, err := newHash(a)
		if err != nil {
			return bucketRecord{}, err
		}
		hashes[a], writers = h, append(writers, h)
	}
	n, err := io.Copy(io.MultiWriter(writers...), io.LimitReader(r, db.o.MaxBucketFile+1))
	if err != nil {
		return bucketRecord{}, fmt.Errorf("receive content: %w", err)
	}
	if n > db.o.MaxBucketFile {
		return bucketRecord{}, fault.New(fault.TooLarge, "the content is larger than %d bytes", db.o.MaxBucketFile)
	}
	if err := f.Sync(); err != nil {
		return bucketRecord{}, fmt.Errorf("sync content: %w", err)
	}
	rec := bucketRecord{Size: n, Sums: map[string]string{}}
	for a, h := range hashes {
		rec.Sums[a] = hex.EncodeToString(h.Sum(nil))
	}
	rec.SHA256 = rec.Sums["sha256"]
	return rec, nil
}

// place gives a received file its name, durably, also in place of one that was
// there and is damaged.
func (db *DB) place(tmp string, rec bucketRecord) error {
	name := db.bucketPath(rec.SHA256)
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (db *DB) bucketKnows(ctx context.Context, algo string, rec bucketRecord) (bool, error) {
	var known bool
	err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM bucket_path p JOIN bucket_sum s ON s.sha256 = p.sha256
		WHERE p.sha256 = ? AND p.path = ? AND p.stamp > ? AND s.algo = ?)`,
		rec.SHA256, rec.Path, stampAt(db.o.Now().Add(-bucketRefresh)), algo).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("look up %s in the bucket: %w", rec.SHA256, err)
	}
	return known, nil
}

func foldBucket(r *journal.Record) (change, error) {
	var b bucketRecord
	if _, err := splitParts(r, &b, 0); err != nil {
		return nil, err
	}
	return func(ctx context.Context, tx *folding) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO bucket_path (sha256, path, stamp) VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = max(stamp, excluded.stamp)`, b.SHA256, b.Path, stampOf(r)); err != nil {
			return err
		}
		return insertBucket(ctx, tx.Tx, b, stampOf(r))
	}, nil
}

func insertBucket(ctx context.Context, tx *sqlite.Tx, b bucketRecord, at stamp) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO bucket_file (sha256, size, stamp) VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = max(stamp, excluded.stamp)`, b.SHA256, b.Size, at); err != nil {
		return err
	}
	for algo, sum := range b.Sums {
		if _, err := tx.ExecContext(ctx, `INSERT OR IGNORE INTO bucket_sum (algo, sum, sha256) VALUES (?, ?, ?)`, algo, sum, b.SHA256); err != nil {
			return err
		}
	}
	return nil
}

// sweepIncoming removes what a process that was killed had not yet received.
func (db *DB) sweepIncoming() error {
	left, err := filepath.Glob(filepath.Join(db.dir, bucketName, incoming+"*"))
	if err != nil {
		return fmt.Errorf("sweep bucket: %w", err)
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("sweep bucket: %w", err)
		}
	}
	return nil
}

// adoptBucket brings files into the tables that no record tells of: those whose
// record was pruned before the tables were made again. Their paths are lost.
func (db *DB) adoptBucket(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(db.dir, bucketName))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if len(e.Name()) != 2*sha256.Size || !isHex(e.Name()) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var known bool
		if err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM bucket_file WHERE sha256 = ?)`, e.Name()).Scan(&known); err != nil {
			return err
		}
		if known {
			continue
		}
		if err := db.adoptFile(ctx, e.Name()); err != nil {
			return fmt.Errorf("adopt %s: %w", e.Name(), err)
		}
	}
	return nil
}

func (db *DB) adoptFile(ctx context.Context, name string) error {
	f, err := os.Open(db.bucketPath(name))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sha, old := sha256.New(), md5.New() //nolint:gosec // see the import
	if _, err := io.Copy(io.MultiWriter(sha, old), f); err != nil {
		return err
	}
	rec := bucketRecord{SHA256: name, Size: st.Size(), Sums: map[string]string{"sha256": hex.EncodeToString(sha.Sum(nil)), "md5": hex.EncodeToString(old.Sum(nil))}}
	if rec.Sums["sha256"] != name {
		db.o.Log.ErrorContext(ctx, "file in the bucket is damaged and not used", "sha256", name)
		return nil
	}
	db.o.Log.InfoContext(ctx, "file in the bucket found again", "sha256", name, telemetry.KeyDuration, time.Since(st.ModTime()))
	return db.update(ctx, func(tx *sqlite.Tx) error { return insertBucket(ctx, tx, rec, stampAt(st.ModTime())) })
}
