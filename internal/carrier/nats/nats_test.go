package nats_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"troupe/internal/carrier/nats"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/troupetest"
)

const small = 64 << 20 // bytes of a stream, so that a small server can have several

func TestRecordsComeThroughNATSAlone(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	b := newBook()
	b.alone = true
	one, two, three := b.join(t, o), b.join(t, o), b.join(t, o)
	b.connected()
	for _, m := range b.members {
		m.write(journal.State, 20, 100)
		m.write(journal.Bulk, 100, 5000)
	}
	one.write(journal.Bulk, 1, 20<<20) // in 80 parts
	two.write(journal.Bulk, 3, 3<<20)
	one.write(journal.Bulk, 10, 0)
	same(t, b.members...)
	follows(b.members...)
	for _, m := range b.members {
		if n := m.fetched.Load(); n != 0 {
			t.Errorf("%d bytes came over HTTPS, which is cut", n)
		}
		if n := m.value("troupe_nats_refused_messages_total"); n != 0 {
			t.Errorf("%v messages were refused", n)
		}
	}
	s := one.status("nothing is left", func(s nats.Status) bool { return s.Lag == 0 })
	if s.Ack <= 0 || len(s.Streams) != 2 || s.Streams[0].Replicas != 1 {
		t.Errorf("status: %+v", s)
	}

	// One that was away reads on where its journal ends.
	two.stop()
	one.write(journal.Bulk, 50, 1000)
	two.start(o)
	two.at(one, journal.Bulk, 161)
	same(t, one, two, three)
}

// A server that takes small messages only gets more of them.
func TestSmallMessages(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "max_payload: 32KB\n")
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	b := newBook()
	b.alone = true
	one := b.join(t, o)
	b.join(t, o)
	b.connected()
	one.write(journal.Bulk, 2, 1<<20)
	same(t, b.members...)

	tiny := troupetest.StartNATS(t, "max_payload: 4KB\n")
	alone := newBook().join(t, nats.Options{Servers: []string{tiny.URL}})
	s := alone.status("it says why not", func(s nats.Status) bool { return s.Problem != "" })
	if s.Problem != "the servers take messages of 4096 bytes only" || s.Remedy == "" {
		t.Errorf("%+v", s)
	}
}

// The server dies in the middle, and has its streams still, or has lost them.
func TestTheServerDiesAndNothingIsLost(t *testing.T) {
	t.Parallel()
	for _, wiped := range []bool{false, true} {
		t.Run(fmt.Sprintf("wiped=%t", wiped), func(t *testing.T) {
			t.Parallel()
			server := troupetest.StartNATS(t, "")
			o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
			b := newBook()
			b.alone = true
			one, two := b.join(t, o), b.join(t, o)
			b.connected()
			one.write(journal.Bulk, 200, 1000)
			one.write(journal.State, 10, 1000)
			two.at(one, journal.Bulk, 50)
			server.Kill()
			if wiped {
				server.Wipe()
			}
			one.write(journal.Bulk, 100, 1000)
			two.write(journal.Bulk, 100, 1000)
			one.status("it notices", func(s nats.Status) bool { return s.Server == "" && s.Problem != "" && s.Remedy != "" })
			if one.feed.Follows(two.j.Origin(), journal.Bulk) {
				t.Error("a chain is followed through a server that is dead")
			}
			server.Start()
			one.write(journal.Bulk, 10, 300_000)
			two.at(one, journal.Bulk, 310)
			one.at(two, journal.Bulk, 100)
			same(t, one, two)
			one.stop() // a member that begins again has nothing to remember
			one.start(o)
			one.write(journal.Bulk, 5, 100)
			two.at(one, journal.Bulk, 315)
			same(t, one, two)
		})
	}
}

// While NATS carries, bulk does not travel over HTTPS as well; when it ends, HTTPS does it all, and back.
func TestHTTPSRestsWhileNATSCarries(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	const records, size = 300, 10_000
	load := func(b *book) (bytes int64) {
		var before int64
		for _, m := range b.members {
			before += m.fetched.Load()
		}
		for range records / 20 {
			for _, m := range b.members {
				m.write(journal.Bulk, 10, size)
				m.write(journal.State, 1, 100)
			}
		}
		same(t, b.members...)
		for _, m := range b.members {
			bytes += m.fetched.Load()
		}
		return bytes - before
	}

	without := newBook()
	without.join(t, nats.Options{})
	without.join(t, nats.Options{})
	all := load(without)

	with := newBook()
	one, two := with.join(t, o), with.join(t, o)
	with.connected()
	one.write(journal.Bulk, 1, 1)
	two.write(journal.Bulk, 1, 1)
	follows(one, two)
	little := func(when string) {
		t.Helper()
		var rest int64
		for range 5 { // on a busy machine NATS may stand still for so long that HTTPS fetches
			if rest = load(with); rest <= all/5 {
				break
			}
		}
		t.Logf("%s: %d records of %d bytes: %d bytes over HTTPS without NATS, %d with it", when, records, size, all, rest)
		if all < records*size || rest > all/5 {
			t.Errorf("%s: %d bytes came over HTTPS beside NATS, and %d without", when, rest, all)
		}
	}
	little("at first")

	server.Kill()
	one.status("it notices", func(s nats.Status) bool { return s.Server == "" })
	again := load(with)
	if again < records*size {
		t.Errorf("only %d bytes came over HTTPS, and NATS is away", again)
	}
	server.Start()
	with.connected()
	one.write(journal.Bulk, 1, 1)
	two.write(journal.Bulk, 1, 1)
	follows(one, two)
	little("when NATS is back")
}

// What the one does not publish, the other fetches, although it follows.
func TestAMemberWhoseNATSIsCutOffIsFollowedOverHTTPS(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	b := newBook()
	one, two := b.join(t, o), b.join(t, o)
	b.connected()
	one.write(journal.Bulk, 1, 1)
	follows(two)
	one.stop()
	one.start(nats.Options{}) // an operator takes NATS out of the configuration of one member
	one.write(journal.Bulk, 5, 100)
	two.at(one, journal.Bulk, 6)
	troupetest.Eventually(t, troupetest.Patience, "it is not followed through NATS any more", func() bool { return !two.feed.Follows(one.j.Origin(), journal.Bulk) })
	one.write(journal.Bulk, 5, 100)
	same(t, one, two)
}

// A stream on one machine is no further copy: only another member is.
func TestOneReplicaIsNoCopy(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	b := newBook()
	one, two := b.join(t, o), b.join(t, o)
	b.connected()
	one.write(journal.State, 1, 1)
	if err := one.c.Load().Copied(t.Context(), journal.State, 1); err != nil {
		t.Fatal(err)
	}
	one.cut.Store(true)
	two.cut.Store(true)
	troupetest.Eventually(t, troupetest.Patience, "each notices that the other is away", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return fault.KindOf(one.c.Load().Copied(ctx, journal.State, 2)) == fault.Unavailable
	})
	one.write(journal.State, 1, 1)
	two.at(one, journal.State, 2) // through NATS, but who could tell?
	if err := one.c.Load().Copied(t.Context(), journal.State, 2); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a stream with one replica counts as a copy: %v", err)
	}
	if from, _, _ := one.feed.Holds(journal.State); from != 0 {
		t.Errorf("it holds records from %d", from)
	}
}

// A server that has died on its feet is found out, and HTTPS carries meanwhile.
func TestAServerThatHangs(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	b := newBook()
	one, two := b.join(t, o), b.join(t, o)
	b.connected()
	one.write(journal.Bulk, 1, 1)
	two.write(journal.Bulk, 1, 1)
	follows(one, two)
	server.Pause()
	one.write(journal.Bulk, 3, 1000)
	two.at(one, journal.Bulk, 4)
	one.status("it is found out", func(s nats.Status) bool { return s.Server == "" && s.Problem != "" && s.Remedy != "" })
	two.write(journal.Bulk, 3, 1000)
	same(t, one, two)
	server.Resume()
	b.connected()
	one.write(journal.Bulk, 3, 1000)
	two.write(journal.Bulk, 3, 1000)
	follows(one, two)
	same(t, one, two)
}
