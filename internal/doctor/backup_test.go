package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/backup"
)

// This file looks for backups that are there, old, not whole, or of somebody else.

func TestTheNewestBackup(t *testing.T) {
	play(t, []mishap{
		{"no place, and no other member", "backup", func(_ *testing.T, x *exam) { x.journal.value.Origins = 1 }, []string{"warn: no place is configured, and no other member has copies", "troupe backup create"}},
		{"no place, and others have copies", "backup", func(*testing.T, *exam) {}, []string{"ok: no place is configured; other members have copies"}},
		{"a place that is not there", "backup", func(t *testing.T, x *exam) { x.config.Backup.To = filepath.Join(t.TempDir(), "nowhere") }, []string{"warn: no whole backup of this member is at"}},
		{"a place that is a file", "backup", func(t *testing.T, x *exam) {
			t.Helper()
			x.config.Backup.To = filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(x.config.Backup.To, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"fail: backups at ", "cannot be listed"}},
	})
	now := time.Now()
	made := func(member string, age time.Duration, whole bool) backup.Info {
		return backup.Info{Whole: whole, Header: backup.Header{Member: member, Time: now.Add(-age)}}
	}
	for want, c := range map[string]struct {
		every time.Duration
		all   []backup.Info
	}{
		"ok the newest at x is 1h0m0s old":                           {time.Hour, []backup.Info{made("a", time.Hour, true), made("a", 9*time.Hour, true)}},
		"warn the newest backup of this member at x is 3h0m0s old":   {time.Hour, []backup.Info{made("a", time.Minute, false), made("b", time.Minute, true), made("a", 3*time.Hour, true)}},
		"ok the newest at x is 100h0m0s old":                         {0, []backup.Info{made("a", 100*time.Hour, true)}},
		"warn the newest backup of this member at x is 200h0m0s old": {0, []backup.Info{made("a", 200*time.Hour, true)}},
		"warn no whole backup of this member is at x":                {0, []backup.Info{made("a", time.Minute, false), made("b", time.Minute, true)}},
	} {
		var n notes
		tellBackups(&n, "x", c.all, "a", c.every, now)
		if len(n.found) != 1 || strings.TrimSpace(string(n.found[0].State)+" "+n.found[0].Found) != want {
			t.Errorf("found %+v, want %s", n.found, want)
		}
	}
}
