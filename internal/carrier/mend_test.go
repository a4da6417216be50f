package carrier

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"troupe/internal/journal"
	"troupe/internal/sqlite"
)

// spoil changes a node's journal behind its back, as a disk does.
func (n *node) spoil(t *testing.T, statement string, args ...any) {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(n.dir, "journal.db"), 1)
	if err != nil {
		t.Fatal(err)
	}
	res, err := db.ExecContext(t.Context(), statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := res.RowsAffected(); err != nil || rows == 0 {
		t.Fatalf("%s: %d rows, %v", statement, rows, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

const spoilBody = `UPDATE record SET body = x'00', form = 0 WHERE number = ? AND chain = (SELECT id FROM chain WHERE origin = ? AND stream = 1)`

func (n *node) wantWhole(t *testing.T) {
	t.Helper()
	if v, err := n.j.Verify(t.Context(), nil); err != nil || !v.OK() {
		t.Errorf("verification = %v, %v", v.Damaged, err)
	}
}

// TestDamageAtTheGiverStopsOneChainOnly has a member whose disk flipped a bit, and a new one that knows no other.
func TestDamageAtTheGiverStopsOneChainOnly(t *testing.T) {
	a, b, d := newNode(t), newNode(t), newNode(t)
	a.write(t, journal.State, 300) // more than the tail in memory
	b.write(t, journal.State, 5)
	b.knows(a)
	a.knows(b)
	same(t, a, b)
	b.knows()
	a.knows() // nobody to mend from
	a.spoil(t, spoilBody, 17, a.j.Origin())
	d.knows(a)
	a.write(t, journal.Bulk, 3)
	var peers []PeerStatus
	eventually(t, func() bool {
		var err error
		own, oerr := d.j.Last(t.Context(), a.j.Origin(), journal.State)
		bulk, berr := d.j.Last(t.Context(), a.j.Origin(), journal.Bulk)
		third, terr := d.j.Last(t.Context(), b.j.Origin(), journal.State)
		peers, err = d.c.Peers(t.Context())
		return errors.Join(err, oerr, berr, terr) == nil && own == 16 && bulk == 3 && third == 5 && len(peers) == 1 && len(peers[0].Refused) == 1
	}, func() string { return fmt.Sprintf("d does not have what is whole; peers: %+v", peers) })
	if peers[0].Problem != "" {
		t.Errorf("a member with a damaged record counts as away: %s", peers[0].Problem)
	}

	// Another member has it whole.
	d.knows(a, b)
	eventually(t, func() bool {
		own, err := d.j.Last(t.Context(), a.j.Origin(), journal.State)
		return err == nil && own == 300
	}, func() string { return "the copy of another member is not taken" })

	// And the first mends itself by it.
	a.knows(b)
	same(t, a, d)
	eventually(t, func() bool { all, _ := a.j.Damaged(); return len(all) == 0 }, func() string { return "a is not mended" })
	a.wantWhole(t)
	d.wantWhole(t)
}

func TestAForeignRecordIsMendedByWhoeverHasItWhole(t *testing.T) {
	var mu sync.Mutex
	var heard []journal.Stretch
	hears := func(o *Options) {
		o.Mended = func(_ context.Context, all []journal.Stretch) error {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, all...)
			return nil
		}
	}
	a, b, c := newNode(t), newNode(t, hears), newNode(t)
	a.write(t, journal.State, 40)
	a.knows(b, c)
	b.knows(a, c)
	c.knows(a, b)
	same(t, a, b, c)
	a.spoil(t, spoilBody, 20, a.j.Origin()) // the same one: c is left
	b.spoil(t, spoilBody, 20, a.j.Origin())
	b.spoil(t, `UPDATE record SET key = 'x' WHERE number = 30 AND chain = (SELECT id FROM chain WHERE origin = ?)`, a.j.Origin())
	if v, err := b.j.Verify(t.Context(), nil); err != nil || v.OK() {
		t.Fatalf("verification = %+v, %v", v, err)
	}
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		all, _ := b.j.Damaged()
		told := map[uint64]bool{} // one may be mended twice: who reads it meanwhile finds what was there before
		for _, s := range heard {
			told[s.From] = true
		}
		return len(all) == 0 && told[20] && told[30] && len(told) == 2
	}, func() string { all, _ := b.j.Damaged(); return fmt.Sprintf("left: %+v, heard: %+v", all, heard) })
	b.wantWhole(t)
	eventually(t, func() bool { // b has asked a for it, and so a has found it, too
		v, err := a.j.Verify(t.Context(), nil)
		return err == nil && v.OK()
	}, func() string { return "a is not mended" })
}
