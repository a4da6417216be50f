package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newChecker(t *testing.T) *Checker {
	t.Helper()
	c, err := NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestACheckerTakesWhatAJournalTakes(t *testing.T) {
	a := open(t, t.TempDir(), Options{})
	appendSome(t, a, 90, "word ")
	if _, err := a.Prune(t.Context(), Bulk, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	appendSome(t, a, 9, "after ")
	c := newChecker(t)
	for _, s := range []Stream{State, Bulk} {
		for n := 1; n > 0; {
			var frames bytes.Buffer
			var err error
			if n, err = a.Export(t.Context(), &frames, a.Origin(), s, c.Last(a.Origin(), s), 7); err != nil {
				t.Fatal(err)
			}
			size := int64(frames.Len())
			if good, err := c.Check(&frames); err != nil || good != size {
				t.Fatalf("%s: %d of %d bytes are good: %v", s, good, size, err)
			}
		}
	}
	got := map[chainName]Head{}
	for _, h := range c.Heads() {
		got[chainName{h.Origin, h.Stream}] = h
	}
	if diff := cmp.Diff(heads(t, a), got); diff != "" {
		t.Errorf("the chains differ:\n%s", diff)
	}
	if c.Records() == 0 || c.Last(a.Origin(), State) != heads(t, a)[chainName{a.Origin(), State}].Last {
		t.Errorf("%d records, the last of state %d", c.Records(), c.Last(a.Origin(), State))
	}
}

// TestACheckerRefusesWhatAJournalRefuses flips a bit, or cuts the frames off, anywhere.
func TestACheckerRefusesWhatAJournalRefuses(t *testing.T) {
	a := open(t, t.TempDir(), Options{})
	appendSome(t, a, 60, "word ")
	frames := exported(t, a, State, 0)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		bad := bytes.Clone(frames)
		if at := r.IntN(len(bad)); seed%5 == 0 {
			bad = bad[:at]
		} else {
			bad[at] ^= 1 << r.IntN(8)
		}
		b := open(t, t.TempDir(), Options{})
		taken, refused := b.Import(t.Context(), bytes.NewReader(bad))
		c := newChecker(t)
		good, err := c.Check(bytes.NewReader(bad))
		if _, future := errors.AsType[*FutureError](refused); future {
			continue // a Checker has no clock
		}
		if (err == nil) != (refused == nil) || c.Records() != uint64(taken) {
			t.Errorf("seed %d: the checker takes %d and says %v, the journal takes %d and says %v", seed, c.Records(), err, taken, refused)
		}
		again := newChecker(t)
		if n, err := again.Check(bytes.NewReader(bad[:good])); err != nil || n != good || again.Records() != c.Records() {
			t.Errorf("seed %d: the %d good bytes are not good by themselves: %v", seed, good, err)
		}
	}
}
