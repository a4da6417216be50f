package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"
)

// Sum adds the rows of a query to a hash: each value with its type and length, so that rows cannot run together. The query
// must order them.
func Sum(ctx context.Context, tx *sql.Tx, h hash.Hash, query string, args ...any) (err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	values, into := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		h.Write([]byte{'r'})
		for _, v := range values {
			if err := sumValue(h, v); err != nil {
				return err
			}
		}
	}
	return rows.Err()
}

func sumValue(h hash.Hash, v any) error {
	put := func(kind byte, n uint64, b []byte) {
		h.Write(binary.BigEndian.AppendUint64([]byte{kind}, n))
		h.Write(b)
	}
	switch v := v.(type) {
	case nil:
		put('n', 0, nil)
	case int64:
		put('i', uint64(v), nil)
	case float64:
		put('f', math.Float64bits(v), nil)
	case string:
		put('s', uint64(len(v)), []byte(v))
	case []byte:
		put('b', uint64(len(v)), v)
	default:
		return fmt.Errorf("a column has type %T", v)
	}
	return nil
}
