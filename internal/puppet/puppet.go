// Package puppet holds the nouns of Puppet and their forms on the wire: names,
// facts, trusted facts, resources, reports, and the codecs between JSON,
// MessagePack and PSON. It does no input or output.
//
// JSON is the inside form of everything: whatever an agent sends is turned into
// JSON once, at the border, with the order of its keys kept; whatever it asks
// for is turned back once. A [Certname] and an [Environment] are parsed at the
// border too and trusted afterwards.
package puppet

import (
	"regexp"
	"strings"

	"troupe/internal/fault"
)

// A Certname names a node and the certificate that proves it. It is lower case,
// printable ASCII without a slash, and never "." or "..", so that it can stand
// in a URL and in a file name.
type Certname string

// maxCertname is generous: a common name has at most 64 characters by X.520,
// but Puppet's own CA signs longer ones.
const maxCertname = 255

// ParseCertname checks s against the rule of Puppet's VALID_CERTNAME
// (lib/puppet/x509/cert_provider.rb) and refuses upper case, as the CA does.
func ParseCertname(s string) (Certname, error) {
	switch {
	case s == "":
		return "", fault.New(fault.Invalid, "Certname must not be empty")
	case len(s) > maxCertname:
		return "", fault.New(fault.Invalid, "Certname is longer than %d characters", maxCertname)
	case s == "." || s == "..":
		return "", fault.New(fault.Invalid, "Certname %q is not a name", s)
	}
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '/' {
			return "", fault.New(fault.Invalid, "Certname %q must not contain unprintable or non-ASCII characters", s)
		}
		if c >= 'A' && c <= 'Z' {
			return "", fault.New(fault.Invalid, "Certname %q must be lower case", s)
		}
	}
	return Certname(s), nil
}

// Hostname returns the first label of the name, as $trusted['hostname'] does.
func (c Certname) Hostname() string {
	host, _, _ := strings.Cut(string(c), ".")
	return host
}

// Domain returns what follows the first dot, as $trusted['domain'] does; it is
// empty when there is none.
func (c Certname) Domain() string {
	_, domain, _ := strings.Cut(string(c), ".")
	return domain
}

// An Environment names a set of modules and manifests: letters, digits and
// underscores.
type Environment string

var validEnvironment = regexp.MustCompile(`\A\w+\z`)

// ParseEnvironment checks s against Puppet's rule for names of environments
// (lib/puppet/node/environment.rb, valid_name?).
func ParseEnvironment(s string) (Environment, error) {
	if len(s) > maxCertname || !validEnvironment.MatchString(s) {
		return "", fault.New(fault.Invalid, "The environment must be purely alphanumeric, not '%s'", s)
	}
	return Environment(s), nil
}
