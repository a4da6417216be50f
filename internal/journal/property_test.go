package journal

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTimesOnlyGrow holds that no time is given out twice or goes back, whatever the wall clock does and whatever comes from others.
func TestTimesOnlyGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wall := time.UnixMilli(1_790_000_000_000)
		c := &clock{now: func() time.Time { return wall }}
		var last Time
		steps := rapid.IntRange(1, 200).Draw(t, "steps")
		for range steps {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0: // forward, or set back by up to a day
				wall = wall.Add(time.Duration(rapid.Int64Range(int64(-24*time.Hour), int64(24*time.Hour)).Draw(t, "by")))
			case 1: // a record of another member, as far in the future as one is taken
				other := At(wall.Add(time.Duration(rapid.Int64Range(int64(-time.Hour), int64(maxDrift)).Draw(t, "other")))) + Time(rapid.IntRange(0, 1<<counterBits-1).Draw(t, "counter"))
				c.last = max(c.last, other)
				last = max(last, other)
			case 2: // many within one millisecond
				for range rapid.IntRange(1, 1000).Draw(t, "many") {
					next := c.next()
					if next <= last {
						t.Fatalf("%d after %d", next, last)
					}
					last = next
				}
			default:
				next := c.next()
				if next <= last {
					t.Fatalf("%d after %d", next, last)
				}
				if next < At(wall) {
					t.Fatalf("%v is before the wall clock, %v", next.Time(), wall)
				}
				last = next
			}
		}
	})
}
