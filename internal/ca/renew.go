package ca

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file renews certificates of agents that ask with their old one.

// Renew signs the key and the extensions of cert again and returns the new
// certificate as PEM. cert is what the client proved in its TLS handshake; nil
// means that it showed none.
func (a *Authority) Renew(ctx context.Context, cert *x509.Certificate) ([]byte, error) {
	policy := a.policy.Load()
	if !policy.AllowAutoRenewal {
		return nil, fault.New(fault.NotFound, "Not Found")
	}
	if cert == nil {
		return nil, fault.New(fault.Invalid, "No valid certificate found in renewal request")
	}
	// Also what an issuer before signed: the renewed certificate is of the one that signs now.
	if a.trust.Load().by(hex.EncodeToString(cert.AuthorityKeyId)) == nil || a.Revoked(cert) {
		return nil, fault.New(fault.Denied, "Certificate present, but does not match signature")
	}
	name, err := puppet.ParseCertname(cert.Subject.CommonName)
	if err != nil {
		return nil, err
	}
	unlock, err := a.names.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()

	return a.reissue(ctx, name, cert, policy.AutoRenewalTTL)
}

// Reissue does for an operator what Renew does for an agent: it signs the key and
// the extensions of the current certificate of name again. ttl 0 leaves it to
// the policy.
func (a *Authority) Reissue(ctx context.Context, name puppet.Certname, ttl time.Duration) ([]byte, error) {
	if ttl == 0 {
		ttl = a.policy.Load().TTL
	}
	if err := checkTTL(ttl); err != nil {
		return nil, err
	}
	unlock, err := a.names.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	text, err := a.Certificate(ctx, string(name))
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(text)
	if err != nil || len(certs) != 1 {
		return nil, fmt.Errorf("parse stored certificate of %s: %w", name, err)
	}
	if a.Revoked(certs[0]) {
		return nil, fault.New(fault.Conflict, "The certificate of %s is revoked: clean it and sign a new request", name)
	}
	return a.reissue(ctx, name, certs[0], ttl)
}

// reissue signs what a certificate says again. The name must be locked.
func (a *Authority) reissue(ctx context.Context, name puppet.Certname, cert *x509.Certificate, ttl time.Duration) ([]byte, error) {
	by := a.trust.Load().signer()
	if by == nil {
		return nil, errNoKey()
	}
	extensions, err := renewedExtensions(by, cert)
	if err != nil {
		return nil, err
	}
	der, err := a.issue(ctx, issuing{name: name, publicKey: cert.PublicKey, ttl: ttl, exact: extensions, subject: cert.RawSubject, by: by})
	if err != nil {
		return nil, err
	}
	return certificatePEM(der), nil
}

// renewedExtensions keeps all extensions but those that name the keys, which are
// made again and stand first (update-extensions-for-new-signing).
func renewedExtensions(i *issuer, cert *x509.Certificate) ([]pkix.Extension, error) {
	id, err := keyID(cert.PublicKey)
	if err != nil {
		return nil, err
	}
	l := &extensionList{oids: knownOIDs()}
	l.add(l.oids.subjectKey, false, id, "")
	l.authority(i.cert.SubjectKeyId, i.bound())
	for _, e := range cert.Extensions {
		if !e.Id.Equal(l.oids.subjectKey) && !e.Id.Equal(l.oids.authorityKey) {
			l.all = append(l.all, e)
		}
	}
	return l.all, l.err
}
