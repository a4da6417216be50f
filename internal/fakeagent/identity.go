package fakeagent

// This file holds a node's key and certificates, and makes its certificate request.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Identity is what a node keeps in its ssldir.
type Identity struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
	CA          []*x509.Certificate
	CRLs        []*x509.RevocationList
	CAUpdated   time.Time
	CRLUpdated  time.Time
}

// clientPair sends the leaf alone: agents never attach their chain (Puppet::SSL::Verifier#setup_connection).
func (id Identity) clientPair() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{id.Certificate.Raw}, PrivateKey: id.Key, Leaf: id.Certificate}
}

func (id Identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range id.CA {
		pool.AddCert(c)
	}
	return pool
}

// verify is what an agent asks of a certificate before it saves it: its own key, and a chain that is not revoked.
func (id Identity) verify(cert *x509.Certificate) error {
	type publicKey interface{ Equal(crypto.PublicKey) bool }
	if own, ok := id.Key.Public().(publicKey); !ok || !own.Equal(cert.PublicKey) {
		return fmt.Errorf("the certificate for %q does not match its private key", cert.Subject)
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: id.pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("verify own certificate: %w", err)
	}
	if id.CRLs == nil { // 5.x fetches them after its certificate
		return nil
	}
	return (&trust{crls: id.CRLs}).checkRevocation(chains)
}

func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// certificateRequest makes the PEM of a request; extensions are extension_requests by dotted OID.
func certificateRequest(certname string, key crypto.Signer, extensions map[string]string) ([]byte, error) {
	template := x509.CertificateRequest{Subject: pkix.Name{CommonName: certname}}
	for _, dotted := range slices.Sorted(maps.Keys(extensions)) {
		oid, err := parseOID(dotted)
		if err != nil {
			return nil, err
		}
		value, err := asn1.MarshalWithParams(extensions[dotted], "utf8")
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", dotted, err)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oid, Value: value})
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func parseOID(dotted string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("OID %q: %w", dotted, err)
		}
		oid = append(oid, n)
	}
	return oid, nil
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	return parsePEM(text, "CERTIFICATE", x509.ParseCertificate)
}

func parseCRLs(text []byte) ([]*x509.RevocationList, error) {
	return parsePEM(text, "X509 CRL", x509.ParseRevocationList)
}

func parsePEM[T any](text []byte, kind string, parse func([]byte) (T, error)) ([]T, error) {
	var found []T
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != kind {
			continue
		}
		one, err := parse(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", kind, err)
		}
		found = append(found, one)
	}
	if len(found) == 0 {
		return nil, errors.New("no PEM block of type " + kind)
	}
	return found, nil
}
