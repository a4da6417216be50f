package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"math/big"
	"time"

	"troupe/internal/telemetry"
)

// This file signs lists again before they end.

// refreshCRLs signs lists again before they grow old: the issuer's each month,
// and the root's when its key is here.
func (a *Authority) refreshCRLs(ctx context.Context) error {
	i := a.trust.Load().signer()
	if i == nil {
		return nil
	}
	p, err := a.lists(ctx)
	if err != nil {
		return err
	}
	if a.now().Sub(p.own.thisUpdate) > renewAfter+backdate {
		if err := a.RenewLists(ctx); err != nil {
			return err
		}
		a.log.InfoContext(ctx, "revocation list renewed", "issuer", i.cert.Subject.CommonName)
	}
	for _, list := range p.ancestors {
		if err := a.refreshAncestor(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// RenewLists signs the issuer's list again without a change, so that it is newer than any that was published before. An authority
// that was put back from a backup needs it: what was revoked after the backup is lost, but the lists that agents hold are not.
func (a *Authority) RenewLists(ctx context.Context) error {
	d, err := draft(kindRenewed, keyCA, struct{}{})
	if err != nil {
		return err
	}
	return a.append(ctx, d)
}

// refreshAncestor renews the list of a root whose key this member holds.
func (a *Authority) refreshAncestor(ctx context.Context, list *x509.RevocationList) error {
	left := list.NextUpdate.Sub(a.now())
	if left > year {
		return nil
	}
	key, err := a.key(list.AuthorityKeyId)
	if errors.Is(err, fs.ErrNotExist) {
		if left < renewAfter {
			a.log.WarnContext(ctx, "revocation list of a certificate above the issuer ends soon", "issuer", list.Issuer.CommonName,
				"next_update", list.NextUpdate, "remedy", "upload a newer one with PUT /puppet-ca/v1/certificate_revocation_list")
		}
		return nil
	}
	if err != nil {
		return err
	}
	at := a.now().UTC().Truncate(time.Second).Add(-backdate)
	spec := crlSpec{issuer: list.RawIssuer, keyID: list.AuthorityKeyId, number: new(big.Int).Add(list.Number, big.NewInt(1)), thisUpdate: at, nextUpdate: at.Add(listLifetime)}
	for _, e := range list.RevokedCertificateEntries {
		spec.entries = append(spec.entries, entry{serial: e.SerialNumber, der: e.Raw})
	}
	der, err := spec.sign(key)
	if err != nil {
		return err
	}
	d, err := draft(kindAncestor, keyCA, ancestorRecord{CRL: der})
	if err != nil {
		return err
	}
	a.log.InfoContext(ctx, "revocation list renewed", "issuer", list.Issuer.CommonName, telemetry.KeySerial, list.Number)
	return a.append(ctx, d)
}
