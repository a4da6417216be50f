package code

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/telemetry"
)

// This file notices changes through inotify. It reads the kernel's queue itself,
// when somebody asks: a change that was made before a request is then always
// seen by it, which a queue drained by another goroutine could not promise.

const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF |
	unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// A watcher tells environments that something below their folders changed.
type watcher struct {
	log *slog.Logger

	mu      sync.Mutex
	inotify int // file descriptor; -1 when the kernel gives none
	folders map[int32]map[*watched]names
	all     map[*watched]struct{}
	full    bool // the kernel's limit of watches was hit and logged
	buf     []byte
}

// names are the entries of a folder that an environment cares about; nil means
// all.
type names map[string]struct{}

func (n names) has(name string) bool {
	_, ok := n[name]
	return n == nil || name == "" || ok
}

// watched is what a watcher knows about one environment. Its fields are guarded
// by the watcher's mutex.
type watched struct {
	changes  uint64    // counts events
	last     time.Time // when the last one was read
	complete bool      // every folder of the last scan is watched
	folders  map[int32]names
	scanning map[int32]names // folders of the scan under way
}

func newWatcher(log *slog.Logger) *watcher {
	w := &watcher{log: log, inotify: -1, folders: map[int32]map[*watched]names{}, all: map[*watched]struct{}{}, buf: make([]byte, 16<<10)}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		log.Warn("cannot watch folders, they are scanned at every request instead; raise fs.inotify.max_user_instances", slog.Any(telemetry.KeyErr, err))
		return w
	}
	w.inotify = fd
	return w
}

// begin starts a scan's collection of folders.
func (w *watcher) begin(e *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[e] = struct{}{}
	e.scanning = map[int32]names{}
	e.complete = w.inotify >= 0
}

// add watches one folder for e, or only one entry of it. It is called before the
// folder is listed.
func (w *watcher) add(e *watched, dir, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inotify < 0 {
		return
	}
	wd, err := unix.InotifyAddWatch(w.inotify, dir, watchMask)
	if err != nil {
		e.complete = false
		if errors.Is(err, unix.ENOSPC) && !w.full {
			w.full = true
			w.log.Warn("too many folders to watch, some are scanned at every request instead; raise fs.inotify.max_user_watches", slog.Any(telemetry.KeyErr, err))
		}
		return
	}
	id := int32(wd)
	only, known := e.scanning[id]
	switch {
	case name == "" || known && only == nil:
		only = nil
	case !known:
		only = names{name: {}}
	default:
		only[name] = struct{}{}
	}
	e.scanning[id] = only
	if w.folders[id] == nil {
		w.folders[id] = map[*watched]names{}
	}
	w.folders[id][e] = nil // until the scan ends, everything counts
}

// end finishes a scan: folders that it did not see are no longer watched. After a
// scan that failed half-way the environment counts as unwatched.
func (w *watcher) end(e *watched, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.complete = e.complete && ok
	for id := range e.folders {
		if _, still := e.scanning[id]; !still {
			w.leave(e, id)
		}
	}
	for id, only := range e.scanning {
		if w.folders[id] != nil {
			w.folders[id][e] = only
		}
	}
	e.folders, e.scanning = e.scanning, nil
}

// leave ends e's interest in a folder.
func (w *watcher) leave(e *watched, id int32) {
	delete(w.folders[id], e)
	if len(w.folders[id]) > 0 {
		return
	}
	delete(w.folders, id)
	if w.inotify >= 0 {
		// The folder may be gone and its watch with it; then there is nothing to end.
		if _, err := unix.InotifyRmWatch(w.inotify, uint32(id)); err != nil && !errors.Is(err, unix.EINVAL) {
			w.log.Warn("cannot end the watch of a folder", slog.Any(telemetry.KeyErr, err))
		}
	}
}

// forget ends all watches of e.
func (w *watcher) forget(e *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range e.folders {
		w.leave(e, id)
	}
	e.folders, e.complete = nil, false
	delete(w.all, e)
}

// poll reads what the kernel has and returns the count of changes of e, when the
// last one was, and whether all of e's folders are watched.
func (w *watcher) poll(e *watched) (changes uint64, last time.Time, complete bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drain()
	return e.changes, e.last, e.complete
}

// drain reads all waiting events.
func (w *watcher) drain() {
	if w.inotify < 0 {
		return
	}
	now := time.Now()
	for {
		n, err := unix.Read(w.inotify, w.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			if err != nil && !errors.Is(err, unix.EAGAIN) {
				w.log.Warn("cannot read changes of folders", slog.Any(telemetry.KeyErr, err))
				w.touchAll(now)
			}
			return
		}
		w.events(w.buf[:n], now)
	}
}

// events takes one read's worth: struct inotify_event, each followed by a name
// that is padded with NUL.
func (w *watcher) events(buf []byte, now time.Time) {
	for len(buf) >= unix.SizeofInotifyEvent {
		id := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		size := int(binary.NativeEndian.Uint32(buf[12:]))
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
		buf = buf[unix.SizeofInotifyEvent+size:]

		if mask&unix.IN_Q_OVERFLOW != 0 {
			w.touchAll(now)
			continue
		}
		if versionControl(name) {
			continue
		}
		for e, only := range w.folders[id] {
			if only.has(name) {
				e.changes++
				e.last = now
			}
		}
		if mask&unix.IN_IGNORED != 0 { // the kernel ended this watch
			delete(w.folders, id)
		}
	}
}

func (w *watcher) touchAll(now time.Time) {
	for e := range w.all {
		e.changes++
		e.last = now
	}
}

func (w *watcher) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inotify < 0 {
		return nil
	}
	fd := w.inotify
	w.inotify = -1
	for e := range w.all {
		e.complete = false
	}
	return unix.Close(fd)
}
