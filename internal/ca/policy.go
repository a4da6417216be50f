package ca

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file judges requests. The texts are puppetserver's, since they end on the
// terminals of people who use its command line.

// Policy says who is signed and for how long. The zero Policy signs only what a
// person signs, for five years.
type Policy struct {
	Autosign Autosign

	AllowDuplicateCerts          bool // puppet.conf allow_duplicate_certs: a new request replaces the old certificate
	AllowSubjectAltNames         bool // ca.conf allow-subject-alt-names
	AllowAuthorizationExtensions bool // ca.conf allow-authorization-extensions
	AllowAutoRenewal             bool // ca.conf allow-auto-renewal
	RevokeLater                  bool // of two certificates that members have signed for one name and different keys, the later is revoked

	TTL            time.Duration // of certificates; 0 means 5 years
	AutoRenewalTTL time.Duration // of certificates of agents that renew by themselves; 0 means 90 days
	MinRSABits     int           // 0 means 2048
}

const (
	defaultTTL        = 5 * year
	defaultRenewalTTL = 90 * 24 * time.Hour
	defaultMinRSABits = 2048
	maxTTL            = 50 * year // max-ca-ttl
)

func (p *Policy) check() error {
	if p.TTL == 0 {
		p.TTL = defaultTTL
	}
	if p.AutoRenewalTTL == 0 {
		p.AutoRenewalTTL = defaultRenewalTTL
	}
	if p.MinRSABits == 0 {
		p.MinRSABits = defaultMinRSABits
	}
	if err := checkTTL(p.TTL); err != nil {
		return err
	}
	return checkTTL(p.AutoRenewalTTL)
}

func checkTTL(ttl time.Duration) error {
	if ttl < time.Second || ttl > maxTTL {
		return fault.New(fault.Invalid, "Config setting ca_ttl must have a value below %d", int64(maxTTL/time.Second))
	}
	return nil
}

// ttl returns how long the certificate of a request is valid: shorter when the
// agent says that it renews by itself.
func (p *Policy) ttl(csr *x509.CertificateRequest) time.Duration {
	if p.AllowAutoRenewal && renewsItself(csr) {
		return p.AutoRenewalTTL
	}
	return p.TTL
}

// renewsItself looks for the attribute pp_auth_auto_renew, which is an attribute
// of the request and not an extension: agents set it since 8.2.
func renewsItself(csr *x509.CertificateRequest) bool {
	var info struct {
		Raw        asn1.RawContent
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0,set"`
	}
	if _, err := asn1.Unmarshal(csr.RawTBSCertificateRequest, &info); err != nil {
		return false
	}
	for _, raw := range info.Attributes {
		var attribute struct {
			ID     asn1.ObjectIdentifier
			Values []asn1.RawValue `asn1:"set"`
		}
		if _, err := asn1.Unmarshal(raw.FullBytes, &attribute); err != nil {
			continue
		}
		if attribute.ID.String() == arcAuthorization+".2" && len(attribute.Values) > 0 {
			return string(attribute.Values[0].Bytes) == "true"
		}
	}
	return false
}

// judge refuses what may not be signed, in puppetserver's order (validate-csr). The key comes before the signature, since
// Go checks no signature of a key that is too short for it.
func (p *Policy) judge(name string, csr *x509.CertificateRequest) (puppet.Certname, error) {
	certname, err := checkSubject(name, csr.Subject.CommonName)
	if err != nil {
		return "", err
	}
	for _, check := range []func(*x509.CertificateRequest) error{p.checkAltNames, p.checkAuthorization, checkExtensions, p.checkKey, checkSignature} {
		if err := check(csr); err != nil {
			return "", err
		}
	}
	return certname, nil
}

const trySigningAgain = "Then restart the puppetserver and try signing this certificate again."

// checkAltNames is ensure-subject-alt-names-allowed!, and refuses what
// validate-subject-alt-names! would refuse in the server's own certificate.
func (p *Policy) checkAltNames(csr *x509.CertificateRequest) error {
	cn := csr.Subject.CommonName
	names := newAltNames(csr.DNSNames, csr.IPAddresses).list()
	if !p.AllowSubjectAltNames && len(names) > 0 {
		if len(names) == 1 && names[0] == "DNS:"+cn {
			return nil
		}
		var extra []string
		for _, n := range names {
			if n != "DNS:"+cn {
				extra = append(extra, n)
			}
		}
		return fault.New(fault.Invalid, "CSR '%s' contains extra subject alternative names (%s), which are disallowed. "+
			"To allow subject alternative names, set allow-subject-alt-names to true in your ca.conf file. %s", cn, strings.Join(extra, ", "), trySigningAgain)
	}
	if len(csr.EmailAddresses) > 0 || len(csr.URIs) > 0 {
		return fault.New(fault.Invalid, "Only DNS and IP names are allowed in the Subject Alternative Names extension")
	}
	for _, n := range csr.DNSNames {
		if err := checkAltDNS(n); err != nil {
			return err
		}
	}
	return nil
}

// checkAuthorization is ensure-no-authorization-extensions!.
func (p *Policy) checkAuthorization(csr *x509.CertificateRequest) error {
	if p.AllowAuthorizationExtensions {
		return nil
	}
	for _, e := range csr.Extensions {
		if under(arcAuthorization, e.Id.String()) {
			return fault.New(fault.Invalid, "CSR '%s' contains an authorization extension, which is disallowed. "+
				"To allow authorization extensions, set allow-authorization-extensions to true in your ca.conf file. %s", csr.Subject.CommonName, trySigningAgain)
		}
	}
	return nil
}

// checkExtensions is validate-extensions!: only Puppet's arcs, and never the
// extension that gives access to this very authority.
func checkExtensions(csr *x509.CertificateRequest) error {
	var bad []string
	seen := map[string]bool{}
	for _, e := range csr.Extensions {
		oid := e.Id.String()
		if seen[oid] {
			return fault.New(fault.Invalid, "CSR '%s' contains the extension %s more than once", csr.Subject.CommonName, oid)
		}
		seen[oid] = true
		if !allowedExtension(oid) {
			bad = append(bad, oid)
		}
	}
	if bad != nil {
		return fault.New(fault.Invalid, "Found extensions that are not permitted: %s", strings.Join(bad, ", "))
	}
	return nil
}

func allowedExtension(oid string) bool {
	return oid == knownOIDs().altName.String() || under(arcAuthorization, oid) && oid != oidCLIAuth || under(arcRegistered, oid) || under(arcPrivate, oid)
}

func checkSignature(csr *x509.CertificateRequest) error {
	if err := csr.CheckSignature(); err != nil {
		return fault.Wrap(fault.Invalid, err, "CSR contains a public key that does not correspond to the signing key")
	}
	return nil
}

// checkKey refuses short keys, which puppetserver signs.
func (p *Policy) checkKey(csr *x509.CertificateRequest) error {
	if key, ok := csr.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < p.MinRSABits {
		return fault.New(fault.Invalid, "CSR '%s' has an RSA key of %d bits; the shortest that is signed has %d. "+
			"Remove the agent's ssl folder, set keylength to at least %d in its puppet.conf and run it again.",
			csr.Subject.CommonName, key.N.BitLen(), p.MinRSABits, p.MinRSABits)
	}
	return nil
}

// requestedExtensions returns what goes from a request into its certificate: all
// but alternative names, which are composed anew. None is critical, or TLS
// libraries would refuse the certificate for an extension that they cannot know.
func requestedExtensions(csr *x509.CertificateRequest) []pkix.Extension {
	var all []pkix.Extension
	altName := knownOIDs().altName
	for _, e := range csr.Extensions {
		if e.Id.Equal(altName) {
			continue
		}
		value := e.Value
		if rest, err := asn1.Unmarshal(value, new(asn1.RawValue)); err != nil || len(rest) > 0 {
			value = utf8String(value) // bare text, of very old agents: puppetserver gives it its type
		}
		all = append(all, pkix.Extension{Id: e.Id, Value: value})
	}
	return all
}

func utf8String(text []byte) []byte {
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: text})
	if err != nil {
		panic("ca: encode a string: " + err.Error()) // of bytes in memory: cannot fail
	}
	return der
}

// maxRequest is the size of a request in PEM form; a real one has 2 KB.
const maxRequest = 64 << 10

// parseRequest reads a request in PEM form.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxRequest {
		return nil, fault.New(fault.TooLarge, "Certificate request has %d bytes, more than %d", len(text), maxRequest)
	}
	ders, err := pemBlocks(text, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
	if err != nil {
		return nil, err
	}
	if len(ders) != 1 {
		return nil, fault.New(fault.Invalid, "Request body must hold one certificate request in PEM form, not %d", len(ders))
	}
	csr, err := decodeRequest(ders[0])
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "Certificate request could not be parsed: %v", err)
	}
	if csr.PublicKey == nil {
		return nil, fault.New(fault.Invalid, "Certificate request has a key of an unknown type: use RSA or EC")
	}
	if _, err := x509.MarshalPKIXPublicKey(csr.PublicKey); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "Certificate request has a key of an unknown type: use RSA or EC")
	}
	return csr, nil
}

// decodeRequest parses a request. Of several common names puppetserver takes the
// first, and Go the last: the name that is judged must be the one that is shown.
func decodeRequest(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	commonName := knownOIDs().commonName
	for _, n := range csr.Subject.Names {
		if text, ok := n.Value.(string); ok && n.Type.Equal(commonName) {
			csr.Subject.CommonName = text
			break
		}
	}
	return csr, nil
}
