package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	"troupe/internal/authn"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file takes newer revocation lists of the certificates above the issuer,
// which others sign (update-crls).

// maxUpload is the size of an upload in PEM form.
const maxUpload = 32 << 20

// UpdateCRLs takes revocation lists in PEM form. Of each certificate above the
// issuer the list with the highest number stays; the issuer's own list is never
// replaced, and lists of others are ignored.
func (a *Authority) UpdateCRLs(ctx context.Context, text []byte) error {
	if len(text) > maxUpload {
		return fault.New(fault.TooLarge, "Revocation lists have %d bytes, more than %d", len(text), maxUpload)
	}
	incoming, err := parseLists(text)
	if err != nil {
		return err
	}
	if len(incoming) == 0 {
		return fault.New(fault.Invalid, "No valid CRLs submitted.")
	}
	for _, l := range incoming {
		if len(l.AuthorityKeyId) == 0 {
			return fault.New(fault.Invalid, "One or more submitted CRLs do not have an authority key identifier.")
		}
	}
	s, err := a.snapshot(ctx)
	if err != nil {
		return err
	}
	var drafts []journal.Draft
	for _, der := range slices.Concat(slices.Collect(maps.Values(s.ancestors))...) {
		have, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("parse stored revocation list: %w", err)
		}
		newest, err := newestList(have, incoming)
		if err != nil {
			return err
		}
		if err := a.checkList(s.trust, newest); err != nil {
			return err
		}
		if bytes.Equal(newest.Raw, have.Raw) {
			continue
		}
		d, err := draft(kindAncestor, keyCA, ancestorRecord{CRL: newest.Raw})
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
		a.log.InfoContext(ctx, "revocation list taken over", "issuer", newest.Issuer.CommonName, "number", newest.Number)
	}
	if len(drafts) == 0 {
		a.log.WarnContext(ctx, "no uploaded revocation list was newer", telemetry.KeySystem, "ca")
		return nil
	}
	if err := a.append(ctx, drafts...); err != nil {
		return fmt.Errorf("store revocation lists: %w", err)
	}
	return nil
}

func parseLists(text []byte) ([]*x509.RevocationList, error) {
	ders, err := pemBlocks(text, "X509 CRL")
	if err != nil {
		return nil, err
	}
	var all []*x509.RevocationList
	for _, der := range ders {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "Revocation list could not be parsed: %v", err)
		}
		all = append(all, l)
	}
	return all, nil
}

// newestList compares lists of one issuer by their numbers. A list that is given
// twice is one list (get-newest-crl).
func newestList(have *x509.RevocationList, incoming []*x509.RevocationList) (*x509.RevocationList, error) {
	newest, tie := have, false
	for _, l := range incoming {
		if !bytes.Equal(l.AuthorityKeyId, have.AuthorityKeyId) || bytes.Equal(l.Raw, newest.Raw) {
			continue
		}
		switch strings.Compare(sortableNumber(l.Number), sortableNumber(newest.Number)) {
		case 1:
			newest, tie = l, false
		case 0:
			tie = true
		}
	}
	if tie {
		return nil, fault.New(fault.Invalid, "Could not determine newest CRL.")
	}
	return newest, nil
}

// checkList refuses a list that would make agents refuse every server.
func (a *Authority) checkList(t *trust, l *x509.RevocationList) error {
	deltaCRL := knownOIDs().deltaCRL
	for _, e := range l.Extensions {
		if e.Id.Equal(deltaCRL) {
			return fault.New(fault.Invalid, "Cannot support delta CRL.")
		}
	}
	invalid := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "Invalid certs and/or CRLs: %s", fmt.Sprintf(format, args...))
	}
	var signer *x509.Certificate
	var bundle []*x509.Certificate
	for _, i := range t.all {
		bundle = append(bundle, i.bundle...)
		for _, c := range i.ancestors() {
			if bytes.Equal(c.SubjectKeyId, l.AuthorityKeyId) {
				signer = c
			}
		}
	}
	switch {
	case signer == nil:
		return invalid("no certificate of the bundle has signed the list of %s", l.Issuer.CommonName)
	case l.CheckSignatureFrom(signer) != nil:
		return invalid("the list of %s is not signed by it", l.Issuer.CommonName)
	case l.NextUpdate.Before(a.now()):
		return invalid("the list of %s ended at %s", l.Issuer.CommonName, timeText(l.NextUpdate))
	case l.ThisUpdate.After(a.now()):
		return invalid("the list of %s begins only at %s", l.Issuer.CommonName, timeText(l.ThisUpdate))
	}
	for _, e := range l.RevokedCertificateEntries {
		for _, c := range bundle {
			if authn.SameName(c.RawIssuer, l.RawIssuer) && c.SerialNumber.Cmp(e.SerialNumber) == 0 {
				return invalid("the list of %s revokes %s, under which every agent would be shut out", l.Issuer.CommonName, c.Subject.CommonName)
			}
		}
	}
	return nil
}
