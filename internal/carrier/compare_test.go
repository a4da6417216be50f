package carrier

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/journal"
)

// table is a fold that counts records, and can be made wrong.
type table struct {
	j *journal.Journal

	mu       sync.Mutex
	wrong    bool
	forGood  bool // folding anew does not help
	refolded int
}

func (f *table) fold() Fold {
	return Fold{
		Name: "table",
		Digest: func(ctx context.Context, _ journal.Scope) (journal.Digest, bool, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			heads, err := f.j.Heads(ctx)
			at := map[journal.Origin]uint64{}
			for _, h := range heads {
				at[h.Origin] += h.Last
			}
			p := journal.SumPositions(at)
			return journal.Digest{Name: "table", At: p, Sum: sha256.Sum256(fmt.Appendf(p[:], "%t", f.wrong))}, true, err
		},
		Refold: func(context.Context) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refolded++
			f.wrong = f.forGood
			return nil
		},
	}
}

func (f *table) spoil(forGood bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong, f.forGood = true, forGood
}

func (f *table) times() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refolded
}

// comparingNode is one that compares a table at each exchange.
func comparingNode(t *testing.T) (*node, *table) {
	t.Helper()
	f := &table{}
	n := newNode(t, func(o *Options) { o.Folds, o.CompareEvery = []Fold{f.fold()}, time.Millisecond })
	f.j = n.j
	return n, f
}

func TestATableThatDiffersIsMadeAnew(t *testing.T) {
	a, fa := comparingNode(t)
	b, fb := comparingNode(t)
	a.knows(b)
	b.knows(a)
	a.write(t, journal.State, 5)
	same(t, a, b)
	differs := func(n *node) []string {
		n.write(t, journal.Bulk, 1) // whoever waits is answered
		peers, err := n.c.Peers(t.Context())
		if err != nil || len(peers) != 1 {
			t.Fatalf("peers: %+v, %v", peers, err)
		}
		return peers[0].Differs
	}
	if fa.times()+fb.times() > 0 {
		t.Error("a table was made anew although nothing differs")
	}
	fa.spoil(false)
	eventually(t, func() bool { differs(b); return len(differs(a)) == 0 && fa.times() > 0 && len(differs(b)) == 0 }, func() string {
		return fmt.Sprintf("made anew: %d, alarms: %v %v", fa.times(), differs(a), differs(b))
	})

	// One that stays wrong is told by both, and not made anew for ever.
	before := fb.times()
	fb.spoil(true)
	eventually(t, func() bool { return len(differs(a)) == 1 && len(differs(b)) == 1 }, func() string { return "no alarm" })
	for range 20 {
		if words := differs(a); len(words) == 1 && !strings.Contains(words[0], "table tables differ") {
			t.Errorf("alarm: %s", words[0])
		}
	}
	if n := fb.times() - before; n > 1 {
		t.Errorf("it was made anew %d times", n)
	}
}

func TestRecordsDoNotWaitForAComparison(t *testing.T) {
	summing, release := make(chan struct{}, 100), make(chan struct{})
	defer close(release)
	slow := Fold{Name: "slow", Digest: func(ctx context.Context, _ journal.Scope) (journal.Digest, bool, error) {
		select {
		case summing <- struct{}{}:
		default:
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return journal.Digest{}, false, ctx.Err()
	}}
	a := newNode(t, func(o *Options) { o.Folds = []Fold{slow} })
	b := newNode(t, func(o *Options) { o.Folds = []Fold{slow} })
	a.knows(b)
	b.knows(a)
	<-summing
	<-summing // both ask, and neither has an answer
	ctx, cancel := context.WithTimeout(t.Context(), answerMost/2)
	defer cancel()
	if err := a.c.Copied(ctx, journal.State, a.write(t, journal.State, 5).Number); err != nil {
		t.Errorf("the other member has no copy: %v", err)
	}
}
