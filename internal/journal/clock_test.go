package journal

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestClockOnlyGrowsWhateverTheWallClockDoes(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		wall := time.UnixMilli(1_800_000_000_000)
		c := clock{now: func() time.Time { return wall }}
		for step := range 2000 {
			switch r.IntN(10) {
			case 0:
				wall = wall.Add(-time.Duration(r.Int64N(int64(48 * time.Hour))))
			case 1:
				wall = wall.Add(time.Duration(r.Int64N(int64(24 * time.Hour))))
			case 2, 3, 4:
				wall = wall.Add(time.Duration(r.Int64N(int64(5 * time.Millisecond))))
			case 5:
				c = clock{now: c.now, last: c.last} // a restart
			}
			before := c.last
			got := c.next()
			if got <= before {
				t.Fatalf("seed %d, step %d: %d after %d", seed, step, got, before)
			}
			if got.Time().Before(wall.Truncate(time.Millisecond)) {
				t.Fatalf("seed %d, step %d: %s is before the wall clock's %s", seed, step, got.Time(), wall)
			}
			if a := c.ahead(); a > 0 && At(wall) > before {
				t.Fatalf("seed %d, step %d: ahead by %s of a clock that it had not reached", seed, step, a)
			}
		}
	}
}

func TestFullCounterCarriesIntoTheMilliseconds(t *testing.T) {
	wall := time.UnixMilli(1_800_000_000_000)
	c := clock{now: func() time.Time { return wall }, last: At(wall) + 1<<counterBits - 1}
	if got, want := c.next(), At(wall.Add(time.Millisecond)); got != want {
		t.Errorf("after a full counter comes %d, want %d", got, want)
	}
}

func TestTimeBeforeTheEpochIsZero(t *testing.T) {
	if got := At(time.Unix(-1, 0)); got != 0 {
		t.Errorf("At(1969) = %d, want 0", got)
	}
}

func TestClockGoesOnAfterARestartWithAnEarlierWallClock(t *testing.T) {
	dir := t.TempDir()
	wall := time.Now().Add(time.Hour)
	j, err := Open(dir, Options{Now: func() time.Time { return wall }})
	if err != nil {
		t.Fatal(err)
	}
	first := mustAppend(t, j, Draft{Stream: State, Kind: "x"})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, Options{})
	second := mustAppend(t, j, Draft{Stream: Bulk, Kind: "x"})
	if second[0].Time <= first[0].Time {
		t.Errorf("time %d after %d", second[0].Time, first[0].Time)
	}
	if v := mustVerify(t, j); !v.OK() {
		t.Errorf("verification = %+v", v)
	}
}
