package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file keeps what became of each compile, the failed ones included.

// A Compile tells how one catalog was compiled, or why it was not.
type Compile struct {
	Certname        puppet.Certname          `json:"certname"`
	Environment     puppet.Environment       `json:"environment"`
	CodeID          string                   `json:"code_id"`
	TransactionUUID string                   `json:"transaction_uuid"`
	Start           time.Time                `json:"start"`
	Duration        time.Duration            `json:"duration"`
	Failed          bool                     `json:"failed"`
	Error           string                   `json:"error"`
	Logs            []Log                    `json:"logs"`
	Timings         map[string]time.Duration `json:"timings"`
	Resources       int                      `json:"resources"`
	Bytes           int                      `json:"bytes"`
}

// A Log is one line that a compile logged.
type Log struct {
	Level   string    `json:"level"`
	Message string    `json:"message"`
	Source  string    `json:"source,omitempty"`
	File    string    `json:"file,omitempty"`
	Line    int       `json:"line,omitempty"`
	Time    time.Time `json:"time"`
}

// SaveCompile stores the outcome of a compile.
func (db *DB) SaveCompile(ctx context.Context, c Compile) error {
	body, err := joinParts(c)
	if err != nil {
		return err
	}
	_, err = db.save(ctx, kindCompile, string(c.Certname), body)
	return err
}

func (db *DB) foldCompile(r *journal.Record) (change, error) {
	var c Compile
	if _, err := splitParts(r, &c, 0); err != nil {
		return nil, err
	}
	logs, err := json.Marshal(c.Logs)
	if err != nil {
		return nil, &malformedError{r, err}
	}
	timings, err := json.Marshal(c.Timings)
	if err != nil {
		return nil, &malformedError{r, err}
	}
	at, packed := stampOf(r), db.zip.pack(logs)
	return func(ctx context.Context, tx *folding) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO compile (stamp, certname, environment, code_id, transaction_uuid, start, duration, failed, error, resources, bytes, timings, logs)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			at, c.Certname, c.Environment, c.CodeID, c.TransactionUUID, c.Start.UnixMicro(), c.Duration, c.Failed, c.Error, c.Resources, c.Bytes,
			string(timings), packed); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM compile WHERE certname = ?1 AND stamp <
		(SELECT stamp FROM compile WHERE certname = ?1 ORDER BY stamp DESC LIMIT 1 OFFSET ?2)`, c.Certname, db.o.CompilesPerNode-1); err != nil {
			return err
		}
		tx.touch(r, c.Certname, c.Environment).compiled(at, c.Failed)
		return nil
	}, nil
}

// Compiles returns the last compiles of a node, or of all nodes when certname is
// empty, the newest first.
func (db *DB) Compiles(ctx context.Context, certname puppet.Certname, limit int) ([]Compile, error) {
	var c conditions
	if certname != "" {
		c.add(`certname = ?`, certname)
	}
	rows, err := db.read.QueryContext(ctx, `SELECT certname, environment, code_id, transaction_uuid, start, duration, failed, error, resources, bytes, timings, logs
		FROM compile`+c.where()+` ORDER BY stamp DESC LIMIT ?`, append(c.args, limitOr(limit, 50))...)
	if err != nil {
		return nil, fmt.Errorf("query compiles: %w", err)
	}
	defer rows.Close()
	var all []Compile
	for rows.Next() {
		c, err := db.scanCompile(rows)
		if err != nil {
			return nil, fmt.Errorf("query compiles: %w", err)
		}
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query compiles: %w", err)
	}
	return all, nil
}

func (db *DB) scanCompile(s scanner) (Compile, error) {
	var c Compile
	var start int64
	var timings string
	var packed []byte
	if err := s.Scan(&c.Certname, &c.Environment, &c.CodeID, &c.TransactionUUID, &start, &c.Duration, &c.Failed, &c.Error,
		&c.Resources, &c.Bytes, &timings, &packed); err != nil {
		return Compile{}, err
	}
	c.Start = time.UnixMicro(start).UTC()
	if err := json.Unmarshal([]byte(timings), &c.Timings); err != nil {
		return Compile{}, err
	}
	logs, err := db.zip.unpack(packed)
	if err != nil {
		return Compile{}, err
	}
	return c, json.Unmarshal(logs, &c.Logs)
}
