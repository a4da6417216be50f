package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"troupe/internal/adminapi"
	"troupe/internal/ca"
	"troupe/internal/config"
	"troupe/internal/journal"
)

// This file has what is done to a data folder that no member serves.

// Check finds out what the configuration's files say, without opening anything
// that a running member has open, and whether a member would serve by it.
func Check(cfg *config.Config) error {
	_, err := guardOptions(cfg, &member{})
	return errors.Join(ownCA(cfg), err, checkBackups(cfg))
}

// checkBackups looks at the lock and the name of the place of backups, and asks nobody.
func checkBackups(cfg *config.Config) error {
	if cfg.Backup.Every == 0 {
		return nil
	}
	locks, err := BackupLocks(cfg)
	if err == nil {
		err = locks.Check()
	}
	if err != nil {
		return fmt.Errorf("backups: %w", err)
	}
	return nil
}

// ownCA refuses what would need another server's CA.
func ownCA(cfg *config.Config) error {
	if cfg.CA.Enabled {
		return nil
	}
	return fmt.Errorf("%s says that another server is the CA; a member serves under its own CA only: take that CA over (troupe ca import --cadir DIR) and set ca.enabled: true", cfg.Origin("ca.enabled"))
}

// SetupCA creates the CA now. It refuses when there is one.
func SetupCA(ctx context.Context, cfg *config.Config) (err error) {
	j, err := openJournal(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	dir := filepath.Join(cfg.Data, "ca")
	if ca.Exists(dir) {
		return fmt.Errorf("there is a CA in %s already; certificates that it issued would become invalid. To start anew, use another --data folder", dir)
	}
	a, err := ca.Open(ctx, dir, j, caOptions(cfg, &member{}))
	if err != nil {
		return err
	}
	return a.Close()
}

// ImportCA goes on with the CA of a Puppet Server.
func ImportCA(ctx context.Context, cfg *config.Config, cadir string) (got ca.Imported, err error) {
	j, err := openJournal(cfg)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	return ca.ImportFolder(ctx, filepath.Join(cfg.Data, "ca"), j, cadir, caOptions(cfg, &member{}))
}

// ImportExternalCA goes on with an issuer that somebody else made.
func ImportExternalCA(ctx context.Context, cfg *config.Config, e ca.External) (got ca.Imported, err error) {
	j, err := openJournal(cfg)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	return ca.ImportExternal(ctx, filepath.Join(cfg.Data, "ca"), j, e, caOptions(cfg, &member{}))
}

// VerifyJournal reads every record of a journal that no member has open.
func VerifyJournal(ctx context.Context, cfg *config.Config, progress func(done, total uint64)) (v adminapi.Verification, err error) {
	dir := filepath.Join(cfg.Data, "journal")
	if _, err := os.Stat(dir); err != nil {
		return v, fmt.Errorf("no journal in %s: %w", cfg.Data, err)
	}
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	got, err := j.Verify(ctx, progress)
	if err != nil {
		return v, err
	}
	return adminapi.VerificationOf(got), nil
}

func openJournal(cfg *config.Config) (*journal.Journal, error) {
	if err := os.MkdirAll(cfg.Data, 0o711); err != nil { //nolint:gosec // workers of another user read snapshots below it
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	return journal.Open(filepath.Join(cfg.Data, "journal"), journal.Options{})
}
