//go:build parity

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"testing"
)

// This file makes certificate requests, also those that no library makes.

// A csr is what a request says. Its zero value but for the name is what an agent sends.
type csr struct {
	name       string
	subject    asn1.RawValue // in place of the name
	key        crypto.Signer // nil means RSA 2048
	extensions []pkix.Extension
	attributes []attribute
	forged     bool // the signature is wrong
	der        bool // no PEM
}

type attribute struct {
	ID     asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

var (
	oidExtensionRequest  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	oidUnstructuredName  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 2}
	oidAltName           = asn1.ObjectIdentifier{2, 5, 29, 17}
)

func puppetOID(arc ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1}, arc...)
}

func (c csr) encode(t *testing.T) []byte {
	t.Helper()
	if c.key == nil {
		c.key = rsaKey(t, 2048)
	}
	if c.subject.FullBytes == nil {
		c.subject = subjectOf(t, []attributeValue{{asn1.ObjectIdentifier{2, 5, 4, 3}, utf8(t, c.name)}})
	}
	public, err := x509.MarshalPKIXPublicKey(c.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	attributes := c.attributes
	if len(c.extensions) > 0 {
		attributes = append(attributes, attribute{oidExtensionRequest, []asn1.RawValue{raw(marshal(t, c.extensions))}})
	}
	tbs := marshal(t, struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []attribute `asn1:"tag:0,set"`
	}{0, c.subject, raw(public), attributes})
	algorithm, signature := c.sign(t, tbs)
	if c.forged {
		signature[len(signature)/2] ^= 1
	}
	der := marshal(t, struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{raw(tbs), algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if c.der {
		return der
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func (c csr) sign(t *testing.T, tbs []byte) (pkix.AlgorithmIdentifier, []byte) {
	t.Helper()
	digest := sha256.Sum256(tbs)
	given, options, message := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, crypto.SignerOpts(crypto.SHA256), digest[:]
	algorithm := pkix.AlgorithmIdentifier{Algorithm: given, Parameters: asn1.NullRawValue}
	switch c.key.(type) {
	case *ecdsa.PrivateKey:
		algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	case ed25519.PrivateKey:
		algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 112}}
		options, message = crypto.Hash(0), tbs
	}
	signature, err := c.key.Sign(rand.Reader, message, options)
	if err != nil {
		t.Fatal(err)
	}
	return algorithm, signature
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0") // for the shortest of them
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func edKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type attributeValue struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

type relativeName []attributeValue

// subjectOf is a distinguished name; each argument is one relative name, which may have several values.
func subjectOf(t *testing.T, names ...relativeName) asn1.RawValue {
	t.Helper()
	var all []asn1.RawValue
	for _, n := range names {
		var values []byte
		for _, v := range n {
			values = append(values, marshal(t, v)...)
		}
		all = append(all, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true, Bytes: values})
	}
	return raw(marshal(t, all))
}

func raw(der []byte) asn1.RawValue { return asn1.RawValue{FullBytes: der} }

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func utf8(t *testing.T, text string) asn1.RawValue { return tagged(t, asn1.TagUTF8String, text) }

func tagged(t *testing.T, tag int, text string) asn1.RawValue {
	t.Helper()
	return raw(marshal(t, asn1.RawValue{Tag: tag, Bytes: []byte(text)}))
}

// says is an extension with a text, as an agent writes those of csr_attributes.yaml.
func says(t *testing.T, text string, id asn1.ObjectIdentifier) pkix.Extension {
	t.Helper()
	return pkix.Extension{Id: id, Value: utf8(t, text).FullBytes}
}

// altNames is the extension subjectAltName. DNS names are first.
func altNames(t *testing.T, dns []string, ips ...string) pkix.Extension {
	t.Helper()
	var all []asn1.RawValue
	for _, n := range dns {
		all = append(all, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(n)})
	}
	for _, text := range ips {
		ip := net.ParseIP(text)
		if four := ip.To4(); four != nil {
			ip = four
		}
		all = append(all, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 7, Bytes: ip})
	}
	return pkix.Extension{Id: oidAltName, Value: marshal(t, all)}
}
