package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file finds names that two members have signed for two keys while they were cut off from each other. Both certificates
// are good: which of the machines is the right one, only a person or a rule can say.

// A Conflict is a name with valid certificates for different keys, from different members.
type Conflict struct {
	Certname     puppet.Certname   `json:"certname"`
	Certificates []ConflictingCert `json:"certificates"` // the earliest first
}

// ConflictingCert is one of them.
type ConflictingCert struct {
	Serial    string         `json:"serial_number"` // hex
	Origin    journal.Origin `json:"origin"`        // the member that signed it
	Signed    time.Time      `json:"signed"`
	NotAfter  time.Time      `json:"not_after"`
	publicKey []byte
}

// Conflicts returns the conflicts that are open, by name: of the given names, or of all. Revoking or cleaning all but one
// certificate ends a conflict.
func (a *Authority) Conflicts(ctx context.Context, names ...puppet.Certname) ([]Conflict, error) {
	of, only := "", "null"
	if len(names) > 0 {
		list, err := json.Marshal(names)
		if err != nil {
			return nil, err
		}
		of, only = "AND name IN (SELECT value FROM json_each(?2))", string(list)
	}
	rows, err := a.db.read.QueryContext(ctx, `SELECT name, serial, time, origin, not_after, der FROM cert WHERE name IN (
			SELECT name FROM cert WHERE revoked = 0 AND cleaned = 0 AND der IS NOT NULL AND not_after > ?1 `+of+`
			GROUP BY name HAVING count(DISTINCT origin) > 1)
		AND revoked = 0 AND cleaned = 0 AND der IS NOT NULL AND not_after > ?1 ORDER BY name, time, origin`, a.now().Unix(), only)
	if err != nil {
		return nil, fmt.Errorf("look for conflicts: %w", err)
	}
	defer rows.Close()
	all := []Conflict{}
	for rows.Next() {
		var name puppet.Certname
		var one ConflictingCert
		var at journal.Time
		var notAfter int64
		var der []byte
		if err := rows.Scan(&name, &one.Serial, &at, &one.Origin, &notAfter, &der); err != nil {
			return nil, fmt.Errorf("look for conflicts: %w", err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %s of %s: %w", one.Serial, name, err)
		}
		one.Signed, one.NotAfter, one.publicKey = at.Time(), unix(notAfter), cert.RawSubjectPublicKeyInfo
		if len(all) == 0 || all[len(all)-1].Certname != name {
			all = append(all, Conflict{Certname: name})
		}
		last := &all[len(all)-1]
		last.Certificates = append(last.Certificates, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look for conflicts: %w", err)
	}
	open := all[:0]
	for _, c := range all {
		if c.differs() {
			open = append(open, c)
		}
	}
	return open, nil
}

// differs reports whether two members have signed different keys. A renewal at another member is of the same key.
func (c *Conflict) differs() bool {
	for _, one := range c.Certificates[1:] {
		first := c.Certificates[0]
		if one.Origin != first.Origin && !bytes.Equal(one.publicKey, first.publicKey) {
			return true
		}
	}
	return false
}

// suspects are names for which other members have signed something since somebody looked.
type suspects struct {
	mu    sync.Mutex
	names []puppet.Certname
}

func (s *suspects) add(names []puppet.Certname) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, names...)
}

func (s *suspects) take() []puppet.Certname {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.names
	s.names = nil
	return names
}

// settleConflicts looks at the suspects. It tells the operator of conflicts, and revokes the later certificates where the policy says so: each member
// those that it has signed itself.
func (a *Authority) settleConflicts(ctx context.Context) error {
	names := a.suspects.take()
	if len(names) == 0 {
		return nil
	}
	conflicts, err := a.Conflicts(ctx, names...)
	if err != nil {
		a.suspects.add(names) // next time
		return err
	}
	for _, c := range conflicts {
		a.log.WarnContext(ctx, "two members have signed different keys for one name", telemetry.KeyCertname, string(c.Certname),
			"remedy", "troupe ca conflicts shows both; revoke the one that is wrong")
		if !a.policy.Load().RevokeLater {
			continue
		}
		first := c.Certificates[0]
		for _, one := range c.Certificates[1:] {
			if one.Origin != a.j.Origin() || bytes.Equal(one.publicKey, first.publicKey) {
				continue
			}
			d, err := a.revocationDraft(string(c.Certname), []string{one.Serial})
			if err != nil {
				return err
			}
			if err := a.append(ctx, d); err != nil {
				return fmt.Errorf("revoke the later certificate of %s: %w", c.Certname, err)
			}
			a.log.WarnContext(ctx, "the later certificate of a name that two members have signed is revoked", telemetry.KeyCertname, string(c.Certname), telemetry.KeySerial, one.Serial)
		}
	}
	return nil
}
