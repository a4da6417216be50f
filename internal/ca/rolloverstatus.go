package ca

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file tells how far a roll-over is.

// A Rollover is the way from one issuer to the next as this member knows it.
type Rollover struct {
	Open    bool             `json:"open"`    // more than one issuer counts
	Signs   bool             `json:"signs"`   // the new issuer signs agents
	Shown   bool             `json:"shown"`   // servers show certificates of the new issuer
	Issuers []IssuerStatus   `json:"issuers"` // the new one first
	Waiting []journal.Origin `json:"waiting"` // members that do not hold the new key
	Agents  int              `json:"agents"`  // names with a valid certificate
	Moved   int              `json:"moved"`   // of them, those that came with a certificate of the new issuer
	Accept  int              `json:"accept"`  // of them, those that went on when a server showed one of the new issuer
	Names   int              `json:"names"`   // how many hang on an issuer that is to be retired
	Hanging []Hanging        `json:"hanging"` // the first of them
}

// IssuerStatus is one issuer.
type IssuerStatus struct {
	Key      string         `json:"key"`
	Name     string         `json:"name"`
	NotAfter time.Time      `json:"not_after"`
	Role     string         `json:"role"` // new, old, or extra: begun by another member while this one was, and later
	Held     bool           `json:"held"` // the key is on this member
	Stolen   bool           `json:"stolen,omitempty"`
	Begun    time.Time      `json:"begun,omitzero"`
	By       journal.Origin `json:"by,omitempty"`
	Live     int            `json:"live"` // certificates of it that are valid
}

// The roles of issuers. Outside a roll-over there is one, which is new.
const (
	IssuerNew   = "new"
	IssuerOld   = "old"
	IssuerExtra = "extra"
)

// Hanging is a name with a valid certificate of an issuer that is to be retired, not seen with one of the new issuer.
type Hanging struct {
	Certname puppet.Certname `json:"certname"`
	NotAfter time.Time       `json:"not_after"` // of the certificate that is valid longest
	Renewed  bool            `json:"renewed"`   // a certificate of the new issuer exists
	Accepts  bool            `json:"accepts"`   // it went on when a server showed a certificate of the new issuer
	Listed   bool            `json:"listed"`    // its certificate is here; false when only the inventory of an import tells of it
}

// maxHanging bounds the names of one answer.
const maxHanging = 200_000

// RolloverStatus tells how far a roll-over is.
func (a *Authority) RolloverStatus(ctx context.Context) (Rollover, error) {
	t := a.trust.Load()
	r := Rollover{Open: t.open(), Signs: t.signs, Shown: t.shown == t.force, Waiting: []journal.Origin{}, Hanging: []Hanging{}}
	begun := map[string]begun{}
	for _, b := range t.steps.begun {
		begun[b.Key] = b
	}
	for _, i := range t.all {
		s := IssuerStatus{Key: i.id, Name: i.cert.Subject.CommonName, NotAfter: i.cert.NotAfter, Role: IssuerExtra, Held: i.key != nil, Stolen: t.steps.stolen[i.id]}
		if b, ok := begun[i.id]; ok {
			s.Begun, s.By = b.at.Time(), b.origin
		}
		var err error
		if s.Live, err = a.countLive(ctx, i); err != nil {
			return r, err
		}
		switch i.id {
		case t.force.id:
			s.Role = IssuerNew
			r.Issuers = append([]IssuerStatus{s}, r.Issuers...)
			continue
		case t.force.from:
			s.Role = IssuerOld
		}
		r.Issuers = append(r.Issuers, s)
	}
	if !t.open() {
		return r, nil
	}
	if t.force.from != "" && !t.signs {
		r.Waiting = append(r.Waiting, a.waiting(t, t.force.id)...)
	}
	var err error
	if r.Agents, r.Moved, r.Accept, err = a.countAgents(ctx, t); err != nil {
		return r, err
	}
	if r.Names, err = a.countHanging(ctx, t); err != nil {
		return r, err
	}
	r.Hanging, err = a.hanging(ctx, t, maxHanging)
	return r, err
}

// live are the certificates that are accepted now: ?1 is the time, ?2 a list of issuers.
const live = "revoked = 0 AND not_after > ?1 AND issuer IN (SELECT value FROM json_each(?2))"

// idsOf is the list of issuers for the condition live. What does not tell its issuer is of the first one: it was imported.
func idsOf(all ...*issuer) string {
	ids := []string{}
	for _, i := range all {
		ids = append(ids, i.id)
		if i.from == "" {
			ids = append(ids, "")
		}
	}
	text, err := json.Marshal(ids)
	if err != nil {
		panic(fmt.Sprintf("ca: encode strings: %v", err))
	}
	return string(text)
}

// others are the issuers that are to be retired.
func (t *trust) others() []*issuer {
	return slices.DeleteFunc(slices.Clone(t.all), func(i *issuer) bool { return i == t.force })
}

func (a *Authority) countLive(ctx context.Context, i *issuer) (n int, err error) {
	err = a.db.read.QueryRowContext(ctx, "SELECT count(*) FROM cert WHERE "+live, a.now().Unix(), idsOf(i)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count certificates of issuer %s: %w", i.id, err)
	}
	return n, nil
}

// countAgents counts names with a certificate that is accepted, and those of them that were met (see seenRecord).
func (a *Authority) countAgents(ctx context.Context, t *trust) (all, moved, accept int, err error) {
	const met = "coalesce(sum(EXISTS (SELECT 1 FROM seen WHERE key = ?3 AND accepts = %d AND seen.name = agent.name)), 0)"
	err = a.db.read.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*), "+met+", "+met+" FROM (SELECT DISTINCT name FROM cert WHERE "+live+") agent", 0, 1),
		a.now().Unix(), idsOf(t.all...), t.force.id).Scan(&all, &moved, &accept)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("count agents that were met: %w", err)
	}
	return all, moved, accept, nil
}

// hangs selects the certificates of names that depend on other issuers than the new one, ?3.
const hangs = " FROM cert WHERE " + live + " AND NOT EXISTS (SELECT 1 FROM seen WHERE key = ?3 AND accepts = 0 AND seen.name = cert.name)"

func (a *Authority) countHanging(ctx context.Context, t *trust) (n int, err error) {
	err = a.db.read.QueryRowContext(ctx, "SELECT count(DISTINCT name)"+hangs, a.now().Unix(), idsOf(t.others()...), t.force.id).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count names that hang on the old issuer: %w", err)
	}
	return n, nil
}

func (a *Authority) hanging(ctx context.Context, t *trust, most int) ([]Hanging, error) {
	rows, err := a.db.read.QueryContext(ctx, `SELECT name, max(not_after), max(der IS NOT NULL AND cleaned = 0),
		EXISTS (SELECT 1 FROM cert fresh WHERE fresh.name = cert.name AND fresh.issuer = ?3 AND fresh.revoked = 0),
		EXISTS (SELECT 1 FROM seen WHERE key = ?3 AND accepts = 1 AND seen.name = cert.name)`+hangs+" GROUP BY name ORDER BY name LIMIT ?4",
		a.now().Unix(), idsOf(t.others()...), t.force.id, most)
	if err != nil {
		return nil, fmt.Errorf("list names that hang on the old issuer: %w", err)
	}
	defer rows.Close()
	all := []Hanging{}
	for rows.Next() {
		var h Hanging
		var notAfter int64
		if err := rows.Scan(&h.Certname, &notAfter, &h.Listed, &h.Renewed, &h.Accepts); err != nil {
			return nil, fmt.Errorf("list names that hang on the old issuer: %w", err)
		}
		h.NotAfter = unix(notAfter)
		all = append(all, h)
	}
	return all, rows.Err()
}

// Renewed returns the certificate of name by the new issuer, as PEM: the one that exists, or one that is signed now for the same key
// and with the same extensions. The agent gets it with its key untouched.
func (a *Authority) Renewed(ctx context.Context, name puppet.Certname) ([]byte, error) {
	t := a.trust.Load()
	if !t.open() {
		return nil, noRollover()
	}
	if t.signer() != t.force {
		return nil, a.notReady(t)
	}
	var by string
	err := a.db.read.QueryRowContext(ctx, "SELECT issuer FROM cert WHERE name = ? AND current = 1", name).Scan(&by)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "Could not find certificate %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("look up certificate of %s: %w", name, err)
	}
	if by == t.force.id {
		return a.Certificate(ctx, string(name))
	}
	return a.Reissue(ctx, name, 0)
}
