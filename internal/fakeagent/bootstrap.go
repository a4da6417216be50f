package fakeagent

// This file takes a node from nothing to a verified certificate: ssl/state_machine.rb of Puppet 7.23 and 8.10.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrNotSigned is the cause when the certificate has not been signed and the agent may not wait.
var ErrNotSigned = errors.New("the certificate has not been signed yet")

const caAPI = "/puppet-ca/v1"

// session remembers which services have been resolved: the first use of each looks whether the server is there.
type session struct {
	run      *run
	resolved map[string]bool
}

func (r *run) newSession() *session { return &session{run: r, resolved: map[string]bool{}} }

func (s *session) routeTo(ctx context.Context, service string, t *trust) error {
	if s.resolved[service] || s.run.agent.dialect.legacy {
		return nil
	}
	if err := s.run.client.connect(ctx, s.run.agent.server, t); err != nil {
		return fmt.Errorf("no more routes to %s: %w", service, err)
	}
	s.resolved[service] = true
	return nil
}

// bootstrap returns the trust with the node's own certificate, and waits for the signature if the agent may.
func (r *run) bootstrap(ctx context.Context) (*trust, error) {
	machine := r.bootstrapOnce
	if r.agent.dialect.legacy {
		machine = r.bootstrapLegacy
	}
	o, begin := r.agent.o, time.Now()
	for {
		t, err := machine(ctx)
		if !errors.Is(err, ErrNotSigned) {
			return t, err
		}
		if o.WaitForCert == 0 || o.MaxWaitForCert > 0 && time.Since(begin) > o.MaxWaitForCert {
			return nil, err
		}
		r.client.close() // state and connections start anew after the pause
		if err := sleep(ctx, o.WaitForCert); err != nil {
			return nil, err
		}
	}
}

// bootstrapOnce passes through the states NeedCACerts, NeedCRLs, NeedKey, NeedSubmitCSR and NeedCert.
func (r *run) bootstrapOnce(ctx context.Context) (*trust, error) {
	s := r.newSession()
	root, caChanged, err := r.needCA(ctx, s)
	if err != nil {
		return nil, err
	}
	checked, err := r.needCRL(ctx, s, root, caChanged)
	if err != nil {
		return nil, err
	}

	id := &r.agent.identity
	if id.Key == nil {
		if id.Key = r.agent.o.Key; id.Key == nil {
			if id.Key, err = newKey(); err != nil {
				return nil, err
			}
		}
	}
	if id.Certificate == nil {
		if err := r.needCertificate(ctx, s, checked); err != nil {
			return nil, err
		}
		return r.withCertificate(), nil
	}

	full := r.withCertificate()
	within := r.agent.o.RenewWithin
	if within > 0 && time.Now().After(id.Certificate.NotAfter.Add(-within)) {
		if r.renew(ctx, s, full) {
			full = r.withCertificate()
		}
	}
	return full, nil
}

func (r *run) withCertificate() *trust {
	id := r.agent.identity
	return &trust{roots: id.pool(), crls: id.CRLs, client: id.clientPair()}
}

func (r *run) caRequest(kind, path string, changedSince time.Time) request {
	return request{
		kind: kind, method: http.MethodGet, target: r.agent.dialect.target(caAPI+path, r.legacyEnvironment()),
		accept: "text/plain", ifModifiedSince: changedSince, closes: r.agent.dialect.legacy,
	}
}

// legacyEnvironment is the parameter that 5.x adds to requests to the CA.
func (r *run) legacyEnvironment() string {
	if r.agent.dialect.legacy {
		return r.agent.o.Environment
	}
	return ""
}

// needCA loads the bundle, or downloads it without verifying the server. A refresh that fails keeps the old bundle.
func (r *run) needCA(ctx context.Context, s *session) (root *trust, changed bool, err error) {
	id := &r.agent.identity
	if id.CA == nil {
		insecure := &trust{}
		if err := r.downloadCA(ctx, s, insecure, time.Time{}); err != nil {
			return nil, false, err
		}
		return &trust{roots: id.pool()}, false, nil
	}

	root = &trust{roots: id.pool()}
	if !r.agent.o.RefreshBundles || !r.agent.dialect.refreshes {
		return root, false, nil
	}
	if err := r.downloadCA(ctx, s, root, id.CAUpdated); err != nil {
		r.tolerate("refresh CA certificate", err)
		return root, false, ctx.Err()
	}
	return &trust{roots: id.pool()}, true, nil
}

func (r *run) downloadCA(ctx context.Context, s *session, t *trust, since time.Time) error {
	if err := s.routeTo(ctx, "ca", t); err != nil {
		return err
	}
	answer, err := r.send(ctx, t, r.caRequest("ca", "/certificate/ca", since), nil)
	if err != nil {
		return fmt.Errorf("could not download CA certificate: %w", err)
	}
	certs, err := parseCertificates(answer.body)
	if err != nil {
		return fmt.Errorf("could not download CA certificate: %w", err)
	}
	r.agent.identity.CA, r.agent.identity.CAUpdated = certs, time.Now()
	return nil
}

// needCRL downloads the lists once; a changed CA bundle forces a refresh.
func (r *run) needCRL(ctx context.Context, s *session, root *trust, force bool) (*trust, error) {
	id := &r.agent.identity
	switch {
	case id.CRLs == nil:
		// Without revocation: there is no list to check the server with yet.
		if err := r.downloadCRL(ctx, s, root, time.Time{}); err != nil {
			return nil, err
		}
	case force || r.agent.o.RefreshBundles && r.agent.dialect.refreshes:
		checked := &trust{roots: root.roots, crls: id.CRLs}
		if err := r.downloadCRL(ctx, s, checked, id.CRLUpdated); err != nil {
			r.tolerate("refresh CRL", err)
			return checked, ctx.Err()
		}
	}
	return &trust{roots: root.roots, crls: id.CRLs}, nil
}

func (r *run) downloadCRL(ctx context.Context, s *session, t *trust, since time.Time) error {
	if err := s.routeTo(ctx, "ca", t); err != nil {
		return err
	}
	answer, err := r.send(ctx, t, r.caRequest("crl", "/certificate_revocation_list/ca", since), nil)
	if err != nil {
		return fmt.Errorf("could not download CRLs: %w", err)
	}
	crls, err := parseCRLs(answer.body)
	if err != nil {
		return fmt.Errorf("could not download CRLs: %w", err)
	}
	r.agent.identity.CRLs, r.agent.identity.CRLUpdated = crls, time.Now()
	return nil
}

// needCertificate submits the request and fetches the certificate. 400 means that there is a request or certificate
// already: the agent goes on, and finds out from the certificate whether it is its own.
func (r *run) needCertificate(ctx context.Context, s *session, t *trust) error {
	if err := s.routeTo(ctx, "ca", t); err != nil {
		return err
	}
	if err := r.submitRequest(ctx, t); err != nil {
		return err
	}
	return r.fetchCertificate(ctx, t)
}

func (r *run) submitRequest(ctx context.Context, t *trust) error {
	pem, err := certificateRequest(r.agent.certname, r.agent.identity.Key, r.agent.o.Extensions)
	if err != nil {
		return err
	}
	put := r.caRequest("csr", "/certificate_request/"+r.agent.certname, time.Time{})
	put.method, put.content, put.body = http.MethodPut, "text/plain", pem
	if _, err := r.send(ctx, t, put, nil); err != nil && statusOf(err) != http.StatusBadRequest {
		return fmt.Errorf("failed to submit the CSR: %w", err)
	}
	return nil
}

func (r *run) fetchCertificate(ctx context.Context, t *trust) error {
	answer, err := r.send(ctx, t, r.caRequest("certificate", "/certificate/"+r.agent.certname, time.Time{}), nil)
	if statusOf(err) == http.StatusNotFound {
		return fmt.Errorf("%s: %w", r.agent.certname, ErrNotSigned)
	}
	if err != nil {
		return fmt.Errorf("failed to retrieve certificate for %s: %w", r.agent.certname, err)
	}
	return r.saveCertificate(answer.body)
}

// saveCertificate keeps a certificate only if it is the node's own and its chain is in order.
func (r *run) saveCertificate(pem []byte) error {
	certs, err := parseCertificates(pem)
	if err != nil {
		return fmt.Errorf("failed to parse certificate: %w", err)
	}
	if err := r.agent.identity.verify(certs[0]); err != nil {
		return err
	}
	r.agent.identity.Certificate = certs[0]
	return nil
}

// renew asks for a new certificate for the same key. Whatever goes wrong, the old one is used.
func (r *run) renew(ctx context.Context, s *session, t *trust) bool {
	if err := s.routeTo(ctx, "ca", t); err != nil {
		r.tolerate("renew certificate", err)
		return false
	}
	post := r.caRequest("renewal", "/certificate_renewal", time.Time{})
	post.method, post.content = http.MethodPost, "text/plain"
	answer, err := r.send(ctx, t, post, nil)
	if err == nil {
		err = r.saveCertificate(answer.body)
	}
	if err != nil && statusOf(err) != http.StatusNotFound { // 404: not enabled on the server
		r.tolerate("renew certificate", err)
	}
	return err == nil
}

// statusOf returns the status of an answer that is an error, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status
	}
	return 0
}
