package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
)

// This file gives the contents of the filebucket to a backup, and takes them from one.

// Contents calls fn for every content of the bucket: its name, which is its SHA-256, and the open file. What is removed
// meanwhile is left out.
func (db *DB) Contents(ctx context.Context, fn func(name string, f *os.File) error) error {
	entries, err := os.ReadDir(filepath.Join(db.dir, bucketName))
	if err != nil {
		return fmt.Errorf("list the bucket: %w", err)
	}
	for _, e := range entries {
		if !IsContent(e.Name()) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := os.Open(db.bucketPath(e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s in the bucket: %w", e.Name(), err)
		}
		if err := errors.Join(fn(e.Name(), f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// IsContent reports whether name is one that a content of the bucket has.
func IsContent(name string) bool { return len(name) == 2*sha256.Size && isHex(name) }

// TakeContent gives a store that is not open yet a content of another one's bucket, and its age. The caller syncs the folder's
// file system when it has given all.
func TakeContent(dir, name string, modified time.Time, r io.Reader) (err error) {
	if !IsContent(name) {
		return fault.New(fault.Invalid, "%q is no name of a content", name)
	}
	folder := filepath.Join(dir, bucketName)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("create the bucket: %w", err)
	}
	f, err := os.CreateTemp(folder, incoming+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("take %s into the bucket: %w", name, sqlite.DiskFault(err))
	}
	defer func() {
		if gone := os.Remove(f.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), r)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("take %s into the bucket: %w", name, sqlite.DiskFault(err))
	}
	if hex.EncodeToString(sum.Sum(nil)) != name {
		return fault.New(fault.Invalid, "the content %s does not have that sum", name)
	}
	if err := os.Chtimes(f.Name(), time.Time{}, modified); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(folder, name))
}
