package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file brings contents of the bucket from other members. Records travel with the journal; what they tell of is fetched
// after them, and at once when an agent asks for it.

// A Fetch asks other members for a content, by SHA-256, and has read take it. fault.NotFound means that nobody has it,
// fault.Unavailable that not everybody could be asked.
type Fetch func(ctx context.Context, sha256 string, read func(io.Reader) error) error

const (
	fetchMost  = 10 * time.Minute // for a content ahead of requests
	askMost    = 10 * time.Second // for one that a request waits for
	fetchEvery = time.Second      // looks for contents that are not here, at most
	retryAfter = 30 * time.Second // until what could not be had is asked for again, doubled each time …
	retryHour  = time.Hour        // … up to this: who had it may be lost for good
)

// runContents fetches what other members' agents have backed up, until ctx ends.
func (db *DB) runContents(ctx context.Context) {
	if db.o.Fetch == nil {
		return
	}
	retry := retryAfter
	for {
		left, err := db.fetchMissing(ctx)
		if err != nil && ctx.Err() == nil {
			db.o.Log.WarnContext(ctx, "files in the bucket could not be compared with their records", telemetry.KeyErr, err)
		}
		var again <-chan time.Time
		if left > 0 || err != nil {
			again, retry = time.After(retry), min(2*retry, retryHour)
		} else {
			retry = retryAfter
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
			continue
		case <-db.backedUp:
		}
		select { // more of them may come
		case <-ctx.Done():
			return
		case <-time.After(fetchEvery):
		}
	}
}

// fetchMissing fetches every content of which there is a record and no file, and returns how many could not be had.
func (db *DB) fetchMissing(ctx context.Context) (left int, err error) {
	missing, err := db.missingContents(ctx)
	if err != nil {
		return 0, err
	}
	for i, name := range missing {
		err := db.fetchContent(ctx, name, fetchMost)
		if ctx.Err() != nil {
			return left, ctx.Err()
		}
		if err != nil {
			left++
			db.o.Log.DebugContext(ctx, "file of the bucket cannot be had yet", "sha256", name, telemetry.KeyErr, err)
		}
		if fault.KindOf(err) == fault.Unavailable { // the others would wait for the same members
			left = len(missing) - i
			break
		}
	}
	db.metrics.missing.Set(float64(left))
	return left, nil
}

// missingContents are the names of files that the tables know and the folder does not have in their size.
func (db *DB) missingContents(ctx context.Context) (missing []string, err error) {
	rows, err := db.read.QueryContext(ctx, `SELECT sha256, size FROM bucket_file ORDER BY stamp DESC`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var size int64
		if err := rows.Scan(&name, &size); err != nil {
			return nil, err
		}
		if st, err := os.Stat(db.bucketPath(name)); err != nil || st.Size() != size {
			missing = append(missing, name)
		}
	}
	return missing, rows.Err()
}

// fetchContent takes a content from another member. Nothing is believed: the name is the sum.
func (db *DB) fetchContent(ctx context.Context, name string, most time.Duration) error {
	if err := db.journal.Room(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return db.o.Fetch(ctx, name, func(r io.Reader) error {
		tmp, err := os.CreateTemp(filepath.Join(db.dir, bucketName), incoming+"*")
		if err != nil {
			return sqlite.DiskFault(err)
		}
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(tmp, h), io.LimitReader(r, db.o.MaxBucketFile+1))
		err = errors.Join(err, tmp.Sync(), tmp.Close())
		if got := hex.EncodeToString(h.Sum(nil)); err == nil && got != name {
			err = fault.New(fault.Invalid, "what came as content %s has the sum %s", name, got)
		}
		if err == nil {
			db.bucket.RLock()
			err = db.place(tmp.Name(), bucketRecord{SHA256: name, Size: n})
			db.bucket.RUnlock()
		}
		if gone := os.Remove(tmp.Name()); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return sqlite.DiskFault(err)
	})
}

// ContentsHandler gives contents to other members, below /store/v1/. It asks nobody else for what is not here.
func (db *DB) ContentsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /store/v1/contents/{sha256}", db.answerContent)
	return mux
}

func (db *DB) answerContent(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("sha256")
	if err := checkSum("sha256", name); err != nil {
		http.Error(w, fault.Message(err), http.StatusBadRequest)
		return
	}
	f, err := os.Open(db.bucketPath(name))
	if errors.Is(err, os.ErrNotExist) {
		http.Error(w, "no such content is here", http.StatusNotFound)
		return
	}
	var st os.FileInfo
	if err == nil {
		defer f.Close()
		st, err = f.Stat()
	}
	if err != nil {
		db.o.Log.ErrorContext(r.Context(), "file of the bucket cannot be given", "sha256", name, telemetry.KeyErr, err)
		http.Error(w, "the content cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
	if _, err := io.Copy(w, f); err != nil {
		db.o.Log.DebugContext(r.Context(), "member went away", telemetry.KeyErr, err)
	}
}

// elsewhere fetches a content that a request waits for. A failure is told as what it is for the agent: not found.
func (db *DB) elsewhere(ctx context.Context, name string) bool {
	if db.o.Fetch == nil {
		return false
	}
	err := db.fetchContent(ctx, name, askMost)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		db.o.Log.WarnContext(ctx, "file of the bucket is known, and no member gave it", "sha256", name, telemetry.KeyErr, fmt.Errorf("fetch: %w", err))
	}
	return err == nil
}
