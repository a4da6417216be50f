package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"troupe/internal/authn"
	"troupe/internal/failpoint"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file publishes revocation lists. The issuer's list is a function of the
// revoked serials and of the time of the newest record that touched them, so
// every member that knows the same publishes the same, and a member that knows
// more publishes one that agents take for newer.

const (
	backdate     = 24 * time.Hour // a list must never lie in the future of an agent
	listLifetime = 5 * year       // as puppetserver's
	renewAfter   = 30 * 24 * time.Hour
	pruneAfter   = year // after a certificate's end its serial leaves the list
	reasonKey    = 1    // key compromise, which puppetserver gives to every entry
)

// A revokedSet holds the revoked serials of this process: sets that requests ask
// without a lock, and the lines of the issuer's list in their order.
type revokedSet struct {
	own     sync.Map // serial → struct{}, of the issuers' certificates
	foreign sync.Map // issuer's name and serial → struct{}, of certificates above the issuers

	mu      sync.Mutex
	entries []entry // by serial
}

// An entry is a line of a list, encoded once: a hundred thousand of them must not
// be encoded for each revocation.
type entry struct {
	serial *big.Int
	at     int64
	reason int
	der    []byte
}

func (s *revokedSet) has(cert *x509.Certificate, issuers []*issuer) bool {
	serial := serialText(cert.SerialNumber)
	if slices.ContainsFunc(issuers, func(i *issuer) bool { return authn.SameName(cert.RawIssuer, i.cert.RawSubject) }) {
		_, ok := s.own.Load(serial)
		return ok
	}
	_, ok := s.foreign.Load(foreignKey(cert.RawIssuer, serial))
	return ok
}

func foreignKey(issuer []byte, serial string) string { return string(issuer) + "\x00" + serial }

// crlSpec is a revocation list that is to be signed.
type crlSpec struct {
	issuer     []byte // DER of the name
	keyID      []byte
	number     *big.Int
	thisUpdate time.Time
	nextUpdate time.Time
	entries    []entry
}

type tbsCertList struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	ThisUpdate time.Time
	NextUpdate time.Time
	Revoked    asn1.RawValue    `asn1:"optional"`
	Extensions []pkix.Extension `asn1:"tag:0,explicit"`
}

// sign encodes and signs the list.
func (s crlSpec) sign(key crypto.Signer) ([]byte, error) {
	algorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	if isRSA(key) {
		algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	}
	l := &extensionList{oids: knownOIDs()}
	l.add(l.oids.crlNumber, false, s.number, "")
	l.authority(s.keyID, nil)
	tbs := tbsCertList{Version: 1, Algorithm: algorithm, Issuer: asn1.RawValue{FullBytes: s.issuer}, ThisUpdate: s.thisUpdate.UTC(), NextUpdate: s.nextUpdate.UTC(), Extensions: l.all}
	if l.err != nil {
		return nil, l.err
	}
	if len(s.entries) > 0 {
		lines := make([][]byte, len(s.entries))
		for i := range s.entries {
			lines[i] = s.entries[i].der
		}
		der, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(lines, nil)})
		if err != nil {
			return nil, fmt.Errorf("encode revocation list: %w", err)
		}
		tbs.Revoked = asn1.RawValue{FullBytes: der}
	}
	raw, err := asn1.Marshal(tbs)
	if err != nil {
		return nil, fmt.Errorf("encode revocation list: %w", err)
	}
	sum := sha256.Sum256(raw)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: raw}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}

// newEntry encodes a line of a list.
func newEntry(r revocation) (entry, error) {
	serial, ok := new(big.Int).SetString(r.Serial, 16)
	if !ok {
		return entry{}, fmt.Errorf("revoked serial %q is no number", r.Serial)
	}
	line := struct {
		Serial     *big.Int
		At         time.Time
		Extensions []pkix.Extension `asn1:"optional"`
	}{Serial: serial, At: r.At.UTC().Truncate(time.Second)}
	if r.Reason > 0 {
		reason, err := asn1.Marshal(asn1.Enumerated(r.Reason))
		if err != nil {
			return entry{}, err
		}
		line.Extensions = []pkix.Extension{{Id: knownOIDs().reason, Value: reason}}
	}
	der, err := asn1.Marshal(line)
	return entry{serial: serial, at: r.At.Unix(), reason: r.Reason, der: der}, err
}

// add takes over revocations. Of two dates for one serial the earlier stays, and of two reasons at one date the lower, as in
// the table.
func (s *revokedSet) add(all []revocation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range all {
		if len(r.Issuer) > 0 {
			s.foreign.Store(foreignKey(r.Issuer, r.Serial), struct{}{})
			continue
		}
		s.own.Store(r.Serial, struct{}{})
		e, err := newEntry(r)
		if err != nil {
			return err
		}
		i, found := slices.BinarySearchFunc(s.entries, e.serial, func(e entry, n *big.Int) int { return e.serial.Cmp(n) })
		switch {
		case !found:
			s.entries = slices.Insert(s.entries, i, e)
		case e.at < s.entries[i].at, e.at == s.entries[i].at && e.reason < s.entries[i].reason:
			s.entries[i] = e
		}
	}
	return nil
}

// replace sets the lines to those of the projection.
func (s *revokedSet) replace(lines []entry) {
	slices.SortFunc(lines, func(a, b entry) int { return a.serial.Cmp(b.serial) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = lines
}

// lines returns the lines as they are now.
func (s *revokedSet) lines() []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.entries)
}

// loadRevoked reads into memory what the projection knows. Lines of certificates
// that ended long ago stay out of the list.
func (a *Authority) loadRevoked(ctx context.Context) error {
	rows, err := a.db.read.QueryContext(ctx, "SELECT r.serial, r.at, r.reason, c.not_after FROM revoked r LEFT JOIN cert c USING (serial)")
	if err != nil {
		return fmt.Errorf("read revoked serials: %w", err)
	}
	defer rows.Close()
	var lines []entry
	gone := a.now().Add(-pruneAfter).Unix()
	for rows.Next() {
		var r revocation
		var at int64
		var notAfter sql.NullInt64
		if err := rows.Scan(&r.Serial, &at, &r.Reason, &notAfter); err != nil {
			return fmt.Errorf("read revoked serials: %w", err)
		}
		a.revoked.own.Store(r.Serial, struct{}{})
		if notAfter.Valid && notAfter.Int64 < gone {
			continue
		}
		r.At = unix(at)
		line, err := newEntry(r)
		if err != nil {
			return err
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read revoked serials: %w", err)
	}
	a.revoked.replace(lines)
	return a.loadForeign(ctx)
}

func (a *Authority) loadForeign(ctx context.Context) error {
	rows, err := a.db.read.QueryContext(ctx, "SELECT crl FROM ancestor")
	if err != nil {
		return fmt.Errorf("read revocation lists: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var der []byte
		if err := rows.Scan(&der); err != nil {
			return fmt.Errorf("read revocation lists: %w", err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("parse revocation list: %w", err)
		}
		if err := a.revoked.add(foreignRevocations(list)); err != nil {
			return err
		}
	}
	return rows.Err()
}

func foreignRevocations(list *x509.RevocationList) []revocation {
	var all []revocation
	for _, e := range list.RevokedCertificateEntries {
		all = append(all, revocation{Serial: serialText(e.SerialNumber), At: e.RevocationTime, Issuer: list.RawIssuer})
	}
	return all
}

// published is one answer to agents, kept until something changes.
type published struct {
	pem       []byte
	own       crlSpec   // the first list that was signed here
	ends      []listEnd // of the issuers' lists
	ancestors []*x509.RevocationList
}

// A listEnd says when the list of an issuer ends.
type listEnd struct {
	issuer     string
	nextUpdate time.Time
}

// CRLs returns the revocation lists of every certificate in the bundle, as PEM, in
// its order. When they cannot be signed now, it returns those that were
// signed last and the log has the cause; nil means that there never were any.
func (a *Authority) CRLs() []byte {
	p := a.current()
	if p == nil {
		return nil
	}
	return p.pem
}

// signTime bounds the signing of the lists of a hundred thousand revocations on a
// busy machine.
const signTime = time.Minute

func (a *Authority) current() *published {
	ctx, cancel := context.WithTimeout(context.Background(), signTime)
	defer cancel()
	p, err := a.lists(ctx)
	if err != nil {
		a.log.ErrorContext(ctx, "revocation lists are out of date", telemetry.KeyErr, err)
		return a.last.Load()
	}
	return p
}

// lists returns what is published now, and signs it when something changed.
func (a *Authority) lists(ctx context.Context) (*published, error) {
	if p := a.crl.Load(); p != nil {
		return p, nil
	}
	a.crlMu.Lock()
	defer a.crlMu.Unlock()
	if p := a.crl.Load(); p != nil {
		return p, nil
	}
	s, err := a.snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("publish revocation lists: %w", err)
	}
	p, err := s.publish()
	if err != nil {
		return nil, fmt.Errorf("publish revocation lists: %w", err)
	}
	failpoint.Here("ca.list-signed")

	a.db.mu.Lock()
	defer a.db.mu.Unlock()
	a.last.Store(p)
	if a.generation == s.generation {
		a.crl.Store(p)
	}
	return p, nil
}

// A listSnapshot is what the lists of one moment are made from.
type listSnapshot struct {
	generation uint64
	trust      *trust
	latest     journal.Time
	lines      []entry
	ancestors  map[*issuer][][]byte
}

// snapshot reads tables and memory while nothing is folded, so that a number
// never stands over a list that lacks its newest line.
func (a *Authority) snapshot(ctx context.Context) (listSnapshot, error) {
	a.db.mu.Lock()
	defer a.db.mu.Unlock()
	s := listSnapshot{generation: a.generation, trust: a.trust.Load(), lines: a.revoked.lines(), ancestors: map[*issuer][][]byte{}}
	if s.trust.signer() == nil {
		return s, fault.New(fault.Unavailable, "This member does not hold the key of the certificate authority")
	}
	if err := a.db.read.QueryRowContext(ctx, "SELECT time FROM latest").Scan(&s.latest); err != nil {
		return s, fmt.Errorf("read time of the newest change: %w", err)
	}
	for _, i := range s.trust.all {
		for _, c := range i.ancestors() {
			var der []byte
			err := a.db.read.QueryRowContext(ctx, "SELECT crl FROM ancestor WHERE key = ?", hex.EncodeToString(c.SubjectKeyId)).Scan(&der)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return s, fmt.Errorf("read revocation list of %s: %w", c.Subject.CommonName, err)
			}
			s.ancestors[i] = append(s.ancestors[i], der)
		}
	}
	return s, nil
}

// publish makes the lists in the order of the bundle: an agent that keeps only the first block of each has a pair that fits.
func (s listSnapshot) publish() (*published, error) {
	p := &published{}
	for _, i := range s.trust.all {
		if err := s.publishIssuer(p, i); err != nil {
			return nil, fmt.Errorf("list of %s: %w", i.cert.Subject.CommonName, err)
		}
		for _, der := range s.ancestors[i] {
			list, err := x509.ParseRevocationList(der)
			if err != nil {
				return nil, err
			}
			p.pem = append(p.pem, listPEM(der)...)
			p.ancestors = append(p.ancestors, list)
		}
	}
	return p, nil
}

func (s listSnapshot) publishIssuer(p *published, i *issuer) error {
	if i.key == nil {
		// Agents refuse what an issuer has signed when they know it without a list: better the list with which it began than none.
		list, err := x509.ParseRevocationList(i.list)
		if err != nil {
			return err
		}
		p.pem, p.ends = append(p.pem, listPEM(i.list)...), append(p.ends, listEnd{i.cert.Subject.CommonName, list.NextUpdate})
		return nil
	}
	// Every revoked serial stands in the list of every issuer: which of them gave it a certificate may not be known yet, and no
	// number is used twice.
	spec := crlSpec{issuer: i.cert.RawSubject, keyID: i.cert.SubjectKeyId, number: i.floor.numberAt(s.latest), thisUpdate: i.floor.dateAt(s.latest), entries: s.lines}
	spec.nextUpdate = spec.thisUpdate.Add(listLifetime)
	der, err := spec.sign(i.key)
	if err != nil {
		return err
	}
	if p.own.number == nil {
		p.own = spec
	}
	p.pem, p.ends = append(p.pem, listPEM(der)...), append(p.ends, listEnd{i.cert.Subject.CommonName, spec.nextUpdate})
	return nil
}

func listPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// numberAt grows with at and is always greater than the number of the imported list.
func (f crlFloor) numberAt(at journal.Time) *big.Int {
	n := new(big.Int).SetUint64(uint64(at))
	if f.number != nil && f.number.Cmp(new(big.Int).SetUint64(uint64(f.time))) >= 0 {
		n.Add(n, f.number)
	}
	return n
}

// dateAt is a day before the newest change, but later than the imported list:
// of two lists OpenSSL takes the one with the later date, whatever their numbers.
func (f crlFloor) dateAt(at journal.Time) time.Time {
	date := at.Time().Truncate(time.Second).Add(-backdate)
	if f.number != nil && !date.After(f.at) {
		return f.at.Add(time.Second)
	}
	return date
}
