package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"time"

	"troupe/internal/journal"
)

// This file holds the issuer that is in force and makes the one of a new installation.

// A Hierarchy says how the certificates of a new authority stand to each other.
type Hierarchy string

// Hierarchies. In all of them one key signs agents.
//
// CrossSigned gives the issuing key two certificates: a self-signed one, which
// agents get first in the bundle, and one signed by a root, whose certificate
// agents get too. Agents 5.x keep only the first certificate and the first
// revocation list of what they download, so only a self-signed issuer in front
// lets them verify anything; agents since 6 hold the root from their first day
// and will accept another issuer under it.
//
// Intermediate publishes the issuer's certificate by the root, as puppetserver ca
// setup does; it shuts out agents 5.x. Single has no root, as a puppetserver has
// that was started without setup.
const (
	CrossSigned  Hierarchy = "cross-signed"
	Intermediate Hierarchy = "intermediate"
	Single       Hierarchy = "single"
)

// ParseHierarchy checks the name of a hierarchy.
func ParseHierarchy(s string) (Hierarchy, error) {
	if h := Hierarchy(s); slices.Contains([]Hierarchy{CrossSigned, Intermediate, Single}, h) {
		return h, nil
	}
	return "", fmt.Errorf("unknown hierarchy %q: use %s, %s or %s", s, CrossSigned, Intermediate, Single)
}

// An issuer is what signs agents, and the certificates around it. It is immutable.
type issuer struct {
	id        string              // subject key identifier, hex
	from      string              // id of the one that it follows; empty for the first
	cert      *x509.Certificate   // published first
	key       crypto.Signer       // nil on a member that does not hold it
	bundle    []*x509.Certificate // what agents get of it
	cross     *x509.Certificate   // the issuer's other certificate, by its root or by the issuer before it, or nil
	bundlePEM []byte
	list      []byte // DER of its first revocation list, for members without the key; nil for the first issuer
	floor     crlFloor
	infra     string
}

// own are the certificates of the issuing key.
func (i *issuer) own() []*x509.Certificate {
	if i.cross != nil {
		return []*x509.Certificate{i.cert, i.cross}
	}
	return []*x509.Certificate{i.cert}
}

// crlFloor is what an imported list had: later ones must be newer.
type crlFloor struct {
	number *big.Int // nil without an import
	at     time.Time
	time   journal.Time // of the import
}

// bound returns the certificate to which leaves are bound by issuer and serial:
// none when the issuer has two.
func (i *issuer) bound() *x509.Certificate {
	if i.cross != nil {
		return nil
	}
	return i.cert
}

// ancestors returns the certificates above the issuer.
func (i *issuer) ancestors() []*x509.Certificate { return i.bundle[1:] }

// chain is what a server shows beside its own certificate.
func (i *issuer) chain() [][]byte {
	switch {
	case i.cross != nil:
		return [][]byte{i.cross.Raw}
	case bytes.Equal(i.cert.RawIssuer, i.cert.RawSubject):
		return nil
	}
	return [][]byte{i.cert.Raw}
}

func isRSA(key crypto.Signer) bool {
	_, ok := key.Public().(*rsa.PublicKey)
	return ok
}

// newIssuer reads a setup.
func newIssuer(s setupRecord, at journal.Time) (*issuer, error) {
	bundle, err := parseCertificates([]byte(s.Bundle))
	if err != nil {
		return nil, err
	}
	if len(bundle) == 0 {
		return nil, errors.New("the bundle is empty")
	}
	i := &issuer{id: hex.EncodeToString(bundle[0].SubjectKeyId), cert: bundle[0], bundle: bundle, bundlePEM: []byte(s.Bundle), infra: s.Infra}
	if s.Cross != "" {
		cross, err := parseCertificates([]byte(s.Cross))
		if err != nil || len(cross) != 1 {
			return nil, fmt.Errorf("the cross certificate is unreadable: %w", err)
		}
		i.cross = cross[0]
	}
	if s.CRLNumber != "" {
		n, ok := new(big.Int).SetString(s.CRLNumber, 10)
		if !ok {
			return nil, fmt.Errorf("CRL number %q is no number", s.CRLNumber)
		}
		i.floor = crlFloor{number: n, at: s.CRLTime, time: at}
	}
	return i, nil
}

// settleAll finishes what a crash between the journal's record and the keys left.
func (a *Authority) settleAll(i *issuer) error {
	for _, c := range i.bundle {
		if len(c.SubjectKeyId) == 0 {
			continue
		}
		if err := a.vault.Settle(c.SubjectKeyId); err != nil {
			return fmt.Errorf("take key into use: %w", err)
		}
	}
	return nil
}

// create makes the authority of a new installation.
func (a *Authority) create(ctx context.Context) error {
	plan := &creation{now: a.now(), lifetime: a.o.CALifetime, keyType: a.o.KeyType, hierarchy: a.o.Hierarchy, name: a.o.Name, origin: a.j.Origin()}
	if plan.lifetime == 0 {
		plan.lifetime = defaultCALifetime
	}
	if plan.keyType == "" {
		plan.keyType = RSA3072
	}
	if plan.hierarchy == "" {
		plan.hierarchy = CrossSigned
	}
	if plan.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find a name for the authority: %w", err)
		}
		plan.name = "Puppet CA: " + host
	}
	if _, err := ParseHierarchy(string(plan.hierarchy)); err != nil {
		return err
	}
	if _, err := ParseKeyType(string(plan.keyType)); err != nil {
		return err
	}
	made, err := plan.make()
	if err != nil {
		return err
	}
	if err := a.adopt(ctx, made); err != nil {
		return err
	}
	i := a.trust.Load().force
	a.log.InfoContext(ctx, "certificate authority created", "name", plan.name, "hierarchy", string(plan.hierarchy),
		"key_type", string(plan.keyType), "not_after", i.cert.NotAfter)
	return nil
}

// A foundation is everything that makes an authority, made or imported.
type foundation struct {
	setup     setupRecord
	keys      map[string]crypto.Signer // by subject key identifier in hex
	ancestors [][]byte                 // DER of their revocation lists
}

// adopt makes a foundation the authority of this journal: keys first, under a
// name that does not count; then the record; then the keys count.
func (a *Authority) adopt(ctx context.Context, f foundation) error {
	for id, key := range f.keys {
		raw, err := hex.DecodeString(id)
		if err != nil {
			return err
		}
		plain, err := encodeKey(key)
		if err != nil {
			return err
		}
		if err := a.vault.Stage(raw, plain); err != nil {
			return fmt.Errorf("seal key: %w", err)
		}
	}
	var drafts []journal.Draft
	for _, crl := range f.ancestors {
		d, err := draft(kindAncestor, keyCA, ancestorRecord{CRL: crl})
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	}
	d, err := draft(kindSetup, keyCA, f.setup)
	if err != nil {
		return err
	}
	if err := a.append(ctx, append(drafts, d)...); err != nil {
		return fmt.Errorf("record the authority: %w", err)
	}
	known, err := a.loadTrust(ctx)
	if err == nil && !known {
		err = errors.New("the authority is not in the journal that has just recorded it")
	}
	return err
}

// A creation makes keys and certificates.
type creation struct {
	now       time.Time
	lifetime  time.Duration
	keyType   KeyType
	hierarchy Hierarchy
	name      string
	origin    journal.Origin
}

func (c *creation) make() (foundation, error) {
	f := foundation{keys: map[string]crypto.Signer{}}
	key, id, err := c.newKey(f)
	if err != nil {
		return f, err
	}
	f.setup.Key = hex.EncodeToString(id)
	if c.hierarchy == Single {
		cert, err := c.certify(c.name, key.Public(), c.name, key)
		f.setup.Bundle = string(certificatePEM(cert))
		return f, err
	}

	root, rootID, err := c.newKey(f)
	if err != nil {
		return f, err
	}
	rootName := "Root of " + c.name
	rootCert, err := c.certify(rootName, root.Public(), rootName, root)
	if err != nil {
		return f, err
	}
	under, err := c.certify(c.name, key.Public(), rootName, root)
	if err != nil {
		return f, err
	}
	published := under
	if c.hierarchy == CrossSigned {
		f.setup.Cross = string(certificatePEM(under))
		if published, err = c.certify(c.name, key.Public(), c.name, key); err != nil {
			return f, err
		}
	}
	f.setup.Bundle = string(certificatePEM(published)) + string(certificatePEM(rootCert))

	list, err := c.rootList(rootName, root, rootID)
	f.ancestors = [][]byte{list}
	return f, err
}

func (c *creation) newKey(f foundation) (crypto.Signer, []byte, error) {
	key, err := newKey(c.keyType)
	if err != nil {
		return nil, nil, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, nil, err
	}
	f.keys[hex.EncodeToString(id)] = key
	return key, id, nil
}

func (c *creation) certify(subject string, pub crypto.PublicKey, issuerName string, key crypto.Signer) ([]byte, error) {
	subjectID, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	issuerID, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	spec := certificateSpec{publicKey: pub}
	if spec.extensions, err = caExtensions(issuerID, subjectID); err != nil {
		return nil, err
	}
	if spec.serial, err = newSerial(c.origin); err != nil {
		return nil, err
	}
	if spec.subject, err = commonName(subject); err != nil {
		return nil, err
	}
	issuerDER, err := commonName(issuerName)
	if err != nil {
		return nil, err
	}
	spec.notBefore, spec.notAfter = validity(c.now, c.lifetime)
	return spec.sign(issuerDER, key)
}

func (c *creation) rootList(name string, key crypto.Signer, id []byte) ([]byte, error) {
	issuerDER, err := commonName(name)
	if err != nil {
		return nil, err
	}
	at := c.now.UTC().Truncate(time.Second).Add(-backdate)
	return crlSpec{issuer: issuerDER, keyID: id, number: big.NewInt(1), thisUpdate: at, nextUpdate: at.Add(c.lifetime)}.sign(key)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// parseCertificates reads all certificates of a PEM text.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, cert)
	}
	return all, nil
}
