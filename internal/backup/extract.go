package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"troupe/internal/atomicfile"
	"troupe/internal/ca"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
	"troupe/internal/store"
)

// This file puts the content of a backup into the folders of a member that is not open.

// Target is where a backup goes. Nothing of it is in use.
type Target struct {
	Data         string           // the data folder
	Environments string           // folder of environments; those that are there stay as they are
	Journal      *journal.Journal // of the data folder, empty
}

// Extracted says what was put where.
type Extracted struct {
	Summary      Summary
	CAKey        []byte   // of the infrastructure CA, PEM; nil where no troupe was founded
	Environments []string // that are there now
	Kept         []string // that were there before, and were left alone
}

// Extract puts a backup back: keys, journals, contents, environments. When it returns nil everything is on the disk. After an error
// some of it may be: the folders are to be emptied and filled once more. Of the environments nothing is seen before all is there.
func Extract(ctx context.Context, p Place, info Info, k Keys, to Target, progress func(done, total int64)) (Extracted, error) {
	e := &extraction{to: to}
	defer e.close()
	var err error
	if e.got.Summary, err = read(ctx, p, info, k, e, progress); err != nil {
		return e.got, disk(err)
	}
	return e.got, disk(e.finish())
}

func disk(err error) error {
	if sqlite.IsFull(err) {
		return fault.Wrap(fault.Unavailable, err, "the disk is full: make room, and run the same command again")
	}
	return err
}

// An extraction is a taker.
type extraction struct {
	to     Target
	got    Extracted
	now    puppet.Environment // whose files come
	root   *os.Root           // its folder; nil for one that is left alone
	staged []puppet.Environment
}

func (e *extraction) close() {
	if e.root != nil {
		_ = e.root.Close() // nothing was written through it that is not synced
	}
}

func (e *extraction) keys(k secrets) error {
	e.got.CAKey = k.Infrastructure
	if err := ca.TakeKeys(filepath.Join(e.to.Data, "ca"), "", k.Authority); err != nil {
		return fmt.Errorf("keys of the certificate authority: %w", err)
	}
	return store.TakeKey(filepath.Join(e.to.Data, "store"), k.Store)
}

func (e *extraction) records(ctx context.Context, r io.Reader) error {
	_, err := e.to.Journal.Import(ctx, r)
	return err
}

func (e *extraction) content(h *tar.Header, name string, r io.Reader) error {
	return store.TakeContent(filepath.Join(e.to.Data, "store"), name, h.ModTime, r)
}

func (e *extraction) code(h *tar.Header, environment puppet.Environment, below string, r io.Reader) error {
	if environment != e.now {
		if err := e.begin(environment); err != nil {
			return err
		}
	}
	if e.root == nil {
		return nil
	}
	mode := fs.FileMode(h.Mode).Perm()
	switch {
	case h.Typeflag == tar.TypeSymlink:
		return e.root.Symlink(h.Linkname, below)
	case h.Typeflag == tar.TypeDir && below == "":
		return e.root.Chmod(".", mode|0o700)
	case h.Typeflag == tar.TypeDir:
		if err := e.root.Mkdir(below, 0o700); err != nil {
			return err
		}
		return e.root.Chmod(below, mode|0o700)
	}
	f, err := e.root.OpenFile(below, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return e.root.Chtimes(below, h.ModTime, h.ModTime)
}

// begin makes the folder of an environment under a name that is none, unless the environment is there.
func (e *extraction) begin(environment puppet.Environment) error {
	e.close()
	e.now, e.root = environment, nil
	if _, err := os.Lstat(filepath.Join(e.to.Environments, string(environment))); err == nil {
		e.got.Kept = append(e.got.Kept, string(environment))
		return nil
	}
	dir := e.stagedPath(environment)
	if slices.Contains(e.staged, environment) {
		return fmt.Errorf("environment %s comes twice", environment)
	}
	if err := os.RemoveAll(dir); err != nil { // of an attempt before
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // code is for all to read
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	e.root, e.staged = root, append(e.staged, environment)
	return nil
}

func (e *extraction) stagedPath(environment puppet.Environment) string {
	return filepath.Join(e.to.Environments, ".troupe-restore-"+string(environment))
}

// finish makes everything durable, and then lets the environments be seen.
func (e *extraction) finish() error {
	if err := os.MkdirAll(e.to.Environments, 0o755); err != nil { //nolint:gosec // likewise
		return err
	}
	for _, dir := range []string{e.to.Data, e.to.Environments} {
		if err := syncFileSystem(dir); err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	for _, environment := range e.staged {
		if err := os.Rename(e.stagedPath(environment), filepath.Join(e.to.Environments, string(environment))); err != nil {
			return err
		}
		e.got.Environments = append(e.got.Environments, string(environment))
	}
	return atomicfile.SyncFolder(e.to.Environments)
}

// syncFileSystem makes thousands of small files durable at once.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
