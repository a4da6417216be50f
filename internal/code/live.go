package code

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/fault"
)

// This file serves the folders of custom mounts, which are live: they belong to
// no version.

// A liveFolder reads through os.Root, so neither ".." nor links lead out of it.
type liveFolder struct {
	root *os.Root
	base string // place within root
}

// in turns a path below base into one below the root.
func (l liveFolder) in(path string) string {
	joined := l.base
	if path != "" {
		joined += "/" + path
	}
	if joined == "" {
		return "."
	}
	return joined[len(joined)-len(trimSlashes(joined)):]
}

// trimSlashes takes leading slashes away: a root takes relative paths only.
func trimSlashes(s string) string {
	for s != "" && s[0] == '/' {
		s = s[1:]
	}
	return s
}

func (l liveFolder) stat(path string, follow bool) (attributes, error) {
	stat := l.root.Lstat
	if follow {
		stat = l.root.Stat
	}
	info, err := stat(l.in(path))
	if err != nil {
		return attributes{}, outside(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return attributes{}, fmt.Errorf("stat of %s has no owner", path)
	}
	a := attributes{
		kind: fileKind, mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid, size: st.Size, inode: st.Ino,
		mtime: info.ModTime(), ctime: time.Unix(st.Ctim.Unix()),
	}
	switch info.Mode().Type() {
	case 0:
	case fs.ModeDir:
		a.kind = dirKind
	case fs.ModeSymlink:
		a.kind = linkKind
		a.target, err = l.root.Readlink(l.in(path))
	default:
		return attributes{}, fault.New(fault.Failed, "Cannot manage files of type %s", info.Mode().Type())
	}
	return a, err
}

func (l liveFolder) list(path string) ([]string, error) {
	f, err := l.root.Open(l.in(path))
	if err != nil {
		return nil, outside(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(hardMaxFiles)
	if err != nil && len(names) == 0 {
		return nil, nil
	}
	slices.Sort(names)
	return names, nil
}

func (l liveFolder) sum(path, algorithm string) (string, error) {
	f, err := l.open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest(f, algorithm)
}

// open opens a file, and nothing that would block or is no file.
func (l liveFolder) open(path string) (*os.File, error) {
	f, err := l.root.OpenFile(l.in(path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, outside(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// outside makes every way of not being there the same error: paths that lead out
// of the root, loops of links, files where folders should be, names that no file
// can have.
func outside(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
}
