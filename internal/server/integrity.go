package server

import (
	"context"
	"errors"

	"troupe/internal/ca"
	"troupe/internal/carrier"
	"troupe/internal/cluster"
	"troupe/internal/deploy"
	"troupe/internal/journal"
	"troupe/internal/store"
)

// This file says what members compare with each other, and what must be folded again when a record of the journal was mended.

// storeSlices is how many rounds it takes until all nodes are compared: an hour.
const storeSlices = 60

// folds are what is made of the journal. Those of few records are compared whole.
func (m *member) folds() []carrier.Fold {
	whole := func(digest func(context.Context) (journal.Digest, error)) func(context.Context, journal.Scope) (journal.Digest, bool, error) {
		return func(ctx context.Context, _ journal.Scope) (journal.Digest, bool, error) {
			d, err := digest(ctx)
			return d, err == nil, err
		}
	}
	return []carrier.Fold{
		{
			Name:   cluster.DigestName,
			Digest: whole(func(ctx context.Context) (journal.Digest, error) { return m.cluster.Digest(ctx) }),
			Refold: func(ctx context.Context) error { return m.cluster.Refold(ctx) },
		},
		{
			Name:   ca.DigestName,
			Digest: whole(func(ctx context.Context) (journal.Digest, error) { return m.authority.Digest(ctx) }),
			Refold: func(ctx context.Context) error { return m.authority.Refold(ctx) },
		},
		{
			Name:   deploy.DigestName,
			Digest: whole(func(ctx context.Context) (journal.Digest, error) { return m.deploy.Digest(ctx) }),
			Refold: func(ctx context.Context) error { return m.deploy.Refold(ctx) },
		},
		{
			Name:  store.DigestName,
			Scope: func(round int) journal.Scope { return m.store.DigestScope(round%storeSlices, storeSlices) },
			Digest: func(ctx context.Context, s journal.Scope) (journal.Digest, bool, error) {
				return m.store.Digest(ctx, s)
			},
			Refold: func(ctx context.Context) error { return m.store.Refold(ctx) },
		},
	}
}

// mended folds what could not be folded while it was damaged. State is small, and folded anew as a whole.
func (m *member) mended(ctx context.Context, all []journal.Stretch) error {
	state := false
	first := map[journal.Origin]uint64{} // of the bulk stream
	for _, s := range all {
		switch {
		case s.Stream == journal.State:
			state = true
		case first[s.Origin] == 0 || s.From < first[s.Origin]:
			first[s.Origin] = s.From
		}
	}
	for origin, from := range first {
		if err := m.store.FoldAgain(ctx, origin, from); err != nil {
			return err
		}
	}
	if !state {
		return nil
	}
	if err := errors.Join(m.cluster.Refold(ctx), m.deploy.Refold(ctx)); err != nil {
		return err
	}
	return m.authority.Refold(ctx)
}
