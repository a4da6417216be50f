package journal

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"troupe/internal/sqlite"
)

// This file keeps the last room on a disk for what must never be refused while anything fits: certificates, revocations,
// tokens, deployments. Facts, catalogs and reports are refused before the disk is full; their senders come again.

// The room that is kept: a fiftieth of the file system, and not more than this.
const (
	reserveMost  = 256 << 20
	reserveShare = 50
)

// A reserve knows whether bulk records find room.
type reserve struct {
	dir   string
	tight atomic.Bool // we said so
}

// Room returns the error for the caller when what remains of the disk is kept for the small state. Its bytes are counted now.
func (j *Journal) Room(ctx context.Context) error {
	var st unix.Statfs_t
	if err := unix.Statfs(j.reserve.dir, &st); err != nil {
		return fmt.Errorf("look for room on the disk of the journal: %w", err)
	}
	block := uint64(st.Bsize) // never negative
	free, keep := st.Bavail*block, min(st.Blocks*block/reserveShare, reserveMost)
	if free >= keep {
		if j.reserve.tight.CompareAndSwap(true, false) {
			j.log.InfoContext(ctx, "disk has room again: facts, catalogs and reports are stored", "free_bytes", free)
		}
		j.metrics.tight.Set(0)
		return nil
	}
	if j.reserve.tight.CompareAndSwap(false, true) {
		j.log.ErrorContext(ctx, "disk is nearly full: facts, catalogs and reports are refused, certificates are still signed and revoked",
			"free_bytes", free, "kept_bytes", keep, "folder", j.dir, "remedy", "make room on the disk of this folder; no restart is needed")
	}
	j.metrics.tight.Set(1)
	return fmt.Errorf("%d bytes of the disk are free, and %d are kept: %w", free, keep, sqlite.DiskFault(syscall.ENOSPC))
}
