package store

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"troupe/internal/telemetry"
)

// warmMost bounds what is read of a file at the start: reading more takes longer than it spares, and pushes other files out of memory.
const warmMost = 2 << 30

// warm reads the file of the tables from one end to the other, so that the kernel has it in memory. A member that was away finds it
// cold, and folds what it has missed into pages all over it: to read each when it is needed takes several times as long as to read all.
func (db *DB) warm(ctx context.Context) {
	f, err := os.Open(filepath.Join(db.dir, fileName))
	if err == nil {
		db.warmed = f // open until SQLite has closed the file: to close it takes the locks away that this process has on it
		err = readThrough(ctx, f)
	}
	if err != nil && ctx.Err() == nil { // who needs a page that cannot be read hears of it
		db.o.Log.DebugContext(ctx, "tables were not read ahead", telemetry.KeyErr, err)
	}
}

func readThrough(ctx context.Context, f *os.File) error {
	step := make([]byte, 1<<20)
	for read := 0; read < warmMost && ctx.Err() == nil; {
		n, err := f.Read(step)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		read += n
	}
	return nil
}
