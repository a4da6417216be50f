// Package authz decides who may do what: it reads puppetserver's auth.conf and
// judges requests exactly as trapperkeeper-authorization does.
//
// An [Identity] is who asks: the name and the extensions of a verified
// certificate. [Rules] are what auth.conf says, [Default] what it says when
// there is none: the first rule that matches method, path and query decides,
// and inside a rule a deny beats an allow. A [Guard] joins both in front of an
// HTTP API: handlers call [Guard.Admit] and get the identity or the refusal.
//
// Deliberate differences from the original are small and all on the side of
// refusing: see the comments at [Rules.Check], [Parse] and translateJava.
package authz

import (
	"net/url"
	"slices"
	"strings"
)

// Rules are the rules of one auth.conf in the order in which they are asked.
// They are immutable.
type Rules struct {
	rules           []rule
	allowHeaderCert bool
}

// AllowHeaderCertInfo reports whether clients are named by the headers of a
// proxy that ended their TLS connection (X-Client-Verify, X-Client-DN,
// X-Client-Cert) instead of by their own certificate.
func (r *Rules) AllowHeaderCertInfo() bool { return r.allowHeaderCert }

// Len returns the number of rules.
func (r *Rules) Len() int { return len(r.rules) }

// A Request is what the rules look at.
type Request struct {
	Method string // GET, HEAD, …
	Path   string // decoded, without the query
	Query  url.Values
}

// A Verdict says what was decided and by which rule.
type Verdict struct {
	Allowed  bool
	Rule     string   // name of the rule that decided; "" when none matched
	Captures []string // what the groups of a regex rule matched
	Reason   string   // for logs
}

type rule struct {
	name            string
	order           int
	prefix          string       // of a path rule, or the literal beginning of a regex rule
	pattern         *javaPattern // nil for a path rule
	methods         []string     // upper case; nil means any
	query           []queryParam
	unauthenticated bool
	entries         []entry // deny entries first, otherwise in the order of the file
}

type queryParam struct {
	key    string
	values []string // one of them must be given
}

// Check judges a request. It does what rules.clj's allowed? does, with one
// difference: where the original lets text captured from the URL turn into a
// wildcard or a pattern ("/catalog/*" would be allowed to everybody by "$1"),
// or answers 500 because the text is no valid name, Check refuses.
func (r *Rules) Check(q Request, id Identity) Verdict {
	for i := range r.rules {
		rule := &r.rules[i]
		captures, ok := rule.match(q)
		if !ok {
			continue
		}
		v := Verdict{Rule: rule.name, Captures: captures}
		v.Allowed, v.Reason = rule.admits(id, captures)
		return v
	}
	return Verdict{Reason: "no rule matched"}
}

func (r *rule) match(q Request) (captures []string, ok bool) {
	if !r.matchMethod(q.Method) || !strings.HasPrefix(q.Path, r.prefix) {
		return nil, false
	}
	for _, p := range r.query {
		if !slices.ContainsFunc(q.Query[p.key], func(v string) bool { return slices.Contains(p.values, v) }) {
			return nil, false
		}
	}
	if r.pattern == nil {
		return nil, true
	}
	groups := r.pattern.find(q.Path)
	if groups == nil {
		return nil, false
	}
	return groups[1:], true
}

func (r *rule) matchMethod(method string) bool {
	if r.methods == nil {
		return true
	}
	for _, m := range r.methods {
		if strings.EqualFold(m, method) {
			return true
		}
	}
	return false
}

// admits asks the entries of a rule that matched.
func (r *rule) admits(id Identity, captures []string) (allowed bool, reason string) {
	switch {
	case r.unauthenticated:
		return true, "allowed without authentication"
	case !id.Authenticated || id.Certname == "":
		return false, "the client is not authenticated"
	}
	for i := range r.entries {
		e := &r.entries[i]
		matched, err := e.matches(id, captures)
		switch {
		case err != nil:
			return false, err.Error()
		case matched && e.deny:
			return false, "denied by " + e.text
		case matched:
			return true, "allowed by " + e.text
		}
	}
	return false, "no allow entry matched"
}
