package sqlite

import (
	"context"
	"errors"
)

// This file makes the write-ahead log short.

// Truncate moves all of the write-ahead log into the file and makes it short. It does not wait for readers, as SQLite would, with the
// writer behind it: while somebody reads what the log has, done is false, and another time will do.
func (w *Writer) Truncate(ctx context.Context) (done bool, err error) {
	conn, err := w.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout(0)"); err != nil {
		return false, err
	}
	var busy bool
	var frames, moved int
	err = conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	_, back := conn.ExecContext(context.WithoutCancel(ctx), "PRAGMA "+patience)
	return err == nil && !busy, errors.Join(err, back)
}
