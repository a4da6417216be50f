package authz

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file guards an HTTP API: it finds out who asks and applies the rules.

// GuardOptions tunes a Guard.
type GuardOptions struct {
	Rules      *Rules                       // nil means Default()
	Revoked    func(*x509.Certificate) bool // nil means that nothing is revoked
	CustomOIDs map[string]string            // OID to short name, of custom_trusted_oid_mapping.yaml
	Log        *slog.Logger                 // nil discards
}

// A Guard admits requests. It is safe for concurrent use.
type Guard struct {
	policy  atomic.Pointer[policy]
	revoked func(*x509.Certificate) bool
	log     *slog.Logger
}

// policy is what one reload replaces as a whole: rules, and the short names of
// extensions (OID to name) that rules and $trusted know.
type policy struct {
	rules *Rules
	oids  map[string]string
}

// NewGuard returns a Guard.
func NewGuard(o GuardOptions) *Guard {
	g := &Guard{revoked: o.Revoked, log: telemetry.Discard(o.Log)}
	if g.revoked == nil {
		g.revoked = func(*x509.Certificate) bool { return false }
	}
	if o.Rules == nil {
		o.Rules = Default()
	}
	g.Reload(o.Rules, o.CustomOIDs)
	return g
}

// Reload replaces the rules, and the short names of extensions, for all requests
// that come after it.
func (g *Guard) Reload(r *Rules, customOIDs map[string]string) {
	g.policy.Store(&policy{rules: r.withCustomOIDs(customOIDs), oids: customOIDs})
}

// Rules returns the rules in force.
func (g *Guard) Rules() *Rules { return g.policy.Load().rules }

// Admit returns who asks if the rules let them do what they ask. A refusal is a
// *fault.Error whose message is the body that puppetserver sends: Denied for
// 403, Invalid for 400.
//
// The path that is judged is r.URL.Path, the very text that handlers route and
// parse, so that the two can never disagree. Put [Normalize] in front to accept
// the repeated slashes that puppetserver accepts.
func (g *Guard) Admit(r *http.Request) (Identity, error) {
	now := g.policy.Load()
	id, err := g.identify(r, now)
	if err != nil {
		return Identity{}, err
	}
	if err := checkPath(r.URL.Path); err != nil {
		return Identity{}, err
	}
	if id.Certificate != nil && g.revoked(id.Certificate) {
		return Identity{}, fault.Wrap(fault.Denied, fmt.Errorf("%s: its certificate %x is revoked", id, id.Certificate.SerialNumber),
			"The certificate of '%s' was revoked. To let this node in again, remove its ssl folder and sign a new request.", id.Certname)
	}
	v := now.rules.Check(Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query()}, id)
	if v.Allowed {
		return id, nil
	}
	return Identity{}, denied(r, id, v)
}

// denied words a refusal as rules.clj does: little for the client, the rest for the log.
func denied(r *http.Request, id Identity, v Verdict) error {
	telemetry.Note(r.Context(), slog.String("auth_rule", v.Rule))
	if v.Rule == "" {
		return fault.Wrap(fault.Denied, fmt.Errorf("%s: %s", id, v.Reason), "global deny all - no rules matched")
	}
	method := ":" + strings.ToLower(r.Method)
	cause := fmt.Errorf("%s (authenticated: %t) denied by rule '%s': %s", id, id.Authenticated, v.Rule, v.Reason)
	return fault.Wrap(fault.Denied, cause,
		"Forbidden request: %s (method %s). Please see the server logs for details.", r.URL.Path, method)
}

// String names the client for the log.
func (id Identity) String() string {
	if id.Certname == "" {
		return id.RemoteAddr
	}
	return fmt.Sprintf("%s(%s)", id.Certname, id.RemoteAddr)
}

// identify finds out who asks: by the certificate that the TLS handshake
// verified, or only by the headers when auth.conf says so.
func (g *Guard) identify(r *http.Request, now *policy) (Identity, error) {
	if now.rules.allowHeaderCert {
		return g.identifyByHeaders(r, now.oids)
	}
	g.warnHeaders(r)
	id := Identity{RemoteAddr: r.RemoteAddr}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return id, nil
	}
	id.Certificate = r.TLS.VerifiedChains[0][0]
	id.Extensions = Extensions(id.Certificate, now.oids)
	id.Certname = commonName(id.Certificate)
	id.Authenticated = id.Certname != ""
	if !id.Authenticated {
		g.log.WarnContext(r.Context(), "certificate has no usable common name: client treated as unauthenticated",
			slog.String("subject", id.Certificate.Subject.String()))
	}
	return id, nil
}

// warnHeaders tells an operator whose proxy sends identities in vain.
func (g *Guard) warnHeaders(r *http.Request) {
	for _, h := range []string{headerVerify, headerDN, headerCert} {
		if r.Header.Get(h) != "" {
			g.log.WarnContext(r.Context(), "identity header ignored: auth.conf does not set allow-header-cert-info",
				slog.String("header", h))
		}
	}
}
