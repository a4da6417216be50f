package ca

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
	"troupe/internal/telemetry"
)

// This file folds records into tables. Folding the same records in any order, any
// number of times, must end in the same tables: rows are united, removals are
// remembered, and where one must win the record's time decides.

// learned is what a fold changed that this process keeps in memory.
type learned struct {
	setup   bool         // other issuers may count
	seen    []seenRecord // agents that were met during a roll-over
	lists   bool         // a revocation list is no longer what it was
	revoked []revocation // serials that are revoked

	elsewhere []puppet.Certname // names for which other members have signed
}

type fold struct {
	tx      *sqlite.Tx
	log     *slog.Logger
	self    journal.Origin
	learned learned
	names   []string // whose current certificate or request may have changed
	latest  journal.Time
}

func (f *fold) apply(ctx context.Context, r journal.Record) error {
	switch r.Kind {
	case kindSetup:
		return f.setup(ctx, r)
	case kindRequest:
		return decodeAnd(ctx, r, f.request)
	case kindDeleted:
		return decodeAnd(ctx, r, f.deleted)
	case kindIssued:
		return decodeAnd(ctx, r, f.issued)
	case kindRevoked:
		return decodeAnd(ctx, r, f.revoke)
	case kindCleaned:
		return decodeAnd(ctx, r, f.clean)
	case kindAncestor:
		return decodeAnd(ctx, r, f.ancestor)
	case kindRenewed:
		f.changesList(r)
	case kindRollover:
		return f.rollover(ctx, r)
	case kindSeen:
		return decodeAnd(ctx, r, f.saw)
	}
	return nil
}

func decodeAnd[T any](ctx context.Context, r journal.Record, apply func(context.Context, journal.Record, T) error) error {
	var body T
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return &malformedError{fmt.Errorf("decode: %w", err)}
	}
	return apply(ctx, r, body)
}

// A malformedError says that a record, or a part of it, can never be folded: nothing of that part was.
type malformedError struct{ err error }

func (e *malformedError) Error() string { return e.err.Error() }

func (e *malformedError) Unwrap() error { return e.err }

// take applies a record, and steps over one that cannot be read: the others of its origin must not wait for it, revocations least
// of all. What it is stays in table unread, for an alarm.
func (f *fold) take(ctx context.Context, r journal.Record) error {
	err := f.apply(ctx, r)
	bad, ok := errors.AsType[*malformedError](err)
	if err != nil && !ok {
		return fmt.Errorf("record %d (%s of %s): %w", r.Number, r.Kind, r.Key, err)
	}
	if err == nil {
		return nil
	}
	f.log.ErrorContext(ctx, "a record of the certificate authority cannot be read and does not count", "origin", r.Origin, "number", r.Number, "kind", r.Kind,
		"key", r.Key, telemetry.KeyErr, bad, "remedy", unreadRemedy)
	return f.exec(ctx, "INSERT OR IGNORE INTO unread (origin, number, kind, key, why) VALUES (?, ?, ?, ?, ?)", r.Origin, r.Number, r.Kind, r.Key, bad.Error())
}

const unreadRemedy = "upgrade this member if others are newer; do once more what it was to say (a revocation: troupe ca revoke)"

// changesList makes the issuer's list newer: its number and date follow the
// newest record that touched it.
func (f *fold) changesList(r journal.Record) {
	f.learned.lists = true
	f.latest = max(f.latest, r.Time)
}

func (f *fold) setup(ctx context.Context, r journal.Record) error {
	var s setupRecord
	if err := json.Unmarshal(r.Body, &s); err != nil {
		return &malformedError{fmt.Errorf("decode: %w", err)}
	}
	if _, err := newIssuer(s, r.Time); err != nil {
		return &malformedError{err}
	}
	f.learned.setup = true
	f.changesList(r)
	return f.exec(ctx, "INSERT OR IGNORE INTO setup (time, origin, body) VALUES (?, ?, ?)", r.Time, r.Origin, r.Body)
}

func (f *fold) rollover(ctx context.Context, r journal.Record) error {
	f.learned.setup = true
	f.changesList(r)
	return f.exec(ctx, "INSERT OR IGNORE INTO rollover (time, origin, body) VALUES (?, ?, ?)", r.Time, r.Origin, r.Body)
}

func (f *fold) saw(ctx context.Context, _ journal.Record, s seenRecord) error {
	f.learned.seen = append(f.learned.seen, s)
	for i, names := range [][]string{s.Names, s.Accepts} {
		for _, name := range names {
			if err := f.exec(ctx, "INSERT OR IGNORE INTO seen (key, accepts, name) VALUES (?, ?, ?)", s.Key, i, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fold) request(ctx context.Context, r journal.Record, q requestRecord) error {
	csr, err := x509.ParseCertificateRequest(q.DER)
	if err != nil {
		return &malformedError{fmt.Errorf("parse request: %w", err)}
	}
	prefix, suffix := requestStatus(q.Certname, csr).render()
	f.names = append(f.names, q.Certname)
	return f.exec(ctx, `INSERT OR IGNORE INTO request (id, name, time, origin, der, prefix, suffix, current)
		SELECT ?, ?, ?, ?, ?, ?, ?, 0 WHERE NOT EXISTS (SELECT 1 FROM done WHERE id = ?)`,
		q.ID, q.Certname, r.Time, r.Origin, q.DER, prefix, suffix, q.ID)
}

func (f *fold) deleted(ctx context.Context, r journal.Record, d deletedRecord) error {
	f.names = append(f.names, r.Key)
	return f.done(ctx, d.Requests)
}

func (f *fold) done(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := f.exec(ctx, "INSERT OR IGNORE INTO done (id) VALUES (?)", id); err != nil {
			return err
		}
		if err := f.exec(ctx, "DELETE FROM request WHERE id = ?", id); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) issued(ctx context.Context, r journal.Record, i issuedRecord) error {
	var der, prefix, suffix []byte
	var by string
	serial := i.Serial
	if len(i.DER) > 0 {
		cert, err := x509.ParseCertificate(i.DER)
		if err != nil {
			return &malformedError{fmt.Errorf("parse certificate: %w", err)}
		}
		der, serial, i.NotBefore, i.NotAfter = i.DER, serialText(cert.SerialNumber), cert.NotBefore, cert.NotAfter
		prefix, suffix = certificateStatus(i.Certname, cert).render()
		by = hex.EncodeToString(cert.AuthorityKeyId)
	}
	f.names = append(f.names, i.Certname)
	if r.Origin != f.self {
		f.learned.elsewhere = append(f.learned.elsewhere, puppet.Certname(i.Certname))
	}

	// A certificate beats a line of an inventory; of two records the earlier one stays.
	err := f.exec(ctx, `INSERT INTO cert (serial, name, time, origin, not_before, not_after, der, prefix, suffix, issuer, cleaned, revoked, current)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, EXISTS (SELECT 1 FROM cleaned WHERE serial = ?1), EXISTS (SELECT 1 FROM revoked WHERE serial = ?1), 0)
		ON CONFLICT (serial) DO UPDATE SET name = ?2, time = ?3, origin = ?4, not_before = ?5, not_after = ?6, der = ?7, prefix = ?8, suffix = ?9, issuer = ?10
		WHERE (?7 IS NOT NULL AND der IS NULL) OR ((?7 IS NULL) = (der IS NULL) AND (?3, ?4) < (time, origin))`,
		serial, i.Certname, r.Time, r.Origin, i.NotBefore.Unix(), i.NotAfter.Unix(), der, notNil(prefix), notNil(suffix), by)
	if err != nil {
		return err
	}
	return f.done(ctx, i.Requests)
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (f *fold) revoke(ctx context.Context, r journal.Record, v revokedRecord) error {
	f.changesList(r)
	var bad error
	known := v.Revoked[:0:0]
	for _, one := range v.Revoked {
		if _, err := newEntry(one); err != nil { // the others of this record must count
			bad = &malformedError{err}
			continue
		}
		known = append(known, one)
		if err := f.exec(ctx, `INSERT INTO revoked (serial, at, reason) VALUES (?1, ?2, ?3)
			ON CONFLICT (serial) DO UPDATE SET at = ?2, reason = ?3 WHERE (?2, ?3) < (at, reason)`, one.Serial, one.At.Unix(), one.Reason); err != nil {
			return err
		}
		if err := f.exec(ctx, "UPDATE cert SET revoked = 1 WHERE serial = ?", one.Serial); err != nil {
			return err
		}
	}
	f.learned.revoked = append(f.learned.revoked, known...)
	return bad
}

func (f *fold) clean(ctx context.Context, r journal.Record, c cleanedRecord) error {
	f.names = append(f.names, r.Key)
	for _, serial := range c.Serials {
		if err := f.exec(ctx, "INSERT OR IGNORE INTO cleaned (serial) VALUES (?)", serial); err != nil {
			return err
		}
		var name string
		err := f.tx.QueryRowContext(ctx, "UPDATE cert SET cleaned = 1 WHERE serial = ? RETURNING name", serial).Scan(&name)
		switch {
		case err == nil:
			f.names = append(f.names, name)
		case err != sql.ErrNoRows:
			return err
		}
	}
	return nil
}

func (f *fold) ancestor(ctx context.Context, _ journal.Record, a ancestorRecord) error {
	crl, err := x509.ParseRevocationList(a.CRL)
	if err != nil {
		return &malformedError{fmt.Errorf("parse revocation list: %w", err)}
	}
	f.learned.lists = true
	f.learned.revoked = append(f.learned.revoked, foreignRevocations(crl)...)
	return f.exec(ctx, `INSERT INTO ancestor (key, number, crl) VALUES (?1, ?2, ?3)
		ON CONFLICT (key) DO UPDATE SET number = ?2, crl = ?3 WHERE (?2, ?3) > (number, crl)`,
		hex.EncodeToString(crl.AuthorityKeyId), sortableNumber(crl.Number), a.CRL)
}

// sortableNumber writes a CRL number, at most 20 octets, so that texts sort like numbers.
func sortableNumber(n *big.Int) string {
	if n == nil {
		n = new(big.Int)
	}
	return fmt.Sprintf("%040x", n)
}

// finish decides which certificate and which request of each touched name is the
// current one, and moves the position.
func (f *fold) finish(ctx context.Context, origin journal.Origin, number uint64) error {
	slices.Sort(f.names)
	for _, name := range slices.Compact(f.names) {
		if err := f.exec(ctx, `UPDATE cert SET current = (serial IS (SELECT serial FROM cert
			WHERE name = ?1 AND cleaned = 0 AND der IS NOT NULL ORDER BY time DESC, origin DESC, serial DESC LIMIT 1)) WHERE name = ?1`, name); err != nil {
			return err
		}
		if err := f.exec(ctx, `UPDATE request SET current = (id IS (SELECT id FROM request
			WHERE name = ?1 ORDER BY time DESC, origin DESC, id DESC LIMIT 1)) WHERE name = ?1`, name); err != nil {
			return err
		}
	}
	if f.latest > 0 {
		if err := f.exec(ctx, "INSERT INTO latest (id, time) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET time = max(time, ?1)", f.latest); err != nil {
			return err
		}
	}
	return f.exec(ctx, "INSERT INTO position (origin, number) VALUES (?1, ?2) ON CONFLICT (origin) DO UPDATE SET number = ?2", origin, number)
}

func (f *fold) exec(ctx context.Context, query string, args ...any) error {
	_, err := f.tx.ExecContext(ctx, query, args...)
	return err
}

// unix turns a column of seconds into a time.
func unix(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
