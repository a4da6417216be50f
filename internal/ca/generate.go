package ca

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file makes certificates with their keys: for people and tools, and the
// server's own.

// GenerateRequest says what Generate makes.
type GenerateRequest struct {
	Certname puppet.Certname
	AltNames []string      // "DNS:a", "IP:10.0.0.1", or a bare DNS name
	TTL      time.Duration // 0 leaves it to the policy
	Client   bool          // may use the whole CA API: the extension pp_cli_auth
	KeyType  KeyType       // "" means EC256

	Extensions map[string]string // further ones: OID or registered short name to value
}

// Generate makes a key and a certificate for it. The key is returned and kept
// nowhere.
func (a *Authority) Generate(ctx context.Context, g GenerateRequest) (keyPEM, certPEM []byte, err error) {
	name, err := checkSubject(string(g.Certname), string(g.Certname))
	if err != nil {
		return nil, nil, err
	}
	unlock, err := a.names.lock(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := a.checkDuplicate(ctx, a.policy.Load(), name); err != nil {
		return nil, nil, fault.Wrap(fault.Conflict, err, "%s", fault.Message(err))
	}
	key, der, err := a.generate(ctx, nil, g)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return keyPEM, certificatePEM(der), err
}

func (a *Authority) generate(ctx context.Context, by *issuer, g GenerateRequest) (key crypto.Signer, der []byte, err error) {
	if g.TTL == 0 {
		g.TTL = a.policy.Load().TTL
	}
	if err := checkTTL(g.TTL); err != nil {
		return nil, nil, err
	}
	if g.KeyType == "" {
		g.KeyType = EC256
	}
	names, err := parseAltNames(g.AltNames)
	if err != nil {
		return nil, nil, err
	}
	if key, err = newKey(g.KeyType); err != nil {
		return nil, nil, err
	}
	w := issuing{name: g.Certname, publicKey: key.Public(), ttl: g.TTL, altNames: names.with(string(g.Certname)), by: by}
	w.extensions, err = grantedExtensions(g.Extensions, g.Client)
	if err != nil {
		return nil, nil, err
	}
	der, err = a.issue(ctx, w)
	return key, der, err
}

// ServerRequest says what ServerCertificate returns.
type ServerRequest struct {
	Certname    puppet.Certname
	AltNames    []string      // as in GenerateRequest; the certname is always one
	KeyType     KeyType       // "" means EC256, which agents of all generations accept
	TTL         time.Duration // 0 leaves it to the policy
	RenewBefore time.Duration // 0 means 30 days
	Client      bool          // pp_cli_auth, as the real server's own certificate has

	Extensions map[string]string // as in GenerateRequest; see LoadCSRAttributes
}

// ServerCertificate returns the certificate under which this member serves. It
// lies in the folder with its key and is made when it is missing, ends soon,
// lacks a name, has other extensions or another kind of key, is revoked, or was
// signed by another issuer. Call it again from time to time to get a renewed one.
func (a *Authority) ServerCertificate(ctx context.Context, q ServerRequest) (*tls.Certificate, error) {
	certname := q.Certname
	if _, err := checkSubject(string(certname), string(certname)); err != nil {
		return nil, err
	}
	if q.RenewBefore == 0 {
		q.RenewBefore = 30 * 24 * time.Hour
	}
	if q.KeyType == "" {
		q.KeyType = EC256
	}
	names, err := parseAltNames(q.AltNames)
	if err != nil {
		return nil, err
	}
	extensions, err := grantedExtensions(q.Extensions, q.Client)
	if err != nil {
		return nil, fmt.Errorf("extensions of the server certificate: %w", err)
	}
	unlock, err := a.names.lock(ctx, certname)
	if err != nil {
		return nil, err
	}
	defer unlock()

	path := filepath.Join(a.dir, "server", string(certname)+".pem")
	have, err := tls.LoadX509KeyPair(path, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read server certificate %s: %w; remove the file to get a new one", path, err)
	}
	show := a.trust.Load().shown
	if show.key == nil {
		show = a.trust.Load().signer()
	}
	if err == nil && a.serves(show, have.Leaf, names.with(string(certname)), q) && sameExtensions(have.Leaf.Extensions, extensions) {
		a.Seen(have.Leaf, nil)
		return &have, nil
	}
	return a.newServerCertificate(ctx, show, path, GenerateRequest{Certname: certname, AltNames: q.AltNames, TTL: q.TTL, Client: q.Client, KeyType: q.KeyType, Extensions: q.Extensions})
}

// CertifyServer signs a key that somebody else holds, who serves agents in the name of this authority: an edge. It returns the
// certificate and what belongs above it, in PEM. An earlier certificate of that name stays good until it ends.
func (a *Authority) CertifyServer(ctx context.Context, certname puppet.Certname, public crypto.PublicKey, altNames []string) ([]byte, error) {
	if _, err := checkSubject(string(certname), string(certname)); err != nil {
		return nil, err
	}
	names, err := parseAltNames(altNames)
	if err != nil {
		return nil, err
	}
	unlock, err := a.names.lock(ctx, certname)
	if err != nil {
		return nil, err
	}
	defer unlock()
	by := a.trust.Load().shown
	if by == nil || by.key == nil {
		return nil, errNoKey()
	}
	der, err := a.issue(ctx, issuing{name: certname, publicKey: public, ttl: a.policy.Load().TTL, altNames: names.with(string(certname)), by: by})
	if err != nil {
		return nil, err
	}
	text := certificatePEM(der)
	for _, c := range by.chain() {
		text = append(text, certificatePEM(c)...)
	}
	return text, nil
}

// serves reports whether a certificate is what a server is to show. Where the key of the issuer to be shown has not come yet, any
// that counts will do: the member must go on.
func (a *Authority) serves(show *issuer, cert *x509.Certificate, names altNames, q ServerRequest) bool {
	t := a.trust.Load()
	if a.Revoked(cert) || cert.NotAfter.Sub(a.now()) < q.RenewBefore {
		return false
	}
	if by := t.by(hex.EncodeToString(cert.AuthorityKeyId)); by == nil || cert.CheckSignatureFrom(by.cert) != nil || by != show && show == t.shown {
		return false
	}
	if typeOf(cert.PublicKey) != q.KeyType {
		return false
	}
	have := newAltNames(cert.DNSNames, cert.IPAddresses).list()
	return !slices.ContainsFunc(names.list(), func(n string) bool { return !slices.Contains(have, n) })
}

func (a *Authority) newServerCertificate(ctx context.Context, by *issuer, path string, g GenerateRequest) (*tls.Certificate, error) {
	if by == nil {
		return nil, errNoKey()
	}
	key, der, err := a.generate(ctx, by, g)
	if err != nil {
		return nil, fmt.Errorf("make server certificate: %w", err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	for _, c := range append([][]byte{der}, by.chain()...) {
		text = append(text, certificatePEM(c)...)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(path, text, 0o600); err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("load server certificate: %w", err)
	}
	a.Seen(cert.Leaf, nil)
	return &cert, nil
}
