package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
	"troupe/internal/vault"
)

// This file says how the authority does: what ends when, and whether its key can be used.

// endsSoon is how long before its end an agent's certificate is counted.
const endsSoon = 30 * 24 * time.Hour

// A Condition says how an authority does.
type Condition struct {
	Bundle   [][]byte        `json:"bundle"` // DER: the issuer first, then what stands above it, then its certificate by the root
	Lists    []ListCondition `json:"lists"`
	KeyError string          `json:"key_error,omitempty"` // why the issuer's key cannot be used here; "" when it can
	NoKey    bool            `json:"no_key"`              // this member was not given the key

	Server      []byte `json:"server,omitempty"`       // DER of the server certificate on the disk; nil when there is none yet
	ServerError string `json:"server_error,omitempty"` // why it cannot be used
	Revoked     bool   `json:"revoked"`                // the server certificate is

	Signed  int      `json:"signed"` // certificates that are not revoked
	Waiting int      `json:"waiting"`
	Ending  int      `json:"ending"` // signed ones that end in the next 30 days
	Ended   int      `json:"ended"`  // signed ones that have ended
	First   []string `json:"first"`  // the names of the next few that end
}

// A ListCondition says until when agents take a revocation list.
type ListCondition struct {
	Issuer     string    `json:"issuer"`
	NextUpdate time.Time `json:"next_update"`
}

// Examine says how the authority does. certname is the member's own name.
func (a *Authority) Examine(ctx context.Context, certname puppet.Certname) (Condition, error) {
	return looker{dir: a.dir, db: a.db.read, vault: a.vault, now: a.now()}.examine(ctx, certname)
}

// Look says how the authority in dir does, which nobody has open, and changes nothing. sealKey is as in Options. The error is
// fs.ErrNotExist when there is none, or when its tables are to be folded from the journal first.
func Look(ctx context.Context, dir, sealKey string, certname puppet.Certname, now time.Time) (c Condition, err error) {
	l := looker{dir: dir, now: now}
	if l.db, err = sqlite.Look(filepath.Join(dir, projectionName)); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, l.db.Close()) }()
	var version int
	if err := l.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return c, fmt.Errorf("read the list of certificates: %w", err)
	}
	if version != projectionFormat() {
		return c, fault.Wrap(fault.NotFound, fs.ErrNotExist, "the list of certificates is of another version of troupe and is folded at the next start")
	}
	l.vault, l.sealed = vault.Look(dir, sealKey)
	return l.examine(ctx, certname)
}

// A looker reads what an authority keeps.
type looker struct {
	dir    string
	db     *sql.DB
	vault  *vault.Vault
	sealed error // why no key can be opened
	now    time.Time
}

func (l looker) examine(ctx context.Context, certname puppet.Certname) (Condition, error) {
	c := Condition{First: []string{}}
	var at journal.Time
	var body []byte
	err := l.db.QueryRowContext(ctx, "SELECT time, body FROM setup ORDER BY time DESC, origin DESC LIMIT 1").Scan(&at, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return c, fault.Wrap(fault.NotFound, fs.ErrNotExist, "there is no certificate authority yet")
	}
	if err != nil {
		return c, fmt.Errorf("read setup of the certificate authority: %w", err)
	}
	var s setupRecord
	if err := json.Unmarshal(body, &s); err != nil {
		return c, fmt.Errorf("decode setup of the certificate authority: %w", err)
	}
	i, err := newIssuer(s, at)
	if err != nil {
		return c, fmt.Errorf("read setup of the certificate authority: %w", err)
	}
	for _, cert := range i.bundle {
		c.Bundle = append(c.Bundle, cert.Raw)
	}
	if i.cross != nil {
		c.Bundle = append(c.Bundle, i.cross.Raw)
	}
	l.key(i, &c)
	l.server(ctx, i, certname, &c)
	if err := l.lists(ctx, i, &c); err != nil {
		return c, err
	}
	return c, l.agents(ctx, &c)
}

// key finds out whether the issuer's key opens and is the right one.
func (l looker) key(i *issuer, c *Condition) {
	if l.sealed != nil {
		c.KeyError = l.sealed.Error()
		return
	}
	plain, err := l.vault.Open(i.cert.SubjectKeyId)
	if errors.Is(err, fs.ErrNotExist) {
		c.NoKey = true
		return
	}
	if err != nil {
		c.KeyError = err.Error()
		return
	}
	key, err := parseKey(plain)
	switch {
	case err != nil:
		c.KeyError = err.Error()
	case !samePublicKey(i.cert.PublicKey, key.Public()):
		c.KeyError = "the key does not belong to the certificate of the authority"
	}
}

// server reads the certificate under which the member serves.
func (l looker) server(ctx context.Context, i *issuer, certname puppet.Certname, c *Condition) {
	path := filepath.Join(l.dir, "server", string(certname)+".pem")
	pair, err := tls.LoadX509KeyPair(path, path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.ServerError = fmt.Sprintf("read %s: %v", path, err)
		return
	}
	c.Server = pair.Leaf.Raw
	if err := pair.Leaf.CheckSignatureFrom(i.cert); err != nil {
		c.ServerError = fmt.Sprintf("%s was not signed by the issuer in force: %v", path, err)
	}
	err = l.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM revoked WHERE serial = ?)", serialText(pair.Leaf.SerialNumber)).Scan(&c.Revoked)
	if err != nil {
		c.ServerError = fmt.Sprintf("look for its revocation: %v", err)
	}
}

// lists says when the lists end that agents get now, without signing them.
func (l looker) lists(ctx context.Context, i *issuer, c *Condition) error {
	var latest journal.Time
	err := l.db.QueryRowContext(ctx, "SELECT time FROM latest").Scan(&latest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read time of the newest change: %w", err)
	}
	if err == nil {
		c.Lists = append(c.Lists, ListCondition{i.cert.Subject.CommonName, i.floor.dateAt(latest).Add(listLifetime)})
	}
	for _, above := range i.ancestors() {
		var der []byte
		err := l.db.QueryRowContext(ctx, "SELECT crl FROM ancestor WHERE key = ?", hex.EncodeToString(above.SubjectKeyId)).Scan(&der)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read revocation list of %s: %w", above.Subject.CommonName, err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("parse revocation list of %s: %w", above.Subject.CommonName, err)
		}
		c.Lists = append(c.Lists, ListCondition{list.Issuer.CommonName, list.NextUpdate})
	}
	return nil
}

// agents counts certificates by their end.
func (l looker) agents(ctx context.Context, c *Condition) error {
	const valid = " FROM cert WHERE current = 1 AND revoked = 0"
	now, soon := l.now.Unix(), l.now.Add(endsSoon).Unix()
	err := l.db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(not_after <= ?1), 0), coalesce(sum(not_after > ?1 AND not_after <= ?2), 0),
		(SELECT count(*) FROM request WHERE current = 1)`+valid, now, soon).Scan(&c.Signed, &c.Ended, &c.Ending, &c.Waiting)
	if err != nil {
		return fmt.Errorf("count certificates: %w", err)
	}
	rows, err := l.db.QueryContext(ctx, "SELECT name"+valid+" AND not_after > ? AND not_after <= ? ORDER BY not_after, name LIMIT 5", now, soon)
	if err != nil {
		return fmt.Errorf("list certificates that end: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return fmt.Errorf("list certificates that end: %w", err)
		}
		c.First = append(c.First, name)
	}
	return rows.Err()
}
