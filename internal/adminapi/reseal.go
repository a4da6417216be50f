package adminapi

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"

	"troupe/internal/fault"
)

// This file changes the key that seals the member's keys on its disk.

// ResealRequest asks for another sealing key.
type ResealRequest struct {
	KeyFile string `json:"key_file"` // with the new one; empty makes one in the data folder
}

// Resealed tells what became of it.
type Resealed struct {
	Pending bool `json:"pending"` // the new sealing key counts when the member starts with it
}

func (a *API) reseal(r *http.Request) (any, error) {
	var q ResealRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if q.KeyFile != "" && !filepath.IsAbs(q.KeyFile) { // the member's working folder is not the operator's
		return nil, fault.New(fault.Invalid, "the file of the sealing key must be an absolute path, not %q", q.KeyFile)
	}
	var out Resealed
	for what, reseal := range map[string]func(string) (bool, error){"the keys of the CA": a.m.Authority.Reseal, "the keys of the troupe": a.m.Cluster.Reseal} {
		pending, err := reseal(q.KeyFile)
		if err != nil {
			return nil, fault.Wrap(fault.Conflict, err, "%s were not sealed anew, and stay as they are: %v. Run the same again", what, err)
		}
		out.Pending = pending
	}
	a.log.WarnContext(r.Context(), "keys on this member's disk were sealed anew", "pending", fmt.Sprint(out.Pending))
	return out, nil
}

// Reseal seals the member's keys under another sealing key.
func (c *Client) Reseal(ctx context.Context, q ResealRequest) (out Resealed, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/reseal", q, &out)
}
