package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file keeps one row a node: when it was last heard of, and how it is.

// A Node is what is known about a node at a glance.
type Node struct {
	Certname      puppet.Certname
	Environment   puppet.Environment // of its newest facts, catalog, compile or report
	Status        string             // of its last report: changed, unchanged, failed; "" before the first
	Noop          bool               // so was its last run
	CachedCatalog string             // cached_catalog_status of its last report
	CompileFailed bool               // so did its last compile
	ReportID      string             // its last report
	Seen          time.Time          // the newest of the next four; zero means never
	FactsAt       time.Time
	CatalogAt     time.Time
	CompileAt     time.Time
	ReportAt      time.Time
	Inactive      bool // deactivated, or silent for too long
}

// A NodeQuery selects nodes. Zero fields select all.
type NodeQuery struct {
	Certname    string // exact, or with * and ? as in file names
	Environment puppet.Environment
	Status      string
	Inactive    bool            // include inactive nodes
	After       puppet.Certname // for paging: those behind it in the order of names
	Limit       int             // 0 means 1000
}

// Nodes returns nodes in the order of their names.
func (db *DB) Nodes(ctx context.Context, q NodeQuery) ([]Node, error) {
	var c conditions
	switch {
	case strings.ContainsAny(q.Certname, "*?"):
		c.add(`certname GLOB ?`, strings.ReplaceAll(q.Certname, "[", "[[]"))
	case q.Certname != "":
		c.add(`certname = ?`, q.Certname)
	}
	if q.Environment != "" {
		c.add(`environment = ?`, q.Environment)
	}
	if q.Status != "" {
		c.add(`status = ?`, q.Status)
	}
	if q.After != "" {
		c.add(`certname > ?`, q.After)
	}
	if !q.Inactive {
		c.add(`expired = 0 AND deactivated < seen AND seen >= ?`, db.silentSince())
	}
	rows, err := db.read.QueryContext(ctx, `SELECT certname, environment, status, noop, cached_catalog, compile_failed, report_id,
		seen, facts, catalog, compile, report, expired OR deactivated >= seen FROM node`+c.where()+` ORDER BY certname LIMIT ?`,
		append(c.args, limitOr(q.Limit, 1000))...)
	if err != nil {
		return nil, fmt.Errorf("query nodes: %w", err)
	}
	defer rows.Close()
	var all []Node
	for rows.Next() {
		var n Node
		var seen, facts, catalog, compile, report stamp
		if err := rows.Scan(&n.Certname, &n.Environment, &n.Status, &n.Noop, &n.CachedCatalog, &n.CompileFailed, &n.ReportID,
			&seen, &facts, &catalog, &compile, &report, &n.Inactive); err != nil {
			return nil, fmt.Errorf("query nodes: %w", err)
		}
		n.Seen, n.FactsAt, n.CatalogAt, n.CompileAt, n.ReportAt = seen.time(), facts.time(), catalog.time(), compile.time(), report.time()
		n.Inactive = n.Inactive || n.Seen.Before(db.o.Now().Add(-db.o.InactiveAfter))
		all = append(all, n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query nodes: %w", err)
	}
	return all, nil
}

func (db *DB) silentSince() stamp { return stampAt(db.o.Now().Add(-db.o.InactiveAfter)) }

// DeactivateNode makes a node inactive until it is heard of again: its exported
// resources are no longer collected.
func (db *DB) DeactivateNode(ctx context.Context, certname puppet.Certname) error {
	var known bool
	if err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM node WHERE certname = ?)`, certname).Scan(&known); err != nil {
		return fmt.Errorf("look up node %s: %w", certname, err)
	}
	if !known {
		return fault.New(fault.NotFound, "no node %s is known", certname)
	}
	body, err := joinParts(deactivated{certname})
	if err != nil {
		return err
	}
	_, err = db.save(ctx, kindDeactivate, string(certname), body)
	return err
}

type deactivated struct {
	Certname puppet.Certname `json:"certname"`
}

func foldDeactivate(r *journal.Record) (change, error) {
	var d deactivated
	if _, err := splitParts(r, &d, 0); err != nil {
		return nil, err
	}
	return func(_ context.Context, tx *folding) error {
		n := tx.node(d.Certname)
		n.deactivated, n.exports = later(n.deactivated, stampOf(r)), true
		return nil
	}, nil
}

// conditions collects the parts of a WHERE clause. The texts are constants of
// this package; what comes from outside is an argument.
type conditions struct {
	texts []string
	args  []any
}

func (c *conditions) add(text string, args ...any) {
	c.texts = append(c.texts, text)
	c.args = append(c.args, args...)
}

func (c *conditions) where() string {
	if len(c.texts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.texts, " AND ")
}

// maxRows bounds every list.
const maxRows = 100_000

func limitOr(limit, otherwise int) int {
	if limit <= 0 {
		return otherwise
	}
	return min(limit, maxRows)
}

// emptyObject stands for a JSON object that was left out.
func emptyObject(b json.RawMessage) json.RawMessage {
	if len(b) == 0 {
		return json.RawMessage("{}")
	}
	return b
}
