package ca

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file looks things up in the projection.

// Certificate returns the certificate of name as PEM; "ca" means the bundle.
func (a *Authority) Certificate(ctx context.Context, name string) ([]byte, error) {
	if name == "ca" {
		return a.Bundle(), nil
	}
	var der []byte
	err := a.db.read.QueryRowContext(ctx, "SELECT der FROM cert WHERE name = ? AND current = 1", name).Scan(&der)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "Could not find certificate %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("look up certificate of %s: %w", name, err)
	}
	return certificatePEM(der), nil
}

// issued reports whether name has a certificate that is listed or can still be revoked.
func (a *Authority) issued(ctx context.Context, name puppet.Certname) (bool, error) {
	state, err := a.stateOf(ctx, name)
	if err != nil || state == StateSigned || state == StateRevoked {
		return err == nil, err
	}
	serials, err := a.revocable(ctx, name)
	return len(serials) > 0, err
}

const (
	selectCerts    = "SELECT prefix, suffix, CASE revoked WHEN 0 THEN 'signed' ELSE 'revoked' END FROM cert WHERE current = 1"
	selectRequests = "SELECT prefix, suffix, 'requested' FROM request WHERE current = 1"
)

// Status returns what is known about name: of its certificate, else of its request.
func (a *Authority) Status(ctx context.Context, name string) (Status, error) {
	for _, query := range []string{selectCerts + " AND name = ?", selectRequests + " AND name = ?"} {
		for b, err := range a.statusRows(ctx, query, name) {
			var s Status
			if err == nil {
				err = json.Unmarshal(b, &s)
			}
			return s, err
		}
	}
	return Status{}, fault.New(fault.NotFound, "Resource not found.")
}

// Statuses returns the names in a state: requested, signed or revoked. Any other
// state means all of them, requests first.
func (a *Authority) Statuses(ctx context.Context, state string) ([]Status, error) {
	var all []Status
	for b, err := range a.StatusJSON(ctx, state) {
		if err != nil {
			return nil, err
		}
		var s Status
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, fmt.Errorf("decode status: %w", err)
		}
		all = append(all, s)
	}
	return all, nil
}

// StatusJSON yields what Statuses returns as JSON objects. A list of a hundred
// thousand has 90 MB, which nobody should hold in memory. The bytes are valid
// until the next step.
func (a *Authority) StatusJSON(ctx context.Context, state string) iter.Seq2[[]byte, error] {
	var queries []string
	switch state {
	case StateRequested:
		queries = []string{selectRequests + " ORDER BY name"}
	case StateSigned:
		queries = []string{selectCerts + " AND revoked = 0 ORDER BY name"}
	case StateRevoked:
		queries = []string{selectCerts + " AND revoked = 1 ORDER BY name"}
	default:
		queries = []string{selectRequests + " ORDER BY name", selectCerts + " ORDER BY name"}
	}
	return func(yield func([]byte, error) bool) {
		for _, q := range queries {
			for b, err := range a.statusRows(ctx, q) {
				if !yield(b, err) || err != nil {
					return
				}
			}
		}
	}
}

func (a *Authority) statusRows(ctx context.Context, query string, args ...any) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		rows, err := a.db.read.QueryContext(ctx, query, args...)
		if err != nil {
			yield(nil, fmt.Errorf("list certificates: %w", err))
			return
		}
		defer rows.Close()
		var line []byte
		for rows.Next() {
			var prefix, suffix, state sql.RawBytes
			if err := rows.Scan(&prefix, &suffix, &state); err != nil {
				yield(nil, fmt.Errorf("list certificates: %w", err))
				return
			}
			line = append(append(append(line[:0], prefix...), state...), suffix...)
			if !yield(line, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, fmt.Errorf("list certificates: %w", err))
		}
	}
}

// Expirations says when the certificates of the bundle and their revocation lists
// end, by common name, in puppetserver's form of a date.
type Expirations struct {
	CACerts map[string]string `json:"ca-certs"`
	CRLs    map[string]string `json:"crls"`
}

// Expirations returns when certificates and lists end. Of two that bear one name
// the later in the bundle stays, as in puppetserver's maps.
func (a *Authority) Expirations() Expirations {
	e := Expirations{CACerts: map[string]string{}, CRLs: map[string]string{}}
	for _, i := range a.trust.Load().all {
		for _, c := range i.bundle {
			e.CACerts[c.Subject.CommonName] = timeText(c.NotAfter)
		}
	}
	p := a.current()
	if p == nil {
		return e
	}
	for _, end := range p.ends {
		e.CRLs[end.issuer] = timeText(end.nextUpdate)
	}
	for _, l := range p.ancestors {
		e.CRLs[l.Issuer.CommonName] = timeText(l.NextUpdate)
	}
	return e
}
