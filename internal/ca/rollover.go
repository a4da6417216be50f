package ca

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// This file has the steps from one issuer to the next. Each is a record, and each may be taken at any member:
//
//	begin   a new key and its certificate exist; agents get both in the bundle, and the lists of both
//	ready   written by each member that holds the new key
//	sign    every member is ready: new certificates of agents are of the new issuer
//	show    servers show certificates of the new issuer; hide takes that back
//	finish  the old issuer is retired: nothing that it signed is accepted any more
//	cancel  the new issuer is given up instead
//
// Until "show" no agent can notice anything: whatever it trusts, it has trusted before.

// BeginRollover makes a new issuer beside the one in force. stolen says that somebody else has the old key: from now on what bears
// the old issuer's name is accepted only if this troupe has recorded that it signed it.
func (a *Authority) BeginRollover(ctx context.Context, stolen bool) error {
	t := a.trust.Load()
	if t.open() {
		return fault.New(fault.Conflict, "A roll-over is going on already: see troupe ca rollover status, then finish or cancel it")
	}
	if t.force.key == nil {
		return fault.New(fault.Unavailable, "This member does not hold the key of the certificate authority; begin on one that does")
	}
	made, r, err := a.makeSuccessor(t.force)
	if err != nil {
		return fmt.Errorf("make the new issuer: %w", err)
	}
	if stolen {
		r.Stolen = []string{t.force.id}
	}
	// As in adopt: the key under a name that does not count, the record, then the key counts.
	plain, err := encodeKey(made.key)
	if err != nil {
		return err
	}
	if err := a.vault.Stage(made.cert.SubjectKeyId, plain); err != nil {
		return fmt.Errorf("seal key: %w", err)
	}
	if err := a.step(ctx, r); err != nil {
		return fmt.Errorf("record the new issuer: %w", err)
	}
	a.log.WarnContext(ctx, "roll-over of the issuer begun", "new_issuer", made.cert.Subject.CommonName, "key", r.Key, "old_key", r.From, "stolen", stolen)
	return a.advance(ctx)
}

// makeSuccessor makes the key and the certificates of a new issuer. It has no root above it: what an agent accepts under an old
// root needs a new revocation list as well, and whoever gets that gets the new issuer with it.
func (a *Authority) makeSuccessor(old *issuer) (*issuer, rolloverRecord, error) {
	var r rolloverRecord
	c := &creation{now: a.now(), lifetime: a.o.CALifetime, keyType: a.o.KeyType, name: a.o.Name, origin: a.j.Origin()}
	if c.lifetime == 0 {
		c.lifetime = defaultCALifetime
	}
	if c.keyType == "" {
		c.keyType = RSA3072
	}
	key, err := newKey(c.keyType)
	if err != nil {
		return nil, r, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, r, err
	}
	r = rolloverRecord{Step: stepBegin, Key: hex.EncodeToString(id), From: old.id}
	// Agents and tools tell issuers by their names: each has one of its own.
	if c.name == "" {
		c.name = strings.Split(old.cert.Subject.CommonName, " (")[0]
	}
	c.name = fmt.Sprintf("%s (%s %s)", c.name, c.now.UTC().Format("2006-01-02"), r.Key[:8])
	self, err := c.certify(c.name, key.Public(), c.name, key)
	if err != nil {
		return nil, r, err
	}
	r.Cert = string(certificatePEM(self))
	if !old.cert.MaxPathLenZero { // else nobody would accept it
		cross, err := c.certifyUnder(old, key.Public())
		if err != nil {
			return nil, r, err
		}
		r.Cross = string(certificatePEM(cross))
	}
	issuerDER, err := commonName(c.name)
	if err != nil {
		return nil, r, err
	}
	// Older than every list that a member signs after it has read the record.
	at := c.now.UTC().Truncate(1e9).Add(-backdate - 1e9)
	spec := crlSpec{issuer: issuerDER, keyID: id, number: big.NewInt(1), thisUpdate: at, nextUpdate: at.Add(listLifetime)}
	if r.List, err = spec.sign(key); err != nil {
		return nil, r, err
	}
	i, err := r.issuer()
	if err != nil {
		return nil, r, err
	}
	i.key = key
	return i, r, nil
}

// certifyUnder makes the certificate of a new issuer by an old one: who trusts only the old one then accepts the new one's
// certificates, if it looks at no revocation list or has the new one's.
func (c *creation) certifyUnder(old *issuer, pub any) ([]byte, error) {
	subject, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	spec := certificateSpec{publicKey: pub}
	if spec.extensions, err = caExtensions(old.cert.SubjectKeyId, subject); err != nil {
		return nil, err
	}
	if spec.serial, err = newSerial(c.origin); err != nil {
		return nil, err
	}
	if spec.subject, err = commonName(c.name); err != nil {
		return nil, err
	}
	spec.notBefore, spec.notAfter = validity(c.now, c.lifetime)
	if spec.notAfter.After(old.cert.NotAfter) {
		spec.notAfter = old.cert.NotAfter
	}
	return spec.sign(old.cert.RawSubject, old.key)
}

// step records one step and takes it into force.
func (a *Authority) step(ctx context.Context, r rolloverRecord) error {
	d, err := draft(kindRollover, keyCA, r)
	if err != nil {
		return err
	}
	return a.append(ctx, d)
}

// waiting returns the members that have not told that they hold the key of an issuer.
func (a *Authority) waiting(t *trust, id string) []journal.Origin {
	all := []journal.Origin{a.j.Origin()}
	if a.o.Members != nil {
		if members := a.o.Members(); len(members) > 0 {
			all = members
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(o journal.Origin) bool { return t.steps.ready[id][o] })
}

// advance takes the steps that no person has to decide.
func (a *Authority) advance(ctx context.Context) error {
	if err := a.recordSeen(ctx); err != nil {
		return err
	}
	t := a.trust.Load()
	if !t.open() || t.force.from == "" {
		return nil
	}
	if t.force.key != nil && !t.steps.ready[t.force.id][a.j.Origin()] {
		if err := a.step(ctx, rolloverRecord{Step: stepReady, Key: t.force.id}); err != nil {
			return err
		}
		a.log.InfoContext(ctx, "this member holds the key of the new issuer", "key", t.force.id)
		t = a.trust.Load()
	}
	if t.signs || t.force.key == nil || len(a.waiting(t, t.force.id)) > 0 {
		return nil
	}
	if err := a.step(ctx, rolloverRecord{Step: stepSign, Key: t.force.id}); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "the new issuer signs from now on", "key", t.force.id)
	return nil
}

var errNoRollover = errors.New("no roll-over")

func noRollover() error {
	return fault.Wrap(fault.Conflict, errNoRollover, "No roll-over is going on: begin one with troupe ca rollover begin")
}

// ShowNew makes all servers show certificates of the new issuer, or with false those of the old one again. It refuses while a
// member lacks the new key, unless forced: that member would go on with its old certificate.
func (a *Authority) ShowNew(ctx context.Context, on, force bool) error {
	t := a.trust.Load()
	if !t.open() || t.by(t.force.from) == nil {
		return noRollover()
	}
	if on && !t.signs && !force {
		return a.notReady(t)
	}
	r := rolloverRecord{Step: stepShow, Key: t.force.id}
	if !on {
		r.Step = stepHide
	}
	if err := a.step(ctx, r); err != nil {
		return fmt.Errorf("record which certificates servers show: %w", err)
	}
	a.log.WarnContext(ctx, "servers change their certificates", "issuer", a.trust.Load().shown.cert.Subject.CommonName)
	return nil
}

func (a *Authority) notReady(t *trust) error {
	var names []string
	for _, o := range a.waiting(t, t.force.id) {
		names = append(names, string(o))
	}
	if len(names) == 0 {
		return fault.New(fault.Conflict, "The key of the new issuer is being given to the members: try again in a moment")
	}
	return fault.New(fault.Conflict, "These members do not hold the key of the new issuer yet: %s. Bring them back, remove them (troupe remove), or use --force", strings.Join(names, ", "))
}

// FinishRollover retires every issuer but the new one: nothing that they signed is accepted any more, by this member at once and by
// the others as soon as they hear of it. Unless forced it refuses while agents depend on them. stolen finishes whatever depends,
// and marks the retired keys.
func (a *Authority) FinishRollover(ctx context.Context, force, stolen bool) error {
	t := a.trust.Load()
	if !t.open() {
		return noRollover()
	}
	if t.force.key == nil {
		return fault.New(fault.Unavailable, "This member does not hold the key of the new issuer; finish on one that does")
	}
	if !force && !stolen {
		if err := a.mayFinish(ctx, t); err != nil {
			return err
		}
	}
	r := rolloverRecord{Step: stepFinish, Key: t.force.id}
	for _, i := range t.all {
		if i != t.force {
			r.Retired = append(r.Retired, i.id)
		}
	}
	if stolen {
		r.Stolen = r.Retired
	}
	if err := a.step(ctx, r); err != nil {
		return fmt.Errorf("record the end of the old issuer: %w", err)
	}
	a.log.WarnContext(ctx, "roll-over of the issuer finished: what the old one signed is refused", "issuer", t.force.cert.Subject.CommonName, "retired", r.Retired, "stolen", stolen)
	return nil
}

func (a *Authority) mayFinish(ctx context.Context, t *trust) error {
	if !t.signs {
		return a.notReady(t)
	}
	if t.shown != t.force {
		return fault.New(fault.Conflict, "Servers still show certificates of the old issuer. First let them show the new one's (troupe ca rollover show), and see that agents run")
	}
	hanging, err := a.hanging(ctx, t, 1)
	if err != nil {
		return err
	}
	if len(hanging) > 0 {
		n, err := a.countHanging(ctx, t)
		if err != nil {
			return err
		}
		return fault.New(fault.Conflict, "%d names still hang on the old issuer, such as %s: agents with such a certificate would be refused (troupe ca rollover status). "+
			"Give them new ones, clean those that are gone, or use --force", n, hanging[0].Certname)
	}
	return nil
}

// CancelRollover gives the new issuer up. Unless forced it refuses when that has signed something.
func (a *Authority) CancelRollover(ctx context.Context, force bool) error {
	t := a.trust.Load()
	if !t.open() || t.by(t.force.from) == nil {
		return noRollover()
	}
	if t.shown == t.force {
		return fault.New(fault.Conflict, "Servers show certificates of the new issuer: take that back first (troupe ca rollover show --old)")
	}
	n, err := a.countLive(ctx, t.force)
	if err != nil {
		return err
	}
	if n > 0 && !force {
		return fault.New(fault.Conflict, "The new issuer has signed %d certificates that are valid: they would be refused. Use --force if that may be", n)
	}
	if err := a.step(ctx, rolloverRecord{Step: stepCancel, Key: t.force.id}); err != nil {
		return fmt.Errorf("record that the new issuer is given up: %w", err)
	}
	a.log.WarnContext(ctx, "roll-over of the issuer cancelled", "issuer", t.force.cert.Subject.CommonName)
	return nil
}

// sameCertificate reports whether one is the other, byte for byte.
func sameCertificate(cert *x509.Certificate, der []byte) bool { return string(cert.Raw) == string(der) }
