package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file examines the machine: its disk, the modes of files on it, limits, memory.

// Room below which something is said. A large disk that is nearly full has room for long; a small one has not.
const (
	roomFail  = 256 << 20
	roomLow   = 1 << 30
	roomWarn  = 10 << 30 // together with sharePart
	sharePart = 10       // a tenth
	nodesFail = 1000
)

// standing returns path, or the nearest folder above it that is there.
func standing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

func disk(_ context.Context, x *exam, n *notes) {
	if x.settings.Data == "" {
		return
	}
	at := standing(x.settings.Data)
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		n.fail("look at the disk: dmesg, mount", "the file system of %s does not answer: %s", at, err)
		return
	}
	size := uint64(max(s.Bsize, 0)) // #nosec G115 -- not negative
	free, total := s.Bavail*size, s.Blocks*size
	const makeRoom = "make room, enlarge the disk, or keep less: store.reports.age, store.journal_age"
	switch {
	case s.Flags&unix.ST_RDONLY != 0:
		n.fail("look for errors of the disk (dmesg), then: mount -o remount,rw", "the file system of %s is read-only", at)
	case free < roomFail:
		n.fail(makeRoom, "%s free of %s at %s: nothing can be stored soon", bytesText(free), bytesText(total), at)
	case free < roomLow, free < roomWarn && free < total/sharePart:
		n.warn(makeRoom, "%s free of %s at %s", bytesText(free), bytesText(total), at)
	}
	switch { // some file systems do not count
	case s.Files > 0 && s.Ffree < nodesFail:
		n.fail("find who keeps so many files (du --inodes), or make the file system anew with more", "%d inodes free of %d at %s", s.Ffree, s.Files, at)
	case s.Files > 0 && s.Ffree < s.Files/sharePart:
		n.warn("find who keeps so many files: du --inodes -x "+at, "%d inodes free of %d at %s", s.Ffree, s.Files, at)
	}
	if why := unsuitable(int64(s.Type)); why != "" { //nolint:unconvert // it has 32 bits on some machines
		n.warn("move the data folder to a local disk", "%s is on %s", at, why)
	}
	if n.well() {
		n.ok("%s free of %s at %s", bytesText(free), bytesText(total), at)
	}
}

// unsuitable says what is wrong with a file system of that type.
func unsuitable(kind int64) string {
	switch kind {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "tmpfs: everything, the CA's key too, is gone after a reboot"
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC & math.MaxUint32:
		return "a network file system: its locks and flushes are not to be relied on"
	}
	return ""
}

// How long a flush may take. Each commit of the journal waits for one.
const (
	flushWarn = 100 * time.Millisecond
	flushFail = 2 * time.Second
)

func diskSpeed(_ context.Context, x *exam, n *notes) {
	if x.presence == Fresh || x.settings.Data == "" {
		return
	}
	took, err := timeFlush(x.settings.Data)
	switch {
	case errors.Is(err, fs.ErrPermission):
		n.unknown("sudo troupe doctor", "no permission to write to %s", x.settings.Data)
	case err != nil:
		n.fail("look at the disk: df -h, dmesg", "a small file cannot be written: %s", err)
	case took >= flushFail:
		n.fail("move the data folder to a faster disk; look for errors of this one: dmesg, iostat -x 1", "a flush took %v: every signed certificate and every report waits for one", took.Round(time.Millisecond))
	case took >= flushWarn:
		n.warn("look what else writes to the disk: iostat -x 1", "a flush took %v, and the journal waits for one at each commit", took.Round(time.Millisecond))
	default:
		n.ok("a flush took %v", took.Round(10*time.Microsecond))
	}
}

// timeFlush writes one block to a file of its own, which is gone afterwards, and times its way to the disk.
func timeFlush(dir string) (took time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		return 0, err
	}
	began := time.Now()
	err = f.Sync()
	return time.Since(began), err
}

// files looks at owners and modes of what must stay secret.
func files(_ context.Context, x *exam, n *notes) {
	data := x.settings.Data
	if x.presence == Fresh || data == "" {
		return
	}
	info, err := os.Stat(data)
	if err != nil {
		n.fail("look at the folder: ls -ld "+data, "%s", err)
		return
	}
	owner := ownerOf(info)
	if x.process.err == nil {
		owner = x.process.value.UID
	}
	if info.Mode().Perm()&0o022 != 0 {
		n.fail("chmod go-w "+data, "%s can be written by others than its owner (mode %04o): they can put a journal of their own there", data, info.Mode().Perm())
	}
	seen := 0
	for _, pattern := range []string{"journal", "journal/*", "ca", "ca/seal.key", "ca/keys", "ca/keys/*", "ca/server", "ca/server/*", "ca/ca.db*", "cluster", "cluster/seal.key", "cluster/keys", "cluster/keys/*", "store", "store/*", "admin.sock"} {
		paths, err := filepath.Glob(filepath.Join(data, pattern))
		if err != nil {
			n.unknown("", "%s: %s", pattern, err)
		}
		for _, path := range paths {
			info, err := os.Lstat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // the member works
			}
			if err != nil {
				n.unknown("sudo troupe doctor", "%s", err)
				continue
			}
			seen++
			if mode := info.Mode().Perm(); mode&0o077 != 0 {
				n.fail("chmod go= "+path, "%s is open to others than its owner (mode %04o)", path, mode)
			}
			if uid := ownerOf(info); uid != owner {
				n.fail(fmt.Sprintf("chown -R %d %s", owner, path), "%s belongs to user %d, and the member runs as user %d", path, uid, owner)
			}
		}
	}
	if _, err := os.ReadDir(filepath.Join(data, "journal")); errors.Is(err, fs.ErrPermission) {
		n.unknown("sudo troupe doctor", "no permission to look below %s", data)
	}
	if n.well() {
		n.ok("%d files and folders belong to user %d alone", seen, owner)
	}
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// fewFiles is a limit that a site of some thousand agents reaches.
const fewFiles = 4096

func openFiles(_ context.Context, x *exam, n *notes) {
	if x.process.err != nil {
		return // the limit is that of the start
	}
	p := x.process.value
	const raise = "LimitNOFILE=65536 in the unit (systemctl edit troupe), or ulimit -n, and a restart"
	used := uint64(max(p.Files, 0))
	switch {
	case p.MaxFiles > 0 && used*10 > p.MaxFiles*9:
		n.fail(raise, "%d of %d open files are used: further connections wait", used, p.MaxFiles)
	case p.MaxFiles > 0 && used*10 > p.MaxFiles*7:
		n.warn(raise, "%d of %d open files are used", used, p.MaxFiles)
	case p.MaxFiles < fewFiles:
		n.warn(raise, "the limit of open files is %d: connections beyond it wait", p.MaxFiles)
	default:
		n.ok("%d of %d are used", used, p.MaxFiles)
	}
}

// number reads one number from a file below /proc/sys.
func (x *exam) number(path string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(x.host.proc, "sys", path))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// watches compares the folders of environments with what inotify gives: those that are not watched are read at each request.
func watches(ctx context.Context, x *exam, n *notes) {
	limit, err := x.number("fs/inotify/max_user_watches")
	instances, ierr := x.number("fs/inotify/max_user_instances")
	if err = errors.Join(err, ierr); err != nil {
		n.unknown("", "%s", err)
		return
	}
	var folders uint64
	for _, e := range x.environments.value {
		err := filepath.WalkDir(e.Path, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				folders++
			}
			return ctx.Err() // what cannot be read, the check of environments tells
		})
		if err != nil {
			n.unknown("", "folders of %s could not be counted in time", e.Name)
			return
		}
	}
	switch {
	case folders > limit:
		n.fail(fmt.Sprintf("sysctl -w fs.inotify.max_user_watches=%d, and the same in /etc/sysctl.d", folders*4), "%d folders of environments and a limit of %d watches: the rest is read at each request", folders, limit)
	case folders > limit/2:
		n.warn(fmt.Sprintf("sysctl -w fs.inotify.max_user_watches=%d, and the same in /etc/sysctl.d", folders*4), "%d folders of environments and a limit of %d watches", folders, limit)
	case instances < 16:
		n.warn("sysctl -w fs.inotify.max_user_instances=128, and the same in /etc/sysctl.d", "a limit of %d inotify instances for all programs of a user", instances)
	default:
		n.ok("%d folders of environments, a limit of %d", folders, limit)
	}
}

// ownMemory is what the member itself needs beside its workers.
const ownMemory = 256 << 20

func memory(_ context.Context, x *exam, n *notes) {
	text, err := os.ReadFile(filepath.Join(x.host.proc, "meminfo"))
	if err != nil {
		n.unknown("", "%s", err)
		return
	}
	total, available := meminfo(string(text), "MemTotal"), meminfo(string(text), "MemAvailable")
	whole := total
	if limit := x.unitMemory(); limit > 0 {
		total = min(total, limit)
	}
	if total == 0 {
		n.unknown("", "%s/meminfo does not say how much memory there is", x.host.proc)
		return
	}
	workers := uint64(max(x.settings.Workers, 0))
	most := workers*uint64(max(x.settings.MaxMemory, 0)) + ownMemory
	switch {
	case available < whole/50 && available < 512<<20:
		n.fail("stop what takes it (ps --sort -rss aux | head), or add memory", "%s available of %s: the kernel may kill the member at any time", bytesText(available), bytesText(whole))
	case workers > 0 && most > total:
		n.warn("lower engine.workers or engine.max_memory, or add memory", "%d Ruby workers may grow to %s together, and there are %s", workers, bytesText(most), bytesText(total))
	case available < whole/10 && available < 2<<30:
		n.warn("look what takes it: ps --sort -rss aux | head", "%s available of %s", bytesText(available), bytesText(whole))
	default:
		n.ok("%s available of %s; %d Ruby workers may grow to %s together", bytesText(available), bytesText(total), workers, bytesText(most))
	}
}

// unitMemory is the limit of the control group of a running member, 0 when it has none.
func (x *exam) unitMemory() uint64 {
	if x.process.err != nil {
		return 0
	}
	text, err := os.ReadFile(filepath.Join(x.host.proc, strconv.Itoa(x.process.value.PID), "cgroup"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		limit, err := os.ReadFile(filepath.Join(x.host.cgroup, path, "memory.max"))
		if err != nil {
			return 0
		}
		bytes, err := strconv.ParseUint(strings.TrimSpace(string(limit)), 10, 63)
		if err != nil {
			return 0 // "max"
		}
		return bytes
	}
	return 0
}

// meminfo finds a line such as "MemTotal:  8000000 kB".
func meminfo(text, key string) uint64 {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == key+":" {
			kb, err := strconv.ParseUint(f[1], 10, 50)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}
