package carrier

import (
	"context"
	"slices"
	"time"

	"troupe/internal/journal"
)

// This file lets records come another way, too, and asks less while they do.

// A Feed brings records of other members into the journal, and ours to them, beside the exchange. It may stop doing so at any time.
type Feed interface {
	// Follows reports whether a chain of another member comes that way: what came last is in the journal.
	Follows(journal.Origin, journal.Stream) bool
	// Changed returns a channel that is closed when a chain is followed, or no longer.
	Changed() <-chan struct{}
	// Late hears that a chain stands still here while another member has more of it.
	Late(journal.Origin, journal.Stream)
	// Holds returns which records of ours lie on two machines there, without a gap: none yet when to is less than
	// from, and none to come when from is 0. The channel is closed when that changes.
	Holds(journal.Stream) (from, to uint64, more <-chan struct{})
}

const (
	feedWait = 5 * time.Second // how long a member may wait with its answer while bulk comes through the feed
	feedLate = 5 * time.Second // for which a chain may stand still there
)

// standing is since when a chain that the feed brings has stood at a record while another member had more.
type standing struct {
	last  uint64
	since time.Time
}

// fed returns the chains that need not be asked for: bulk that the feed brings. State is always waited for here, since answers to
// agents wait for its copies.
func (c *Carrier) fed(own []journal.Head) (all []journal.Head) {
	if c.o.Feed == nil {
		return nil
	}
	for _, h := range own {
		if h.Stream == journal.Bulk && c.o.Feed.Follows(h.Origin, h.Stream) {
			all = append(all, journal.Head{Origin: h.Origin, Stream: h.Stream})
		}
	}
	return all
}

// isFed reports whether what another member has more of a chain is on its way through the feed. One that stands still is not.
func (c *Carrier) isFed(name chain, own uint64) bool {
	if c.o.Feed == nil || name.stream != journal.Bulk {
		return false
	}
	follows := c.o.Feed.Follows(name.origin, name.stream)
	c.mu.Lock()
	before, known := c.standing[name]
	late := follows && known && before.last == own && time.Since(before.since) >= feedLate
	switch {
	case !follows || late:
		delete(c.standing, name)
	case !known || before.last != own:
		c.standing[name] = standing{own, time.Now()}
	}
	c.mu.Unlock()
	if late {
		c.o.Feed.Late(name.origin, name.stream)
	}
	return follows && !late
}

// askHeads asks a member for its heads. It returns early, with again, when a chain of fed no longer comes through the feed: then the
// question has to be another one.
func (c *Carrier) askHeads(ctx context.Context, ask Asker, q asking, fed []journal.Head) (theirs []journal.Head, again bool, err error) {
	if len(fed) == 0 {
		theirs, err = ask.heads(ctx, q)
		return theirs, false, err
	}
	asked, stop := context.WithCancel(ctx)
	watched := make(chan bool, 1)
	go func() {
		for {
			changed := c.o.Feed.Changed()
			if slices.ContainsFunc(fed, func(h journal.Head) bool { return !c.o.Feed.Follows(h.Origin, h.Stream) }) {
				stop()
				watched <- true
				return
			}
			select {
			case <-changed:
			case <-asked.Done():
				watched <- false
				return
			}
		}
	}()
	theirs, err = ask.heads(asked, q)
	stop()
	if ended := <-watched; ended && err != nil && ctx.Err() == nil {
		return nil, true, nil
	}
	return theirs, false, err
}
