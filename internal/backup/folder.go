package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
	"troupe/internal/sqlite"
)

// A folder is a place on a file system, a mounted one perhaps.
type folder struct{ dir string }

func (f folder) String() string { return f.dir }

// ErrNoFolder tells that the folder of backups does not exist.
var ErrNoFolder = errors.New("no such folder")

// incoming marks what is being written.
const incoming = ".incoming-"

func (f folder) List(context.Context) ([]Object, error) {
	entries, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.NotFound, ErrNoFolder, "the folder of backups %s does not exist", f.dir)
	}
	if err != nil {
		return nil, f.problem("list", err)
	}
	var all []Object
	for _, e := range entries {
		if !isName(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, f.problem("list", err)
		}
		all = append(all, Object{e.Name(), info.Size()})
	}
	return all, nil
}

func (f folder) Open(_ context.Context, name string, offset, length int64) (io.ReadCloser, int64, error) {
	file, err := os.Open(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fault.New(fault.NotFound, "there is no backup %s in %s", name, f.dir)
	}
	if err != nil {
		return nil, 0, f.problem("read", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(f.problem("read", err), file.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, offset, length), file}, info.Size(), nil
}

func (f folder) Create(_ context.Context, name string, r io.Reader) (err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return f.problem("create", err)
	}
	f.sweep()
	file, err := os.CreateTemp(f.dir, incoming+"*") // mode 0600
	if err != nil {
		return f.problem("write to", err)
	}
	defer func() {
		if gone := os.Remove(file.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	_, err = io.Copy(file, r)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return f.problem("write to", err)
	}
	path := filepath.Join(f.dir, name)
	if _, err := os.Lstat(path); err == nil {
		return fault.New(fault.Conflict, "%s is there already", path)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return f.problem("write to", err)
	}
	return atomicfile.SyncFolder(f.dir)
}

// sweep removes what a process that was killed long ago has begun to write.
func (f folder) sweep() {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return // who writes next tells
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), incoming) && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.Remove(filepath.Join(f.dir, e.Name())) // next time
		}
	}
}

func (f folder) Remove(_ context.Context, name string) error {
	err := os.Remove(filepath.Join(f.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.problem("remove from", err)
	}
	return nil
}

// problem names the folder and what can be done.
func (f folder) problem(verb string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fault.Wrap(fault.Denied, err, "no permission to %s the folder of backups %s: give it to user %d, or choose another one", verb, f.dir, os.Geteuid())
	case sqlite.IsFull(err):
		return fault.Wrap(fault.Unavailable, err, "the disk of %s is full: nothing was kept of this backup, and those before are untouched", f.dir)
	}
	return fmt.Errorf("%s the folder of backups %s: %w", verb, f.dir, err)
}
