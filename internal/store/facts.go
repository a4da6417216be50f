package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file keeps the last facts of each node.

type factsRecord struct {
	Certname    puppet.Certname    `json:"certname"`
	Environment puppet.Environment `json:"environment"`
	Time        time.Time          `json:"time"`
	Producer    string             `json:"producer"`
}

// SaveFacts stores the facts of a node. producer is the member or server that
// took them in.
func (db *DB) SaveFacts(ctx context.Context, f puppet.Facts, producer string) error {
	body, err := joinParts(factsRecord{f.Certname, f.Environment, f.Timestamp.UTC(), producer}, emptyObject(f.Values))
	if err != nil {
		return err
	}
	_, err = db.save(ctx, kindFacts, string(f.Certname), body)
	return err
}

func (db *DB) foldFacts(r *journal.Record) (change, error) {
	var f factsRecord
	parts, err := splitParts(r, &f, 1)
	if err != nil {
		return nil, err
	}
	packed := db.zip.pack(parts[0])
	return func(ctx context.Context, tx *folding) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO facts (certname, stamp, environment, time, producer, facts) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = excluded.stamp, environment = excluded.environment, time = excluded.time,
			producer = excluded.producer, facts = excluded.facts WHERE excluded.stamp >= stamp`,
			f.Certname, stampOf(r), f.Environment, f.Time.UnixMicro(), f.Producer, packed); err != nil {
			return err
		}
		n := tx.touch(r, f.Certname, f.Environment)
		n.Facts = later(n.Facts, stampOf(r))
		return nil
	}, nil
}

// Facts returns the last facts of a node.
func (db *DB) Facts(ctx context.Context, certname puppet.Certname) (puppet.Facts, error) {
	whole := true
	row := db.read.QueryRowContext(ctx, `SELECT certname, environment, time, facts, row_sum IS `+
		sqlite.SumOf("certname", "stamp", "environment", "time", "producer", "facts")+` FROM facts WHERE certname = ?`, certname)
	f, err := db.scanFacts(row, &whole)
	if errors.Is(err, sql.ErrNoRows) {
		return puppet.Facts{}, fault.New(fault.NotFound, "no facts of %s are known", certname)
	}
	if !whole {
		return puppet.Facts{}, db.damagedRow("the facts of " + string(certname))
	}
	if err != nil {
		return puppet.Facts{}, fmt.Errorf("query facts of %s: %w", certname, err)
	}
	return f, nil
}

// amongRecent is how many of the nodes that were heard of last are looked at for
// nodes that differ.
const amongRecent = 500

// RecentNodes returns the facts of up to n nodes of an environment, the last
// heard of first: with them a new code version is warmed. Of nodes whose catalogs
// have equally many resources, which are most likely alike, only one is among
// them, and none whose last compile failed.
func (db *DB) RecentNodes(ctx context.Context, env puppet.Environment, n int) ([]puppet.Facts, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT f.certname, f.environment, f.time, f.facts FROM (
		SELECT certname, max(seen) AS seen FROM (
			SELECT certname, seen, (SELECT resources FROM compile c WHERE c.certname = n.certname ORDER BY stamp DESC LIMIT 1) AS resources
			FROM node n WHERE environment = ? AND facts <> x'' AND compile_failed = 0 ORDER BY seen DESC LIMIT ?)
		GROUP BY resources) n JOIN facts f ON f.certname = n.certname ORDER BY n.seen DESC LIMIT ?`, env, amongRecent, limitOr(n, 10))
	if err != nil {
		return nil, fmt.Errorf("query recent nodes of %s: %w", env, err)
	}
	defer rows.Close()
	var all []puppet.Facts
	for rows.Next() {
		f, err := db.scanFacts(rows)
		if err != nil {
			return nil, fmt.Errorf("query recent nodes of %s: %w", env, err)
		}
		all = append(all, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query recent nodes of %s: %w", env, err)
	}
	return all, nil
}

// RecentEnvironments returns up to n environments, that of the node that was
// heard of last first.
func (db *DB) RecentEnvironments(ctx context.Context, n int) ([]puppet.Environment, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT environment FROM node WHERE environment <> '' AND expired = 0
		GROUP BY environment ORDER BY max(seen) DESC LIMIT ?`, n)
	if err != nil {
		return nil, fmt.Errorf("query recent environments: %w", err)
	}
	defer rows.Close()
	var all []puppet.Environment
	for rows.Next() {
		var e puppet.Environment
		if err := rows.Scan(&e); err != nil {
			return nil, fmt.Errorf("query recent environments: %w", err)
		}
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query recent environments: %w", err)
	}
	return all, nil
}

// A scanner is *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

func (db *DB) scanFacts(s scanner, more ...any) (puppet.Facts, error) {
	var f puppet.Facts
	var at int64
	var packed []byte
	if err := s.Scan(append([]any{&f.Certname, &f.Environment, &at, &packed}, more...)...); err != nil {
		return puppet.Facts{}, err
	}
	values, err := db.zip.unpack(packed)
	if err != nil {
		return puppet.Facts{}, err
	}
	f.Timestamp, f.Values = time.UnixMicro(at).UTC(), values
	return f, nil
}
