package authz

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"

	"troupe/internal/puppet"
)

// This file says who asks, and reads the names and extensions out of a certificate.

// Identity is who asks. The zero Identity is anonymous.
type Identity struct {
	Certname      puppet.Certname // "" = anonymous
	Authenticated bool
	Extensions    map[string]string // Puppet's extensions, by short name, else by dotted OID
	Certificate   *x509.Certificate
	RemoteAddr    string
}

// Trusted returns $trusted as a manifest sees it.
func (id Identity) Trusted() puppet.Trusted {
	if !id.Authenticated {
		return puppet.Trusted{}
	}
	return puppet.Trusted{
		Authenticated: "remote",
		Certname:      id.Certname,
		Extensions:    id.Extensions,
		Hostname:      id.Certname.Hostname(),
		Domain:        id.Certname.Domain(),
	}
}

// The arcs whose extensions appear in $trusted (lib/puppet/ssl/certificate.rb,
// custom_extensions).
const (
	arcRegistered = "1.3.6.1.4.1.34380.1.1."
	arcPrivate    = "1.3.6.1.4.1.34380.1.2."
	arcAuth       = puppet.ArcAuth
)

// Extensions returns the extensions of a certificate that Puppet knows about: by
// the short name that custom gives to their OID, else by Puppet's own, else by
// dotted OID.
func Extensions(cert *x509.Certificate, custom map[string]string) map[string]string {
	var out map[string]string
	for _, e := range cert.Extensions {
		oid := e.Id.String()
		if !strings.HasPrefix(oid, arcRegistered) && !strings.HasPrefix(oid, arcPrivate) && !strings.HasPrefix(oid, arcAuth) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[shortName(oid, custom)] = extensionText(e)
	}
	return out
}

// shortName prefers Puppet's own name to a custom one, as get-oid-mappings in
// puppetserver's certificate_authority.clj does.
func shortName(oid string, custom map[string]string) string {
	if name, ok := puppet.OIDName(oid); ok {
		return name
	}
	if name := custom[oid]; name != "" {
		return name
	}
	return oid
}

// extensionText decodes the DER string inside an extension. Certificates of
// Puppet 3 carry the bare bytes, which are taken as they are (PUP-3560).
func extensionText(e pkix.Extension) string {
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(e.Value, &raw)
	if err != nil || len(rest) > 0 || raw.Class != asn1.ClassUniversal || raw.IsCompound {
		return string(e.Value)
	}
	if raw.Tag == asn1.TagBMPString {
		var s string
		if _, err := asn1.Unmarshal(e.Value, &s); err == nil {
			return s
		}
	}
	return string(raw.Bytes)
}

// commonName returns the name in a certificate as Puppet writes names: lower
// case. It is empty when there is none or when it cannot name a node.
func commonName(cert *x509.Certificate) puppet.Certname {
	return certname(cert.Subject.CommonName)
}

func certname(s string) puppet.Certname {
	name, err := puppet.ParseCertname(strings.ToLower(s))
	if err != nil {
		return ""
	}
	return name
}
