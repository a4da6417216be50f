package code

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/puppet"
)

// This file turns a plan into a folder of hard links that Ruby workers read.

// id names the content of a plan: SHA-256 over path, kind, executable bit and
// content of every entry, in the order of paths within each root. Owners, times
// and original paths are no part of it, so members agree on it.
func (p *plan) id() string {
	h := sha256.New()
	roots := slices.Clone(p.tree.roots)
	slices.SortFunc(roots, func(a, b *root) int { return strings.Compare(a.label, b.label) })
	field(h, "troupe code version 1")
	for _, r := range roots {
		hashNode(h, r.label, r.node)
	}
	field(h, string(p.conf))
	return hash(h.Sum(nil)).String()
}

func hashNode(h io.Writer, label string, n *node) {
	field(h, label)
	switch n.kind {
	case dirKind:
		field(h, "d")
	case linkKind:
		field(h, "l")
		field(h, n.attributes.target)
		field(h, n.toLabel)
	case fileKind:
		field(h, map[bool]string{false: "f", true: "x"}[n.executable()])
		field(h, string(n.sum[:]))
	}
	for _, c := range n.children {
		hashNode(h, label+"/"+c.name, c)
	}
}

// field writes s so that no two lists of fields give the same bytes.
func field(h io.Writer, s string) {
	buf := binary.AppendUvarint(nil, uint64(len(s)))
	_, _ = h.Write(append(buf, s...)) // a hash never fails
}

// version returns the folder of a content id.
func (s *snapshots) version(id string) string {
	return filepath.Join(s.dir, versionsDir, id)
}

// build makes the folder of a version, if it is not there. It appears complete:
// it is written elsewhere and renamed. The caller holds building.
func (s *snapshots) build(id string, env puppet.Environment, p *plan) error {
	if _, err := os.Lstat(s.version(id)); err == nil {
		conf, err := os.ReadFile(s.confFile(s.version(id), p))
		if err == nil && bytes.Equal(conf, p.conf) {
			return s.writeManifest(s.version(id), env, p)
		}
		if err := s.remove(id); err != nil { // it is damaged
			return err
		}
	}
	dir := s.tmp()
	if err := makeDir(dir); err != nil {
		return err
	}
	err := s.fill(dir, env, p)
	if err == nil {
		err = os.Rename(dir, s.version(id))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("building version %s: %w", id, err), os.RemoveAll(dir))
	}
	return nil
}

func (s *snapshots) fill(dir string, env puppet.Environment, p *plan) error {
	for _, r := range p.tree.roots {
		if err := makeParents(dir, r.label); err != nil {
			return err
		}
		if err := s.place(dir, r.label, r.node); err != nil {
			return err
		}
	}
	conf := s.confFile(dir, p)
	if err := os.Rename(conf, filepath.Join(dir, originalConf)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing environment.conf: %w", err)
	}
	if err := writeFile(conf, p.conf, 0o444); err != nil {
		return err
	}
	return s.writeManifest(dir, env, p)
}

// originalConf keeps the environment's own environment.conf in a version: no worker reads it, but its blob must live as long as
// the version, because other members and a backup take every content of the plan.
const originalConf = "environment.conf.original"

// confFile is where a version below dir has the environment.conf of its workers, the one file that is no link to a blob.
func (s *snapshots) confFile(dir string, p *plan) string {
	return filepath.Join(dir, p.tree.roots[0].label, "environment.conf")
}

func makeParents(dir, label string) error {
	for parent := range ancestors(label) {
		if err := makeDir(filepath.Join(dir, parent)); err != nil {
			return err
		}
	}
	return nil
}

// ancestors yields the folders above a label, outermost first.
func ancestors(label string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i, c := range label {
			if c == '/' && !yield(label[:i]) {
				return
			}
		}
	}
}

// place writes a node and all below it. dir is the new version's folder, label
// the node's place in it.
func (s *snapshots) place(dir, label string, n *node) error {
	at := filepath.Join(dir, label)
	switch n.kind {
	case fileKind:
		return s.link(n, at)
	case linkKind:
		if err := os.Symlink(n.copiedTarget(label), at); err != nil {
			return fmt.Errorf("copying a link: %w", err)
		}
		return nil
	case dirKind: // goes on below
	}
	if err := makeDir(at); err != nil {
		return err
	}
	for _, c := range n.children {
		if err := s.place(dir, label+"/"+c.name, c); err != nil {
			return err
		}
	}
	return nil
}

// copiedTarget is the text of a link in the snapshot. A link that leads out of
// the version keeps leading there for the workers, with their rights; troupe
// itself never follows it.
func (n *node) copiedTarget(label string) string {
	if n.to == nil {
		return n.away
	}
	up := strings.Repeat("../", strings.Count(label, "/"))
	return path.Clean(up + n.toLabel)
}

// writeFile writes a file that appears whole or not at all.
func writeFile(name string, text []byte, mode fs.FileMode) error {
	tmp := name + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("creating %s: %w", name, err)
	}
	_, err = io.Copy(f, bytes.NewReader(text))
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// remove takes a version away. It vanishes at once and is deleted after.
func (s *snapshots) remove(id string) error {
	gone := s.tmp()
	if err := os.Rename(s.version(id), gone); err != nil {
		return fmt.Errorf("removing version %s: %w", id, err)
	}
	return removeTree(gone)
}
