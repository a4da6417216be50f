package bgp

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeWay remembers what it was told, and fails as it is asked to.
type fakeWay struct {
	mu      sync.Mutex
	told    []Phase
	fail    error
	stopped bool
}

func (w *fakeWay) fails(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = err
}

func (w *fakeWay) start(context.Context) error { return nil }

func (w *fakeWay) tell(_ context.Context, p Phase) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail == nil {
		w.told = append(w.told, p)
	}
	return w.fail
}

func (w *fakeWay) watch(context.Context, *Status) error { return nil }
func (w *fakeWay) stop(context.Context) error           { w.stopped = true; return nil }

func fakeSpeaker(t *testing.T, site *site) (*Speaker, *fakeWay) {
	t.Helper()
	s, err := New(Options{
		ASN: 65500, RouterID: netip.MustParseAddr("192.0.2.1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.10/32")},
		Neighbors: []Neighbor{{Address: netip.MustParseAddr("192.0.2.2"), ASN: 5408}},
		Serving:   site.Serving, UpAfter: time.Second, Grace: 3 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &fakeWay{}
	s.way = w
	return s, w
}

// TestWhatCouldNotBeToldIsToldAgain has a way that fails for a time.
func TestWhatCouldNotBeToldIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := fakeSpeaker(t, &site{ok: true})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		time.Sleep(500 * time.Millisecond)
		w.fails(errors.New("no such device"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		st := s.Status()
		if st.Phase != Announced || len(st.Alarms) != 1 || !strings.Contains(st.Alarms[0], "no such device") {
			t.Errorf("status %+v, want the alarm", st)
		}
		w.fails(nil)
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if st := s.Status(); len(st.Alarms) != 0 {
			t.Errorf("alarms %q after the end of the trouble", st.Alarms)
		}
		begin := time.Now()
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("the end took %v, want the grace of 3 s", d)
		}
		if got, want := w.told, []Phase{Silent, Announced, Leaving, Silent}; !slices.Equal(got, want) || !w.stopped {
			t.Errorf("told %v, want %v; stopped %v", got, want, w.stopped)
		}
	})
}

// TestRoutersThatCannotBeToldAtTheEndAreSaid holds that the end of a speaker does not look good when it was not.
func TestRoutersThatCannotBeToldAtTheEndAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := fakeSpeaker(t, &site{ok: true})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.fails(errors.New("disk full"))
		cancel()
		if err := <-ran; err == nil || !strings.Contains(err.Error(), "may still be announced: disk full") {
			t.Errorf("Run says %v", err)
		}
	})
}

// TestALibraryThatHangsEndsTheSpeaker holds that a process which cannot withdraw does not go on.
func TestALibraryThatHangsEndsTheSpeaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := fakeSpeaker(t, &site{ok: true})
		hang := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), tellMost)
		defer cancel()
		w.fails(within(ctx, func() error { <-hang; return nil }))
		close(hang)
		if err := s.Run(t.Context()); !errors.Is(err, errStuck) {
			t.Errorf("Run says %v, want that GoBGP does not answer", err)
		}
	})
}
