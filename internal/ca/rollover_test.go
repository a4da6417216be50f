package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// A pair is two members of one troupe, joined as the carrier joins them, or cut off from each other.
type pair struct {
	east, west *bench
	members    []journal.Origin
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	o := testOptions()
	o.Members = func() []journal.Origin { return p.members }
	p.east, p.west = twoMembers(t, o)
	p.members = []journal.Origin{p.east.j.Origin(), p.west.j.Origin()}
	return p
}

// heal joins both and lets them go on until nothing is new. Keys travel, too.
func (p *pair) heal(tb *testing.T) {
	tb.Helper()
	for range 4 {
		carry(tb, p.east.j, p.west.j)
		carry(tb, p.west.j, p.east.j)
		for _, m := range []*bench{p.east, p.west} {
			if err := m.refresh(tb.Context()); err != nil {
				tb.Fatal(err)
			}
		}
		for from, to := range map[*bench]*bench{p.east: p.west, p.west: p.east} {
			if len(to.MissingKeys()) == 0 {
				continue
			}
			keys, err := from.Keys()
			if err != nil {
				tb.Fatal(err)
			}
			if err := to.AddKeys(tb.Context(), keys); err != nil {
				tb.Fatal(err)
			}
		}
		for _, m := range []*bench{p.east, p.west} {
			if err := m.advance(tb.Context()); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

func (b *bench) rollover(tb testing.TB) Rollover {
	tb.Helper()
	r, err := b.RolloverStatus(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// must fails the test at the first error.
func must(tb testing.TB, errs ...error) {
	tb.Helper()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
}

func wantKind(tb testing.TB, err error, kind fault.Kind) {
	tb.Helper()
	if err == nil || fault.KindOf(err) != kind {
		tb.Errorf("error is %v, want one of kind %d", err, kind)
	}
}

// verifies holds what crypto/tls would at the door.
func (b *bench) verifies(cert *x509.Certificate) bool {
	_, err := cert.Verify(x509.VerifyOptions{Roots: b.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil && !b.Revoked(cert)
}

// wantFitting holds that the bundle and the lists fit: each issuer of the bundle has a list that it has signed, in the same order.
func (b *bench) wantFitting(tb testing.TB) {
	tb.Helper()
	certs, err := parseCertificates(b.Bundle())
	must(tb, err)
	lists, err := parseLists(b.CRLs())
	must(tb, err)
	if len(certs) != len(lists) {
		tb.Fatalf("%d certificates in the bundle and %d lists", len(certs), len(lists))
	}
	for i, c := range certs {
		if err := lists[i].CheckSignatureFrom(c); err != nil {
			tb.Errorf("list %d is not of certificate %d, %s: %v", i, i, c.Subject.CommonName, err)
		}
		if lists[i].ThisUpdate.After(time.Now()) {
			tb.Errorf("the list of %s begins at %s", c.Subject.CommonName, lists[i].ThisUpdate)
		}
	}
}

func TestAnIssuerRollsOver(t *testing.T) {
	ctx := t.Context()
	p := newPair(t)
	veteran := p.east.sign(t, "veteran")
	p.heal(t)
	old := p.east.Issuer()
	before := p.east.Bundle()

	must(t, p.west.BeginRollover(ctx, false))
	if got := p.west.sign(t, "early"); !bytes.Equal(got.AuthorityKeyId, old.SubjectKeyId) {
		t.Error("the new issuer signs before the other member knows it")
	}
	if r := p.west.rollover(t); !r.Open || r.Signs || len(r.Waiting) != 1 || r.Waiting[0] != p.east.j.Origin() {
		t.Errorf("before the other member knows: %+v", r)
	}
	wantKind(t, p.west.ShowNew(ctx, true, false), fault.Conflict)
	wantKind(t, p.west.BeginRollover(ctx, false), fault.Conflict)
	wantKind(t, p.west.FinishRollover(ctx, false, false), fault.Conflict)

	// East hears of the issuer before it has the key: it serves both, and signs with the old one.
	carry(t, p.west.j, p.east.j)
	must(t, p.east.refresh(ctx))
	if missing := p.east.MissingKeys(); len(missing) != 1 {
		t.Fatalf("missing: %v", missing)
	}
	p.east.wantFitting(t)
	if !bytes.Equal(p.east.Bundle(), p.west.Bundle()) || !bytes.HasPrefix(p.east.Bundle(), before) {
		t.Error("the bundles differ, or do not begin with the old one")
	}
	if got := p.east.sign(t, "keyless"); !bytes.Equal(got.AuthorityKeyId, old.SubjectKeyId) {
		t.Error("a member without the new key signs with it")
	}
	wantKind(t, p.east.AddKeys(ctx, map[string][]byte{p.east.MissingKeys()[0]: wrongKey(t)}), fault.Internal)

	p.heal(t)
	fresh := p.east.Issuer()
	for _, m := range []*bench{p.east, p.west} {
		if r := m.rollover(t); !r.Signs || len(r.Waiting) > 0 || r.Shown {
			t.Errorf("after the other member has the key: %+v", r)
		}
		m.wantFitting(t)
	}
	recruit := p.east.sign(t, "recruit")
	if !bytes.Equal(recruit.AuthorityKeyId, fresh.SubjectKeyId) || !p.west.verifies(recruit) || !p.west.verifies(veteran) {
		t.Error("the new issuer does not sign, or one of the two is not accepted at the other member")
	}
	server, err := p.east.ServerCertificate(ctx, ServerRequest{Certname: "east.example.test"})
	must(t, err)
	if !bytes.Equal(server.Leaf.AuthorityKeyId, old.SubjectKeyId) {
		t.Error("a server shows the new issuer before it was told to")
	}

	must(t, p.west.ShowNew(ctx, true, false))
	p.heal(t)
	server, err = p.east.ServerCertificate(ctx, ServerRequest{Certname: "east.example.test"})
	must(t, err)
	if !bytes.Equal(server.Leaf.AuthorityKeyId, fresh.SubjectKeyId) {
		t.Error("a server does not show the new issuer")
	}
	if certs, err := parseCertificates(p.west.Bundle()); err != nil || !certs[0].Equal(fresh) {
		t.Errorf("the issuer that is shown does not stand first: %v", err)
	}
	p.west.wantFitting(t)
	acceptsByTheOldOne(t, server.Certificate, old)

	// The veteran hangs on the old issuer until it was seen with a certificate of the new one.
	err = p.west.FinishRollover(ctx, false, false)
	wantKind(t, err, fault.Conflict)
	if !strings.Contains(err.Error(), "veteran") && !strings.Contains(err.Error(), "early") {
		t.Errorf("the refusal names nobody: %v", err)
	}
	text, err := p.west.Renewed(ctx, "veteran")
	must(t, err)
	renewed, err := parseCertificates(text)
	must(t, err)
	if !samePublicKey(renewed[0].PublicKey, veteran.PublicKey) || !bytes.Equal(renewed[0].AuthorityKeyId, fresh.SubjectKeyId) {
		t.Error("the renewed certificate is for another key, or of the old issuer")
	}
	if again, err := p.west.Renewed(ctx, "veteran"); err != nil || !bytes.Equal(again, text) {
		t.Errorf("asked twice, it was signed twice: %v", err)
	}
	p.west.Seen(veteran, nil)
	p.heal(t)
	if r := p.west.rollover(t); r.Names != 3 { // veteran, early, keyless; the server moved by itself
		t.Errorf("names that hang on the old issuer: %+v", r.Hanging)
	}
	p.west.Seen(renewed[0], server.Leaf)
	must(t, p.west.advance(ctx))
	if r := p.west.rollover(t); r.Names != 2 || r.Accept != 1 {
		t.Errorf("after the veteran came with its new certificate: %+v", r)
	}
	if _, err := p.west.Clean(ctx, "early", "keyless"); err != nil {
		t.Fatal(err)
	}
	p.heal(t)
	if r := p.east.rollover(t); r.Names != 0 {
		t.Errorf("east counts %+v", r.Hanging)
	}
	must(t, p.east.FinishRollover(ctx, false, false))
	if p.east.verifies(veteran) || !p.east.verifies(recruit) || !p.east.verifies(renewed[0]) {
		t.Error("after the end the old certificate is accepted, or a new one is not")
	}
	p.heal(t)
	for _, m := range []*bench{p.east, p.west} {
		if m.verifies(veteran) || m.rollover(t).Open || bytes.Contains(m.Bundle(), certificatePEM(old.Raw)) {
			t.Error("the old issuer still counts")
		}
		m.wantFitting(t)
		keys, err := m.Keys()
		if err != nil || len(keys) != 1 {
			t.Errorf("%d keys are handed on after the end: %v", len(keys), err)
		}
	}
	// It survives a restart and a lost projection, and there is a next time.
	o := p.east.o
	p.east.reopen(t, o)
	if !p.east.Issuer().Equal(fresh) || p.east.rollover(t).Open {
		t.Error("a restart brings the old issuer back")
	}
	must(t, p.east.BeginRollover(ctx, false))
	p.heal(t)
	if r := p.west.rollover(t); !r.Signs || len(r.Issuers) != 2 {
		t.Errorf("the second roll-over: %+v", r)
	}
	must(t, p.west.CancelRollover(ctx, false))
	p.heal(t)
	for _, m := range []*bench{p.east, p.west} {
		if !m.Issuer().Equal(fresh) || m.rollover(t).Open {
			t.Error("a cancelled roll-over counts")
		}
		m.wantFitting(t)
	}
}

func wrongKey(tb testing.TB) []byte {
	tb.Helper()
	key, err := newKey(EC256)
	must(tb, err)
	text, err := encodeKey(key)
	must(tb, err)
	return text
}

// acceptsByTheOldOne holds what the cross-signature is for: who trusts the old issuer alone accepts the chain of a server of the new.
func acceptsByTheOldOne(tb testing.TB, chain [][]byte, old *x509.Certificate) {
	tb.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(old)
	var leaf *x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		must(tb, err)
		if i == 0 {
			leaf = c
			continue
		}
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		tb.Errorf("the old issuer does not vouch for a server of the new one: %v", err)
	}
}

// TestTwoRollOversBegunInACut has both members begin while they do not hear each other.
func TestTwoRollOversBegunInACut(t *testing.T) {
	ctx := t.Context()
	p := newPair(t)
	veteran := p.east.sign(t, "veteran")
	p.heal(t)
	must(t, p.east.BeginRollover(ctx, false))
	must(t, p.west.BeginRollover(ctx, false))
	first, second := p.east.Issuer(), p.west.Issuer()
	for _, m := range []*bench{p.east, p.west} {
		wantKind(t, m.ShowNew(ctx, true, false), fault.Conflict)
		wantKind(t, m.FinishRollover(ctx, false, false), fault.Conflict)
	}
	p.heal(t)
	for _, m := range []*bench{p.east, p.west} {
		if !m.Issuer().Equal(first) {
			t.Error("the one that began later is in force")
		}
		r := m.rollover(t)
		if len(r.Issuers) != 3 || !r.Signs {
			t.Errorf("%+v", r)
		}
		if i := slices.IndexFunc(r.Issuers, func(i IssuerStatus) bool { return i.Role == IssuerExtra }); i < 0 || r.Issuers[i].Name != second.Subject.CommonName || r.Issuers[i].By != p.west.j.Origin() {
			t.Errorf("the other roll-over is not told: %+v", r.Issuers)
		}
		m.wantFitting(t)
	}
	if !bytes.Equal(p.east.Bundle(), p.west.Bundle()) {
		t.Error("the bundles differ")
	}
	must(t, p.west.ShowNew(ctx, true, false), p.west.FinishRollover(ctx, true, false))
	p.heal(t)
	for _, m := range []*bench{p.east, p.west} {
		if r := m.rollover(t); r.Open || !m.Issuer().Equal(first) || m.verifies(veteran) {
			t.Errorf("after the end: %+v", r)
		}
	}
}

// TestAStolenIssuer has somebody who signs with the old key: for a name that exists, and for one that may use the CA's API.
func TestAStolenIssuer(t *testing.T) {
	ctx := t.Context()
	p := newPair(t)
	veteran := p.east.sign(t, "veteran")
	p.heal(t)
	thief := newBench(t, testOptions())
	stolen := p.east.trust.Load().force
	forge := func(name string) *x509.Certificate {
		t.Helper()
		_, der, err := thief.generate(ctx, stolen, GenerateRequest{Certname: mustName(t, name), Client: true})
		must(t, err)
		cert, err := x509.ParseCertificate(der)
		must(t, err)
		return cert
	}
	forged := forge("admin")
	if !p.east.verifies(forged) {
		t.Fatal("the forgery is no good: the test proves nothing")
	}
	must(t, p.east.BeginRollover(ctx, true))
	carry(t, p.east.j, p.west.j)
	must(t, p.west.refresh(ctx))
	for _, m := range []*bench{p.east, p.west} {
		if m.verifies(forged) || m.verifies(forge("veteran")) {
			t.Error("a forgery is accepted")
		}
		if first, again := m.verifies(veteran), m.verifies(veteran); !first || !again {
			t.Error("an agent whose certificate was recorded is refused")
		}
	}
	// The thief names the new issuer as the one whose key has signed.
	fresh := p.east.Issuer()
	claim := issuing{name: "liar", publicKey: forged.PublicKey, ttl: time.Hour, by: stolen}
	extensions, err := renewedExtensions(&issuer{cert: fresh, cross: fresh}, forged)
	must(t, err)
	claim.exact = extensions
	der, err := thief.issue(ctx, claim)
	must(t, err)
	liar, err := x509.ParseCertificate(der)
	must(t, err)
	if p.east.verifies(liar) {
		t.Error("a forgery that claims to be of the new issuer is accepted")
	}
	p.heal(t)
	recruit := p.west.sign(t, "recruit")
	must(t, p.west.FinishRollover(ctx, false, true))
	p.heal(t)
	for _, m := range []*bench{p.east, p.west} {
		if m.verifies(forged) || m.verifies(veteran) || !m.verifies(recruit) || !m.rollover(t).Issuers[0].Held {
			t.Error("after the end the old issuer counts, or the new one does not")
		}
	}
}

// TestStepsUniteInAnyOrder shuffles the records of two roll-overs that were begun in a cut, one of them finished by force and
// another cancelled elsewhere, and wants one outcome; and never none.
func TestStepsUniteInAnyOrder(t *testing.T) {
	ctx := t.Context()
	p := newPair(t)
	must(t, p.east.BeginRollover(ctx, false), p.west.BeginRollover(ctx, false))
	must(t, p.west.ShowNew(ctx, true, true), p.west.FinishRollover(ctx, true, false))
	must(t, p.east.CancelRollover(ctx, true), p.east.BeginRollover(ctx, false), p.east.FinishRollover(ctx, true, true))
	p.heal(t)
	if !p.east.Issuer().Equal(p.west.Issuer()) {
		t.Error("the members disagree")
	}
	type row struct {
		r  rolloverRecord
		at journal.Time
		o  journal.Origin
	}
	var rows []row
	for _, b := range []*bench{p.east, p.west} {
		records, err := b.j.Read(ctx, b.j.Origin(), journal.State, 0, 1000)
		must(t, err)
		for _, r := range records {
			if r.Kind != kindRollover {
				continue
			}
			must(t, decodeAnd(ctx, r, func(_ context.Context, r journal.Record, body rolloverRecord) error {
				rows = append(rows, row{body, r.Time, r.Origin})
				return nil
			}))
		}
	}
	first, err := p.east.firstIssuer(ctx)
	must(t, err)
	outcome := func(rows []row) string {
		s := newSteps()
		for _, r := range rows {
			must(t, s.add(r.r, r.at, r.o))
		}
		tr := newTrust(first, s)
		if len(tr.all) == 0 || tr.force == nil || tr.shown == nil {
			t.Fatal("nothing is trusted")
		}
		text := tr.force.id + " " + tr.shown.id
		for _, i := range tr.all {
			text += " " + i.id
		}
		return text
	}
	want := outcome(rows)
	for seed := range uint64(500) {
		mixed := slices.Clone(rows)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if got := outcome(append(mixed, mixed[:len(mixed)/2]...)); got != want {
			t.Fatalf("seed %d: %s, want %s", seed, got, want)
		}
		outcome(mixed[:len(mixed)*int(seed%10)/10]) // a part of it is enough to trust somebody
	}
}

// TestAKilledBeginIsForgottenOrFinished ends between the sealed key and the record, and between the record and the key.
func TestAKilledBeginIsForgottenOrFinished(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, testOptions())
	old := b.Issuer()
	made, r, err := b.makeSuccessor(b.trust.Load().force)
	must(t, err)
	plain, err := encodeKey(made.key)
	must(t, err)
	must(t, b.vault.Stage(made.cert.SubjectKeyId, plain))
	b.reopen(t, testOptions()) // killed before the record
	if !b.Issuer().Equal(old) || b.rollover(t).Open {
		t.Error("a key without a record counts")
	}
	d, err := draft(kindRollover, keyCA, r)
	must(t, err)
	_, err = b.j.Append(ctx, d)
	must(t, err)
	b.reopen(t, testOptions()) // killed after it
	if r := b.rollover(t); !r.Open || len(b.MissingKeys()) > 0 {
		t.Errorf("the recorded issuer has no key: %+v", r)
	}
	must(t, b.advance(ctx))
	if cert := b.sign(t, "web1"); !bytes.Equal(cert.AuthorityKeyId, made.cert.SubjectKeyId) {
		t.Error("the new issuer does not sign")
	}
	if block, _ := pem.Decode(b.Bundle()); block == nil {
		t.Error("no bundle")
	}
}
