package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"time"

	"troupe/internal/journal"
)

// This file says what certificates look like: byte for byte as puppetserver
// 7.9.5 writes them (create-agent-extensions and SSLUtils.signCertificate), which
// sorts extensions that are critical behind those that are not.

const netscapeComment = "Puppet Server Internal Certificate"

// The OIDs of extensions.
type oids struct {
	commonName, altName, comment, authorityKey, subjectKey, constraints, extUsage, usage, crlNumber, reason, deltaCRL asn1.ObjectIdentifier
	serverAuth, clientAuth                                                                                            asn1.ObjectIdentifier
}

func knownOIDs() oids {
	return oids{
		commonName:   asn1.ObjectIdentifier{2, 5, 4, 3},
		altName:      asn1.ObjectIdentifier{2, 5, 29, 17},
		comment:      asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 13},
		authorityKey: asn1.ObjectIdentifier{2, 5, 29, 35},
		subjectKey:   asn1.ObjectIdentifier{2, 5, 29, 14},
		constraints:  asn1.ObjectIdentifier{2, 5, 29, 19},
		extUsage:     asn1.ObjectIdentifier{2, 5, 29, 37},
		usage:        asn1.ObjectIdentifier{2, 5, 29, 15},
		crlNumber:    asn1.ObjectIdentifier{2, 5, 29, 20},
		reason:       asn1.ObjectIdentifier{2, 5, 29, 21},
		deltaCRL:     asn1.ObjectIdentifier{2, 5, 29, 27},
		serverAuth:   asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1},
		clientAuth:   asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2},
	}
}

// An extensionList collects extensions; the first error stays.
type extensionList struct {
	oids oids
	all  []pkix.Extension
	err  error
}

func (l *extensionList) add(id asn1.ObjectIdentifier, critical bool, value any, params string) {
	der, err := asn1.MarshalWithParams(value, params)
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("encode extension %s: %w", id, err)
	}
	l.all = append(l.all, pkix.Extension{Id: id, Critical: critical, Value: der})
}

// authorityKeyID is the extension of that name. Issuer and serial are those of
// the issuing certificate itself, which binds a leaf to that very certificate:
// they are left out where the issuer has two certificates.
type authorityKeyID struct {
	ID     []byte        `asn1:"optional,tag:0"`
	Issuer asn1.RawValue `asn1:"optional"`
	Serial *big.Int      `asn1:"optional,tag:2"`
}

func (l *extensionList) authority(id []byte, cert *x509.Certificate) {
	a := authorityKeyID{ID: id}
	if cert != nil {
		directory := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: cert.RawIssuer}
		der, err := asn1.Marshal(directory)
		if err != nil && l.err == nil {
			l.err = err
		}
		a.Issuer = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, IsCompound: true, Bytes: der}
		a.Serial = cert.SerialNumber
	}
	l.add(l.oids.authorityKey, false, a, "")
}

func (l *extensionList) altNames(a altNames) {
	var names []asn1.RawValue
	for _, ip := range a.ips {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 7, Bytes: ipBytes(ip)})
	}
	for _, n := range a.dns {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(n)})
	}
	l.add(l.oids.altName, false, names, "")
}

func ipBytes(ip net.IP) []byte {
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip
}

type basicConstraints struct {
	CA bool `asn1:"optional"`
}

// leafExtensions returns the extensions of an agent's or server's certificate.
// requested are further ones, already judged.
func leafExtensions(i *issuer, pub crypto.PublicKey, names altNames, requested []pkix.Extension) ([]pkix.Extension, error) {
	id, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	l := &extensionList{oids: knownOIDs()}
	l.altNames(names)
	l.add(l.oids.comment, false, netscapeComment, "ia5")
	l.authority(i.cert.SubjectKeyId, i.bound())
	l.add(l.oids.subjectKey, false, id, "")
	l.all = append(l.all, requested...)
	l.add(l.oids.constraints, true, basicConstraints{}, "")
	l.add(l.oids.extUsage, true, []asn1.ObjectIdentifier{l.oids.serverAuth, l.oids.clientAuth}, "")
	l.add(l.oids.usage, true, asn1.BitString{Bytes: []byte{0xA0}, BitLength: 3}, "") // digitalSignature, keyEncipherment
	return l.all, l.err
}

// caExtensions returns the extensions of the certificate of an authority.
func caExtensions(authority, subject []byte) ([]pkix.Extension, error) {
	l := &extensionList{oids: knownOIDs()}
	l.add(l.oids.comment, false, netscapeComment, "ia5")
	l.authority(authority, nil)
	l.add(l.oids.subjectKey, false, subject, "")
	l.add(l.oids.constraints, true, basicConstraints{CA: true}, "")
	l.add(l.oids.usage, true, asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}, "") // keyCertSign, cRLSign
	return l.all, l.err
}

// commonName encodes a subject that is only a common name, as UTF8String.
func commonName(cn string) ([]byte, error) {
	return asn1.Marshal(pkix.RDNSequence{{{Type: knownOIDs().commonName, Value: asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagUTF8String, Bytes: []byte(cn)}}}})
}

// A certificateSpec is what is to be signed.
type certificateSpec struct {
	serial     *big.Int
	subject    []byte // DER of the name
	notBefore  time.Time
	notAfter   time.Time
	publicKey  crypto.PublicKey
	extensions []pkix.Extension
}

// sign makes the certificate. Every extension is given, so the standard library
// adds none of its own and keeps their order.
func (s certificateSpec) sign(issuerName []byte, key crypto.Signer) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: s.serial, RawSubject: s.subject, NotBefore: s.notBefore, NotAfter: s.notAfter,
		ExtraExtensions: s.extensions, SignatureAlgorithm: signatureAlgorithm(key),
	}
	parent := &x509.Certificate{RawSubject: issuerName, PublicKey: key.Public()}
	return x509.CreateCertificate(rand.Reader, template, parent, s.publicKey, key)
}

func signatureAlgorithm(key crypto.Signer) x509.SignatureAlgorithm {
	if isRSA(key) {
		return x509.SHA256WithRSA
	}
	return x509.ECDSAWithSHA256
}

// validity returns the dates of a certificate. It is valid since yesterday
// because the clocks of agents are often behind (cert-validity-dates).
func validity(now time.Time, ttl time.Duration) (notBefore, notAfter time.Time) {
	now = now.UTC().Truncate(time.Second)
	return now.Add(-24 * time.Hour), now.Add(ttl)
}

// newSerial draws a serial number: one byte that differs between members, then
// 119 random bits. Members that cannot reach each other must not collide.
func newSerial(o journal.Origin) (*big.Int, error) {
	member := sha256.Sum256([]byte(o))
	b := make([]byte, 16)
	if _, err := rand.Read(b[1:]); err != nil {
		return nil, err
	}
	b[0] = member[0]
	b[1] &= 0x7f
	return new(big.Int).SetBytes(b), nil
}
