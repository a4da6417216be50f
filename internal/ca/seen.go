package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"troupe/internal/telemetry"
)

// This file knows, during a roll-over, which agents came with what: who has shown a certificate of the new issuer needs nothing of
// the old one any more. Each such name is recorded once, so that every member knows.

const (
	maxSightings = 10_000 // that wait to be recorded; more come again with the agent's next request
	seenBatch    = 1_000  // names of one record and set
)

// sightings are the agents that were met. The two sets are those of a seenRecord.
type sightings struct {
	mu      sync.Mutex
	key     string             // of which new issuer
	names   [2]map[string]bool // recorded, or waiting: came with its certificate; accepts its certificates
	waiting [2][]string
	more    chan struct{}
}

func (s *sightings) news() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.more == nil {
		s.more = make(chan struct{}, 1)
	}
	return s.more
}

// learn takes over what was recorded, here or elsewhere.
func (s *sightings) learn(key string, all []seenRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.about(key)
	for _, r := range all {
		if r.Key != key {
			continue
		}
		for i, names := range [][]string{r.Names, r.Accepts} {
			for _, name := range names {
				s.names[i][name] = true
			}
		}
	}
}

// about begins anew when another issuer is the new one. The lock is held.
func (s *sightings) about(key string) {
	if s.key != key || s.names[0] == nil {
		s.key, s.names, s.waiting = key, [2]map[string]bool{{}, {}}, [2][]string{}
	}
}

func (s *sightings) add(set int, key, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.about(key)
	if s.names[set][name] || len(s.waiting[set]) >= maxSightings {
		return
	}
	s.names[set][name] = true
	s.waiting[set] = append(s.waiting[set], name)
	if s.more == nil {
		s.more = make(chan struct{}, 1)
	}
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// take returns a record of those that wait; it is about nobody when there are none.
func (s *sightings) take() seenRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := seenRecord{Key: s.key}
	for i, names := range []*[]string{&r.Names, &r.Accepts} {
		n := min(len(s.waiting[i]), seenBatch)
		*names, s.waiting[i] = slices.Clone(s.waiting[i][:n]), s.waiting[i][n:]
	}
	return r
}

// Seen tells that somebody has proved to hold cert, which counts. server is what this member showed, and the other side accepted; nil
// means nothing.
func (a *Authority) Seen(cert, server *x509.Certificate) {
	t := a.trust.Load()
	if !t.open() {
		return
	}
	if t.named(cert) == t.force {
		a.seen.add(0, t.force.id, cert.Subject.CommonName)
	}
	if server != nil && t.named(server) == t.force {
		a.seen.add(1, t.force.id, cert.Subject.CommonName)
	}
}

// recordSeen writes down who was seen since it was last called.
func (a *Authority) recordSeen(ctx context.Context) error {
	for {
		r := a.seen.take()
		if len(r.Names)+len(r.Accepts) == 0 {
			return nil
		}
		d, err := draft(kindSeen, keyCA, r)
		if err != nil {
			return err
		}
		// Nobody waits for it, and a member that is killed meets the agent again: no second copy is awaited.
		if _, err := a.j.Append(ctx, d); err != nil {
			return fmt.Errorf("record agents that were met: %w", err)
		}
		if err := a.refresh(ctx); err != nil {
			return err
		}
	}
}

// loadSeen reads what is known of the new issuer's agents.
func (a *Authority) loadSeen(ctx context.Context) error {
	t := a.trust.Load()
	if !t.open() {
		return nil
	}
	rows, err := a.db.read.QueryContext(ctx, "SELECT accepts, name FROM seen WHERE key = ?", t.force.id)
	if err != nil {
		return fmt.Errorf("read agents that were met: %w", err)
	}
	defer rows.Close()
	r := seenRecord{Key: t.force.id}
	for rows.Next() {
		var accepts bool
		var name string
		if err := rows.Scan(&accepts, &name); err != nil {
			return fmt.Errorf("read agents that were met: %w", err)
		}
		if accepts {
			r.Accepts = append(r.Accepts, name)
		} else {
			r.Names = append(r.Names, name)
		}
	}
	a.seen.learn(t.force.id, []seenRecord{r})
	return rows.Err()
}

// knownCerts are certificates of a stolen issuer that were found in the records.
type knownCerts struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]bool
}

const (
	maxKnownCerts = 50_000
	lookUpMost    = 10 * time.Second
)

// forged reports whether a certificate bears the name of a stolen issuer, but is not one that was recorded here when it was
// signed. Whoever has the key can sign; the records it cannot write.
func (a *Authority) forged(t *trust, cert *x509.Certificate) bool {
	if len(t.steps.stolen) == 0 {
		return false
	}
	if by := t.named(cert); by != nil && !t.steps.stolen[by.id] {
		return false
	}
	sum := sha256.Sum256(cert.Raw)
	a.known.mu.Lock()
	known := a.known.all[sum]
	a.known.mu.Unlock()
	if known {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookUpMost)
	defer cancel()
	var der []byte
	err := a.db.read.QueryRowContext(ctx, "SELECT coalesce(der, x'') FROM cert WHERE serial = ?", serialText(cert.SerialNumber)).Scan(&der)
	if err != nil || !sameCertificate(cert, der) {
		a.log.Warn("a certificate of the stolen issuer that nobody here has signed was shown", telemetry.KeyCertname, cert.Subject.CommonName,
			telemetry.KeySerial, serialText(cert.SerialNumber), telemetry.KeyErr, err)
		return true
	}
	a.known.mu.Lock()
	defer a.known.mu.Unlock()
	if a.known.all == nil || len(a.known.all) >= maxKnownCerts {
		a.known.all = map[[sha256.Size]byte]bool{}
	}
	a.known.all[sum] = true
	return false
}
