package ca

import (
	"regexp"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file holds the rule for names that may be signed.

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
