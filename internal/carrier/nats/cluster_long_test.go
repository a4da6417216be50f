//go:build long

package nats_test

import (
	"context"
	"testing"

	"troupe/internal/carrier/nats"
	"troupe/internal/journal"
	"troupe/internal/troupetest"
)

// Three servers, of which one dies after the other and comes back, while members write. What two of them have acknowledged counts as a copy.
func TestThreeServersOfWhichOneDies(t *testing.T) {
	t.Parallel()
	servers := troupetest.StartNATSCluster(t, 3)
	o := nats.Options{MaxBytes: small}
	for _, s := range servers {
		o.Servers = append(o.Servers, s.URL)
	}
	b := newBook()
	one, two := b.join(t, o), b.join(t, o)
	b.connected()
	if s := one.status("it has streams", func(s nats.Status) bool { return len(s.Streams) == 2 }); s.Streams[0].Replicas != 3 {
		t.Fatalf("%+v", s)
	}
	one.write(journal.State, 3, 100)
	if err := one.c.Load().Copied(t.Context(), journal.State, 3); err != nil {
		t.Fatal(err)
	}
	same(t, one, two) // now each knows what the other has
	troupetest.Eventually(t, troupetest.Patience, "two is known to have it all", func() bool {
		peers, err := one.c.Load().Peers(t.Context())
		return err == nil && len(peers) == 1 && peers[0].Behind == 0
	})

	one.cut.Store(true) // and stays so: all that follows comes through NATS
	two.cut.Store(true)
	two.stop()
	one.write(journal.State, 1, 100)
	ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
	defer cancel()
	if err := one.c.Load().Copied(ctx, journal.State, 4); err != nil {
		t.Errorf("what two servers have acknowledged does not count as a copy: %v", err)
	}
	two.start(o)
	two.at(one, journal.State, 4)

	for _, s := range servers {
		s.Kill()
		one.write(journal.Bulk, 50, 10_000)
		two.write(journal.Bulk, 50, 10_000)
		one.write(journal.State, 5, 100)
		same(t, one, two)
		s.Start()
		one.write(journal.Bulk, 10, 100)
		same(t, one, two)
	}
}
