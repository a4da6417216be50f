package health

import (
	"fmt"
	"slices"
	"time"
)

// This file finds a server that answers, and slowly: a machine that swaps, a disk that fails, a process that collects garbage all day. What
// is compared is the time of active checks, less what the network takes: each server is asked the same thing equally often, and the
// answer needs no place to compile. Requests cannot be compared like that. A catalog is a second here and a minute there, and a server that
// has much to do is not sick: to eject it would make the others like it.

const (
	paceSamples = 15 // of the latest checks
	paceLeast   = 10 // that must be there
	ways        = 3  // there and back in one check: TCP, TLS, HTTP
)

// pace are how long a server's latest good checks took, the network taken off.
type pace struct {
	latest []time.Duration
}

func (p *pace) take(r result) {
	if !r.ok {
		return
	}
	if len(p.latest) == paceSamples {
		p.latest = slices.Delete(p.latest, 0, 1)
	}
	p.latest = append(p.latest, max(r.took-ways*r.near, 0))
}

// median is zero and false while too few checks were made.
func (p *pace) median() (time.Duration, bool) {
	if len(p.latest) < paceLeast {
		return 0, false
	}
	return median(p.latest), true
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// compareSlow wants those ejected that answer much slower than the others of their pool. Checks go on meanwhile, so who is slow still at the
// end of an ejection does not come back first.
func compareSlow(servers []*watched, now time.Time) {
	for _, w := range servers {
		o := w.Check.Outlier
		mine, ok := w.judge.pace.median()
		if !ok || o.Slow <= 0 || w.judge.counter < w.Check.Rise || now.Before(w.judge.eject.until) {
			continue
		}
		var others []time.Duration
		for _, other := range servers {
			if theirs, ok := other.judge.pace.median(); ok && other != w && other.judge.verdict.State == Up {
				others = append(others, theirs)
			}
		}
		if len(others) == 0 {
			continue
		}
		if usual := median(others); float64(mine) > o.Slow*float64(usual) && mine-usual >= o.SlowLeast {
			w.judge.eject.wanted = fmt.Sprintf("its checks take %v, those of others %v", mine.Round(time.Millisecond), usual.Round(time.Millisecond))
		}
	}
}
