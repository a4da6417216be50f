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
// A table that wants it has one more column, over all others in their order:
//
//	sum INTEGER NOT NULL AS (troupe_sum(name, time, …)) STORED
//
// SQLite computes it with each write. [CheckSums] computes it again.

// sumFunction is the name in SQL.
const sumFunction = "troupe_sum"

// register makes the function known to connections that are opened from now on.
var register = sync.OnceValue(func() error {
	return sqlite.RegisterDeterministicScalarFunction(sumFunction, -1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		return sum(args)
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

// CheckSums reads all rows of all tables that have a column sum and, at the same time if db has another connection, the structure of
// the file with its indexes. The error names the table that is damaged.
func CheckSums(ctx context.Context, db *sql.DB) error {
	structure := make(chan error, 1)
	go func() { structure <- checkStructure(ctx, db) }()
	err := checkRows(ctx, db)
	return errors.Join(err, <-structure)
}

func checkRows(ctx context.Context, db *sql.DB) error {
	tables, err := column(ctx, db, `SELECT m.name FROM sqlite_schema m, pragma_table_xinfo(m.name) c WHERE m.type = 'table' AND c.name = 'sum' AND c.hidden = 3`)
	if err != nil {
		return err
	}
	for _, table := range tables {
		columns, err := column(ctx, db, `SELECT name FROM pragma_table_info(?) ORDER BY cid`, table)
		if err != nil {
			return err
		}
		var wrong int
		// NOT INDEXED: the rows themselves are read.
		if err := db.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM %s NOT INDEXED WHERE sum IS NOT %s(%s)`, table, sumFunction, strings.Join(columns, ", "))).Scan(&wrong); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
		if wrong > 0 {
			return fmt.Errorf("table %s: %d rows are not as they were written", table, wrong)
		}
	}
	return nil
}

func checkStructure(ctx context.Context, db *sql.DB) error {
	said, err := column(ctx, db, `PRAGMA integrity_check(1)`)
	if err == nil && (len(said) != 1 || said[0] != "ok") {
		err = fmt.Errorf("structure: %s", strings.Join(said, "; "))
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
