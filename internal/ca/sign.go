package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"troupe/internal/failpoint"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file signs certificates.

// Sign signs the pending request of name. ttl is how long the certificate is
// valid; 0 leaves it to the policy.
func (a *Authority) Sign(ctx context.Context, name puppet.Certname, ttl time.Duration) error {
	unlock, err := a.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	der, err := a.requestDER(ctx, string(name))
	if err != nil {
		return err
	}
	if der == nil {
		return a.nothingToSign(ctx, name)
	}
	csr, err := decodeRequest(der)
	if err != nil {
		return fmt.Errorf("parse stored request of %s: %w", name, err)
	}
	policy := a.policy.Load()
	if _, err := policy.judge(string(name), csr); err != nil {
		return fault.Wrap(fault.Conflict, err, "%s", fault.Message(err))
	}
	if ttl == 0 {
		ttl = policy.ttl(csr)
	}
	if err := checkTTL(ttl); err != nil {
		return err
	}
	ids, err := a.requests(ctx, name)
	if err != nil {
		return err
	}
	_, err = a.issueRequest(ctx, name, csr, ttl, ids)
	return err
}

// nothingToSign tells a name that is known from one that is not: puppetserver
// answers 409 to the one and 404 to the other.
func (a *Authority) nothingToSign(ctx context.Context, name puppet.Certname) error {
	known, err := a.issued(ctx, name)
	if err != nil {
		return err
	}
	if known {
		return fault.New(fault.Conflict, "Cannot sign certificate for host %s without a certificate request", name)
	}
	return errUnknownSubject()
}

func errUnknownSubject() error { return fault.New(fault.NotFound, "Invalid certificate subject.") }

// Signed is the outcome of signing many requests.
type Signed struct {
	Signed        []puppet.Certname `json:"signed"`
	NoRequest     []puppet.Certname `json:"no-csr"`
	SigningErrors []puppet.Certname `json:"signing-errors"`
}

// SignMany signs the pending requests of the given names and goes on after errors.
func (a *Authority) SignMany(ctx context.Context, names []puppet.Certname) (Signed, error) {
	s := Signed{Signed: []puppet.Certname{}, NoRequest: []puppet.Certname{}, SigningErrors: []puppet.Certname{}}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		der, err := a.requestDER(ctx, string(name))
		switch {
		case err != nil:
			return s, err
		case der == nil:
			s.NoRequest = append(s.NoRequest, name)
			continue
		}
		if err := a.Sign(ctx, name, 0); err != nil {
			a.log.ErrorContext(ctx, "signing one of many requests failed", telemetry.KeyCertname, string(name), telemetry.KeyErr, err)
			s.SigningErrors = append(s.SigningErrors, name)
			continue
		}
		s.Signed = append(s.Signed, name)
	}
	return s, nil
}

// SignAll signs every pending request.
func (a *Authority) SignAll(ctx context.Context) (Signed, error) {
	pending, err := a.Statuses(ctx, StateRequested)
	if err != nil {
		return Signed{}, err
	}
	names := make([]puppet.Certname, len(pending))
	for i, p := range pending {
		names[i] = puppet.Certname(p.Name)
	}
	return a.SignMany(ctx, names)
}

// issueRequest signs a request that has been judged. The name must be locked. first is written with the certificate, before it.
func (a *Authority) issueRequest(ctx context.Context, name puppet.Certname, csr *x509.CertificateRequest, ttl time.Duration, requests []string, first ...journal.Draft) ([]byte, error) {
	return a.issue(ctx, issuing{
		name: name, publicKey: csr.PublicKey, ttl: ttl, requests: requests, first: first,
		altNames:   newAltNames(csr.DNSNames, csr.IPAddresses).with(string(name)),
		extensions: requestedExtensions(csr),
	})
}

// issuing is a certificate that is to be signed.
type issuing struct {
	name       puppet.Certname
	publicKey  crypto.PublicKey
	ttl        time.Duration
	requests   []string        // ids of the requests that are done by it
	first      []journal.Draft // records that are written with its own, all or none
	altNames   altNames
	extensions []pkix.Extension // requested ones
	exact      []pkix.Extension // when set: all extensions, in place of the profile
	subject    []byte           // DER; when empty the common name alone
	by         *issuer          // nil means the one that signs now
}

// issue signs a certificate and returns it when its record is durable. The name
// must be locked.
func (a *Authority) issue(ctx context.Context, w issuing) (der []byte, err error) {
	i := w.by
	if i == nil {
		i = a.trust.Load().signer()
	}
	if i == nil {
		return nil, errNoKey()
	}
	spec := certificateSpec{subject: w.subject, publicKey: w.publicKey, extensions: w.exact}
	spec.notBefore, spec.notAfter = validity(a.now(), w.ttl)
	if spec.subject == nil {
		if spec.subject, err = commonName(string(w.name)); err != nil {
			return nil, err
		}
	}
	if spec.extensions == nil {
		if spec.extensions, err = leafExtensions(i, w.publicKey, w.altNames, w.extensions); err != nil {
			return nil, err
		}
	}
	if spec.serial, err = a.freeSerial(ctx); err != nil {
		return nil, err
	}
	if der, err = spec.sign(i.cert.RawSubject, i.key); err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", w.name, err)
	}
	d, err := draft(kindIssued, string(w.name), issuedRecord{Certname: string(w.name), DER: der, Requests: w.requests})
	if err != nil {
		return nil, err
	}
	failpoint.Here("ca.signed")
	if err := a.append(ctx, append(w.first, d)...); err != nil {
		return nil, fmt.Errorf("record certificate of %s: %w", w.name, err)
	}
	failpoint.Here("ca.issued")
	a.log.InfoContext(ctx, "certificate signed", telemetry.KeyCertname, string(w.name), telemetry.KeySerial, serialText(spec.serial), "not_after", spec.notAfter)
	return der, nil
}

// freeSerial draws serial numbers until one is not in use.
func (a *Authority) freeSerial(ctx context.Context) (*big.Int, error) {
	for {
		n, err := newSerial(a.j.Origin())
		if err != nil {
			return nil, err
		}
		var used bool
		if err := a.db.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM cert WHERE serial = ?)", serialText(n)).Scan(&used); err != nil {
			return nil, fmt.Errorf("look up serial number: %w", err)
		}
		if !used {
			return n, nil
		}
	}
}

func errNoKey() error {
	return fault.New(fault.Unavailable, "This member does not hold the key of the certificate authority; sign on one that does")
}
