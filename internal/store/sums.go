package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file notices bits of the tables that flipped on the disk. Each row has a sum (package sqlite); all rows and indexes are read
// in the background, and what is not as it was written is made anew from the journal.

const (
	checkFirst  = 3 * time.Second  // after the start
	checkQuiet  = time.Second      // since a member that was away has folded what it missed: it needs both cores for that
	checkLatest = 30 * time.Second // after the start, whatever else there is to do: nobody has looked at the rows yet
	checkEvery  = time.Hour
)

// rebuildName is a file that tells the next Open to make the tables anew: SQLite cannot follow the present ones any more.
const rebuildName = "store.db.rebuild"

// sumTables is the migration that gives each row its sum. Only a new table can have such a column.
func sumTables() string {
	var all strings.Builder
	tables := regexp.MustCompile(`(?s)CREATE TABLE (\w+) \((.*?)\n\) STRICT(, WITHOUT ROWID)?;`)
	for _, t := range tables.FindAllStringSubmatch(firstTables+integrityTables, -1) {
		name, keys := t[1], ""
		var columns, lines []string
		for line := range strings.SplitSeq(t[2], "\n") {
			line, _, _ = strings.Cut(line, "--")
			line = strings.TrimRight(strings.TrimSpace(line), ",")
			switch first, _, _ := strings.Cut(line, " "); {
			case line == "":
			case strings.HasPrefix(line, "PRIMARY KEY"):
				keys = ", " + line
			default:
				columns, lines = append(columns, first), append(lines, line)
			}
		}
		list := strings.Join(columns, ", ")
		fmt.Fprintf(&all, "ALTER TABLE %s RENAME TO plain;\n", name)
		fmt.Fprintf(&all, "CREATE TABLE %s (%s, row_sum INTEGER NOT NULL AS (%s) STORED%s) STRICT%s;\n", name, strings.Join(lines, ", "), sqlite.SumOf(columns...), keys, t[3])
		fmt.Fprintf(&all, "INSERT INTO %s (%s) SELECT %s FROM plain;\nDROP TABLE plain;\n", name, list, list)
	}
	for _, index := range regexp.MustCompile(`CREATE INDEX [^;]+;`).FindAllString(firstTables+integrityTables, -1) {
		all.WriteString(index + "\n")
	}
	return all.String()
}

// runChecks looks for damage until ctx ends. The error is that the tables cannot be mended while they are open.
func (db *DB) runChecks(ctx context.Context) error {
	started, first := db.o.Now(), true
	timer := time.NewTimer(checkFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			if wait := checkIn(db.o.Now().Sub(started), db.sinceBacklog()); first && wait > 0 {
				timer.Reset(wait)
				continue
			}
			first = false
		case <-db.suspect:
		}
		if err := db.check(ctx); err != nil && ctx.Err() == nil {
			if sqlite.IsCorrupt(err) {
				return err
			}
			db.o.Log.WarnContext(ctx, "store could not be checked", telemetry.KeyErr, err)
		}
		timer.Reset(checkEvery)
	}
}

// checkIn is how much longer the first check waits, by the time since the start and since there was a backlog of records.
func checkIn(sinceStart, sinceBacklog time.Duration) time.Duration {
	return min(checkQuiet-sinceBacklog, checkLatest-sinceStart)
}

// sinceBacklog is the time since so much was left to fold that a transaction was full.
func (db *DB) sinceBacklog() time.Duration { return db.o.Now().Sub(time.Unix(0, db.backlog.Load())) }

// check reads all tables and makes anew what is damaged.
func (db *DB) check(ctx context.Context) error {
	// Of its own, so that no query waits for a connection.
	file, err := sqlite.Open(filepath.Join(db.dir, fileName), 2, "query_only(1)")
	if err != nil {
		return err
	}
	tables, err := sqlite.SummedTables(ctx, file)
	lost := 0
	for _, table := range tables {
		found := sqlite.CheckTable(ctx, file, table)
		if found == nil {
			continue
		}
		if ctx.Err() != nil || !sqlite.IsDamage(found) {
			err = errors.Join(err, found)
			break
		}
		db.metrics.damaged.Inc()
		db.behind.Store(true) // nobody is to collect a part of what is exported
		n, mended := db.mendTable(ctx, table)
		lost += n
		db.o.Log.ErrorContext(ctx, "store is damaged: rows are folded again from the journal", telemetry.KeyErr, found, "rows", n,
			"remedy", "look at the disk; what is older than the journal comes from another member, or not at all")
		if sqlite.IsCorrupt(mended) {
			mended = db.giveUp(ctx, mended)
		}
		if err = mended; err != nil {
			break
		}
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if lost > 0 {
		if err := db.foldAnew(ctx); err != nil {
			return err
		}
	}
	return db.foldAll(ctx) // and nothing is a part any more
}

// mendTable writes what is whole of a table anew, with all its indexes, and returns how many rows are not.
func (db *DB) mendTable(ctx context.Context, table string) (lost int, err error) {
	columns, err := sqlite.Columns(ctx, db.read, table)
	if err != nil {
		return 0, err
	}
	list := strings.Join(columns, ", ")
	err = db.update(ctx, func(tx *sqlite.Tx) error {
		var before, after int
		if err := tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM %s NOT INDEXED`, table)).Scan(&before); err != nil {
			return err
		}
		for _, step := range []string{
			`CREATE TABLE whole AS SELECT %[2]s FROM %[1]s NOT INDEXED WHERE row_sum IS %[3]s`,
			`DELETE FROM %[1]s`, // without a condition: indexes that do not fit the rows are no matter
			`INSERT OR IGNORE INTO %[1]s (%[2]s) SELECT %[2]s FROM whole`,
			`DROP TABLE whole`,
		} {
			if _, err := tx.Tx.ExecContext(ctx, strings.NewReplacer("%[1]s", table, "%[2]s", list, "%[3]s", sqlite.SumOf(columns...)).Replace(step)); err != nil {
				return err
			}
		}
		if err := tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM %s`, table)).Scan(&after); err != nil {
			return err
		}
		lost = before - after
		return nil
	})
	return lost, err
}

// foldAnew folds the whole journal as a member that has nothing: what is older is asked of other members.
func (db *DB) foldAnew(ctx context.Context) error {
	err := db.update(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM position`)
		if err == nil {
			_, err = tx.ExecContext(ctx, `UPDATE node SET exported_sum = x'ff'`) // written again, too
		}
		if err == nil {
			db.positions = map[journal.Origin]position{}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("fold the journal anew: %w", err)
	}
	return nil
}

// giveUp has the tables made anew at the next start.
func (db *DB) giveUp(ctx context.Context, cause error) error {
	db.o.Log.ErrorContext(ctx, "store cannot be mended: the member stops, and makes it anew when it starts", telemetry.KeyErr, cause)
	if err := os.WriteFile(filepath.Join(db.dir, rebuildName), nil, 0o600); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// toRebuild reports whether the last process has given the tables up.
func toRebuild(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, rebuildName))
	return err == nil
}

func rebuilt(dir string) error {
	if err := os.Remove(filepath.Join(dir, rebuildName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// damagedRow refuses a row that is not as it was written, and has the tables checked now.
func (db *DB) damagedRow(what string) error {
	select {
	case db.suspect <- struct{}{}:
	default: // it is to be done already
	}
	return fault.New(fault.Unavailable, "%s are damaged on the disk of this member, and come again from its journal or another member: ask again in a minute", what)
}
