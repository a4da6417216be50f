package journal

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheTailReadsLikeTheFile(t *testing.T) {
	now := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	j := open(t, t.TempDir(), Options{Now: func() time.Time { return now }})
	compare := func(what string) {
		t.Helper()
		for _, s := range []Stream{State, Bulk} {
			tails := j.tails
			for _, after := range []uint64{0, 1, 5, 90, 350, 500, 509, 510, 511, 1000} {
				for _, limit := range []int{1, 3, 1000} {
					got, err := j.Read(t.Context(), j.Origin(), s, after, limit)
					if err != nil {
						t.Fatal(err)
					}
					j.tails = nil
					want, err := j.Read(t.Context(), j.Origin(), s, after, limit)
					j.tails = tails
					if err != nil {
						t.Fatal(err)
					}
					if !reflect.DeepEqual(want[:min(len(want), len(got))], got) || len(want) > 0 && len(got) == 0 {
						t.Fatalf("%s: %s after %d, limit %d: tail and file differ (-file +tail):\n%s", what, s, after, limit, cmp.Diff(want, got))
					}
				}
			}
		}
	}

	compare("empty")
	for range 10 {
		var drafts []Draft
		for i := range 60 {
			d := Draft{Stream: Bulk, Kind: "k", Key: fmt.Sprint(i)}
			if i%3 > 0 {
				d.Body = make([]byte, 1<<(i%16))
			}
			if i%7 == 0 {
				d.Stream = State
			}
			drafts = append(drafts, d)
		}
		mustAppend(t, j, drafts...)
		now = now.Add(time.Minute)
	}
	compare("full")
	for _, age := range []int{8, 3, 1, 0} {
		if _, err := j.Prune(t.Context(), Bulk, now.Add(-time.Duration(age)*time.Minute)); err != nil {
			t.Fatal(err)
		}
		compare(fmt.Sprintf("pruned to %d minutes", age))
	}
	mustAppend(t, j, Draft{Stream: Bulk, Kind: "last"})
	compare("appended after pruning")
}

func TestTheTailIsBounded(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	for i := range 8 {
		n, body := 50, make([]byte, 10)
		if i >= 6 {
			n, body = 6, make([]byte, 1<<20)
		}
		mustAppend(t, j, slices.Repeat([]Draft{{Stream: Bulk, Kind: "k", Body: body}}, n)...)
		tail, size := j.tails[Bulk], 0
		for _, r := range tail.recs {
			size += len(r.Body)
		}
		if len(tail.recs) > tailRecords || size > tailBytes || size != tail.size || len(tail.recs) == 0 {
			t.Fatalf("the tail has %d records with %d bytes, said to be %d", len(tail.recs), size, tail.size)
		}
	}
	mustAppend(t, j, Draft{Stream: Bulk, Kind: "larger than the tail", Body: make([]byte, tailBytes+1)})
	if recs, err := j.Read(t.Context(), j.Origin(), Bulk, 312, 1); err != nil || len(recs) != 1 || len(recs[0].Body) != tailBytes+1 {
		t.Errorf("a record larger than the tail: %d records, %v", len(recs), err)
	}
}

func TestTheTailHasNoGap(t *testing.T) {
	var tail tail
	for _, number := range []uint64{1, 2, 3, 7, 8} {
		tail.add(Record{Number: number})
	}
	for after, want := range map[uint64]int{0: 0, 2: 0, 5: 0, 6: 2, 7: 1, 8: 0, 9: 0} {
		if got := len(tail.after(after, 10)); got != want {
			t.Errorf("%d records follow number %d, want %d", got, after, want)
		}
	}
}
