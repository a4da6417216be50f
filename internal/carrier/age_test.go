package carrier

import (
	"fmt"
	"testing"
	"time"

	"troupe/internal/journal"
)

func TestTheAgeOfWhatAnotherWroteIsKnown(t *testing.T) {
	a, b := newNode(t), newNode(t)
	a.knows(b)
	b.knows(a)
	b.write(t, journal.State, 1)
	same(t, a, b)
	begun := time.Now()
	status := func() PeerStatus {
		t.Helper()
		peers, err := a.c.Peers(t.Context())
		if err != nil || len(peers) != 1 {
			t.Fatalf("peers: %+v, %v", peers, err)
		}
		return peers[0]
	}
	// What it wrote is old, what is known of it is not.
	eventually(t, func() bool {
		a.write(t, journal.Bulk, 1) // whoever waits is answered
		return status().AsOf.After(begun)
	}, func() string { return fmt.Sprintf("%+v", status()) })
	if s := status(); !s.Newest.Before(begun) || s.Newest.IsZero() {
		t.Errorf("its newest record is said to be of %s, before %s", s.Newest, begun)
	}

	b.down.Store(true)
	b.srv.CloseClientConnections()
	eventually(t, func() bool { return status().Problem != "" }, func() string { return "the cut is not noticed" })
	cut := status().AsOf
	b.write(t, journal.State, 3)
	if s := status(); !s.AsOf.Equal(cut) {
		t.Errorf("behind a cut it is said to be as of %s, before it was %s", s.AsOf, cut)
	}
	b.down.Store(false)
	same(t, a, b)
	eventually(t, func() bool { return status().AsOf.After(cut) }, func() string { return "after the cut it is old still" })
}
