package code

import (
	"encoding/hex"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// This file is the tree of one version in memory: what was seen when the folder
// was scanned.

// A kind of node. Nothing else is part of a version.
type kind uint8

const (
	dirKind kind = iota
	fileKind
	linkKind
)

func (k kind) String() string {
	return [...]string{"directory", "file", "link"}[k]
}

// attributes are those of the original, not of the snapshot's copy.
type attributes struct {
	kind   kind
	mode   uint32 // permission bits, with setuid, setgid and sticky
	uid    uint32
	gid    uint32
	size   int64
	mtime  time.Time
	ctime  time.Time
	inode  uint64
	target string // of a link: its text
}

// A hash names a blob: SHA-256 of the content.
type hash [32]byte

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// A node is a folder, file or link. Links point at the node that the original
// led to; nil means that it led nowhere, or out of everything that was scanned.
type node struct {
	attributes
	name     string
	sum      hash    // of files
	children []*node // of folders, sorted by name
	to       *node   // of links; never a link itself
	toLabel  string  // of links: where to lies in the snapshot
	away     string  // of links: the absolute path that the original led to, for links without to
	recent   bool    // of files: changed so shortly before the scan that an equal stat proves nothing
}

// executable reports whether the snapshot's copy gets execute permission.
func (n *node) executable() bool { return n.mode&0o111 != 0 }

// child returns the entry of that name, or nil.
func (n *node) child(name string) *node {
	i, ok := slices.BinarySearchFunc(n.children, name, func(c *node, name string) int {
		return strings.Compare(c.name, name)
	})
	if !ok {
		return nil
	}
	return n.children[i]
}

// follow follows a link; other nodes are their own target. It is nil for a link
// that leads nowhere.
func (n *node) follow() *node {
	if n.kind == linkKind {
		return n.to
	}
	return n
}

// maxLinks is how many links one path may lead through, as in the kernel.
const maxLinks = 40

// find walks down a relative path, following links on the way but not the last
// one. It returns nil when nothing is there.
//
// Only names that were scanned can be found: "..", NUL, encoded or absolute
// paths are just names that no entry has.
func (n *node) find(path string) *node {
	at, links := n, 0
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if at.kind == linkKind {
			links++
		}
		if links > maxLinks {
			return nil
		}
		if at = at.follow(); at == nil || at.kind != dirKind {
			return nil
		}
		if at = at.child(name); at == nil {
			return nil
		}
	}
	if strings.HasSuffix(path, "/") { // as in open(2), a trailing slash asks for a folder
		if at = at.follow(); at == nil || at.kind != dirKind {
			return nil
		}
	}
	return at
}

// A root is one scanned folder (or single file) with its place in the snapshot.
type root struct {
	label    string // path below the version's folder
	original string // as the operator wrote it, absolute
	real     string // with every link resolved
	node     *node
}

// A tree is all roots of a version. The first is the environment's folder.
type tree struct {
	roots []*root
}

// at returns the node that a resolved absolute path leads to, and its place in
// the snapshot.
func (t *tree) at(real string) (n *node, label string) {
	for _, r := range t.roots {
		rest, ok := below(real, r.real)
		if !ok {
			continue
		}
		if n := exact(r.node, rest); n != nil {
			return n, strings.TrimSuffix(r.label+"/"+rest, "/")
		}
	}
	return nil, ""
}

// exact walks down names of which none may be a link.
func exact(n *node, path string) *node {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if n.kind != dirKind {
			return nil
		}
		if n = n.child(name); n == nil {
			return nil
		}
	}
	return n
}

// below returns what follows dir in path.
func below(path, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

// A branch is a folder or file of a version with the path that its original has:
// where a search begins.
type branch struct {
	node *node
	repo *Repo
}

func (b branch) stat(path string, follow bool) (attributes, error) {
	n := b.node.find(path)
	if n != nil && follow {
		n = n.follow()
	}
	if n == nil {
		return attributes{}, fs.ErrNotExist
	}
	return n.attributes, nil
}

func (b branch) list(path string) ([]string, error) {
	n := b.node.find(path)
	if n == nil {
		return nil, fs.ErrNotExist
	}
	if n = n.follow(); n == nil {
		return nil, fs.ErrNotExist
	}
	names := make([]string, len(n.children))
	for i, c := range n.children {
		names[i] = c.name
	}
	return names, nil
}

func (b branch) sum(path, algorithm string) (string, error) {
	n := b.node.find(path)
	if n != nil {
		n = n.follow()
	}
	if n == nil || n.kind != fileKind {
		return "", fs.ErrNotExist
	}
	return b.repo.checksums.of(n, algorithm)
}
