package ca

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // one of the fingerprints that the protocol shows, not a protection
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"troupe/internal/puppet"
)

// This file describes certificates and requests as the CA API shows them.

// The states of a name.
const (
	StateRequested = "requested"
	StateSigned    = "signed"
	StateRevoked   = "revoked"
)

// Status is what the CA knows about a name: of its certificate when there is one,
// else of its request.
type Status struct {
	Name         string
	State        string
	DNSAltNames  []string // "DNS:…"
	AltNames     []string // "IP:…", then "DNS:…"
	Extensions   []AuthorizationExtension
	Fingerprints Fingerprints
	Certificate  bool // the rest is known only of a certificate
	NotBefore    time.Time
	NotAfter     time.Time
	Serial       *big.Int
}

// An AuthorizationExtension grants its bearer something: its OID lies in
// Puppet's arc ppAuthCertExt.
type AuthorizationExtension struct{ Name, Value string }

// Fingerprints are upper-case hex pairs with colons between them.
type Fingerprints struct {
	SHA1    string `json:"SHA1"`
	SHA256  string `json:"SHA256"`
	SHA512  string `json:"SHA512"`
	Default string `json:"default"`
}

// Puppet's arcs of extensions.
const (
	arcRegistered    = "1.3.6.1.4.1.34380.1.1"
	arcPrivate       = "1.3.6.1.4.1.34380.1.2"
	arcAuthorization = "1.3.6.1.4.1.34380.1.3"
	oidCLIAuth       = "1.3.6.1.4.1.34380.1.3.39"
)

func under(arc, oid string) bool { return strings.HasPrefix(oid, arc+".") }

func certificateStatus(name string, cert *x509.Certificate) Status {
	s := status(name, cert.Raw, cert.Extensions)
	s.State, s.Certificate = StateSigned, true
	s.NotBefore, s.NotAfter, s.Serial = cert.NotBefore, cert.NotAfter, cert.SerialNumber
	s.setAltNames(newAltNames(cert.DNSNames, cert.IPAddresses))
	return s
}

func requestStatus(name string, csr *x509.CertificateRequest) Status {
	s := status(name, csr.Raw, csr.Extensions)
	s.State = StateRequested
	s.setAltNames(newAltNames(csr.DNSNames, csr.IPAddresses))
	return s
}

func status(name string, der []byte, extensions []pkix.Extension) Status {
	sum1, sum256, sum512 := sha1.Sum(der), sha256.Sum256(der), sha512.Sum512(der) //nolint:gosec // see the import
	s := Status{Name: name, Fingerprints: Fingerprints{
		SHA1: fingerprint(sum1[:]), SHA256: fingerprint(sum256[:]), SHA512: fingerprint(sum512[:]), Default: fingerprint(sum256[:]),
	}}
	for _, e := range extensions {
		oid := e.Id.String()
		if !under(arcAuthorization, oid) {
			continue
		}
		short, ok := puppet.OIDName(oid)
		if !ok {
			short = oid
		}
		s.Extensions = append(s.Extensions, AuthorizationExtension{Name: short, Value: extensionText(e.Value)})
	}
	return s
}

// extensionText reads the value of a Puppet extension: a DER string, or bare
// bytes as very old agents sent them.
func extensionText(value []byte) string {
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(value, &raw)
	if err == nil && len(rest) == 0 && raw.Class == asn1.ClassUniversal && !raw.IsCompound {
		return string(raw.Bytes)
	}
	return string(value)
}

func fingerprint(sum []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

func (s *Status) setAltNames(a altNames) {
	for _, n := range a.dns {
		s.DNSAltNames = append(s.DNSAltNames, "DNS:"+n)
	}
	s.AltNames = a.list()
}

// timeText is how puppetserver writes times in JSON and in the inventory
// (format-date-time): the zone is a name, and always UTC here.
func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05") + "UTC" }

// MarshalJSON writes the keys in puppetserver's order, which for certificates is
// that of a Clojure hash map and so differs from that of requests.
func (s Status) MarshalJSON() ([]byte, error) {
	prefix, suffix := s.render()
	return join(prefix, s.State, suffix), nil
}

func join(prefix []byte, state string, suffix []byte) []byte {
	b := make([]byte, 0, len(prefix)+len(state)+len(suffix))
	return append(append(append(b, prefix...), state...), suffix...)
}

// render returns the JSON before and after the state, the only part that changes.
func (s Status) render() (prefix, suffix []byte) {
	before, after := []field{{"name", s.Name}}, []field(nil)
	if s.Certificate {
		before = append(before, field{"dns_alt_names", list(s.DNSAltNames)})
		after = append(after, field{"authorization_extensions", object(s.Extensions)}, field{"subject_alt_names", list(s.AltNames)},
			field{"not_before", timeText(s.NotBefore)}, field{"fingerprints", s.Fingerprints}, field{"not_after", timeText(s.NotAfter)},
			field{"serial_number", s.Serial}, field{"fingerprint", s.Fingerprints.Default})
	} else {
		after = append(after, field{"dns_alt_names", list(s.DNSAltNames)}, field{"subject_alt_names", list(s.AltNames)},
			field{"authorization_extensions", object(s.Extensions)}, field{"fingerprint", s.Fingerprints.Default}, field{"fingerprints", s.Fingerprints})
	}
	return append(append([]byte("{"), fields(before)...), `,"state":"`...), append(append([]byte(`",`), fields(after)...), '}')
}

type field struct {
	key   string
	value any
}

type object []AuthorizationExtension

func fields(all []field) []byte {
	var b bytes.Buffer
	for i, f := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		encodeInto(&b, f.key)
		b.WriteByte(':')
		extensions, ok := f.value.(object)
		if !ok {
			encodeInto(&b, f.value)
			continue
		}
		b.WriteByte('{')
		for i, e := range extensions {
			if i > 0 {
				b.WriteByte(',')
			}
			encodeInto(&b, e.Name)
			b.WriteByte(':')
			encodeInto(&b, e.Value)
		}
		b.WriteByte('}')
	}
	return b.Bytes()
}

// encodeInto writes JSON without escaping HTML, as puppetserver does. The values
// are strings, lists and numbers of our own: encoding cannot fail.
func encodeInto(b *bytes.Buffer, v any) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("ca: encode %T: %v", v, err))
	}
	b.Truncate(b.Len() - 1) // the newline
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// UnmarshalJSON reads what MarshalJSON writes, for clients of the API.
func (s *Status) UnmarshalJSON(b []byte) error {
	var w struct {
		Name         string            `json:"name"`
		State        string            `json:"state"`
		DNSAltNames  []string          `json:"dns_alt_names"`
		AltNames     []string          `json:"subject_alt_names"`
		Extensions   map[string]string `json:"authorization_extensions"`
		Fingerprints Fingerprints      `json:"fingerprints"`
		NotBefore    string            `json:"not_before"`
		NotAfter     string            `json:"not_after"`
		Serial       *big.Int          `json:"serial_number"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*s = Status{Name: w.Name, State: w.State, DNSAltNames: w.DNSAltNames, AltNames: w.AltNames, Fingerprints: w.Fingerprints, Serial: w.Serial, Certificate: w.Serial != nil}
	for _, name := range sortedKeys(w.Extensions) {
		s.Extensions = append(s.Extensions, AuthorizationExtension{Name: name, Value: w.Extensions[name]})
	}
	if !s.Certificate {
		return nil
	}
	var err error
	if s.NotBefore, err = parseTimeText(w.NotBefore); err != nil {
		return err
	}
	s.NotAfter, err = parseTimeText(w.NotAfter)
	return err
}

func parseTimeText(s string) (time.Time, error) {
	return time.ParseInLocation("2006-01-02T15:04:05", strings.TrimSuffix(strings.TrimSuffix(s, "UTC"), "Z"), time.UTC)
}
