//go:build parity

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"testing"
	"time"
)

// This file signs with the key of a folder, as a server of years ago, or of another authority, may have done.

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func openAuthority(t *testing.T, dir string) authority {
	t.Helper()
	block, _ := pem.Decode([]byte(readFile(t, filepath.Join(dir, "ca_crt.pem"))))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode([]byte(readFile(t, filepath.Join(dir, "ca_key.pem"))))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// newAuthority is one that nobody trusts, though it bears the name of the folder's.
func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: openAuthority(t, folder).cert.Subject, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(0, 0, -1), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

type leafSpec struct {
	name   string
	serial int64
	from   time.Time // zero means yesterday
	until  time.Time // zero means in a year
}

// issue signs a certificate, and writes it with its key into an ssldir; "" writes nothing.
func (a authority) issue(t *testing.T, ssl string, s leafSpec) tls.Certificate {
	t.Helper()
	if s.from.IsZero() {
		s.from = time.Now().AddDate(0, 0, -1)
	}
	if s.until.IsZero() {
		s.until = time.Now().AddDate(1, 0, 0)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(s.serial), Subject: pkix.Name{CommonName: s.name}, DNSNames: []string{s.name},
		NotBefore: s.from, NotAfter: s.until, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if ssl == "" {
		return pair
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(ssl, "certs", s.name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, filepath.Join(ssl, "private_keys", s.name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})))
	return pair
}
