package journal

import (
	"context"
	"log/slog"
	"time"

	"troupe/internal/telemetry"
)

// This file waits for a second copy of what was written.

// copyWait is how long a caller waits for it.
const copyWait = 2 * time.Second

// AwaitCopy returns when another member has the record, too, or logs that none has: a member that is cut off goes on alone. copied
// returns nil when another member has the record of our state of that number; nil asks nobody. It outlives ctx, since the
// record is written.
func AwaitCopy(ctx context.Context, copied func(ctx context.Context, number uint64) error, r Record, log *slog.Logger) {
	if copied == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), copyWait)
	defer cancel()
	if err := copied(ctx, r.Number); err != nil {
		log.WarnContext(ctx, "no other member has this record yet: if this machine is lost before one has, so is the record",
			"kind", r.Kind, "key", r.Key, "number", r.Number, telemetry.KeyErr, err)
	}
}
