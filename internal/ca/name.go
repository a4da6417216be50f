package ca

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"regexp"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file holds the rule for names that may be signed, and tells whether two names of issuers are one.

var (
	firstSegment = regexp.MustCompile(`^[0-9A-Za-z_].*`)
	eachSegment  = regexp.MustCompile(`^[0-9A-Za-z\-_]*[0-9A-Za-z_]$`)
)

// maxName keeps NAME.pem a possible file name: puppetserver cannot store a name of
// 251 letters, and one could not be exported.
const maxName = 250

// checkSubject refuses what puppetserver's validate-subject! refuses, in its
// order and words: url is the name in the request's path, subject the common
// name in the certificate request.
func checkSubject(url, subject string) (puppet.Certname, error) {
	switch {
	case url != subject:
		return "", fault.New(fault.Invalid, "Instance name %q does not match requested key %q", subject, url)
	case url != strings.ToLower(url):
		return "", fault.New(fault.Invalid, "Certificate names must be lower case.")
	case strings.Contains(subject, "*"):
		return "", fault.New(fault.Invalid, "Subject contains a wildcard, which is not allowed: %s", subject)
	case strings.HasSuffix(subject, "-"):
		return "", errSubjectFormat()
	}
	// Clojure's split drops empty segments at the end, so one dot may end a name.
	segments := strings.Split(strings.TrimRight(subject, "."), ".")
	if !firstSegment.MatchString(segments[0]) {
		return "", errSubjectFormat()
	}
	for _, s := range segments {
		if !eachSegment.MatchString(s) {
			return "", errSubjectFormat()
		}
	}
	name, err := puppet.ParseCertname(subject)
	if err != nil || len(name) > maxName {
		return "", errSubjectFormat()
	}
	return name, nil
}

func errSubjectFormat() error {
	return fault.New(fault.Invalid, "Subject hostname format is invalid")
}

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
