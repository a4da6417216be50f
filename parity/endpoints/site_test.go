package endpoints

// This file makes a CA, in the form of a Puppet Server's folder, with all identities that ask. Both servers start on it.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

const (
	serverName = "puppet.example.test"
	agentName  = "agent.example.test"
	adminName  = "admin.example.test"
)

// A site is a CA folder, an ssldir of its server, and the certificates of all identities.
type site struct {
	cadir, ssldir string
	roots         *x509.CertPool
	identities    map[string]tls.Certificate
}

// authority is what signs: a certificate and its key.
type authority struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
	last int64 // serial
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := troupetest.TempDir(t)
	s := &site{cadir: filepath.Join(dir, "ca"), ssldir: filepath.Join(dir, "ssl"), roots: x509.NewCertPool(), identities: map[string]tls.Certificate{}}
	ours, foreign := newAuthority(t, "Puppet CA: "+serverName), newAuthority(t, "Puppet CA: elsewhere.example.test")
	s.roots.AddCert(ours.cert)

	soon := time.Now().AddDate(5, 0, 0)
	cli := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 39}, Value: mustMarshal(t, "true")}
	role := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 1, 13}, Value: mustMarshal(t, "web")}
	s.identities["server"] = ours.issue(t, serverName, soon, cli)
	s.identities["agent"] = ours.issue(t, agentName, soon, role)
	s.identities["other"] = ours.issue(t, "other.example.test", soon)
	s.identities["cli"] = ours.issue(t, "cli.example.test", soon, cli)
	s.identities["admin"] = ours.issue(t, adminName, soon, cli)
	s.identities["expired"] = ours.issue(t, "expired.example.test", time.Now().Add(-time.Hour))
	s.identities["revoked"] = ours.issue(t, "revoked.example.test", soon)
	s.identities["foreign"] = foreign.issue(t, agentName, soon)
	s.write(t, ours)
	return s
}

func mustMarshal(t *testing.T, text string) []byte {
	t.Helper()
	der, err := asn1.MarshalWithParams(text, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(0, 0, -1), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return &authority{cert: sign(t, template, template, key.Public(), key), key: key, last: 1}
}

func sign(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a *authority) issue(t *testing.T, name string, until time.Time, extra ...pkix.Extension) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.last++
	names := []string{name}
	if name == serverName {
		names = []string{"localhost", "puppet", serverName} // in the order in which a member writes its own
	}
	cert := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: name}, DNSNames: names,
		NotBefore: time.Now().AddDate(0, 0, -1), NotAfter: until, BasicConstraintsValid: true, ExtraExtensions: extra,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// write lays out both folders as puppetserver 7.9.5 does.
func (s *site) write(t *testing.T, ours *authority) {
	t.Helper()
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().AddDate(0, 0, -1), NextUpdate: time.Now().AddDate(5, 0, 0),
		RevokedCertificateEntries: []x509.RevocationListEntry{
			{SerialNumber: s.identities["revoked"].Leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Minute), ReasonCode: 1},
		},
	}, ours.cert, ours.key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(ours.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	caCert, crlText := encode("CERTIFICATE", ours.cert.Raw), encode("X509 CRL", crl)
	files := map[string]string{
		"ca_crt.pem": caCert, "ca_crl.pem": crlText, "infra_crl.pem": crlText,
		"ca_key.pem": encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(ours.key)),
		"ca_pub.pem": encode("PUBLIC KEY", public),
		"serial":     fmt.Sprintf("%04X", ours.last+1), "infra_inventory.txt": "", "infra_serials": "",
	}
	var inventory strings.Builder
	for _, as := range []string{"server", "agent", "other", "cli", "admin", "expired", "revoked"} {
		cert := s.identities[as].Leaf
		name := cert.Subject.CommonName
		files["signed/"+name+".pem"] = encode("CERTIFICATE", cert.Raw)
		const stamp = "2006-01-02T15:04:05UTC"
		fmt.Fprintf(&inventory, "0x%04X %s %s /CN=%s\n", cert.SerialNumber, cert.NotBefore.UTC().Format(stamp), cert.NotAfter.UTC().Format(stamp), name)
	}
	files["inventory.txt"] = inventory.String()
	for name, text := range files {
		writeFile(t, filepath.Join(s.cadir, name), text)
	}
	mkdir(t, filepath.Join(s.cadir, "requests"))

	own := s.identities["server"]
	key, err := x509.MarshalECPrivateKey(own.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	ownPublic, err := x509.MarshalPKIXPublicKey(own.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"certs/ca.pem": caCert, "crl.pem": crlText, "certs/" + serverName + ".pem": encode("CERTIFICATE", own.Leaf.Raw),
		"private_keys/" + serverName + ".pem": encode("EC PRIVATE KEY", key), "public_keys/" + serverName + ".pem": encode("PUBLIC KEY", ownPublic),
	} {
		writeFile(t, filepath.Join(s.ssldir, name), text)
	}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// certificateRequest makes a request with a key of its own.
func certificateRequest(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE REQUEST", der)
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
