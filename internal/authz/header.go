package authz

import (
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file reads the identity that a proxy sends in headers when auth.conf sets
// allow-header-cert-info (ring_middleware.clj).

const (
	headerVerify = "X-Client-Verify"
	headerDN     = "X-Client-DN"
	headerCert   = "X-Client-Cert"
)

// maxHeaderCert bounds the certificate in a header, percent-encoded.
const maxHeaderCert = 64 << 10

// identifyByHeaders trusts the proxy alone: a client certificate of this very
// connection means nothing here.
func (g *Guard) identifyByHeaders(r *http.Request, oids map[string]string) (Identity, error) {
	id := Identity{RemoteAddr: r.RemoteAddr}
	cert, err := certificateFromHeader(r.Header.Get(headerCert))
	if err != nil {
		return id, err
	}
	if cert != nil {
		id.Certificate, id.Extensions = cert, Extensions(cert, oids)
	}
	dn := r.Header.Get(headerDN)
	if dn == "" {
		return id, nil
	}
	if id.Certname = certnameOfDN(dn); id.Certname == "" {
		g.log.WarnContext(r.Context(), "no common name in the X-Client-DN header: client treated as unauthenticated", slog.String("dn", dn))
		return id, nil
	}
	verify := r.Header.Get(headerVerify)
	if id.Authenticated = verify == "SUCCESS"; !id.Authenticated {
		g.log.ErrorContext(r.Context(), "client not verified by the X-Client-Verify header",
			slog.String("certname", string(id.Certname)), slog.String("verify", verify))
	}
	return id, nil
}

// certificateFromHeader decodes exactly one percent-encoded PEM certificate.
// Plus signs stay plus signs, for base64 uses them.
func certificateFromHeader(text string) (*x509.Certificate, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > maxHeaderCert {
		return nil, fault.New(fault.Invalid, "The x-client-cert header is longer than %d bytes", maxHeaderCert)
	}
	decoded, err := url.PathUnescape(text)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "Unable to URL decode the x-client-cert header: %v", err)
	}
	var certs []*x509.Certificate
	for rest := []byte(decoded); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "Unable to parse x-client-cert into certificate: %v", err)
		}
		certs = append(certs, cert)
	}
	switch len(certs) {
	case 0:
		return nil, fault.New(fault.Invalid, "No certs found in PEM read from x-client-cert")
	case 1:
		return certs[0], nil
	}
	return nil, fault.New(fault.Invalid, "Only 1 PEM should be supplied for x-client-cert but %d found", len(certs))
}

// certnameOfDN reads the common name of a distinguished name in the form of RFC
// 2253 ("CN=a,O=b") or in OpenSSL's old one ("/O=b/CN=a"). It is empty when
// there is none.
func certnameOfDN(dn string) puppet.Certname {
	if strings.HasPrefix(dn, "/") {
		for part := range strings.SplitSeq(dn, "/") {
			if key, value, ok := strings.Cut(part, "="); ok && key == "CN" {
				return certname(value)
			}
		}
		return ""
	}
	var name puppet.Certname
	for _, rdn := range slices.Backward(splitDN(dn)) {
		key, value, ok := strings.Cut(rdn, "=")
		// Escapes, quotes and names of several parts are refused rather than read: no
		// certname needs them, and two readings of one name would be two identities.
		// The real server takes "+O=x" and ";O=x" for parts of the name.
		if !ok || strings.ContainsAny(rdn, "\\\"+;") {
			return ""
		}
		if strings.EqualFold(strings.TrimSpace(key), "CN") {
			name = certname(strings.TrimSpace(value)) // the first counts
		}
	}
	return name
}

// splitDN cuts at the commas that are neither escaped nor quoted.
func splitDN(dn string) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(dn); i++ {
		switch c := dn[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == ',':
			parts = append(parts, dn[start:i])
			start = i + 1
		}
	}
	return append(parts, dn[start:])
}
