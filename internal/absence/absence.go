// Package absence knows who was sent away with a Retry-After and is still to come back.
//
// Whoever is sent away counts as if it stood in the queue: so a herd that comes at once comes back spread over the time that it takes
// to serve it. Begin with a [List]; its zero value is ready to use.
package absence

import (
	"maps"
	"time"
)

// Most is for how long anybody is expected: agents sleep no longer than their runinterval, which is 30 minutes unless somebody set it.
const Most = 30 * time.Minute

const (
	late     = 60      // seconds for which somebody is remembered who does not come back in time
	maxNames = 100_000 // more are counted, but not known again
	maxName  = 512     // bytes; certnames are shorter
)

// A List counts who was sent away by the second in which they are expected back. Its owner guards it.
type List struct {
	due   [Most/time.Second + 1]int
	from  int64            // Unix second of the oldest count
	names map[string]int64 // the second of each
}

// Add expects one more back in a while, at most Most.
func (l *List) Add(now time.Time, name string, in time.Duration) {
	l.forget(now)
	second := now.Add(min(in, Most)).Unix()
	l.due[second%int64(len(l.due))]++
	if l.names == nil {
		l.names = map[string]int64{}
	}
	if name != "" && len(name) <= maxName && len(l.names) < maxNames {
		l.names[name] = second
	}
}

// IsBack reports whether somebody was sent away, and expects it no longer.
func (l *List) IsBack(now time.Time, name string) bool {
	l.forget(now)
	second, known := l.names[name]
	if known && second >= l.from {
		l.due[second%int64(len(l.due))]--
	}
	delete(l.names, name)
	return known
}

// Count returns how many are still expected.
func (l *List) Count(now time.Time) int {
	l.forget(now)
	n := 0
	for _, due := range l.due {
		n += due
	}
	return n
}

// forget drops the seconds that have passed: who was due then is back, late or gone.
func (l *List) forget(now time.Time) {
	second, size := now.Unix(), int64(len(l.due))
	if second < l.from || second-l.from >= size+late {
		*l = List{from: second}
		return
	}
	if l.from == second {
		return
	}
	for ; l.from < second; l.from++ {
		l.due[l.from%size] = 0
	}
	maps.DeleteFunc(l.names, func(_ string, due int64) bool { return due < second-late })
}
