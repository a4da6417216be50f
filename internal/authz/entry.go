package authz

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file defines the entries of allow and deny lists: whom they mean and when
// they match (acl.clj, new-domain and match?).

type entryKind uint8

const (
	anyone     entryKind = iota // "*"
	exactName                   // "agent1.example.com"
	opaqueName                  // "agent1": no dot, and matched with its own case
	suffix                      // "*.example.com"
	backRef                     // "$1.example.com"
	pattern                     // "/^agent\d+/"
	extensions                  // {extensions: {pp_role: [web, db]}}
)

type entry struct {
	deny       bool
	kind       entryKind
	text       string // as written, for reasons
	name       string // normalised: of exactName and suffix; as written: of opaqueName and backRef
	pattern    *javaPattern
	extensions []extension
}

// An extension condition holds when the certificate's extension has one of the
// values.
type extension struct {
	key      string // as written: short name or dotted OID
	name     string // short name, when the OID has one
	oid      string // dotted, when the name is known
	values   []string
	altNames *altNames // of the key subject-alt-name
}

// altNames matches when one name of any listed sort is in the certificate.
type altNames struct{ dns, ip, mail, uri []string }

// The forms of a name, as new-domain tells them apart, in its order.
var (
	exactForm  = regexp.MustCompile(`^(\w[-\w]*\.)+[-\w]+$`)
	suffixForm = regexp.MustCompile(`^\*(\.(\w[-\w]*))+$`)
	refForm    = regexp.MustCompile(`\$\d+`)
	opaqueForm = regexp.MustCompile(`^\w[-.@\w]*$`)
	// captured is what a back reference may insert. The original inserts anything.
	capturedForm = regexp.MustCompile(`^[-.@\w]+$`)
)

var errInvalidName = errors.New("not a name, *.suffix, $1, /regex/ or *")

// newEntry reads one name of an allow or deny list.
func newEntry(deny bool, text string) (entry, error) {
	e := entry{deny: deny, text: text}
	switch {
	case text == "*":
		e.kind = anyone
	case exactForm.MatchString(text):
		e.kind, e.name = exactName, normalName(text)
	case suffixForm.MatchString(text):
		e.kind, e.name = suffix, normalName(text[len("*."):])
	case refForm.MatchString(text):
		e.kind, e.name = backRef, strings.ToLower(text)
	case opaqueForm.MatchString(text):
		e.kind, e.name = opaqueName, text
	case len(text) >= 2 && strings.HasPrefix(text, "/") && strings.HasSuffix(text, "/"):
		p, err := compileJava(text[1 : len(text)-1])
		if err != nil {
			return entry{}, err
		}
		e.kind, e.pattern = pattern, p
	default:
		return entry{}, errInvalidName
	}
	return e, nil
}

// matches reports whether the entry means this identity. A certificate's DNS
// alternative names count as further names (acl.clj, match?).
func (e *entry) matches(id Identity, captures []string) (bool, error) {
	switch e.kind {
	case anyone:
		return true, nil
	case extensions:
		for i := range e.extensions {
			if !e.extensions[i].matches(id) {
				return false, nil
			}
		}
		return true, nil
	case backRef:
		inner, err := e.interpolate(captures)
		if err != nil {
			return false, err
		}
		return inner.matches(id, nil)
	default:
		return e.matchesName(string(id.Certname)) ||
			id.Certificate != nil && slices.ContainsFunc(id.Certificate.DNSNames, e.matchesName), nil
	}
}

func (e *entry) matchesName(name string) bool {
	switch e.kind {
	case exactName:
		return normalName(name) == e.name
	case opaqueName:
		// The original compares the entry as a whole with the labels of the name, so
		// one that has a dot or upper case never matches.
		return normalName(name) == e.name && !strings.Contains(e.name, ".")
	case suffix:
		n := normalName(name)
		return n == e.name || strings.HasSuffix(n, "."+e.name)
	case pattern:
		return e.pattern.find(name) != nil
	default:
		return false
	}
}

// normalName folds case and drops trailing dots, as comparing the labels of two
// names does (split-domain).
func normalName(name string) string {
	return strings.TrimRight(strings.ToLower(name), ".")
}

// interpolate puts captured text in the places of $1, $2, … and reads the result
// as an entry of its own.
func (e *entry) interpolate(captures []string) (entry, error) {
	asPattern := strings.HasPrefix(e.name, "/")
	var failed error
	text := refForm.ReplaceAllStringFunc(e.name, func(ref string) string {
		n, err := strconv.Atoi(ref[1:])
		if err != nil || n < 1 || n > len(captures) || !capturedForm.MatchString(captures[n-1]) {
			failed = fmt.Errorf("%s in %q stands for nothing that can be part of a name", ref, e.text)
			return ""
		}
		if asPattern && !e.deny { // a captured dot stands for itself where it would let more in
			return regexp.QuoteMeta(captures[n-1])
		}
		return captures[n-1]
	})
	if failed != nil {
		return entry{}, failed
	}
	inner, err := newEntry(e.deny, text)
	if err != nil {
		return entry{}, fmt.Errorf("%q became %q: %w", e.text, text, err)
	}
	return inner, nil
}

func (x *extension) matches(id Identity) bool {
	if x.altNames != nil {
		return id.Certificate != nil && x.altNames.match(id.Certificate)
	}
	value, ok := x.lookup(id)
	return ok && slices.Contains(x.values, value)
}

// lookup finds the extension's value. Extensions outside Puppet's arcs are not
// part of $trusted but may be named in rules by their OID.
func (x *extension) lookup(id Identity) (string, bool) {
	for _, key := range []string{x.name, x.oid} {
		if value, ok := id.Extensions[key]; ok && key != "" {
			return value, true
		}
	}
	if id.Certificate == nil || x.oid == "" {
		return "", false
	}
	for _, e := range id.Certificate.Extensions {
		if e.Id.String() == x.oid {
			return extensionText(e), true
		}
	}
	return "", false
}

func (a *altNames) match(cert *x509.Certificate) bool {
	for _, ip := range cert.IPAddresses {
		if slices.Contains(a.ip, ip.String()) {
			return true
		}
	}
	for _, uri := range cert.URIs {
		if slices.Contains(a.uri, uri.String()) {
			return true
		}
	}
	return intersect(a.dns, cert.DNSNames) || intersect(a.mail, cert.EmailAddresses)
}

func intersect(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
