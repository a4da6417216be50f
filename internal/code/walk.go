package code

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// This file gives a version back as its originals were, for a backup.

// An Entry is a folder, file or link of an environment's own folder, as the operator has it there.
type Entry struct {
	Path     string      // below the environment's folder; "" is that folder
	Mode     fs.FileMode // type and permission bits
	Size     int64
	Modified time.Time
	Target   string // of a link: its text
}

// Walk calls fn for the environment's folder and all below it, folders before what is in them, with the open content of files.
// Module folders that lie elsewhere are left out, and so is what a version leaves out: version control and what is neither
// folder, file nor link. What the folder holds meanwhile does not matter; the version must be retained.
func (v *Version) Walk(ctx context.Context, fn func(e Entry, content *os.File) error) error {
	return v.walk(ctx, "", v.plan.tree.roots[0].node, fn)
}

func (v *Version) walk(ctx context.Context, path string, n *node, fn func(Entry, *os.File) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("walking environment '%s': %w", v.Environment, err)
	}
	e := Entry{Path: path, Mode: fs.FileMode(n.mode & 0o777), Modified: n.mtime}
	switch n.kind {
	case fileKind:
		return v.walkFile(e, n, fn)
	case linkKind:
		e.Mode, e.Target = e.Mode|fs.ModeSymlink, n.target
		return fn(e, nil)
	case dirKind: // goes on below
	}
	e.Mode |= fs.ModeDir
	if err := fn(e, nil); err != nil {
		return err
	}
	for _, c := range n.children {
		below := c.name
		if path != "" {
			below = path + "/" + c.name
		}
		if err := v.walk(ctx, below, c, fn); err != nil {
			return err
		}
	}
	return nil
}

func (v *Version) walkFile(e Entry, n *node, fn func(Entry, *os.File) error) error {
	f, err := v.repo.store.open(n)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		e.Size = info.Size()
		err = fn(e, f)
	}
	return errors.Join(err, f.Close())
}
