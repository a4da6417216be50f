package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RFC 5280 names keys by it; nothing is protected by it
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// This file makes, reads and writes keys.

// A KeyType says which kind of key to make.
type KeyType string

// Key types. RSA is the default of an authority for one reason: the real
// puppetserver signs with "SHA256withRSA" whatever the key is, so an authority
// with another key could never be given back to it. Every agent since 5.5
// accepts all of them.
const (
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
	EC256   KeyType = "ec256"
	EC384   KeyType = "ec384"
)

// KeyTypes are the known types.
func KeyTypes() []KeyType { return []KeyType{RSA2048, RSA3072, RSA4096, EC256, EC384} }

// ParseKeyType checks the name of a type.
func ParseKeyType(s string) (KeyType, error) {
	if t := KeyType(s); slices.Contains(KeyTypes(), t) {
		return t, nil
	}
	return "", fmt.Errorf("unknown key type %q: use one of %v", s, KeyTypes())
}

func newKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case EC256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EC384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return nil, fmt.Errorf("unknown key type %q: use one of %v", t, KeyTypes())
}

// typeOf names the type of a public key; other keys than newKey makes have none.
func typeOf(pub crypto.PublicKey) KeyType {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return KeyType(fmt.Sprintf("rsa%d", k.N.BitLen()))
	case *ecdsa.PublicKey:
		return KeyType(fmt.Sprintf("ec%d", k.Curve.Params().BitSize))
	}
	return ""
}

// encodeKey writes a key as the real puppetserver and agents do: PKCS#1 for RSA,
// SEC 1 for EC.
func encodeKey(key crypto.Signer) ([]byte, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}), nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
	}
	return nil, fmt.Errorf("encode key: %T is neither RSA nor EC", key)
}

// parseKey reads the first private key of a PEM text.
func parseKey(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the key is encrypted with a passphrase: remove it first (openssl rsa -in KEY -out PLAIN)")
			}
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is encrypted with a passphrase: remove it first (openssl pkey -in KEY -out PLAIN)")
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("parse key: %w", err)
		}
		switch k := key.(type) {
		case *rsa.PrivateKey:
			return k, nil
		case *ecdsa.PrivateKey:
			return k, nil
		}
		return nil, fmt.Errorf("key is %T: only RSA and EC keys can sign for Puppet agents", key)
	}
	return nil, errors.New("no private key in PEM form found")
}

// key unseals a key by its subject key identifier. The error is fs.ErrNotExist when this member does not hold it.
func (a *Authority) key(id []byte) (crypto.Signer, error) {
	plain, err := a.vault.Open(id)
	if err != nil {
		return nil, err
	}
	return parseKey(plain)
}

// sum names content.
func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// keyID is the SHA-1 of the public key's bits (RFC 5280, 4.2.1.2, method 1), as
// puppetserver computes it.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm asn1.RawValue
		Bits      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	sum := sha1.Sum(info.Bits.Bytes) //nolint:gosec // see the import
	return sum[:], nil
}

// samePublicKey compares two keys of any type.
func samePublicKey(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}
