package code

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/fault"
)

// This file walks folders and turns them into nodes. Files whose stat is as at
// the last scan are not read again.

const (
	maxDepth   = 100       // folders within folders
	maxEntries = 1_000_000 // of one environment
	// freshness is how old a change must be before an equal stat proves equal
	// content: clocks of file systems tick in milliseconds, those of NFS servers
	// may be off.
	freshness = time.Second
)

// errMoved means that something changed while it was read; scanning again helps.
var errMoved = errors.New("changed while it was read")

// statCache remembers, by real path, the nodes of files as last seen.
type statCache map[string]*node

// A scanner reads what one version is made of.
type scanner struct {
	ctx     context.Context // of this one scan
	store   *snapshots
	watch   func(dir, name string) // called before a folder, or one entry of it, is looked at
	old     statCache
	seen    statCache
	links   []foundLink
	skipped []string // devices and the like
	entries int
	read    int // files whose content was read
	buf     []byte
}

// foundLink is a link whose target is resolved when all roots are known.
type foundLink struct {
	node *node
	path string // real path of the link itself
}

// scan reads one root: a folder, or a single file.
func (s *scanner) scan(real string) (*node, error) {
	fd, err := unix.Open(real, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(real, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, unreadable(real, errors.Join(err, unix.Close(fd)))
	}
	n := &node{name: filepath.Base(real), attributes: attributesOf(&st)}
	return n, s.fill(fd, n, real, 0)
}

// fill reads what the open file or folder holds, and closes it.
func (s *scanner) fill(fd int, n *node, path string, depth int) error {
	if n.kind == dirKind {
		return errors.Join(s.dir(fd, n, path, depth), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), path)
	return errors.Join(s.content(f, n, path), f.Close())
}

// dir reads the open folder.
func (s *scanner) dir(fd int, n *node, path string, depth int) error {
	if depth > maxDepth {
		return fault.New(fault.Failed, "%s lies more than %d folders deep; is a file system mounted into itself?", path, maxDepth)
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	s.watch(path, "")
	names, err := s.names(fd)
	if err != nil {
		return unreadable(path, err)
	}
	if s.entries += len(names); s.entries > maxEntries {
		return fault.New(fault.Failed, "%s makes this environment larger than %d files; remove what agents do not need", path, maxEntries)
	}

	slices.Sort(names)
	for _, name := range names {
		if versionControl(name) {
			continue
		}
		child, err := s.entry(fd, name, path+"/"+name, depth)
		if err != nil {
			return err
		}
		if child != nil {
			n.children = append(n.children, child)
		}
	}
	return nil
}

// names lists a folder without what os.File would cost: a scan is little else
// than these calls.
func (s *scanner) names(fd int) ([]string, error) {
	if s.buf == nil {
		s.buf = make([]byte, 64<<10)
	}
	var names []string
	for {
		n, err := unix.ReadDirent(fd, s.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(s.buf[:n], -1, names)
	}
}

// way watches how a path is reached: its own entry, and every link on the way.
// Of a path that does not exist the part is watched that would be created first.
func (s *scanner) way(path string, links int) {
	for at := path; at != "/" && links <= maxLinks; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err == nil && at != path && info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		if parent, err := filepath.EvalSymlinks(filepath.Dir(at)); err == nil {
			s.watch(parent, filepath.Base(at))
		}
		if err != nil || info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		if target, err := os.Readlink(at); err == nil {
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			s.way(target, links+1)
		}
	}
}

// versionControl reports whether an entry belongs to a version control system
// and is left out of every version.
func versionControl(name string) bool {
	return name == ".git" || name == ".svn" || name == ".hg" || name == ".bzr"
}

// entry reads one entry of the folder that dirfd is. It never follows a link, so
// a folder that is replaced by one at this moment leads nowhere else.
func (s *scanner) entry(dirfd int, name, path string, depth int) (*node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, vanishing(path, err)
	}
	n := &node{name: name, attributes: attributesOf(&st)}

	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return n, s.link(dirfd, n, path)
	case unix.S_IFREG:
		if old := s.old[path]; old != nil && old.same(n.attributes) {
			n.sum = old.sum
			s.seen[path] = n
			return n, nil
		}
	case unix.S_IFDIR:
	default:
		s.skipped = append(s.skipped, path+" is neither file, folder nor link and is left out")
		return nil, nil
	}

	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, vanishing(path, err)
	}
	return n, s.fill(fd, n, path, depth+1)
}

// link reads the text of a link.
func (s *scanner) link(dirfd int, n *node, path string) error {
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(dirfd, n.name, buf)
	if err != nil {
		return vanishing(path, err)
	}
	n.attributes.target = string(buf[:size])
	s.links = append(s.links, foundLink{node: n, path: path})
	return nil
}

// content copies the open file into the store and names it. The file must be the
// same before and after.
func (s *scanner) content(f *os.File, n *node, path string) error {
	began := time.Now()
	sum, err := s.store.add(f, n.executable())
	if err != nil {
		return fmt.Errorf("copying %s: %w", path, err)
	}
	s.read++

	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return unreadable(path, err)
	}
	if now := attributesOf(&st); now.kind != fileKind || !n.same(now) {
		return fmt.Errorf("%s %w", path, errMoved)
	}
	n.sum = sum
	n.recent = began.Sub(n.ctime) <= freshness
	if !n.recent {
		s.seen[path] = n
	}
	return nil
}

func (a attributes) same(b attributes) bool {
	return a.kind == b.kind && a.inode == b.inode && a.size == b.size && a.mode == b.mode &&
		a.mtime.Equal(b.mtime) && a.ctime.Equal(b.ctime)
}

// equal is same for all that metadata shows.
func (a attributes) equal(b attributes) bool {
	return a.same(b) && a.uid == b.uid && a.gid == b.gid && a.target == b.target
}

func attributesOf(st *unix.Stat_t) attributes {
	a := attributes{
		kind: fileKind, mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid,
		size: st.Size, inode: st.Ino,
		mtime: time.Unix(st.Mtim.Unix()), ctime: time.Unix(st.Ctim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		a.kind = dirKind
	case unix.S_IFLNK:
		a.kind = linkKind
	}
	return a
}

// vanishing is the error for an entry that was listed and then could not be had.
func vanishing(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%s %w", path, errMoved)
	}
	return unreadable(path, err)
}

func unreadable(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fault.Wrap(fault.Failed, err, "cannot read %s; let the user that troupe runs as read it, or move it out of the environment", path)
	}
	return fault.Wrap(fault.Failed, err, "cannot read %s", path)
}

// resolve gives every link the node that it leads to. Those that lead out of all
// roots are returned as warnings: their target is not part of the version.
func (s *scanner) resolve(t *tree) (warnings []string) {
	for _, l := range s.links {
		l.node.away = l.node.attributes.target
		if !filepath.IsAbs(l.node.away) {
			l.node.away = filepath.Join(filepath.Dir(l.path), l.node.away)
		}
		real, err := filepath.EvalSymlinks(l.path)
		if err != nil {
			continue // broken, or a loop: leads nowhere, as for Puppet
		}
		to, label := t.at(real)
		l.node.to, l.node.toLabel = to, label
		if to == nil && !hidden(real) {
			warnings = append(warnings, fmt.Sprintf("%s leads out of the environment to %s, which is not served; copy it in, or add its folder to the modulepath", l.path, real))
		}
	}
	return warnings
}

// hidden reports whether a path lies in what versions leave out on purpose.
func hidden(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), versionControl)
}
