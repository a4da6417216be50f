package carrier

import (
	"context"
	"sync"
	"testing"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// fakeFeed holds and follows what a test says.
type fakeFeed struct {
	mu       sync.Mutex
	follows  map[chain]bool
	from, to uint64
	changed  chan struct{}
}

func newFakeFeed() *fakeFeed {
	return &fakeFeed{follows: map[chain]bool{}, changed: make(chan struct{})}
}

func (f *fakeFeed) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeFeed) Follows(o journal.Origin, s journal.Stream) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.follows[chain{o, s}]
}

func (f *fakeFeed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeFeed) Late(o journal.Origin, s journal.Stream) {
	f.change(func() { delete(f.follows, chain{o, s}) })
}

func (f *fakeFeed) Holds(journal.Stream) (from, to uint64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.from, f.to, f.changed
}

// What a feed holds is a copy if somebody can go on with it.
func TestWhatAFeedHoldsIsACopy(t *testing.T) {
	feed := newFakeFeed()
	a := newNode(t, func(o *Options) { o.Feed = feed })
	b := newNode(t)
	a.knows(b)
	b.knows(a)
	a.write(t, journal.State, 1)
	eventually(t, func() bool {
		peers, err := a.c.Peers(t.Context())
		return err == nil && !peers[0].Heard.IsZero() && peers[0].Behind == 0
	}, func() string { return "b does not say that it has the record" })
	b.down.Store(true)
	eventually(t, func() bool {
		peers, err := a.c.Peers(t.Context())
		return err == nil && peers[0].Problem != ""
	}, func() string { return "a does not notice that b is away" })

	feed.change(func() { feed.from, feed.to = 3, 2 }) // nobody has record 2
	if err := a.c.Copied(t.Context(), journal.State, 3); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("records behind a hole count: %v", err)
	}
	feed.change(func() { feed.from, feed.to = 2, 1 })
	waiting := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { waiting <- a.c.Copied(ctx, journal.State, 3) }()
	feed.change(func() { feed.to = 2 })
	select {
	case err := <-waiting:
		t.Errorf("record 3 is said to be there: %v", err)
	default:
	}
	feed.change(func() { feed.to = 3 })
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	feed.change(func() { feed.from, feed.to = 0, 0 })
	if err := a.c.Copied(t.Context(), journal.State, 3); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("what the feed no longer holds counts: %v", err)
	}
}

// Bulk that a feed is said to bring and does not bring is fetched all the same; state is never left to it.
func TestAFeedThatBringsNothingIsNotWaitedFor(t *testing.T) {
	feed := newFakeFeed()
	a := newNode(t, func(o *Options) { o.Feed = feed })
	b := newNode(t)
	a.knows(b)
	b.knows(a)
	b.write(t, journal.Bulk, 1)
	b.write(t, journal.State, 1)
	same(t, a, b)
	feed.change(func() {
		feed.follows[chain{b.j.Origin(), journal.Bulk}] = true
		feed.follows[chain{b.j.Origin(), journal.State}] = true
	})
	b.write(t, journal.Bulk, 1)
	b.write(t, journal.State, 1)
	same(t, a, b)
	if feed.Follows(b.j.Origin(), journal.Bulk) {
		t.Error("the feed is not told that it is late")
	}

	// And when it stops by itself, at once.
	feed.change(func() { feed.follows[chain{b.j.Origin(), journal.Bulk}] = true })
	b.write(t, journal.Bulk, 1)
	feed.change(func() { clear(feed.follows) })
	same(t, a, b)
}
