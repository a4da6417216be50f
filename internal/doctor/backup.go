package doctor

import (
	"context"
	"errors"
	"time"

	"troupe/internal/backup"
	"troupe/internal/server"
)

// This file looks for the newest backup of this member, where the configuration says that backups are.

// backupDue is how much older than backup.every the newest one may be, and how old where they are made by hand.
const (
	backupLate = 2
	backupDue  = 7 * 24 * time.Hour
)

func backups(ctx context.Context, x *exam, n *notes) {
	if x.config == nil || x.journal.err != nil {
		return // told elsewhere, or nothing to lose
	}
	cfg := x.config
	if cfg.Backup.To == "" {
		if x.journal.value.Origins > 1 {
			n.ok("no place is configured; other members have copies")
			return
		}
		n.warn("set backup.to, backup.every and backup.passphrase_file, or by hand: troupe backup create --to PLACE", "no place is configured, and no other member has copies: with this disk all is lost")
		return
	}
	place, err := server.BackupPlace(cfg, "", backup.PlaceOptions{})
	var all []backup.Info
	if err == nil {
		all, err = backup.List(ctx, place)
	}
	if err != nil && !errors.Is(err, backup.ErrNoFolder) {
		n.fail("troupe backup list tells more", "backups at %s cannot be listed: %v", cfg.Backup.To, err)
		return
	}
	tellBackups(n, cfg.Backup.To, all, cfg.Certname, cfg.Backup.Every, x.now)
}

// tellBackups judges the newest whole backup of a member.
func tellBackups(n *notes, to string, all []backup.Info, member string, every time.Duration, now time.Time) {
	most := backupDue
	if every > 0 {
		most = backupLate * every
	}
	for _, one := range all { // the newest first
		if !one.Whole || one.Header.Member != member {
			continue
		}
		if age := now.Sub(one.Header.Time).Round(time.Second); age > most {
			n.warn("troupe backup create; if the schedule makes none, its log says why", "the newest backup of this member at %s is %s old", to, age)
		} else {
			n.ok("the newest at %s is %s old", to, age)
		}
		return
	}
	n.warn("troupe backup create; if the schedule makes none, its log says why", "no whole backup of this member is at %s", to)
}
