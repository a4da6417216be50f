package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"sync"

	"modernc.org/sqlite"
)

// This file lets a table notice a flipped bit. SQLite itself checks the structure of a file and never its content: a letter that
// changed in a row is given out as if it had been written.
//
// A table that wants it has one more column, sum or row_sum, over all others in their order:
//
//	sum INTEGER NOT NULL AS (troupe_sum(name, time, …)) STORED
//
// SQLite computes it with each write. [CheckSums] computes it again.

// sumFunction is the name in SQL.
const sumFunction = "troupe_sum"

// register makes the function known to connections that are opened from now on.
var register = sync.OnceValue(func() error {
	return sqlite.RegisterFunction(sumFunction, &sqlite.FunctionImpl{
		NArgs: -1, Deterministic: true, VolatileArgs: true, // sum keeps none of them
		Scalar: func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) { return sum(args) },
	})
})

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is a CRC over values, their types and their lengths.
func sum(values []driver.Value) (int64, error) {
	crc := uint32(0)
	var b [9]byte
	for _, v := range values {
		var text []byte
		switch v := v.(type) {
		case nil:
			b = [9]byte{'n'}
		case int64:
			b[0] = 'i'
			binary.BigEndian.PutUint64(b[1:], uint64(v))
		case float64:
			b[0] = 'f'
			binary.BigEndian.PutUint64(b[1:], math.Float64bits(v))
		case string:
			text = []byte(v)
			b[0] = 't'
			binary.BigEndian.PutUint64(b[1:], uint64(len(v)))
		case []byte:
			text = v
			b[0] = 'b'
			binary.BigEndian.PutUint64(b[1:], uint64(len(v)))
		default:
			return 0, fmt.Errorf("%s of a %T", sumFunction, v)
		}
		crc = crc32.Update(crc32.Update(crc, castagnoli, b[:]), castagnoli, text)
	}
	return int64(crc), nil
}

// CheckSums reads all rows of all tables that have such a column and, at the same time if db has another connection, the structure of
// the file with its indexes. The error names the table that is damaged.
func CheckSums(ctx context.Context, db *sql.DB) error {
	structure := make(chan error, 1)
	go func() { structure <- checkStructure(ctx, db, "1") }()
	err := checkRows(ctx, db)
	return errors.Join(err, <-structure)
}

func checkRows(ctx context.Context, db *sql.DB) error {
	tables, err := SummedTables(ctx, db)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if err := checkTableRows(ctx, db, table); err != nil {
			return err
		}
	}
	return nil
}

// isSum finds the column.
const isSum = `name IN ('sum', 'row_sum') AND hidden = 3`

// SumOf is the expression of a column row_sum: for tables that are written often, since a value costs more on its way into the
// function than in the sum. None of the columns may be NULL.
func SumOf(columns ...string) string {
	return sumFunction + "(CAST(" + strings.Join(columns, " || '|' || ") + " AS BLOB))"
}

// SummedTables returns the tables whose rows have a sum.
func SummedTables(ctx context.Context, db *sql.DB) ([]string, error) {
	return column(ctx, db, `SELECT m.name FROM sqlite_schema m WHERE m.type = 'table' AND EXISTS (SELECT 1 FROM pragma_table_xinfo(m.name) WHERE `+isSum+`)`)
}

// Columns returns the columns of a table but for its sum.
func Columns(ctx context.Context, db *sql.DB, table string) ([]string, error) {
	return column(ctx, db, `SELECT name FROM pragma_table_info(?) ORDER BY cid`, table)
}

// CheckTable reads one table whose rows have a sum, with its indexes.
func CheckTable(ctx context.Context, db *sql.DB, table string) error {
	if err := checkTableRows(ctx, db, table); err != nil {
		return err
	}
	return checkStructure(ctx, db, "'"+table+"'")
}

// A damageError says that a table is not as it was written.
type damageError struct{ what string }

func (e *damageError) Error() string { return e.what }

// IsDamage reports whether a check has found damage, and has not failed for another reason.
func IsDamage(err error) bool {
	_, damage := errors.AsType[*damageError](err)
	return damage || IsCorrupt(err)
}

func checkTableRows(ctx context.Context, db *sql.DB, table string) error {
	columns, err := Columns(ctx, db, table)
	if err != nil {
		return err
	}
	var sum string
	if err := db.QueryRowContext(ctx, `SELECT name FROM pragma_table_xinfo(?) WHERE `+isSum, table).Scan(&sum); err != nil {
		return fmt.Errorf("table %s: %w", table, err)
	}
	want := sumFunction + "(" + strings.Join(columns, ", ") + ")"
	if sum == "row_sum" {
		want = SumOf(columns...)
	}
	var wrong int
	// NOT INDEXED: the rows themselves are read.
	if err := db.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM %s NOT INDEXED WHERE %s IS NOT %s`, table, sum, want)).Scan(&wrong); err != nil {
		return fmt.Errorf("table %s: %w", table, err)
	}
	if wrong > 0 {
		return &damageError{fmt.Sprintf("table %s: %d rows are not as they were written", table, wrong)}
	}
	return nil
}

// checkStructure reads the pages of a table and its indexes, or of the whole file when it is told 1.
func checkStructure(ctx context.Context, db *sql.DB, what string) error {
	said, err := column(ctx, db, `PRAGMA integrity_check(`+what+`)`)
	if err == nil && (len(said) != 1 || said[0] != "ok") {
		err = &damageError{"structure: " + strings.Join(said[:min(len(said), 3)], "; ")}
	}
	return err
}

func column(ctx context.Context, db *sql.DB, query string, args ...any) (all []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
