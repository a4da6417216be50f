package fakeagent

// This file verifies servers as OpenSSL does for an agent: chain, name, and a fresh revocation list of every issuer.

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// trust is one SSL context: connections are reused only with the very context they were made with.
type trust struct {
	roots  *x509.CertPool
	crls   []*x509.RevocationList // nil: revocation is not checked
	client *tls.Certificate
}

func (t *trust) verifies() bool { return t.roots != nil }

func (t *trust) config(serverName string) *tls.Config {
	c := &tls.Config{
		ServerName: serverName, RootCAs: t.roots, MinVersion: tls.VersionTLS12,
		// The very first request of a node is made without verification: it fetches what to verify with.
		InsecureSkipVerify: !t.verifies(), //nolint:gosec // as agents do
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if t.client == nil {
				return &tls.Certificate{}, nil
			}
			return t.client, nil // whatever authorities the server names: OpenSSL does not look
		},
	}
	if t.crls != nil {
		c.VerifyConnection = func(state tls.ConnectionState) error { return t.checkRevocation(state.VerifiedChains) }
	}
	return c
}

// checkRevocation accepts the connection if one chain is in order.
func (t *trust) checkRevocation(chains [][]*x509.Certificate) error {
	err := errors.New("no verified chain")
	for _, chain := range chains {
		if err = checkChain(chain, t.crls, time.Now()); err == nil {
			return nil
		}
	}
	return err
}

// checkChain is certificate_revocation=chain: every certificate needs a valid list of its issuer.
func checkChain(chain []*x509.Certificate, crls []*x509.RevocationList, now time.Time) error {
	for i, cert := range chain {
		issuer := chain[min(i+1, len(chain)-1)]
		if err := checkAgainst(cert, issuer, crls, now); err != nil {
			return err
		}
	}
	return nil
}

func checkAgainst(cert, issuer *x509.Certificate, crls []*x509.RevocationList, now time.Time) error {
	const skew = 5 * time.Minute // Puppet::SSL::Verifier tolerates that much
	problem := fmt.Errorf("the CRL issued by %q is missing", cert.Issuer)
	for _, crl := range crls {
		if !bytes.Equal(crl.RawIssuer, cert.RawIssuer) || crl.CheckSignatureFrom(issuer) != nil {
			continue
		}
		switch {
		case !crl.NextUpdate.IsZero() && now.After(crl.NextUpdate):
			problem = fmt.Errorf("the CRL issued by %q has expired", cert.Issuer)
			continue
		case now.Add(skew).Before(crl.ThisUpdate):
			problem = fmt.Errorf("the CRL issued by %q is not yet valid", cert.Issuer)
			continue
		}
		for _, entry := range crl.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return fmt.Errorf("certificate %q is revoked", cert.Subject)
			}
		}
		return nil
	}
	return problem
}
