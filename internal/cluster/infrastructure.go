package cluster

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/journal"
)

// This file is the infrastructure CA: it says who is a member. Its key is ECDSA P-256, since only members ever see it.

const (
	certificateName = "member.pem" // this member's certificate and that of the CA

	caLifetime     = 20 * 365 * 24 * time.Hour
	memberLifetime = 365 * 24 * time.Hour
	renewBefore    = 60 * 24 * time.Hour
	backdate       = 24 * time.Hour // for members whose clocks differ
)

// An infrastructure is a new CA.
type infrastructure struct {
	id   string
	cert *x509.Certificate
	key  []byte // PEM
}

func newInfrastructure(now time.Time) (infrastructure, error) {
	id := strings.ToLower(rand.Text())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return infrastructure{}, err
	}
	keyID, err := publicKeyID(key.Public())
	if err != nil {
		return infrastructure{}, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "troupe infrastructure " + id},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, SubjectKeyId: keyID,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := certify(template, template, key.Public(), key)
	if err != nil {
		return infrastructure{}, err
	}
	text, err := encodeKey(key)
	return infrastructure{id: id, cert: cert, key: text}, err
}

func certify(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// certifyMember makes the certificate with which a member proves itself.
func (c *Cluster) certifyMember(f *founded, m Member, public crypto.PublicKey) (*x509.Certificate, error) {
	return c.certifyAs(f, m.Name, identity(f.ID, m.Origin), public)
}

func (c *Cluster) certifyAs(f *founded, name string, as *url.URL, public crypto.PublicKey) (*x509.Certificate, error) {
	text, err := c.vault.Open(f.cert.SubjectKeyId)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this member does not hold the key of the infrastructure CA: ask a member of role server")
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, err
	}
	now := c.o.Now()
	return certify(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{as},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(memberLifetime), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, f.cert, public, key)
}

// identity is the name of a member in its certificate.
func identity(id string, o journal.Origin) *url.URL {
	return &url.URL{Scheme: "troupe", Host: id, Path: "/member/" + string(o)}
}

func parseIdentity(cert *x509.Certificate) (id string, o journal.Origin, err error) {
	for _, u := range cert.URIs {
		if origin, ok := strings.CutPrefix(u.Path, "/member/"); ok && u.Scheme == "troupe" && origin != "" {
			return u.Host, journal.Origin(origin), nil
		}
	}
	return "", "", errors.New("the certificate names no member")
}

// certify sees to it that this member has a certificate, and that the others know its key.
func (c *Cluster) certify(ctx context.Context) error {
	if err := c.ensureCertificate(); err != nil {
		return err
	}
	return c.announceKey(ctx)
}

// ensureCertificate loads this member's certificate, and makes or renews it where it holds the CA's key.
func (c *Cluster) ensureCertificate() error {
	c.certifying.Lock() // two keys at once, and the others would know the wrong one
	defer c.certifying.Unlock()
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	if err := c.vault.Settle(f.cert.SubjectKeyId); err != nil {
		return fmt.Errorf("take the key of the infrastructure CA into use: %w", err)
	}
	pair := c.own.Load()
	var damage error
	if pair == nil {
		var err error
		if pair, err = c.loadCertificate(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			damage = err
			c.log.Warn("certificate of this member is damaged and made again", "err", err)
		}
	}
	if pair != nil && pair.Leaf.NotAfter.Sub(c.o.Now()) > renewBefore {
		c.own.Store(pair)
		return nil
	}
	renewed, err := c.makeCertificate(f, pair)
	switch {
	case err == nil:
		c.own.Store(renewed)
	case pair != nil: // it is good for a while
		c.own.Store(pair)
		c.log.Warn("certificate of this member ends soon and cannot be renewed here", "not_after", pair.Leaf.NotAfter, "err", err)
	default:
		return fmt.Errorf("certificate of this member: %w", errors.Join(damage, err))
	}
	return nil
}

// makeCertificate makes the certificate of this member. A renewed one is for the same key, by which the others know it.
func (c *Cluster) makeCertificate(f *founded, before *tls.Certificate) (*tls.Certificate, error) {
	var key *ecdsa.PrivateKey
	if before != nil {
		key, _ = before.PrivateKey.(*ecdsa.PrivateKey)
	}
	if key == nil {
		key = c.knownKey()
	}
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}
	cert, err := c.certifyMember(f, c.self().Member, key.Public())
	if err != nil {
		return nil, err
	}
	if err := c.saveCertificate(cert, f.cert, key); err != nil {
		return nil, err
	}
	return c.loadCertificate(f)
}

// memberKey is how records name the key of a certificate.
func memberKey(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// knownKey finds the key by which the others know this member, when its certificate is lost.
func (c *Cluster) knownKey() *ecdsa.PrivateKey {
	files, err := c.vault.Sealed()
	if err != nil {
		return nil
	}
	c.mu.Lock()
	keys := c.state.keys[c.j.Origin()]
	c.mu.Unlock()
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		id, err := hex.DecodeString(name)
		if err != nil {
			continue
		}
		plain, err := c.vault.Open(id)
		if err != nil {
			continue
		}
		key, err := parseKey(plain)
		if err != nil {
			continue
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if sum := sha256.Sum256(public); err == nil && keys.has(hex.EncodeToString(sum[:])) {
			return key
		}
	}
	return nil
}

// announceKey records the key of this member, unless it has done so.
func (c *Cluster) announceKey(ctx context.Context) error {
	key, origin := memberKey(c.own.Load().Leaf), c.j.Origin()
	c.mu.Lock()
	told := c.state.keys[origin].own[key]
	c.mu.Unlock()
	if told {
		return nil
	}
	if err := c.append(ctx, draft{kindMemberKey, c.o.Name, memberKeyRecord{Origin: origin, Key: key}}); err != nil {
		return fmt.Errorf("record the key of this member: %w", err)
	}
	return nil
}

// saveCertificate seals the key before the certificate that needs it is there.
func (c *Cluster) saveCertificate(cert, issuer *x509.Certificate, key *ecdsa.PrivateKey) error {
	id, err := publicKeyID(key.Public())
	if err != nil {
		return err
	}
	plain, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := errors.Join(c.vault.Stage(id, plain), c.vault.Settle(id)); err != nil {
		return fmt.Errorf("seal key: %w", err)
	}
	var text bytes.Buffer
	for _, one := range []*x509.Certificate{cert, issuer} {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: one.Raw}); err != nil {
			return err
		}
	}
	return atomicfile.Write(filepath.Join(c.dir, certificateName), text.Bytes(), 0o600)
}

func (c *Cluster) loadCertificate(f *founded) (*tls.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, certificateName))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no certificate in %s", filepath.Join(c.dir, certificateName))
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := leaf.CheckSignatureFrom(f.cert); err != nil {
		return nil, err // other members would not take it
	}
	id, err := publicKeyID(leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	plain, err := c.vault.Open(id)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(plain)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, f.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// publicKeyID names a key: the first 20 bytes of the SHA-256 of its PKIX form.
func publicKeyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is %T, not ECDSA", key)
	}
	return ec, nil
}
