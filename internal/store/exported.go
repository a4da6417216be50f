package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file indexes the resources that nodes export, and finds those that
// another node collects.

// indexExported makes table exported hold the exported resources of a node's
// newest catalog, or none when the node is inactive. It must be called after
// whatever can change either; it writes only when the list is another one.
func (db *DB) indexExported(ctx context.Context, tx *sqlite.Tx, certname puppet.Certname) error {
	var present []byte
	var active bool
	if err := tx.QueryRowContext(ctx, `SELECT exported_sum, expired = 0 AND deactivated < seen FROM node WHERE certname = ?`, certname).
		Scan(&present, &active); err != nil {
		return err
	}
	var wanted, packed []byte
	if active {
		err := tx.QueryRowContext(ctx, `SELECT b.exported_sum, b.exported FROM catalog c JOIN catalog_body b ON b.certname = c.certname AND b.hash = c.hash
			WHERE c.certname = ? ORDER BY c.stamp DESC LIMIT 1`, certname).Scan(&wanted, &packed)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	if bytes.Equal(present, wanted) {
		return nil
	}
	var list []puppet.Resource
	if len(wanted) > 0 {
		plain, err := db.zip.unpack(packed)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(plain, &list); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM exported WHERE certname = ?`, certname); err != nil {
		return err
	}
	if err := insertExported(ctx, tx, certname, list); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE node SET exported_sum = coalesce(?, x'') WHERE certname = ?`, wanted, certname)
	return err
}

func insertExported(ctx context.Context, tx *sqlite.Tx, certname puppet.Certname, list []puppet.Resource) error {
	for _, r := range list {
		if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO exported (type, title, certname, tags, virtual, file, line, parameters) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			typeName(r.Type), r.Title, certname, joinTags(r.Tags), r.Virtual, r.File, r.Line, string(emptyObject(r.Parameters))); err != nil {
			return err
		}
	}
	return nil
}

// joinTags puts a line break around each tag, so that one is found as a whole.
// Tags compare in lower case and hold no line breaks (lib/puppet/util/tagging.rb).
func joinTags(tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	return "\n" + strings.ToLower(strings.Join(tags, "\n")) + "\n"
}

func splitTags(s string) []string {
	s = strings.Trim(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// typeName gives a type the form in which catalogs write it: nagios_service and
// NAGIOS_SERVICE are Nagios_service, foo::bar is Foo::Bar.
func typeName(s string) string {
	parts := strings.Split(strings.ToLower(s), "::")
	for i, p := range parts {
		if p != "" {
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "::")
}

// A ResourceQuery selects exported resources.
type ResourceQuery struct {
	Type        string          // in any case
	Filter      json.RawMessage // see [ParseFilter]; none or null selects all
	NotCertname puppet.Certname // the node that collects: its own are not wanted
}

// ExportedResources returns the exported resources of active nodes that match,
// ordered by type, title and certname.
func (db *DB) ExportedResources(ctx context.Context, q ResourceQuery) ([]puppet.Resource, error) {
	if db.behind.Load() {
		// Who collects a part of them would remove the rest.
		return nil, fault.New(fault.Unavailable, "exported resources are being read from the journal again: ask another member, or again in a while")
	}
	f, err := ParseFilter(q.Filter)
	if err != nil {
		return nil, err
	}
	var c conditions
	c.add(`type = ?`, typeName(q.Type))
	if q.NotCertname != "" {
		c.add(`certname <> ?`, q.NotCertname)
	}
	f.narrow(&c)
	rows, err := db.read.QueryContext(ctx, `SELECT type, title, certname, tags, virtual, file, line, parameters FROM exported`+
		c.where()+` ORDER BY type, title, certname`, c.args...)
	if err != nil {
		return nil, fmt.Errorf("query exported resources: %w", err)
	}
	defer rows.Close()
	var all []puppet.Resource
	for rows.Next() {
		r := puppet.Resource{Exported: true}
		var tags, parameters string
		if err := rows.Scan(&r.Type, &r.Title, &r.Certname, &tags, &r.Virtual, &r.File, &r.Line, &parameters); err != nil {
			return nil, fmt.Errorf("query exported resources: %w", err)
		}
		r.Tags, r.Parameters = splitTags(tags), json.RawMessage(parameters)
		match, err := f.matches(&candidate{Resource: &r})
		if err != nil {
			return nil, fmt.Errorf("query exported resources: %s[%s] of %s: %w", r.Type, r.Title, r.Certname, err)
		}
		if match {
			all = append(all, r)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query exported resources: %w", err)
	}
	return slices.Clip(all), nil
}
