package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"troupe/internal/journal"
)

// This file compares the state with that of other members, and folds it anew when they differ.

// DigestName is the name of the digest of this package.
const DigestName = "cluster"

// Digest sums what was folded: the foundation, members, removals and tokens.
func (c *Cluster) Digest(context.Context) (journal.Digest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.digest()
}

func (s *state) digest() (journal.Digest, error) {
	type member struct {
		Member

		At journal.Time
		By journal.Origin
	}
	members := map[journal.Origin]member{}
	for o, m := range s.members {
		m.Self = false
		members[o] = member{m.Member, m.at, m.by}
	}
	keys := map[journal.Origin][]string{}
	for o, k := range s.keys {
		keys[o] = k.effective()
	}
	edges := map[journal.Origin]Edge{}
	for o, e := range s.edges {
		edges[o] = e.Edge
	}
	var first foundedRecord
	if s.founded != nil {
		first = s.founded.foundedRecord
	}
	text, err := json.Marshal(map[string]any{ // which sorts keys
		"founded": first, "members": members, "keys": keys, "edges": edges, "removed": s.removed, "tokens": s.tokens, "used": s.used, "revoked": s.revoked,
	})
	if err != nil {
		return journal.Digest{}, fmt.Errorf("sum what is known of the troupe: %w", err)
	}
	return journal.Digest{Name: DigestName, At: journal.SumPositions(s.positions), Sum: sha256.Sum256(text)}, nil
}

// Refold folds everything anew from the journal. Nobody sees a state that is not complete.
func (c *Cluster) Refold(ctx context.Context) error {
	origins, err := c.j.Origins(ctx)
	if err != nil {
		return fmt.Errorf("list origins of the journal: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	anew := newState()
	if _, err := c.foldInto(ctx, &anew, origins); err != nil {
		return err
	}
	c.state = anew
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}
