package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/ca"
	"troupe/internal/carrier"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/deploy"
	"troupe/internal/journal"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// This file says what members compare with each other, what must be folded again when a record of the journal was mended, and
// where a member gets what it can have from no journal any more.

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

const (
	snapshotPath  = "/store/v1/snapshot"
	snapshotMost  = 30 * time.Minute // for one snapshot to come
	snapshotAgain = 30 * time.Second // how often it is looked whether one is needed
	snapshotFirst = time.Minute      // how long a member waits for one before it serves
)

// answerSnapshot gives another member what was made of records that are pruned here.
func (m *member) answerSnapshot(w http.ResponseWriter, r *http.Request) {
	before, err := strconv.ParseUint(r.URL.Query().Get("before"), 10, 64)
	if err != nil {
		http.Error(w, "a snapshot of what is before which time?", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := m.store.WriteSnapshot(r.Context(), w, journal.Time(before)); err != nil {
		m.log.WarnContext(r.Context(), "a snapshot was not given", telemetry.KeyErr, err)
		panic(http.ErrAbortHandler) // the other side must not take what it has for all
	}
}

// runSnapshot fetches what was made of records that were pruned before this member could have them.
func (m *member) runSnapshot(ctx context.Context) error {
	tick := time.NewTicker(snapshotAgain)
	defer tick.Stop()
	for {
		if err := m.takeSnapshot(ctx); err != nil && ctx.Err() == nil {
			m.log.WarnContext(ctx, "what was made of pruned records is not here yet", telemetry.KeyErr, err, "retry_in", snapshotAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// takeSnapshot asks one member after the other until nothing is missing.
func (m *member) takeSnapshot(ctx context.Context) error {
	m.snapshots.Lock()
	defer m.snapshots.Unlock()
	missing, needed, err := m.store.Missing(ctx)
	if err != nil || !needed {
		return err
	}
	peers, _ := m.peers()
	var errs []error
	for _, p := range peers {
		ask := m.dialPeer(p)
		whole, err := fetchSnapshot(ctx, m.store, ask, missing)
		ask.HTTP.CloseIdleConnections()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
			continue
		}
		m.log.InfoContext(ctx, "a snapshot was taken", "given_by", p.Name, "whole", whole)
		if whole {
			return nil
		}
	}
	if len(errs) > 0 || len(peers) == 0 {
		return errors.Join(errs...)
	}
	m.log.WarnContext(ctx, "no member has everything that was made of pruned records: what is lost comes back when the nodes run")
	return m.store.GiveUp(ctx)
}

// takeSnapshotSoon is for a member that is about to serve: nodes that do not run any more must not be missing. It does not wait
// for ever.
func (m *member) takeSnapshotSoon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, snapshotFirst)
	defer cancel()
	err := m.store.CatchUp(ctx)
	if err == nil {
		err = m.takeSnapshot(ctx)
	}
	if err != nil {
		m.log.WarnContext(ctx, "serving before everything is read from the journal and from other members", telemetry.KeyErr, err)
	}
}

func fetchSnapshot(ctx context.Context, db *store.DB, ask carrier.Asker, missing store.Missing) (whole bool, err error) {
	err = ask.Do(ctx, http.MethodGet, snapshotPath+"?before="+strconv.FormatUint(uint64(missing.Before), 10), nil, snapshotMost, func(r io.Reader) error {
		whole, err = db.TakeSnapshot(ctx, r)
		return err
	})
	return whole, err
}

// fillStore makes the tables of a new member: of the journal, and of what the member that it joins by has made of older records.
func fillStore(ctx context.Context, cfg *config.Config, o Options, j *journal.Journal, ask carrier.Asker) (err error) {
	db, err := store.Open(ctx, filepath.Join(cfg.Data, "store"), j, storeOptions(cfg, &member{o: o, log: telemetry.Discard(o.Log), registry: prometheus.NewRegistry()}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.CatchUp(ctx); err != nil {
		return err
	}
	missing, needed, err := db.Missing(ctx)
	if err != nil || !needed {
		return err
	}
	_, err = fetchSnapshot(ctx, db, ask, missing)
	return err
}
