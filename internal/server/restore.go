package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"troupe/internal/backup"
	"troupe/internal/ca"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
	"troupe/internal/vault"
)

// This file makes an empty machine a member from a backup.

// RestoreRequest says what to restore, and as what.
type RestoreRequest struct {
	Place backup.Place
	Info  backup.Info // which backup
	Keys  backup.Keys
	Alone bool // the other members of its troupe are gone
	Found bool // begin a troupe if the backup is of a member that served alone
}

// Restored says what a machine has become.
type Restored struct {
	Backup       backup.Info      `json:"backup"`
	Summary      backup.Summary   `json:"summary"`
	Environments []string         `json:"environments"`
	Kept         []string         `json:"kept"` // environments that were there before
	Self         *cluster.Member  `json:"self,omitempty"`
	Removed      []cluster.Member `json:"removed"`
	Others       []cluster.Member `json:"others"`
}

// Restore fills the empty data folder of cfg from a backup. The machine gets an origin of its own: what the members of the backup
// have written since, they may still bring. Nobody may serve the folder. An interrupted restore is begun anew by the next one, and no
// member opens the folder before one has ended.
func Restore(ctx context.Context, cfg *config.Config, o Options, q RestoreRequest, progress func(done, total int64)) (r Restored, err error) {
	log := telemetry.Discard(o.Log)
	troupe := filepath.Join(cfg.Data, "cluster")
	// What is wrong with the command comes to light before anything is changed.
	if err := backup.Unlock(ctx, q.Place, q.Info, q.Keys); err != nil {
		return r, err
	}
	if err := emptyForRestore(cfg.Data, troupe); err != nil {
		return r, err
	}
	if err := roomForRestore(cfg.Data, q.Info.Summary); err != nil {
		return r, err
	}
	if err := os.MkdirAll(cfg.Data, 0o711); err != nil { //nolint:gosec // workers of another user read snapshots below it
		return r, fmt.Errorf("create the data folder: %w", err)
	}
	if err := cluster.BeginRestore(troupe, q.Info.Name); err != nil {
		return r, fmt.Errorf("begin the restore: %w", err)
	}
	j, err := openJournal(cfg)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	got, err := backup.Extract(ctx, q.Place, q.Info, q.Keys, backup.Target{Data: cfg.Data, Environments: cfg.EnvironmentPath[0], Journal: j}, progress)
	if err != nil {
		return r, err
	}
	m := &member{o: o, log: log}
	authority, err := ca.Open(ctx, filepath.Join(cfg.Data, "ca"), j, caOptions(cfg, m))
	if err != nil {
		return r, err
	}
	err = settleAuthority(ctx, authority, puppet.Certname(cfg.Certname), q.Info.Header)
	if err := errors.Join(err, authority.Close()); err != nil {
		return r, err
	}
	back, err := cluster.Restore(ctx, troupe, j, clusterOptions(cfg, m), cluster.RestoreRequest{CAKey: got.CAKey, Alone: q.Alone, Found: q.Found})
	if err != nil {
		return r, err
	}
	r = Restored{
		Backup: q.Info, Summary: got.Summary, Environments: notNil(got.Environments), Kept: notNil(got.Kept), Removed: notNil(back.Removed), Others: notNil(back.Others),
	}
	if back.Self.Name != "" {
		r.Self = &back.Self
	}
	return r, nil
}

// spareRoom is what a member needs besides: projections, and the logs of SQLite.
const spareRoom = 16 << 20

// roomForRestore finds out beforehand whether the disk of a folder, which need not exist, can hold a backup.
func roomForRestore(dir string, s backup.Summary) error {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	free, need := int64(st.Bavail)*st.Bsize, s.Bytes+s.Bytes/4+spareRoom
	if free < need {
		return fault.New(fault.Unavailable, "the disk of %s has %d MiB free, and the restore needs about %d MiB: make room, or restore into another --data folder", dir, free>>20, need>>20)
	}
	return nil
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// settleAuthority makes sure that it is the right one, and that agents take its lists for newer than those that they have. The
// certificate under which a lost machine of this name served goes with it, since its key does: the new one gets another.
func settleAuthority(ctx context.Context, a *ca.Authority, name puppet.Certname, h backup.Header) error {
	if sum := sha256.Sum256(a.Issuer().Raw); hex.EncodeToString(sum[:]) != h.Authority {
		return fault.New(fault.Invalid, "the backup does not hold the certificate authority that it names: choose another one")
	}
	if err := a.Revoke(ctx, name); err != nil && fault.KindOf(err) != fault.NotFound {
		return fmt.Errorf("revoke the certificate of the lost %s: %w", name, err)
	}
	return a.RenewLists(ctx)
}

// emptyForRestore refuses a folder in which there is a member, and empties one that a restore has left half filled.
func emptyForRestore(data, troupe string) error {
	if cluster.IsRestoring(troupe) {
		for _, part := range []string{"journal", "ca", "store", "cluster/keys", "cluster/member.pem"} {
			if err := os.RemoveAll(filepath.Join(data, part)); err != nil {
				return fmt.Errorf("begin the restore anew: %w", err)
			}
		}
		return nil
	}
	for _, file := range []string{"journal/journal.db", "store/store.db", "cluster/joining"} {
		if _, err := os.Lstat(filepath.Join(data, file)); err == nil {
			return occupied(data)
		}
	}
	if vault.Exists(filepath.Join(data, "ca")) || vault.Exists(troupe) {
		return occupied(data)
	}
	return nil
}

func occupied(data string) error {
	return fault.New(fault.Conflict, "%s has a member's data: restore into an empty data folder (--data DIR), or move this one away first", data)
}
