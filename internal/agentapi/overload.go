package agentapi

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file spreads agents that come when there is too much to do.

// askToComeBack tells the agent when to try again: around the time that the fault
// names, or at a random one, so that a herd does not return as one.
func (a *API) askToComeBack(w http.ResponseWriter, r *http.Request, err error) {
	if !obeysRetryAfter(r) {
		return
	}
	seconds := 1 + rand.IntN(max(1, int(a.o.MaxRetryAfter/time.Second))) //nolint:gosec // spread, not secrecy
	if e, ok := errors.AsType[*fault.Error](err); ok && e.After > 0 {
		seconds = spread(e.After)
	}
	if most := int(a.o.MaxRetryAfter / time.Second); most > 0 {
		seconds = min(seconds, most)
	}
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	w.Header().Set("Connection", "close")
}

// spread returns whole seconds between three quarters of d and d. The estimates of those who are sent away follow one
// another, so they are spread already. Who comes too early waits in the queue;
// but while those sleep who come too late, the server may have nothing to do.
func spread(d time.Duration) int {
	latest := max(1, int((d+time.Second/2)/time.Second))
	earliest := max(1, latest*3/4)
	return earliest + rand.IntN(latest-earliest+1) //nolint:gosec // spread, not secrecy
}

// obeysRetryAfter reports whether the client waits and tries again. Others take
// a 503 for a failed run, so their requests queue instead.
func obeysRetryAfter(r *http.Request) bool {
	return puppet.ObeysRetryAfter(r.Header.Get("X-Puppet-Version"))
}
