package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file takes requests, and shows and deletes them.

// SubmitRequest stores a request for a certificate, and signs it when the policy
// says so. name is the name in the request's path. Like puppetserver, it judges
// names and duplicates before it stores, and the rest before it signs.
func (a *Authority) SubmitRequest(ctx context.Context, name string, csrPEM []byte) error {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return err
	}
	policy := a.policy.Load()
	// Duplicates of the name in the request itself are looked for first, whatever
	// the path says (process-csr-submission!).
	subject := puppet.Certname(csr.Subject.CommonName)
	unlock, err := a.names.lock(ctx, subject)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.checkDuplicate(ctx, policy, subject); err != nil {
		return err
	}
	certname, err := checkSubject(name, csr.Subject.CommonName)
	if err != nil {
		return err
	}

	pending, stored, err := a.pending(ctx, certname, csr)
	if err != nil {
		return err
	}
	signs := a.autosigns(ctx, policy.Autosign, certname, csrPEM)
	var refused error
	if signs {
		_, refused = policy.judge(name, csr)
	}
	if signs && refused == nil {
		// Request and certificate are one write: a request that was left alone by a death would wait for a person, and the node's next
		// attempt would be refused as a duplicate.
		_, err := a.issueRequest(ctx, certname, csr, policy.ttl(csr), pending, stored...)
		return err
	}
	if len(stored) > 0 {
		if err := a.append(ctx, stored...); err != nil {
			return fmt.Errorf("store request of %s: %w", certname, err)
		}
	}
	if refused == nil {
		a.log.InfoContext(ctx, "certificate requested", telemetry.KeyCertname, string(certname))
	}
	return refused
}

// maxPending bounds the requests that wait for a person: anybody may send some.
const maxPending = 100_000

// pending returns the ids of all requests that wait under a name with the given one, and what must be written so that it does:
// nothing for one that waits already byte by byte, since agents that wait for their certificate send it every two minutes.
func (a *Authority) pending(ctx context.Context, name puppet.Certname, csr *x509.CertificateRequest) (ids []string, drafts []journal.Draft, err error) {
	waiting, err := a.requestDER(ctx, string(name))
	if err != nil {
		return nil, nil, err
	}
	if ids, err = a.requests(ctx, name); err != nil || bytes.Equal(waiting, csr.Raw) {
		return ids, nil, err
	}
	var count int
	if err := a.db.read.QueryRowContext(ctx, "SELECT count(*) FROM request").Scan(&count); err != nil {
		return nil, nil, fmt.Errorf("count requests: %w", err)
	}
	if count >= maxPending {
		return nil, nil, fault.New(fault.Unavailable, "%d certificate requests wait for an operator, and no more are taken: sign or delete some", count)
	}
	id, err := newRequestID()
	if err != nil {
		return nil, nil, err
	}
	d, err := draft(kindRequest, string(name), requestRecord{ID: id, Certname: string(name), DER: csr.Raw})
	if err != nil {
		return nil, nil, err
	}
	return append(ids, id), []journal.Draft{d}, nil
}

// checkDuplicate is validate-duplicate-cert-policy!.
func (a *Authority) checkDuplicate(ctx context.Context, p *Policy, name puppet.Certname) error {
	state, err := a.stateOf(ctx, name)
	if err != nil || state == "" {
		return err
	}
	if p.AllowDuplicateCerts {
		a.log.InfoContext(ctx, "name is known already; a new certificate will replace the old one", telemetry.KeyCertname, string(name), "state", state)
		return nil
	}
	return fault.New(fault.Invalid, "%s already has a %s certificate; ignoring certificate request", name, state)
}

// stateOf returns the state of a name's certificate, else of its request, else "".
func (a *Authority) stateOf(ctx context.Context, name puppet.Certname) (string, error) {
	var revoked bool
	err := a.db.read.QueryRowContext(ctx, "SELECT revoked FROM cert WHERE name = ? AND current = 1", name).Scan(&revoked)
	switch {
	case err == nil && revoked:
		return StateRevoked, nil
	case err == nil:
		return StateSigned, nil
	case !errors.Is(err, sql.ErrNoRows):
		return "", fmt.Errorf("look up certificate of %s: %w", name, err)
	}
	ids, err := a.requests(ctx, name)
	if err != nil || len(ids) == 0 {
		return "", err
	}
	return StateRequested, nil
}

// requests returns the ids of a name's pending requests.
func (a *Authority) requests(ctx context.Context, name puppet.Certname) ([]string, error) {
	rows, err := a.db.read.QueryContext(ctx, "SELECT id FROM request WHERE name = ?", name)
	if err != nil {
		return nil, fmt.Errorf("look up requests of %s: %w", name, err)
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("look up requests of %s: %w", name, err)
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func newRequestID() (string, error) {
	b := make([]byte, 12)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

// Request returns a pending request as PEM.
func (a *Authority) Request(ctx context.Context, name string) ([]byte, error) {
	der, err := a.requestDER(ctx, name)
	if err != nil {
		return nil, err
	}
	if der == nil {
		return nil, fault.New(fault.NotFound, "Could not find certificate_request %s", name)
	}
	return requestPEM(der), nil
}

func requestPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// requestDER returns nil when there is none.
func (a *Authority) requestDER(ctx context.Context, name string) ([]byte, error) {
	var der []byte
	err := a.db.read.QueryRowContext(ctx, "SELECT der FROM request WHERE name = ? AND current = 1", name).Scan(&der)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("look up request of %s: %w", name, err)
	}
	return der, nil
}

// DeleteRequest removes the pending requests of a name.
func (a *Authority) DeleteRequest(ctx context.Context, name string) error {
	unlock, err := a.names.lock(ctx, puppet.Certname(name))
	if err != nil {
		return err
	}
	defer unlock()
	ids, err := a.requests(ctx, puppet.Certname(name))
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return fault.New(fault.NotFound, "No certificate request for %s at expected path requests/%s.pem", name, name)
	}
	d, err := draft(kindDeleted, name, deletedRecord{Requests: ids})
	if err != nil {
		return err
	}
	if err := a.append(ctx, d); err != nil {
		return fmt.Errorf("delete request of %s: %w", name, err)
	}
	a.log.InfoContext(ctx, "certificate request deleted", telemetry.KeyCertname, name)
	return nil
}

// pemBlocks returns the contents of the blocks of the given types; a block of
// another type is an error, text around blocks is not.
func pemBlocks(text []byte, types ...string) ([][]byte, error) {
	var all [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		known := false
		for _, t := range types {
			known = known || block.Type == t
		}
		if !known {
			return nil, fault.New(fault.Invalid, "Request body holds a PEM block %q where only %q is expected", block.Type, types[0])
		}
		all = append(all, block.Bytes)
	}
	return all, nil
}
