package agentapi

import (
	"context"
	"net/http"

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
		if fault.KindOf(err) != fault.NotFound {
			return v, err
		}
	}
	return a.code.Current(ctx, e)
}

// former reports whether an environment has a newer version than v.
func (a *API) former(v *code.Version) bool {
	newest := a.code.Newest(v.Environment)
	return newest != nil && newest.ID != v.ID
}
