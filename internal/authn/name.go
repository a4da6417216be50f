package authn

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
)

// This file tells whether two names of issuers are one.

// SameName reports whether two distinguished names, in DER, are the same one. A real
// puppetserver writes the issuer's name anew into what it signs, as UTF8String whatever
// the issuer's own certificate has, so that the bytes differ below an authority from
// outside. OpenSSL and Java compare names as this does, and Go's x509 does not.
func SameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var names [2]pkix.RDNSequence
	for i, der := range [][]byte{a, b} {
		if rest, err := asn1.Unmarshal(der, &names[i]); err != nil || len(rest) > 0 {
			return false
		}
	}
	return names[0].String() == names[1].String()
}
