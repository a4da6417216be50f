package carrier

import (
	"strings"
	"testing"

	"troupe/internal/journal"
)

// verify lets n ask everybody.
func (n *node) verify(t *testing.T) TroupeVerification {
	t.Helper()
	heard := map[string]bool{}
	v, err := n.c.Verify(t.Context(), Peer{Origin: n.j.Origin(), Name: "self"}, func(member string, done, total uint64) {
		heard[member] = true
		if done > total {
			t.Errorf("%s has verified %d of %d", member, done, total)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !heard["self"] {
		t.Errorf("progress of %v only", heard)
	}
	return v
}

func TestAllJournalsAreProvenEqualAndWhole(t *testing.T) {
	a, b, c := newNode(t), newNode(t), newNode(t)
	a.knows(b, c)
	b.knows(a, c)
	c.knows(a, b)
	for _, n := range []*node{a, b, c} {
		n.write(t, journal.State, 20)
		n.write(t, journal.Bulk, 20)
	}
	v := a.verify(t) // waits for what is on its way
	if len(v.Differences) > 0 || len(v.Members) != 3 || v.Chains != 6 {
		t.Fatalf("verification = %+v", v)
	}
	for _, m := range v.Members {
		if m.Records != 120 || m.Error != "" {
			t.Errorf("%+v", m)
		}
	}
}

func TestWhatDiffersIsNamed(t *testing.T) {
	wants := func(v TroupeVerification, want ...string) {
		t.Helper()
		text := strings.Join(v.Differences, "\n")
		if len(v.Differences) != len(want) {
			t.Errorf("differences:\n%s\nwant: %q", text, want)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("differences:\n%s\nwant: %q", text, w)
			}
		}
	}
	a, b := newNode(t), newNode(t)
	name := string(b.j.Origin())[:4]
	a.knows(b)
	b.knows(a)
	a.write(t, journal.State, 30)
	same(t, a, b)
	b.knows() // nobody to mend it
	b.spoil(t, spoilBody, 7, a.j.Origin())
	wants(a.verify(t), name+": state record 7 of origin "+string(a.j.Origin())+" is damaged (body)")
	b.knows(a)
	eventually(t, func() bool { all, _ := b.j.Damaged(); return len(all) == 0 }, func() string { return "b is not mended" })
	wants(a.verify(t))

	// Two versions of a chain: b takes that of the fork while a is away.
	a.goAway(t, b)
	fork := forkOf(t, a)
	fork.write(t, journal.State, 1)
	b.knows(fork)
	same(t, b, fork)
	b.knows()
	a.write(t, journal.State, 1)
	a.down.Store(false)
	wants(a.verify(t), "record 31 of the state journal of self, or one before it, is not the same at")

	b.down.Store(true)
	b.srv.CloseClientConnections()
	wants(a.verify(t), name+" could not be asked")
}
