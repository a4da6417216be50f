package balance

import (
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"troupe/internal/atomicfile"
)

// This file remembers which key sticks to which server. Edges tell each other what changed; who wrote last wins, so all come to the same.

// An Entry says that a key sticks to a server, or, without a server, that it was made to stick to none.
type Entry struct {
	Key    string    `json:"key"`
	Server string    `json:"server,omitempty"`
	Used   time.Time `json:"used"`
}

// Table holds entries until they were not used for a while. It is safe for concurrent use.
type Table struct {
	expire time.Duration
	size   int
	now    func() time.Time

	mu      sync.Mutex
	entries map[string]*kept
	byUse   *list.List // of *kept, the one used longest ago first
	changed *list.List // of *kept, the one changed longest ago first
	version uint64
}

type kept struct {
	Entry
	told           time.Time // Used, when it was last a change
	version        uint64
	byUse, changed *list.Element
}

// What a peer or a file may hand in.
const (
	maxKey   = 512
	maxAhead = time.Minute // of our clock
	maxFile  = 256 << 20
)

// NewTable returns an empty Table. Zero values mean 30 min, 100,000 keys and time.Now.
func NewTable(expire time.Duration, size int, now func() time.Time) *Table {
	if expire <= 0 {
		expire = 30 * time.Minute
	}
	if size <= 0 {
		size = 100_000
	}
	if now == nil {
		now = time.Now
	}
	return &Table{
		expire: expire, size: size, now: now, entries: map[string]*kept{}, byUse: list.New(), changed: list.New(),
		// So that what peers remember of an earlier life of this process is never taken for a version of this one.
		version: uint64(max(now().UnixNano(), 0)),
	}
}

// Get returns the server that a key sticks to.
func (t *Table) Get(key string) (server string, ok bool) {
	return t.look(key)
}

func (t *Table) look(key string) (server string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.entries[key]
	if k == nil || k.Server == "" || t.expired(k.Used) {
		return "", false
	}
	return k.Server, true
}

// Put makes a key stick to a server, from now on. A key that is too long sticks to none.
func (t *Table) Put(key, server string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(key, server)
}

// Delete makes a key stick to nothing, here and at the other edges. It reports whether it stuck to something.
func (t *Table) Delete(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.entries[key]
	if k == nil || k.Server == "" {
		return false
	}
	t.write(key, "")
	return true
}

// write is a change made here and now: it is later than all that is known. t.mu is held.
func (t *Table) write(key, server string) {
	if key == "" || len(key) > maxKey || len(server) > maxKey {
		return
	}
	used := t.now()
	if k := t.entries[key]; k != nil && !used.After(k.Used) {
		used = k.Used.Add(1)
	}
	t.set(Entry{key, server, used})
}

// set takes over an entry that is newer than what is there. t.mu is held.
func (t *Table) set(e Entry) {
	k := t.entries[e.Key]
	if k == nil {
		k = &kept{}
		t.entries[e.Key] = k
		k.byUse = t.byUse.PushBack(k)
		k.changed = t.changed.PushBack(k)
	}
	// That it is still used is news only now and then: else each request would be told to all edges.
	news := k.version == 0 || k.Server != e.Server || e.Used.Sub(k.told) >= t.expire/8
	k.Entry = e
	if news {
		t.version++
		k.version, k.told = t.version, e.Used
		t.changed.MoveToBack(k.changed)
	}
	t.byUse.MoveToBack(k.byUse)
	for at := k.byUse.Prev(); at != nil && used(at).After(e.Used); at = k.byUse.Prev() {
		t.byUse.MoveBefore(k.byUse, at)
	}
	for first := t.byUse.Front(); first != nil && (len(t.entries) > t.size || t.expired(used(first))); first = t.byUse.Front() {
		t.drop(first)
	}
}

func used(at *list.Element) time.Time {
	k, _ := at.Value.(*kept)
	return k.Used
}

func (t *Table) drop(at *list.Element) {
	k, _ := at.Value.(*kept)
	delete(t.entries, k.Key)
	t.byUse.Remove(k.byUse)
	t.changed.Remove(k.changed)
}

func (t *Table) expired(used time.Time) bool {
	return t.now().Sub(used) >= t.expire
}

// Len returns how many keys there are, with those that were deleted a short while ago.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Entries returns what sticks, the most recently used first.
func (t *Table) Entries() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Entry
	for at := t.byUse.Back(); at != nil; at = at.Prev() {
		k, _ := at.Value.(*kept)
		if k.Server != "" && !t.expired(k.Used) {
			all = append(all, k.Entry)
		}
	}
	return all
}

// Changes returns what has changed since a version, oldest first, and the version that this is. Version 0 is the empty table. What was
// merged in is among the changes: edges that see only one another's neighbour learn of it, and a merge of what is known changes nothing.
func (t *Table) Changes(since uint64) ([]Entry, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since > t.version { // the clock was set back between two lives
		since = 0
	}
	var changes []Entry
	for at := t.changed.Back(); at != nil; at = at.Prev() {
		k, _ := at.Value.(*kept)
		if k.version <= since {
			break
		}
		if !t.expired(k.Used) {
			changes = append(changes, k.Entry)
		}
	}
	slices.Reverse(changes)
	return changes, t.version
}

// Merge takes over what another edge says, where that is later than what is known. It returns how many entries it took.
func (t *Table) Merge(entries []Entry) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	latest := t.now().Add(maxAhead)
	n := 0
	for _, e := range entries {
		if e.Key == "" || len(e.Key) > maxKey || len(e.Server) > maxKey || t.expired(e.Used) {
			continue
		}
		if e.Used.After(latest) {
			e.Used = latest // a clock that is far ahead must not win for ever
		}
		k := t.entries[e.Key]
		if k == nil || e.Used.After(k.Used) || e.Used.Equal(k.Used) && e.Server > k.Server {
			t.set(e)
			n++
		}
	}
	return n
}

// Save writes the table to a file, whole or not at all.
func (t *Table) Save(path string) error {
	entries := t.Entries()
	slices.Reverse(entries) // so that Load finds them in the order of their use
	data, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}

// Load takes over what is in a file that Save wrote. That there is none is no error.
func (t *Table) Load(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries []Entry
	err = errors.Join(json.NewDecoder(io.LimitReader(f, maxFile)).Decode(&entries), f.Close())
	if err != nil {
		return fmt.Errorf("read what sticks to which server from %s: %w; remove the file, and agents stick anew", path, err)
	}
	t.Merge(entries)
	return nil
}
