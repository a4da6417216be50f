package code

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file is what happens without being asked: changes are picked up before
// the next request needs them, and old versions go.

const (
	tick    = 250 * time.Millisecond // between looks at the queue of changes
	minAge  = time.Minute            // a version that was just replaced stays for who is about to retain it
	lingers = time.Hour              // versions of an environment stay that long after its folder is gone
)

// Run scans changed environments ahead of requests, scans all of them every
// Interval, and removes versions that nobody needs. It returns nil when ctx ends.
func (r *Repo) Run(ctx context.Context) error {
	look := time.NewTicker(tick)
	defer look.Stop()
	full := time.NewTicker(r.o.Interval)
	defer full.Stop()
	defer r.watch.close()

	r.refreshAll(ctx)
	r.prune()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			r.refreshAll(ctx)
		case <-full.C:
			for _, e := range r.active() {
				e.rescan()
			}
			r.refreshAll(ctx)
			r.prune()
		}
	}
}

// refreshAll scans what changed of the environments in use.
func (r *Repo) refreshAll(ctx context.Context) {
	for _, e := range r.active() {
		if ctx.Err() != nil {
			return
		}
		if e.idle() || e.deployedVersion() != nil || r.folder(e.name) == "" {
			continue
		}
		e.ahead(ctx)
	}
}

// ahead is fresh without counting as a request. Failures are logged where they
// are found.
func (e *environment) ahead(ctx context.Context) {
	if _, _, ok := e.upToDate(); ok {
		return
	}
	select {
	case e.scanning <- struct{}{}:
		defer func() { <-e.scanning }()
	default:
		return // a request is scanning already
	}
	if _, err := e.refresh(ctx); err != nil {
		e.log.Debug("scan ahead of requests failed", slog.Any(telemetry.KeyErr, err))
	}
}

// builtVersion is a version on disk.
type builtVersion struct {
	id          string
	environment puppet.Environment
	at          time.Time // when it was last made current
}

// built lists the versions on disk, newest first.
func (s *snapshots) built() ([]builtVersion, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, versionsDir))
	if err != nil {
		return nil, fmt.Errorf("listing versions: %w", err)
	}
	var all []builtVersion
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing versions: %w", err)
		}
		names, err := os.ReadDir(filepath.Join(s.version(entry.Name()), environmentsLabel))
		if err != nil || len(names) != 1 {
			continue // removed just now
		}
		all = append(all, builtVersion{id: entry.Name(), environment: puppet.Environment(names[0].Name()), at: info.ModTime()})
	}
	slices.SortStableFunc(all, func(a, b builtVersion) int { return b.at.Compare(a.at) })
	return all, nil
}

// prune removes old versions and the blobs that only they had.
func (r *Repo) prune() {
	built, err := r.store.built()
	if err != nil {
		r.o.Log.Warn("cannot remove old versions", slog.Any(telemetry.KeyErr, err))
		return
	}
	kept, removed := map[puppet.Environment]int{}, 0
	for _, b := range built {
		if r.environment(b.environment).needs(b, kept[b.environment]) {
			kept[b.environment]++
			continue
		}
		removed++
		if err := r.store.remove(b.id); err != nil {
			r.o.Log.Warn("cannot remove an old version", slog.Any(telemetry.KeyErr, err))
		}
	}
	r.forgetRemoved(kept)
	if removed == 0 {
		return
	}
	if err := r.store.collect(); err != nil {
		r.o.Log.Warn("cannot remove unused blobs", slog.Any(telemetry.KeyErr, err))
	}
}

// forgetRemoved drops the state of environments that have neither folder nor
// version.
func (r *Repo) forgetRemoved(kept map[puppet.Environment]int) {
	for _, e := range r.active() {
		if kept[e.name] > 0 || r.folder(e.name) != "" {
			continue
		}
		r.mu.Lock()
		delete(r.environments, e.name)
		r.mu.Unlock()
		r.watch.forget(&e.watched)
	}
}

// needs decides whether a version stays, and forgets it if not. newer counts the
// versions of the environment that stay and are newer.
func (e *environment) needs(b builtVersion, newer int) bool {
	folder := e.r.folder(e.name)
	e.mu.Lock()
	defer e.mu.Unlock()

	if folder != "" {
		e.gone = time.Time{}
	} else if e.gone.IsZero() {
		e.gone = time.Now()
	}
	users := e.users[b.id]
	switch {
	case users != nil && users.Load() > 0:
		return true
	case e.pinned != nil && e.pinned.ID == b.id:
		return true
	case time.Since(b.at) < minAge:
		return true
	case folder == "" && time.Since(e.gone) > lingers:
		if e.now != nil && e.now.ID == b.id {
			e.now, e.scan = nil, lastScan{}
		}
	case e.now != nil && e.now.ID == b.id:
		return true
	case newer < e.r.o.Keep:
		return true
	}
	delete(e.versions, b.id)
	delete(e.users, b.id)
	return false
}
