//go:build parity

package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// This file reads the folder of an authority, makes one older by thousands of certificates, and makes the authority from
// outside that `puppetserver ca import` takes.

// contents is what a folder says about its past.
type contents struct {
	next      uint64 // serial number
	inventory []string
	number    *big.Int // of the revocation list
	revoked   int
}

func readFolder(t *testing.T, dir string) contents {
	t.Helper()
	var c contents
	var err error
	if c.next, err = strconv.ParseUint(readFile(t, filepath.Join(dir, "serial")), 16, 64); err != nil {
		t.Fatal(err)
	}
	c.inventory = strings.Split(strings.TrimSpace(readFile(t, filepath.Join(dir, "inventory.txt"))), "\n")
	list := readList(t, dir)
	c.number, c.revoked = list.Number, len(list.RevokedCertificateEntries)
	return c
}

// readList is the list of the authority that signs. Those of the authorities above it stand in the same file.
func readList(t *testing.T, dir string) *x509.RevocationList {
	t.Helper()
	signs := openAuthority(t, dir).cert
	text := []byte(readFile(t, filepath.Join(dir, "ca_crl.pem")))
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(list.RawIssuer, signs.RawSubject) {
			return list
		}
	}
	t.Fatalf("%s/ca_crl.pem has no list of %s", dir, signs.Subject)
	return nil
}

// serialOf is the serial number of the last line of a name.
func (c contents) serialOf(t *testing.T, name string) uint64 {
	t.Helper()
	for _, line := range slices.Backward(c.inventory) {
		if strings.HasSuffix(line, "/CN="+name) {
			var serial uint64
			if _, err := fmt.Sscanf(line, "0x%X ", &serial); err != nil {
				t.Fatal(err)
			}
			return serial
		}
	}
	t.Errorf("the inventory does not have %s", name)
	return 0
}

// grow signs until the folder has signed certificates more, and revokes the first of them. No server takes part: a
// certificate is that of an agent which the server has signed, with another name, serial number and signature, and the
// files have the form in which the server writes them.
func grow(t *testing.T, dir string, signed, revoked int) {
	t.Helper()
	a, past := openAuthority(t, dir), readFolder(t, dir)
	block, _ := pem.Decode([]byte(readFile(t, filepath.Join(dir, "signed", "veteran723.example.test.pem"))))
	model, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	serial := func(n int) *big.Int { return new(big.Int).SetUint64(past.next + uint64(n)) }
	name := func(n int) string { return fmt.Sprintf("old%04d.example.test", n) }

	var wait sync.WaitGroup
	const hands = 2
	for hand := range hands {
		wait.Go(func() {
			for n := hand; n < signed; n += hands {
				der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
					SerialNumber: serial(n), Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: name(n)}}},
					NotBefore: model.NotBefore, NotAfter: model.NotAfter, ExtraExtensions: renamed(model.Extensions, name(n)),
				}, a.cert, model.PublicKey, a.key)
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, "signed", name(n)+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()

	list := readList(t, dir)
	inventory := bytes.NewBufferString(readFile(t, filepath.Join(dir, "inventory.txt")))
	const stamp = "2006-01-02T15:04:05UTC"
	for n := range signed {
		fmt.Fprintf(inventory, "0x%04X %s %s /CN=%s\n", serial(n), model.NotBefore.Format(stamp), model.NotAfter.Format(stamp), name(n))
		if n < revoked {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial(n), RevocationTime: time.Now(), ReasonCode: 1})
		}
	}
	list.Number = new(big.Int).Add(list.Number, big.NewInt(int64(revoked)))
	writeFile(t, filepath.Join(dir, "inventory.txt"), inventory.String())
	writeFile(t, filepath.Join(dir, "serial"), fmt.Sprintf("%04X", serial(signed)))
	writeFile(t, filepath.Join(dir, "ca_crl.pem"), a.list(t, list.Number, list.RevokedCertificateEntries))
}

// renamed are the extensions with an alternative name that is name.
func renamed(extensions []pkix.Extension, name string) []pkix.Extension {
	all := slices.Clone(extensions)
	for i := range all {
		if all[i].Id.Equal(oidAltName) {
			all[i].Value = append([]byte{0x30, byte(len(name) + 2), 0x82, byte(len(name))}, name...) // below 128 letters
		}
	}
	return all
}

// list is a revocation list of the authority.
func (a authority) list(t *testing.T, number *big.Int, entries []x509.RevocationListEntry) string {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: number, ThisUpdate: time.Now().AddDate(0, 0, -1), NextUpdate: time.Now().AddDate(5, 0, 0), RevokedCertificateEntries: entries,
	}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// outsideFiles are what `puppetserver ca import` asks for.
type outsideFiles struct{ key, bundle, lists string }

// writeOutsideAuthority makes a company's root and an intermediate for Puppet below it.
func writeOutsideAuthority(t *testing.T, dir string) outsideFiles {
	t.Helper()
	root := newIssuer(t, "Company Root", nil)
	issuer := newIssuer(t, "Company Puppet CA", &root)
	f := outsideFiles{filepath.Join(dir, "outside", "key.pem"), filepath.Join(dir, "outside", "bundle.pem"), filepath.Join(dir, "outside", "lists.pem")}
	writeFile(t, f.key, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(issuer.key.(*rsa.PrivateKey))})))
	var bundle []byte
	for _, c := range []*x509.Certificate{issuer.cert, root.cert} {
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	writeFile(t, f.bundle, string(bundle))
	writeFile(t, f.lists, issuer.list(t, big.NewInt(0), nil)+root.list(t, big.NewInt(7), nil))
	return f
}

// newIssuer is an authority below another, or a root.
func newIssuer(t *testing.T, name string, above *authority) authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: name, Organization: []string{"Company"}}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(9, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	parent := authority{template, key}
	if above != nil {
		parent = *above
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}
