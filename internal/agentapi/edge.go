package agentapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file keeps the requests of a run on one version of the code when an edge brings them: the list of its plugins may have been made,
// or its catalog compiled, here or at another member, before a deployment that has happened since. Types and providers of one version
// then apply a catalog of the same one.

// HeaderCodeID names the code version of a catalog or a file to an edge. Agents never see it.
const HeaderCodeID = "Troupe-Code-Id"

type runKey struct{}

// WithRun marks a request that comes from an edge. codeID is the version that the run's catalog is of, before there is one that of its
// first files; "" before there are any.
func WithRun(ctx context.Context, codeID string) context.Context {
	return context.WithValue(ctx, runKey{}, codeID)
}

// tellCodeID tells an edge of which version an answer is.
func tellCodeID(ctx context.Context, w http.ResponseWriter, v *code.Version) {
	if _, edge := ctx.Value(runKey{}).(string); edge {
		w.Header().Set(HeaderCodeID, v.ID)
	}
}

// runVersion is the version of which catalog and files of a run are: that which it has as long as it is here, else the newest.
func (a *API) runVersion(ctx context.Context, e puppet.Environment) (*code.Version, error) {
	if id, _ := ctx.Value(runKey{}).(string); id != "" {
		v, err := a.code.Version(ctx, e, id)
		if fault.KindOf(err) == fault.NotFound {
			v, err = a.missing.await(ctx, id, func() (*code.Version, error) { return a.code.Version(ctx, e, id) })
		}
		if fault.KindOf(err) != fault.NotFound {
			return v, err
		}
	}
	return a.code.Current(ctx, e)
}

// missing are versions that runs have and this member has not. One that was deployed a moment ago comes in less than a second; a run
// that is brought here meanwhile, because the member where it began died, waits for it.
type missing struct {
	mu    sync.Mutex
	until map[string]time.Time // by content id: no longer than this
}

const (
	missingMost = 3 * time.Second
	missingLook = 20 * time.Millisecond
	maxMissing  = 1000
)

// await looks again and again until a version is found or was waited for long enough, by this request or by an earlier one.
func (m *missing) await(ctx context.Context, id string, look func() (*code.Version, error)) (v *code.Version, err error) {
	m.mu.Lock()
	until, ok := m.until[id]
	if !ok {
		if m.until == nil || len(m.until) >= maxMissing {
			m.until = map[string]time.Time{}
		}
		until = time.Now().Add(missingMost)
		m.until[id] = until
	}
	m.mu.Unlock()

	tick := time.NewTicker(missingLook)
	defer tick.Stop()
	for v, err = look(); fault.KindOf(err) == fault.NotFound && time.Now().Before(until); v, err = look() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Unavailable, ctx.Err(), "version %s is awaited", id)
		}
	}
	return v, err
}

// former reports whether an environment has a newer version than v.
func (a *API) former(v *code.Version) bool {
	newest := a.code.Newest(v.Environment)
	return newest != nil && newest.ID != v.ID
}
