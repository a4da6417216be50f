package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file looks at a journal without changing it, and says how it does.

var errLooking = fault.New(fault.Unavailable, "the journal was opened to look at it: nothing is written")

// Look opens the journal in dir for reading. It takes no lock, makes nothing and changes nothing; every write is refused. The
// error is fs.ErrNotExist when there is no journal, and names the process that has it open: ask that one.
func Look(ctx context.Context, dir string, o Options) (*Journal, error) {
	if pid := userOf(filepath.Join(dir, lockName)); pid != "" {
		return nil, fault.New(fault.Conflict, "the journal in %s is in use by process %s", dir, pid)
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	j := &Journal{
		dir: dir, log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "journal"),
		turn: make(chan struct{}, 1), scan: make(chan struct{}, 1), closed: make(chan struct{}),
		clock: &clock{now: now}, changes: newSignal(), metrics: newMetrics(o.Registerer),
	}
	if err := j.look(ctx); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func (j *Journal) look(ctx context.Context) (err error) {
	if j.read, err = sqlite.Look(filepath.Join(j.dir, fileName)); err != nil {
		return err
	}
	if j.pack, err = newPacker(); err != nil {
		return err
	}
	var app, version int
	err = j.read.QueryRowContext(ctx, "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version").Scan(&app, &version)
	switch {
	case err != nil:
		return fmt.Errorf("journal in %s cannot be read: %w", j.dir, err)
	case app != applicationID || version > formatVersion:
		return fmt.Errorf("%s is no journal that this troupe can read", filepath.Join(j.dir, fileName))
	}
	if err := j.read.QueryRowContext(ctx, "SELECT origin FROM self").Scan(&j.origin); err != nil {
		return fmt.Errorf("read origin from journal in %s: %w", j.dir, err)
	}
	return nil
}

// userOf returns the process that has locked the file, "" when none has. The kernel's list is asked, since trying the lock
// could be in the way of a member that starts.
func userOf(lock string) string {
	info, err := os.Stat(lock)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	list, err := os.ReadFile("/proc/locks")
	if err != nil || !ok {
		return ""
	}
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line) // 1: FLOCK ADVISORY WRITE 1234 fd:01:5678 0 EOF
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], ":"+strconv.FormatUint(st.Ino, 10)) {
			if text, err := os.ReadFile(lock); err == nil && strings.TrimSpace(string(text)) == f[4] {
				return f[4]
			}
		}
	}
	return ""
}

// A Condition says how a journal does, as far as that is to be had quickly.
type Condition struct {
	Records uint64    `json:"records"` // that are held, of all origins
	Origins int       `json:"origins"`
	Size    int64     `json:"size"`   // bytes of its files
	Newest  time.Time `json:"newest"` // the hybrid clock of the newest record; zero when there is none
	Damage  []string  `json:"damage"`
	Checked bool      `json:"checked"` // the whole file was looked through; false when there was no time for it
}

// Examine looks at the end of each chain and, as long as ctx lets it, at the structure of the file. It reads no bodies: that is
// what [Journal.Verify] is for.
func (j *Journal) Examine(ctx context.Context) (Condition, error) {
	c := Condition{Damage: []string{}}
	for _, name := range []string{fileName, fileName + "-wal"} {
		if info, err := os.Stat(filepath.Join(j.dir, name)); err == nil {
			c.Size += info.Size()
		}
	}
	chains, err := j.chains(ctx)
	if sqlite.IsCorrupt(err) {
		c.Damage = append(c.Damage, err.Error())
		return c, nil
	}
	if err != nil {
		return c, err
	}
	var origins []Origin
	for _, one := range chains {
		origins = append(origins, one.origin)
		c.Records += one.last - min(one.base, one.last)
		if t := one.lastTime.Time(); one.last > 0 && t.After(c.Newest) {
			c.Newest = t
		}
		if err := j.checkEnd(ctx, one); err != nil {
			c.Damage = append(c.Damage, err.Error())
		}
	}
	c.Origins = len(slices.Compact(origins)) // chains come by origin
	said, err := j.quickCheck(ctx)
	c.Damage = append(c.Damage, said...)
	c.Checked = err == nil
	if err != nil && ctx.Err() == nil {
		return c, err
	}
	return c, nil
}

// checkEnd returns a *DamageError when a chain does not end as it is said to. Appends may go on meanwhile.
func (j *Journal) checkEnd(ctx context.Context, c chainRow) error {
	if c.last == c.base {
		return nil
	}
	var hash []byte
	err := j.read.QueryRowContext(ctx, "SELECT hash FROM record WHERE chain = ? AND number = ?", c.id, c.last).Scan(&hash)
	d := &DamageError{Origin: c.origin, Stream: c.stream, Number: c.last}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		d.What, d.Detail = Missing, "the record with which the chain ends is not there"
	case sqlite.IsCorrupt(err):
		d.What, d.Detail = Unreadable, err.Error()
	case err != nil:
		return fmt.Errorf("read the end of a chain: %w", err)
	case string(hash) != string(c.lastHash[:]):
		d.What, d.Detail = DamagedChain, "it is not the record with which the chain is said to end"
	default:
		return nil
	}
	return d
}
