package sqlite

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"sync"
)

// This file keeps statements parsed. To parse one costs several times what it costs to run it on a row or two, and whoever folds a
// journal runs the same few dozen a million times.

// maxKept bounds the statements that a writer keeps: their texts are constants of the program, and more would be made up.
const maxKept = 256

// A Writer is a database with one connection, for who writes. What is said in its transactions is parsed once.
type Writer struct {
	*sql.DB

	mu     sync.Mutex
	kept   map[string]*sql.Stmt
	wanted map[string]bool // were said and are not kept yet: the connection is free only between transactions
}

// OpenWriter is [Open] for one connection.
func OpenWriter(path string, pragmas ...string) (*Writer, error) {
	db, err := Open(path, 1, pragmas...)
	if err != nil {
		return nil, err
	}
	return &Writer{DB: db, kept: map[string]*sql.Stmt{}, wanted: map[string]bool{}}, nil
}

// BeginTx begins a transaction. No other one may be under way in this goroutine: it would wait for itself.
func (w *Writer) BeginTx(ctx context.Context, o *sql.TxOptions) (*Tx, error) {
	w.keep(ctx)
	tx, err := w.DB.BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Tx{Tx: tx, w: w, ready: map[string]*sql.Stmt{}}, nil
}

// keep parses what earlier transactions said. What cannot be parsed now is no matter yet: who says it again hears why. It waits for the
// connection without the lock, since who has the connection needs the lock.
func (w *Writer) keep(ctx context.Context) {
	w.mu.Lock()
	texts := slices.Collect(maps.Keys(w.wanted))
	clear(w.wanted)
	w.mu.Unlock()
	for _, text := range texts {
		stmt, err := w.PrepareContext(ctx, text) //nolint:sqlclosecheck // Close of the database closes it
		if err != nil {
			continue
		}
		w.mu.Lock()
		w.kept[text] = stmt
		w.mu.Unlock()
	}
}

// statement returns a statement that is kept; nil when it is not.
func (w *Writer) statement(text string) *sql.Stmt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept[text]
}

// want has a statement kept from the next transaction on.
func (w *Writer) want(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.kept)+len(w.wanted) < maxKept {
		w.wanted[text] = true
	}
}

// A Tx is a transaction of a [Writer]. The rows of a query are closed before the same text is said again.
type Tx struct {
	*sql.Tx

	w     *Writer
	ready map[string]*sql.Stmt
}

// statement returns the statement for this transaction.
func (t *Tx) statement(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt := t.ready[text]; stmt != nil {
		return stmt, nil
	}
	var stmt *sql.Stmt
	if kept := t.w.statement(text); kept != nil {
		stmt = t.StmtContext(ctx, kept)
	} else {
		var err error
		if stmt, err = t.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
		t.w.want(text)
	}
	t.ready[text] = stmt // the end of the transaction closes it
	return stmt, nil
}

// ExecContext is that of [sql.Tx].
func (t *Tx) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	stmt, err := t.statement(ctx, text) //nolint:sqlclosecheck // the end of the transaction closes it
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// QueryContext is that of [sql.Tx].
func (t *Tx) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := t.statement(ctx, text) //nolint:sqlclosecheck // the end of the transaction closes it
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// QueryRowContext is that of [sql.Tx].
func (t *Tx) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	stmt, err := t.statement(ctx, text) //nolint:sqlclosecheck // the end of the transaction closes it
	if err != nil {
		return t.Tx.QueryRowContext(ctx, text, args...) // which fails alike, and can say so
	}
	return stmt.QueryRowContext(ctx, args...)
}
