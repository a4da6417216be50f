package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file keeps the reports, each once, however often it is sent.

// A ReportSummary is what a list of reports shows.
type ReportSummary struct {
	ID                   string             `json:"id"` // hex; the same for the same run wherever its report arrives
	Certname             puppet.Certname    `json:"certname"`
	Environment          puppet.Environment `json:"environment"`
	Status               string             `json:"status"`
	TransactionUUID      string             `json:"transaction_uuid"`
	ConfigurationVersion string             `json:"configuration_version"`
	PuppetVersion        string             `json:"puppet_version"`
	CatalogUUID          string             `json:"catalog_uuid"`
	CodeID               string             `json:"code_id"`
	CachedCatalogStatus  string             `json:"cached_catalog_status"`
	ServerUsed           string             `json:"server_used"`
	Noop                 bool               `json:"noop"`
	NoopPending          bool               `json:"noop_pending"`
	CorrectiveChange     bool               `json:"corrective_change"`
	Time                 time.Time          `json:"time"` // when the run began
	EndTime              time.Time          `json:"end_time"`
	Total                int                `json:"total"` // resources, as the next four
	Changed              int                `json:"changed"`
	Failed               int                `json:"failed"`
	Skipped              int                `json:"skipped"`
	OutOfSync            int                `json:"out_of_sync"`
	Received             time.Time          `json:"-"`
}

func summarise(r *puppet.Report) ReportSummary {
	count := r.Metrics["resources"]
	return ReportSummary{
		ID: reportID(r), Certname: r.Certname, Environment: r.Environment, Status: r.Status, TransactionUUID: r.TransactionUUID,
		ConfigurationVersion: r.ConfigurationVersion, PuppetVersion: r.PuppetVersion, CatalogUUID: r.CatalogUUID, CodeID: r.CodeID,
		CachedCatalogStatus: r.CachedCatalogStatus, ServerUsed: r.ServerUsed, Noop: r.Noop, NoopPending: r.NoopPending,
		CorrectiveChange: r.CorrectiveChange, Time: r.Time.UTC(), EndTime: r.EndTime.UTC(), Total: int(count["total"]), Changed: int(count["changed"]),
		Failed: int(count["failed"]), Skipped: int(count["skipped"]), OutOfSync: int(count["out_of_sync"]),
	}
}

// reportID names a run: by its transaction_uuid, or by its whole report when it has none.
func reportID(r *puppet.Report) string {
	h := sha256.New()
	writePart(h, []byte(r.Certname))
	if r.TransactionUUID != "" {
		writePart(h, []byte(r.TransactionUUID))
	} else {
		writePart(h, r.Raw)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// SaveReport stores a report. A report that is stored already is a duplicate and
// changes nothing: agents and balancers send one again when an answer was lost.
func (db *DB) SaveReport(ctx context.Context, r puppet.Report) (duplicate bool, err error) {
	s := summarise(&r)
	var known bool
	if err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM report WHERE id = ?)`, s.ID).Scan(&known); err != nil {
		return false, fmt.Errorf("look up report of %s: %w", r.Certname, err)
	}
	if known {
		return true, nil
	}
	body, err := joinParts(s, r.Raw)
	if err != nil {
		return false, err
	}
	rec, err := db.save(ctx, kindReport, string(r.Certname), body)
	if err != nil {
		return false, err
	}
	// Two at the same time are both in the journal, and one of them in the table.
	var ours bool
	err = db.read.QueryRowContext(ctx, `SELECT stamp = ? FROM report WHERE id = ?`, stampOf(&rec), s.ID).Scan(&ours)
	if err != nil {
		return false, fmt.Errorf("look up report of %s: %w", r.Certname, err)
	}
	return !ours, nil
}

func (db *DB) foldReport(r *journal.Record) (change, error) {
	var s ReportSummary
	parts, err := splitParts(r, &s, 1)
	if err != nil {
		return nil, err
	}
	summary, err := json.Marshal(s)
	if err != nil {
		return nil, &malformedError{r, err}
	}
	at, packed := stampOf(r), db.zip.pack(parts[0])
	return func(ctx context.Context, tx *folding) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO report (id, stamp, certname, environment, status, summary, body) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = excluded.stamp, environment = excluded.environment, status = excluded.status,
			summary = excluded.summary, body = excluded.body WHERE excluded.stamp <= stamp`,
			s.ID, at, s.Certname, s.Environment, s.Status, string(summary), packed); err != nil {
			return err
		}
		tx.touch(r, s.Certname, s.Environment).reported(at, s.ID, s.Status, s.Noop, s.CachedCatalogStatus)
		return nil
	}, nil
}

// A ReportQuery selects reports. Zero fields select all.
type ReportQuery struct {
	Certname    puppet.Certname
	Status      string
	Environment puppet.Environment
	Since       time.Time // received then or later
	Limit       int       // 0 means 50
}

// Reports returns reports, the last received first.
func (db *DB) Reports(ctx context.Context, q ReportQuery) ([]ReportSummary, error) {
	var c conditions
	if q.Certname != "" {
		c.add(`certname = ?`, q.Certname)
	}
	if q.Status != "" {
		c.add(`status = ?`, q.Status)
	}
	if q.Environment != "" {
		c.add(`environment = ?`, q.Environment)
	}
	if !q.Since.IsZero() {
		c.add(`stamp >= ?`, stampAt(q.Since))
	}
	rows, err := db.read.QueryContext(ctx, `SELECT stamp, summary FROM report`+c.where()+` ORDER BY stamp DESC LIMIT ?`, append(c.args, limitOr(q.Limit, 50))...)
	if err != nil {
		return nil, fmt.Errorf("query reports: %w", err)
	}
	defer rows.Close()
	var all []ReportSummary
	for rows.Next() {
		s, err := scanSummary(rows)
		if err != nil {
			return nil, fmt.Errorf("query reports: %w", err)
		}
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query reports: %w", err)
	}
	return all, nil
}

func scanSummary(s scanner, more ...any) (ReportSummary, error) {
	var at stamp
	var text string
	if err := s.Scan(append([]any{&at, &text}, more...)...); err != nil {
		return ReportSummary{}, err
	}
	var sum ReportSummary
	if err := json.Unmarshal([]byte(text), &sum); err != nil {
		return ReportSummary{}, err
	}
	sum.Received = at.time()
	return sum, nil
}

// minPrefix is the least number of digits that name a report.
const minPrefix = 4

// Report returns the report whose id begins with the given digits.
func (db *DB) Report(ctx context.Context, id string) (ReportSummary, puppet.Report, error) {
	if len(id) < minPrefix || len(id) > 2*sha256.Size || !isHex(id) {
		return ReportSummary{}, puppet.Report{}, fault.New(fault.Invalid, "a report's id has %d to %d hexadecimal digits, not %q", minPrefix, 2*sha256.Size, id)
	}
	rows, err := db.read.QueryContext(ctx, `SELECT stamp, summary, body, row_sum IS `+sqlite.SumOf("id", "stamp", "certname", "environment", "status", "summary", "body")+`
		FROM report WHERE id >= ? AND id < ? LIMIT 2`, id, id+"g")
	if err != nil {
		return ReportSummary{}, puppet.Report{}, fmt.Errorf("query report %s: %w", id, err)
	}
	defer rows.Close()
	var found []ReportSummary
	var packed []byte
	for rows.Next() {
		whole := true
		s, err := scanSummary(rows, &packed, &whole)
		if !whole {
			return ReportSummary{}, puppet.Report{}, db.damagedRow("the data of report " + id)
		}
		if err != nil {
			return ReportSummary{}, puppet.Report{}, fmt.Errorf("query report %s: %w", id, err)
		}
		found = append(found, s)
	}
	switch err := rows.Err(); {
	case err != nil:
		return ReportSummary{}, puppet.Report{}, fmt.Errorf("query report %s: %w", id, err)
	case len(found) == 0:
		return ReportSummary{}, puppet.Report{}, fault.New(fault.NotFound, "no report has an id that begins with %s", id)
	case len(found) > 1:
		return ReportSummary{}, puppet.Report{}, fault.New(fault.Invalid, "more than one report has an id that begins with %s; give more digits", id)
	}
	raw, err := db.zip.unpack(packed)
	if err != nil {
		return ReportSummary{}, puppet.Report{}, fmt.Errorf("query report %s: %w", id, err)
	}
	r, err := puppet.DecodeReport(puppet.TypeJSON, raw)
	if err != nil {
		return ReportSummary{}, puppet.Report{}, fmt.Errorf("decode report %s: %w", id, err)
	}
	return found[0], r, nil
}

// isHex reports whether s has only lower-case hexadecimal digits.
func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
