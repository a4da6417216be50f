package fakeagent

// This file is the bootstrap of Puppet 5.5, in the order that testdata/5.5/first-run.json shows.

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// bootstrapLegacy looks for a certificate before it submits a request, and fetches the revocation list last. Each
// request has a connection of its own.
func (r *run) bootstrapLegacy(ctx context.Context) (*trust, error) {
	id := &r.agent.identity
	if id.Certificate != nil && id.CRLs != nil {
		return r.withCertificate(), nil
	}
	if id.CA == nil {
		if err := r.legacyCA(ctx, &trust{}); err != nil {
			return nil, err
		}
	}
	if id.Key == nil && id.Certificate == nil {
		var err error
		if id.Key = r.agent.o.Key; id.Key == nil {
			if id.Key, err = newKey(); err != nil {
				return nil, err
			}
		}
		if err := r.legacySubmit(ctx); err != nil {
			return nil, err
		}
	}

	root := &trust{roots: id.pool()}
	if id.Certificate == nil {
		if err := r.fetchCertificate(ctx, root); err != nil {
			return nil, err
		}
	}
	if err := r.downloadCRL(ctx, r.newSession(), root, time.Time{}); err != nil {
		return nil, err
	}
	if err := r.legacyCA(ctx, r.withCertificate()); err != nil { // seen in the recorded run
		return nil, err
	}
	return r.withCertificate(), nil
}

func (r *run) legacyCA(ctx context.Context, t *trust) error {
	get := r.caRequest("ca", "/certificate/ca", time.Time{})
	get.target += "fail_on_404=true"
	answer, err := r.send(ctx, t, get, nil)
	if err != nil {
		return fmt.Errorf("could not download CA certificate: %w", err)
	}
	certs, err := parseCertificates(answer.body)
	if err != nil {
		return fmt.Errorf("could not download CA certificate: %w", err)
	}
	r.agent.identity.CA, r.agent.identity.CAUpdated = certs[:1], time.Now() // 5.x keeps the first block only
	return nil
}

// legacySubmit looks for an older certificate and request of the same name before it submits a new one.
func (r *run) legacySubmit(ctx context.Context) error {
	root := &trust{roots: r.agent.identity.pool()}
	for _, q := range []request{
		r.caRequest("certificate", "/certificate/"+r.agent.certname, time.Time{}),
		r.caRequest("csr", "/certificate_request/"+r.agent.certname, time.Time{}),
	} {
		if _, err := r.send(ctx, root, q, nil); err != nil && statusOf(err) != http.StatusNotFound {
			return fmt.Errorf("could not request certificate: %w", err)
		} else if err == nil {
			return nil // there is one: fetchCertificate finds out whether it fits the key
		}
	}
	return r.submitRequest(ctx, root)
}
