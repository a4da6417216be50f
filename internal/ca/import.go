package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"troupe/internal/authn"
	"troupe/internal/fault"
	"troupe/internal/journal"
)

// This file takes over a certificate authority that exists already.

// Imported says what was taken over.
type Imported struct {
	Issuer   string   `json:"issuer"`
	Signed   int      `json:"signed"`    // certificates with their files
	Listed   int      `json:"inventory"` // certificates that only the inventory knows
	Requests int      `json:"requests"`
	Revoked  int      `json:"revoked"`
	Problems []string `json:"problems,omitempty"` // files that were left out, and why; the first thousand
}

const maxProblems = 1000

func (i *Imported) problem(format string, args ...any) {
	if len(i.Problems) < maxProblems {
		i.Problems = append(i.Problems, fmt.Sprintf(format, args...))
	}
}

// importBatch is how many records one append writes.
const importBatch = 500

// ImportFolder takes over the folder of a puppetserver's authority (cadir): the
// issuer with its key, its revocation lists, inventory, certificates and
// requests. The folder is only read. dir must not have an authority yet. When it
// is interrupted, calling it again finishes it.
func ImportFolder(ctx context.Context, dir string, j *journal.Journal, folder string, o Options) (got Imported, err error) {
	c, err := openCADir(folder)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	files, err := c.authority()
	if err != nil {
		return got, fmt.Errorf("import %s: %w", folder, err)
	}
	infra, err := c.readOptional(fileInfra, maxSmallFile)
	if err != nil {
		return got, fmt.Errorf("import %s: %w", folder, err)
	}
	a, err := openEmpty(ctx, dir, j, o)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()

	m := &importing{a: a, files: files, got: &got}
	got.Issuer = files.bundle[0].Subject.CommonName
	for _, step := range []func(context.Context, *cadir) error{m.certificates, m.requests, m.inventory, m.revocations} {
		if err := step(ctx, c); err != nil {
			return got, fmt.Errorf("import %s: %w", folder, err)
		}
	}
	f := files.foundation()
	f.setup.Infra = string(infra)
	if err := a.adopt(ctx, f); err != nil {
		return got, fmt.Errorf("import %s: %w", folder, err)
	}
	a.log.InfoContext(ctx, "certificate authority imported", "issuer", got.Issuer, "signed", got.Signed, "requests", got.Requests, "revoked", got.Revoked, "problems", len(got.Problems))
	return got, nil
}

// External is an authority that others made, in PEM form.
type External struct {
	PrivateKey []byte
	CertBundle []byte // the issuer and everything above it
	CRLChain   []byte // of everything above the issuer; its own may be missing
}

// ImportExternal makes the given key the issuer of a new installation, as
// puppetserver ca import does.
func ImportExternal(ctx context.Context, dir string, j *journal.Journal, e External, o Options) (got Imported, err error) {
	files, err := newAuthorityFiles(e.CertBundle, e.PrivateKey, e.CRLChain)
	if err != nil {
		return got, err
	}
	a, err := openEmpty(ctx, dir, j, o)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	got.Issuer = files.bundle[0].Subject.CommonName
	m := &importing{a: a, files: files, got: &got}
	if err := m.revocations(ctx, nil); err != nil {
		return got, err
	}
	return got, a.adopt(ctx, files.foundation())
}

// openEmpty opens a folder that must not have an authority yet.
func openEmpty(ctx context.Context, dir string, j *journal.Journal, o Options) (*Authority, error) {
	a, err := open(ctx, dir, j, o)
	if err != nil {
		return nil, err
	}
	known, err := a.loadTrust(ctx)
	if err == nil && known {
		err = fault.New(fault.Conflict, "%s already holds the certificate authority %q, whose certificates would become invalid. "+
			"To replace it, begin with an empty data folder.", dir, a.trust.Load().force.cert.Subject.CommonName)
	}
	if err == nil {
		err = a.refuseOrphans()
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// foundation turns files into what makes an authority.
func (f authorityFiles) foundation() foundation {
	issuer := f.bundle[0]
	id := hex.EncodeToString(issuer.SubjectKeyId)
	out := foundation{setup: setupRecord{Key: id, CRLNumber: "0"}, keys: map[string]crypto.Signer{id: f.key}}
	var bundle bytes.Buffer
	for _, c := range f.bundle {
		bundle.Write(certificatePEM(c.Raw))
	}
	out.setup.Bundle = bundle.String()
	if f.own != nil {
		out.setup.CRLTime = f.own.ThisUpdate
		if f.own.Number != nil {
			out.setup.CRLNumber = f.own.Number.String()
		}
	}
	for _, l := range f.above {
		out.ancestors = append(out.ancestors, l.Raw)
	}
	return out
}

// importing carries what has been read into the journal.
type importing struct {
	a       *Authority
	files   authorityFiles
	got     *Imported
	serials map[string]bool // of the certificates with files
	waiting []journal.Draft
}

func (m *importing) add(ctx context.Context, kind, key string, body any) error {
	d, err := draft(kind, key, body)
	if err != nil {
		return err
	}
	m.waiting = append(m.waiting, d)
	if len(m.waiting) < importBatch {
		return nil
	}
	return m.flush(ctx)
}

func (m *importing) flush(ctx context.Context) error {
	drafts := m.waiting
	m.waiting = nil
	if len(drafts) == 0 {
		return nil
	}
	return m.a.append(ctx, drafts...)
}

func (m *importing) certificates(ctx context.Context, c *cadir) error {
	m.serials = map[string]bool{}
	issuer := m.files.bundle[0]
	for f := range c.files(dirSigned, []string{"CERTIFICATE"}, m.got.problem) {
		cert, err := x509.ParseCertificate(f.der)
		switch {
		case err != nil:
			m.got.problem("%s/%s.pem: %v", dirSigned, f.name, err)
			continue
		case !authn.SameName(cert.RawIssuer, issuer.RawSubject):
			m.got.problem("%s/%s.pem: issued by %s, not by this authority", dirSigned, f.name, cert.Issuer)
			continue
		case cert.Subject.CommonName != string(f.name):
			m.got.problem("%s/%s.pem: it is the certificate of %s", dirSigned, f.name, cert.Subject.CommonName)
			continue
		}
		m.serials[serialText(cert.SerialNumber)] = true
		m.got.Signed++
		if err := m.add(ctx, kindIssued, string(f.name), issuedRecord{Certname: string(f.name), DER: f.der}); err != nil {
			return err
		}
	}
	return m.flush(ctx)
}

func (m *importing) requests(ctx context.Context, c *cadir) error {
	for f := range c.files(dirRequests, []string{"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}, m.got.problem) {
		if _, err := x509.ParseCertificateRequest(f.der); err != nil {
			m.got.problem("%s/%s.pem: %v", dirRequests, f.name, err)
			continue
		}
		// An import that is repeated must not end in two requests: the id follows the content.
		id := "import-" + hex.EncodeToString(sum(f.der))
		m.got.Requests++
		if err := m.add(ctx, kindRequest, string(f.name), requestRecord{ID: id, Certname: string(f.name), DER: f.der}); err != nil {
			return err
		}
	}
	return m.flush(ctx)
}

// inventory takes over certificates that have no file any more: they can still be
// revoked, by the name they bore.
func (m *importing) inventory(ctx context.Context, c *cadir) error {
	text, err := c.readOptional(fileInventory, maxLargeFile)
	if err != nil {
		return err
	}
	own := map[string]bool{}
	for _, cert := range m.files.bundle {
		own[cert.Subject.CommonName] = true
	}
	for _, l := range parseInventory(text, m.got.problem) {
		serial := serialText(l.serial)
		if m.serials[serial] || own[l.name] {
			continue
		}
		m.serials[serial] = true
		m.got.Listed++
		if err := m.add(ctx, kindIssued, l.name, issuedRecord{Certname: l.name, Serial: serial, NotBefore: l.notBefore, NotAfter: l.notAfter}); err != nil {
			return err
		}
		if err := m.add(ctx, kindCleaned, l.name, cleanedRecord{Serials: []string{serial}}); err != nil {
			return err
		}
	}
	return m.flush(ctx)
}

func (m *importing) revocations(ctx context.Context, _ *cadir) error {
	if m.files.own == nil {
		return nil
	}
	var body revokedRecord
	for _, e := range m.files.own.RevokedCertificateEntries {
		body.Revoked = append(body.Revoked, revocation{Serial: serialText(e.SerialNumber), At: e.RevocationTime.UTC().Truncate(time.Second), Reason: e.ReasonCode})
		m.got.Revoked++
		if len(body.Revoked) == importBatch {
			if err := m.add(ctx, kindRevoked, keyCA, body); err != nil {
				return err
			}
			body = revokedRecord{}
		}
	}
	if len(body.Revoked) > 0 {
		if err := m.add(ctx, kindRevoked, keyCA, body); err != nil {
			return err
		}
	}
	return m.flush(ctx)
}
