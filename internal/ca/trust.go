package ca

import (
	"cmp"
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"troupe/internal/authn"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file finds out which issuers count: the first, and those of roll-overs. It is a function of the records, in any order.

// A trust is what counts at one moment. It is immutable.
type trust struct {
	force *issuer   // the one that is to sign in the end
	shown *issuer   // the one whose certificates servers show
	all   []*issuer // whose certificates are good: the shown one first, then the one in force, then by age

	// signs is false while some member may not know the issuer in force yet: until then the one before it signs.
	signs bool

	bundlePEM []byte
	pool      *x509.CertPool
	steps     steps
	changed   chan struct{} // closed when another trust counts
}

// open reports whether more than one issuer counts.
func (t *trust) open() bool { return len(t.all) > 1 }

// by returns the issuer with that subject key identifier, if it counts.
func (t *trust) by(id string) *issuer {
	i := slices.IndexFunc(t.all, func(i *issuer) bool { return i.id == id })
	if i < 0 {
		return nil
	}
	return t.all[i]
}

// named returns the issuer that a certificate names as its own. Names are unique, and crypto/x509 finds issuers by them; a key
// identifier proves nothing.
func (t *trust) named(cert *x509.Certificate) *issuer {
	for _, i := range t.all {
		if authn.SameName(cert.RawIssuer, i.cert.RawSubject) {
			return i
		}
	}
	return nil
}

// signer returns the issuer that signs agents here: the one in force when all members know it, else the one before it. A member
// that lacks a key signs with the one that it holds. nil means that it holds none.
func (t *trust) signer() *issuer {
	wanted := t.force
	if !t.signs {
		if before := t.by(t.force.from); before != nil {
			wanted = before
		}
	}
	for _, i := range slices.Concat([]*issuer{wanted, t.shown}, t.all) {
		if i.key != nil {
			return i
		}
	}
	return nil
}

// steps are the records of roll-overs, united.
type steps struct {
	begun     []begun                            // the earliest first
	ready     map[string]map[journal.Origin]bool // by issuer: the members that hold its key
	signs     map[string]bool                    // issuers that every member has known
	shown     map[string]said                    // whether servers show it
	finished  map[string]journal.Time            // the earliest
	retired   map[string]bool
	cancelled map[string]bool
	stolen    map[string]bool // issuers whose key somebody else has
}

// begun is one roll-over.
type begun struct {
	rolloverRecord

	made   *issuer
	at     journal.Time
	origin journal.Origin
}

// said is the last word on something; the later counts.
type said struct {
	on bool
	at journal.Time
}

func newSteps() steps {
	return steps{
		ready: map[string]map[journal.Origin]bool{}, signs: map[string]bool{}, shown: map[string]said{}, finished: map[string]journal.Time{},
		retired: map[string]bool{}, cancelled: map[string]bool{}, stolen: map[string]bool{},
	}
}

// add takes one record. The order does not matter, except that begun is sorted at the end.
func (s *steps) add(r rolloverRecord, at journal.Time, origin journal.Origin) error {
	for _, id := range r.Stolen {
		s.stolen[id] = true
	}
	switch r.Step {
	case stepBegin:
		made, err := r.issuer()
		if err != nil {
			return err
		}
		s.begun = append(s.begun, begun{r, made, at, origin})
		s.hold(r.Key, origin)
	case stepReady:
		s.hold(r.Key, origin)
	case stepSign:
		s.signs[r.Key] = true
	case stepShow, stepHide:
		if now := (said{r.Step == stepShow, at}); at > s.shown[r.Key].at {
			s.shown[r.Key] = now
		}
	case stepFinish:
		if before, ok := s.finished[r.Key]; !ok || at < before {
			s.finished[r.Key] = at
		}
		for _, id := range r.Retired {
			s.retired[id] = true
		}
	case stepCancel:
		s.cancelled[r.Key] = true
	default:
		return fmt.Errorf("unknown step %q of a roll-over: is this member older than the others?", r.Step)
	}
	return nil
}

func (s *steps) hold(id string, o journal.Origin) {
	if s.ready[id] == nil {
		s.ready[id] = map[journal.Origin]bool{}
	}
	s.ready[id][o] = true
}

// gone reports whether an issuer counts no more. Taking back what was finished elsewhere does nothing.
func (s *steps) gone(id string) bool {
	_, finished := s.finished[id]
	return s.retired[id] || s.cancelled[id] && !finished
}

// successor returns the roll-over that followed on an issuer: one that was finished, else one that goes on; of several the
// earliest.
func (s *steps) successor(id string) *begun {
	var best *begun
	rank := func(b *begun) journal.Time {
		if at, ok := s.finished[b.Key]; ok {
			return at
		}
		return ^journal.Time(0)
	}
	for i := range s.begun {
		b := &s.begun[i]
		_, finished := s.finished[b.Key]
		if b.From != id || !finished && s.gone(b.Key) {
			continue
		}
		if best == nil || rank(b) < rank(best) {
			best = b
		}
	}
	return best
}

// inForce walks from the first issuer to the one that is to sign in the end.
func (s *steps) inForce(first string) string {
	cur := first
	for range s.begun { // no longer than that, whatever the records say
		next := s.successor(cur)
		if next == nil {
			break
		}
		cur = next.Key
	}
	return cur
}

// newTrust decides which of the issuers count.
func newTrust(first *issuer, s steps) *trust {
	slices.SortFunc(s.begun, func(a, b begun) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.origin, b.origin), cmp.Compare(a.Key, b.Key))
	})
	known := map[string]*issuer{first.id: first}
	order := []*issuer{first}
	for _, b := range s.begun {
		if known[b.Key] != nil {
			continue
		}
		known[b.Key] = b.made
		order = append(order, b.made)
	}
	t := &trust{force: known[s.inForce(first.id)], steps: s, pool: x509.NewCertPool(), changed: make(chan struct{})}
	before := known[t.force.from]
	if before != nil && s.gone(before.id) {
		before = nil
	}
	t.signs = before == nil || s.signs[t.force.id]
	t.shown = t.force
	if before != nil && !s.shown[t.force.id].on {
		t.shown = before
	}
	for _, i := range slices.Concat([]*issuer{t.shown, t.force}, order) {
		if slices.Contains(t.all, i) || s.gone(i.id) && i != t.force {
			continue
		}
		t.all = append(t.all, i)
		t.bundlePEM = append(t.bundlePEM, i.bundlePEM...)
		// Only issuers are trusted for clients, not what stands above them: a root may have issued other authorities, whose
		// certificates are no agents.
		for _, c := range i.own() {
			t.pool.AddCert(c)
		}
	}
	return t
}

// loadTrust takes what the records say into force. It reports false when there is no authority yet.
func (a *Authority) loadTrust(ctx context.Context) (bool, error) {
	first, err := a.firstIssuer(ctx)
	if err != nil || first == nil {
		return false, err
	}
	s, err := a.readSteps(ctx)
	if err != nil {
		return false, err
	}
	t := newTrust(first, s)
	for _, i := range t.all {
		if err := a.settleAll(i); err != nil {
			return false, err
		}
		i.key, err = a.key(i.cert.SubjectKeyId)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	if t.signer() == nil {
		a.log.WarnContext(ctx, "this member does not hold the key of the certificate authority: it cannot sign or revoke", "key", t.force.id)
	}
	if old := a.trust.Swap(t); old != nil {
		close(old.changed)
	}
	return true, nil
}

func (a *Authority) readSteps(ctx context.Context) (steps, error) {
	s := newSteps()
	rows, err := a.db.write.QueryContext(ctx, "SELECT time, origin, body FROM rollover")
	if err != nil {
		return s, fmt.Errorf("read roll-overs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var at journal.Time
		var origin journal.Origin
		var body []byte
		var r rolloverRecord
		if err := rows.Scan(&at, &origin, &body); err != nil {
			return s, fmt.Errorf("read roll-overs: %w", err)
		}
		err := json.Unmarshal(body, &r)
		if err == nil {
			err = s.add(r, at, origin)
		}
		if err != nil { // one bad record must not end the authority
			a.log.WarnContext(ctx, "a record of a roll-over is not understood and does not count", "origin", origin, telemetry.KeyErr, err)
		}
	}
	return s, rows.Err()
}

// firstIssuer reads the setup: the newest, if there were several.
func (a *Authority) firstIssuer(ctx context.Context) (*issuer, error) {
	var at journal.Time
	var body []byte
	err := a.db.write.QueryRowContext(ctx, "SELECT time, body FROM setup ORDER BY time DESC, origin DESC LIMIT 1").Scan(&at, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	if err != nil {
		return nil, fmt.Errorf("read setup of the certificate authority: %w", err)
	}
	var s setupRecord
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("decode setup of the certificate authority: %w", err)
	}
	i, err := newIssuer(s, at)
	if err != nil {
		return nil, fmt.Errorf("read setup of the certificate authority: %w", err)
	}
	return i, nil
}

// Bundle returns the certificates that agents must trust, as PEM. The bytes stay
// the same as long as the issuers do: agents may pin their sum (ca_fingerprint).
func (a *Authority) Bundle() []byte { return a.trust.Load().bundlePEM }

// Pool returns the certificates that issue clients: the issuers' own, without
// those above them.
func (a *Authority) Pool() *x509.CertPool { return a.trust.Load().pool }

// Issuer returns the certificate that is to sign agents. During a roll-over it is the new one.
func (a *Authority) Issuer() *x509.Certificate { return a.trust.Load().force.cert }

// Issuers returns the certificates of all issuers that count, the one that servers show first.
func (a *Authority) Issuers() []*x509.Certificate {
	var all []*x509.Certificate
	for _, i := range a.trust.Load().all {
		all = append(all, i.cert)
	}
	return all
}

// Shown returns the certificate of the issuer under which servers are to show themselves, and a channel that is closed when something
// about the issuers changes.
func (a *Authority) Shown() (*x509.Certificate, <-chan struct{}) {
	t := a.trust.Load()
	return t.shown.cert, t.changed
}

// Revoked reports whether cert is revoked, or bears the name of a stolen issuer without being known here. It takes no lock, so
// that every request can ask.
func (a *Authority) Revoked(cert *x509.Certificate) bool {
	t := a.trust.Load()
	return a.revoked.has(cert, t.all) || a.forged(t, cert)
}
