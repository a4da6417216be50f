package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file keeps the last answer of the external node classifier for each node,
// for use when it fails.

type encRecord struct {
	Certname puppet.Certname `json:"certname"`
}

// encRefresh is the age from which an unchanged answer is journalled again, so
// that it outlives the pruning of the journal.
const encRefresh = day

// SaveENC stores the classifier's answer for a node. The same answer is not
// written again within a day.
func (db *DB) SaveENC(ctx context.Context, certname puppet.Certname, answer []byte) error {
	last, at, ok, err := db.ENC(ctx, certname)
	if err != nil {
		return err
	}
	if ok && bytes.Equal(last, answer) && db.o.Now().Sub(at) < encRefresh {
		return nil
	}
	body, err := joinParts(encRecord{certname}, answer)
	if err != nil {
		return err
	}
	_, err = db.save(ctx, kindENC, string(certname), body)
	return err
}

func foldENC(r *journal.Record) (change, error) {
	var e encRecord
	parts, err := splitParts(r, &e, 1)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, tx *folding) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO enc (certname, stamp, body) VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = excluded.stamp, body = excluded.body WHERE excluded.stamp >= stamp`, e.Certname, stampOf(r), parts[0])
		return err
	}, nil
}

// ENC returns the last answer for a node and when it was given.
func (db *DB) ENC(ctx context.Context, certname puppet.Certname) (body []byte, at time.Time, ok bool, err error) {
	var s stamp
	err = db.read.QueryRowContext(ctx, `SELECT stamp, body FROM enc WHERE certname = ?`, certname).Scan(&s, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, time.Time{}, false, nil
	}
	if err != nil {
		return nil, time.Time{}, false, fmt.Errorf("query ENC answer of %s: %w", certname, err)
	}
	return body, s.time(), true, nil
}
