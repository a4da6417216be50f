package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file brings into table node what records say of nodes. A run leaves four records, and its node's row is written once for all
// that are folded together.

// A folding is a transaction that folds records.
type folding struct {
	*sqlite.Tx
	nodes map[puppet.Certname]*news // written when all records are folded
}

// News is what records say of a node: of each part what the newest of them says.
type news struct {
	nodeRow
	seen, deactivated stamp
	exports           bool // what it exports may be different
}

// nodeRow is the row of a node but for what follows from its catalog and its age.
type nodeRow struct {
	Facts, Catalog, Compile, Report, EnvironmentStamp stamp

	Environment, ReportID, Status, CachedCatalog string
	Noop, CompileFailed                          bool
}

func (f *folding) node(certname puppet.Certname) *news {
	n := f.nodes[certname]
	if n == nil {
		n = &news{}
		f.nodes[certname] = n
	}
	return n
}

// touch notes a sign of life.
func (f *folding) touch(r *journal.Record, certname puppet.Certname, env puppet.Environment) *news {
	n, at := f.node(certname), stampOf(r)
	n.seen = later(n.seen, at)
	if env != "" && isLater(at, n.EnvironmentStamp) {
		n.EnvironmentStamp, n.Environment = at, string(env)
	}
	return n
}

func (n *news) compiled(at stamp, failed bool) {
	if isLater(at, n.Compile) {
		n.Compile, n.CompileFailed = at, failed
	}
}

func (n *news) reported(at stamp, id, status string, noop bool, cachedCatalog string) {
	if isLater(at, n.Report) {
		n.Report, n.ReportID, n.Status, n.Noop, n.CachedCatalog = at, id, status, noop, cachedCatalog
	}
}

// add takes what another member made of records.
func (n *news) add(seen stamp, row nodeRow) {
	n.seen, n.exports = later(n.seen, seen), true
	n.Facts, n.Catalog = later(n.Facts, row.Facts), later(n.Catalog, row.Catalog)
	n.compiled(row.Compile, row.CompileFailed)
	n.reported(row.Report, row.ReportID, row.Status, row.Noop, row.CachedCatalog)
	if isLater(row.EnvironmentStamp, n.EnvironmentStamp) {
		n.EnvironmentStamp, n.Environment = row.EnvironmentStamp, row.Environment
	}
}

func isLater(a, b stamp) bool { return bytes.Compare(a, b) > 0 }

func later(a, b stamp) stamp {
	if isLater(b, a) {
		return b
	}
	return a
}

// writeNews brings all of it into the table, and what nodes export into the index. A node that was inactive and is no longer gets
// its exported resources back.
func (db *DB) writeNews(ctx context.Context, f *folding) error {
	silent := db.silentSince()
	for _, certname := range slices.Sorted(maps.Keys(f.nodes)) {
		n := f.nodes[certname]
		woken, err := n.write(ctx, f.Tx, certname, silent)
		if err == nil && (woken || n.exports) {
			err = db.indexExported(ctx, f.Tx, certname)
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", certname, err)
		}
	}
	return nil
}

// write reports whether the node was inactive. What is as new as the row is written once more: the row may have been damaged.
func (n *news) write(ctx context.Context, tx *sqlite.Tx, certname puppet.Certname, silent stamp) (woken bool, err error) {
	for _, at := range []*stamp{&n.seen, &n.deactivated, &n.Facts, &n.Catalog, &n.Compile, &n.Report, &n.EnvironmentStamp} {
		if *at == nil {
			*at = stamp{} // not NULL
		}
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO node (certname, seen, facts, catalog, compile, report, environment, environment_stamp, report_id, status, noop, cached_catalog, compile_failed, deactivated, expired)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?2 < ?15)
		ON CONFLICT DO UPDATE SET seen = max(seen, ?2), facts = max(facts, ?3), catalog = max(catalog, ?4),
			compile_failed = iif(?5 >= compile AND length(?5) > 0, ?13, compile_failed), compile = max(compile, ?5),
			report_id = iif(?6 >= report AND length(?6) > 0, ?9, report_id), status = iif(?6 >= report AND length(?6) > 0, ?10, status), noop = iif(?6 >= report AND length(?6) > 0, ?11, noop),
			cached_catalog = iif(?6 >= report AND length(?6) > 0, ?12, cached_catalog), report = max(report, ?6),
			environment = iif(?8 >= environment_stamp AND length(?8) > 0, ?7, environment), environment_stamp = max(environment_stamp, ?8),
			deactivated = max(deactivated, ?14)
		RETURNING expired OR length(deactivated) > 0`,
		certname, n.seen, n.Facts, n.Catalog, n.Compile, n.Report, n.Environment, n.EnvironmentStamp, n.ReportID, n.Status, n.Noop, n.CachedCatalog, n.CompileFailed, n.deactivated, silent).Scan(&woken)
	if err != nil || !woken {
		return false, err
	}
	// Not by a record that comes late and is itself too old: the node's exported resources would come back for a while.
	_, err = tx.ExecContext(ctx, `UPDATE node SET expired = 0 WHERE certname = ? AND seen >= ?`, certname, silent)
	return true, err
}
