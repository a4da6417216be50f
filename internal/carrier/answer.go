package carrier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file answers other members. Who they are, the port has found out before.

// Caller says which member sent a request.
type Caller func(*http.Request) journal.Origin

// maxAsking bounds what a member may say about its chains: some 300 bytes each.
const maxAsking = 8 << 20

// Handler answers the requests of other members below /carrier/v1/.
func (c *Carrier) Handler(caller Caller) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /carrier/v1/heads", func(w http.ResponseWriter, r *http.Request) { c.answerHeads(w, r, caller(r)) })
	mux.HandleFunc("GET /carrier/v1/records", c.answerRecords)
	mux.HandleFunc("POST /carrier/v1/digests", c.answerDigests)
	mux.HandleFunc("POST /carrier/v1/verify", c.answerVerify)
	return mux
}

func (c *Carrier) answerHeads(w http.ResponseWriter, r *http.Request, from journal.Origin) {
	var q asking
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsking)).Decode(&q); err != nil {
		http.Error(w, "what the member has cannot be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	c.learn(from, q.Heads)
	heads, err := c.newer(r.Context(), q, min(max(q.Wait, 0), waitMost))
	if err != nil {
		c.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(having{Heads: heads}); err != nil {
		c.log.DebugContext(r.Context(), "member went away", telemetry.KeyErr, err)
	}
}

// newer returns our chains as soon as one of them is longer than the other member's, or when it has waited long enough.
func (c *Carrier) newer(ctx context.Context, q asking, wait time.Duration) ([]journal.Head, error) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for {
		changed := c.j.Changed()
		heads, err := c.j.Heads(ctx)
		news := slices.DeleteFunc(missing(q.Heads, heads), func(h journal.Head) bool {
			return slices.ContainsFunc(q.Refused, func(r journal.Head) bool { return r.Origin == h.Origin && r.Stream == h.Stream })
		})
		if err != nil || len(news) > 0 {
			return heads, err
		}
		select {
		case <-changed:
		case <-limit.C:
			return heads, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Carrier) answerRecords(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	stream, ok := map[string]journal.Stream{journal.State.String(): journal.State, journal.Bulk.String(): journal.Bulk}[q.Get("stream")]
	after, err := strconv.ParseUint(q.Get("after"), 10, 64)
	limit, lerr := strconv.ParseUint(q.Get("limit"), 10, 31)
	if !ok || err != nil || lerr != nil || q.Get("origin") == "" {
		http.Error(w, fmt.Sprintf("records of which chain? origin=%q stream=%q after=%q limit=%q", q.Get("origin"), q.Get("stream"), q.Get("after"), q.Get("limit")), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	n, err := c.j.Export(r.Context(), w, journal.Origin(q.Get("origin")), stream, after, int(limit))
	if damage, ok := errors.AsType[*journal.DamageError](err); ok && n == 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		if err := json.NewEncoder(w).Encode(damage); err != nil {
			c.log.DebugContext(r.Context(), "member went away", telemetry.KeyErr, err)
		}
		return
	}
	if err != nil && n == 0 {
		c.fail(w, r, err)
		return
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the other side must not take the end for the end
	}
	c.metrics.given.Add(float64(n))
}

func (c *Carrier) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	c.log.WarnContext(r.Context(), "request of a member failed", "path", r.URL.Path, telemetry.KeyErr, err)
	http.Error(w, fault.Message(err), http.StatusInternalServerError)
}
