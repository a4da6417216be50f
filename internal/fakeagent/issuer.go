package fakeagent

// This file makes certificates ahead, with the key of a CA: a fleet of thousands need not ask for each of its own.

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Issuer is a CA whose private key is at hand.
type Issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// OpenIssuer reads ca_crt.pem and ca_key.pem of a folder, as Puppet Server's cadir has them and `troupe ca export`
// writes them. In a bundle the first certificate is the one that signs.
func OpenIssuer(folder string) (*Issuer, error) {
	text, err := os.ReadFile(filepath.Join(folder, "ca_crt.pem"))
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	if text, err = os.ReadFile(filepath.Join(folder, "ca_key.pem")); err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("read the key of the CA: %w", err)
	}
	for _, cert := range certs { // a bundle may have the roots of several sites
		if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(key.Public()) {
			return &Issuer{cert: cert, key: key}, nil
		}
	}
	return nil, errors.New("no certificate in ca_crt.pem belongs to the key in ca_key.pem")
}

// Issue signs a certificate for a node. The CA's own inventory does not learn of it.
func (i *Issuer) Issue(certname string, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: certname}, DNSNames: []string{certname},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, i.cert, key.Public(), i.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", certname, err)
	}
	return x509.ParseCertificate(der)
}

// ParseKey reads a private key in any of the three PEM forms.
func ParseKey(text []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("no PEM block of a private key")
		}
		if signer, err := parseKey(block); signer != nil || err != nil {
			return signer, err
		}
	}
}

// parseKey returns nothing for a block of another type, such as EC PARAMETERS.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a key of type %T cannot sign", key)
		}
		return signer, nil
	default:
		return nil, nil
	}
}
