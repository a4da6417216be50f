package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The files in testdata/puppetserver were made by puppetserver 7.9.5's own
// functions (create-agent-extensions, sign-certificate, revoke-multiple).

func realFile(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "puppetserver", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func realBlock(tb testing.TB, name string) []byte {
	tb.Helper()
	block, _ := pem.Decode(realFile(tb, name))
	if block == nil {
		tb.Fatalf("%s has no PEM block", name)
	}
	return block.Bytes
}

func realIssuer(tb testing.TB) *issuer {
	tb.Helper()
	i, err := newIssuer(setupRecord{Bundle: string(realFile(tb, "ca.pem"))}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if i.key, err = parseKey(realFile(tb, "cakey.pem")); err != nil {
		tb.Fatal(err)
	}
	return i
}

func TestALeafIsByteForByteWhatPuppetserverSigns(t *testing.T) {
	i := realIssuer(t)
	want, err := x509.ParseCertificate(realBlock(t, "leaf.pem"))
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(realBlock(t, "csr.pem"))
	if err != nil {
		t.Fatal(err)
	}
	extensions, err := leafExtensions(i, csr.PublicKey, newAltNames(csr.DNSNames, csr.IPAddresses).with(csr.Subject.CommonName), requestedExtensions(csr))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := commonName(csr.Subject.CommonName)
	if err != nil {
		t.Fatal(err)
	}
	spec := certificateSpec{serial: want.SerialNumber, subject: subject, notBefore: want.NotBefore, notAfter: want.NotAfter, publicKey: csr.PublicKey, extensions: extensions}
	got, err := spec.sign(i.cert.RawSubject, i.key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Raw) {
		t.Errorf("the certificate differs from puppetserver's:\n got %x\nwant %x", got, want.Raw)
	}
}

func TestAnAuthorityHasPuppetserversExtensions(t *testing.T) {
	want, err := x509.ParseCertificate(realBlock(t, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := caExtensions(want.SubjectKeyId, want.SubjectKeyId)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want.Extensions) {
		t.Fatalf("%d extensions, want %d", len(got), len(want.Extensions))
	}
	for i, e := range want.Extensions {
		if !got[i].Id.Equal(e.Id) || got[i].Critical != e.Critical || !bytes.Equal(got[i].Value, e.Value) {
			t.Errorf("extension %d is %v, want %v", i, got[i], e)
		}
	}
}

func TestARevocationListIsByteForByteWhatPuppetserverSigns(t *testing.T) {
	i := realIssuer(t)
	for _, name := range []string{"crl.pem", "crl2.pem"} {
		want, err := x509.ParseRevocationList(realBlock(t, name))
		if err != nil {
			t.Fatal(err)
		}
		spec := crlSpec{issuer: i.cert.RawSubject, keyID: i.cert.SubjectKeyId, number: want.Number, thisUpdate: want.ThisUpdate, nextUpdate: want.NextUpdate}
		for _, e := range want.RevokedCertificateEntries {
			line, err := newEntry(revocation{Serial: serialText(e.SerialNumber), At: e.RevocationTime, Reason: e.ReasonCode})
			if err != nil {
				t.Fatal(err)
			}
			spec.entries = append(spec.entries, line)
		}
		got, err := spec.sign(i.key)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseRevocationList(got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(parsed.RawTBSRevocationList, want.RawTBSRevocationList) {
			t.Errorf("%s differs from puppetserver's:\n got %x\nwant %x", name, parsed.RawTBSRevocationList, want.RawTBSRevocationList)
		}
	}
}

func TestSerialsAreRandomPositiveAndMarkTheirMember(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		n, err := newSerial("member-a")
		if err != nil {
			t.Fatal(err)
		}
		if n.Sign() <= 0 || n.BitLen() > 128 {
			t.Fatalf("serial %x is not a positive number of at most 128 bits", n)
		}
		if seen[n.String()] {
			t.Fatalf("serial %x came twice", n)
		}
		seen[n.String()] = true
		if bit := n.Bit(119); bit != 0 {
			t.Fatalf("serial %x has its 119th bit set", n)
		}
	}
	a, err := newSerial("member-a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := newSerial("member-b")
	if err != nil {
		t.Fatal(err)
	}
	if new(big.Int).Rsh(a, 120).Cmp(new(big.Int).Rsh(b, 120)) == 0 {
		t.Error("serials of two members begin with the same byte")
	}
}

func TestACertificateIsValidSinceYesterday(t *testing.T) {
	now := time.Date(2026, 11, 21, 8, 17, 46, 5, time.UTC)
	before, after := validity(now, defaultTTL)
	if got, want := timeText(before), "2026-11-20T08:17:46UTC"; got != want {
		t.Errorf("notBefore is %s, want %s", got, want)
	}
	if got, want := timeText(after), "2031-11-20T08:17:46UTC"; got != want {
		t.Errorf("notAfter is %s, want %s", got, want)
	}
}
