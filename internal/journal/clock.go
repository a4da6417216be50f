package journal

import "time"

// This file is the hybrid logical clock that orders records of all members.

// A Time is a moment of a hybrid logical clock: 48 bits of Unix milliseconds, then
// 16 bits that count records within one of them. Times of one origin only grow;
// times of different origins are comparable as far as their clocks agree.
type Time uint64

// counterBits is the width of the counter; a full counter carries into the
// milliseconds, which keeps the order.
const counterBits = 16

// At returns the first Time of t's millisecond.
func At(t time.Time) Time {
	return Time(max(t.UnixMilli(), 0)) << counterBits
}

// Time returns the wall-clock part.
func (t Time) Time() time.Time {
	return time.UnixMilli(int64(t >> counterBits)).UTC()
}

// clock gives out Times that never repeat and never go back, whatever the wall
// clock does. The journal seeds last with the newest time in its file.
type clock struct {
	now  func() time.Time
	last Time
}

func (c *clock) next() Time {
	c.last = max(At(c.now()), c.last+1)
	return c.last
}

// ahead reports how far the clock runs before the wall clock: after the wall
// clock was set back, or when records came from a member whose clock is ahead.
func (c *clock) ahead() time.Duration {
	return max(c.last.Time().Sub(c.now()), 0)
}
