package carrier

import (
	"context"
	"slices"
	"time"

	"troupe/internal/journal"
)

// This file knows how old what we have of others is. A member that writes nothing has old records and fresh data all the same,
// so the age is that of the last time when it said to have no more than we have.

// noteAge takes over that we had, when a member answered, all that it had written itself.
func (c *Carrier) noteAge(ctx context.Context, p Peer, theirs []journal.Head, answered time.Time) error {
	own, err := c.j.Heads(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(missing(own, theirs), func(h journal.Head) bool { return h.Origin == p.Origin }) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state(p.Origin).asOf = answered
	return nil
}
