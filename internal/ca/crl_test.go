package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

func parsePublished(tb testing.TB, text []byte) []*x509.RevocationList {
	tb.Helper()
	all, err := parseLists(text)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestEveryCertificateOfTheBundleHasAList(t *testing.T) {
	for _, h := range []Hierarchy{CrossSigned, Intermediate, Single} {
		t.Run(string(h), func(t *testing.T) {
			o := testOptions()
			o.Hierarchy = h
			b := newBench(t, o)
			bundle, err := parseCertificates(b.Bundle())
			if err != nil {
				t.Fatal(err)
			}
			lists := parsePublished(t, b.CRLs())
			if len(lists) != len(bundle) {
				t.Fatalf("%d lists for %d certificates", len(lists), len(bundle))
			}
			for i, c := range bundle {
				if err := lists[i].CheckSignatureFrom(c); err != nil {
					t.Errorf("list %d: %v", i, err)
				}
				if !lists[i].ThisUpdate.Before(time.Now().Add(-23 * time.Hour)) {
					t.Errorf("list %d begins at %s, want a day ago", i, lists[i].ThisUpdate)
				}
			}
			first := bundle[0]
			if selfSigned := first.CheckSignatureFrom(first) == nil; selfSigned == (h == Intermediate) {
				t.Errorf("the first certificate is self-signed: %t", selfSigned)
			}
		})
	}
}

func TestAListGrowsNewerWithEachRevocation(t *testing.T) {
	b := newBench(t, testOptions())
	before := parsePublished(t, b.CRLs())[0]
	again := parsePublished(t, b.CRLs())[0]
	if string(before.Raw) != string(again.Raw) {
		t.Error("the list changed without a revocation")
	}
	for _, name := range []string{"a.example.test", "b.example.test"} {
		b.sign(t, name)
		if err := b.Revoke(t.Context(), mustName(t, name)); err != nil {
			t.Fatal(err)
		}
		after := parsePublished(t, b.CRLs())[0]
		if after.Number.Cmp(before.Number) <= 0 || after.ThisUpdate.Before(before.ThisUpdate) || len(after.RevokedCertificateEntries) != len(before.RevokedCertificateEntries)+1 {
			t.Errorf("list %d with %d entries is not a newer one than %d with %d", after.Number, len(after.RevokedCertificateEntries), before.Number, len(before.RevokedCertificateEntries))
		}
		if reason := after.RevokedCertificateEntries[0].ReasonCode; reason != reasonKey {
			t.Errorf("reason is %d, want key compromise", reason)
		}
		before = after
	}
}

func TestNumbersAndDatesNeverFallBehindAnImport(t *testing.T) {
	imported := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	at := journal.At(imported)
	for _, test := range []struct {
		name   string
		number *big.Int
	}{
		{"a counter", big.NewInt(7)},
		{"one of a troupe whose clock ran ahead", new(big.Int).SetUint64(uint64(at) + 1<<40)},
	} {
		f := crlFloor{number: test.number, at: imported, time: at}
		last, date := test.number, f.at
		for _, later := range []time.Duration{0, time.Millisecond, time.Hour, 23 * time.Hour, 25 * time.Hour, 48 * time.Hour} {
			now := journal.At(imported.Add(later))
			if n := f.numberAt(now); n.Cmp(last) <= 0 {
				t.Errorf("%s, %s later: number %d is not greater than %d", test.name, later, n, last)
			} else {
				last = n
			}
			if d := f.dateAt(now); d.Before(date) || !d.After(f.at) {
				t.Errorf("%s, %s later: date %s is not after the imported %s", test.name, later, d, f.at)
			} else {
				date = d
			}
		}
	}
}

func TestListsAreRenewedBeforeTheyEnd(t *testing.T) {
	now := time.Now()
	o := testOptions()
	o.Now = func() time.Time { return now }
	o.CALifetime = 2 * year
	b := newBench(t, o)
	before := parsePublished(t, b.CRLs())
	if err := b.refreshCRLs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := parsePublished(t, b.CRLs()); string(got[0].Raw) != string(before[0].Raw) || string(got[1].Raw) != string(before[1].Raw) {
		t.Error("young lists were renewed")
	}
	now = now.Add(year + 2*24*time.Hour)
	if err := b.refreshCRLs(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := parsePublished(t, b.CRLs())
	if after[0].Number.Cmp(before[0].Number) <= 0 {
		t.Error("the issuer's list was not renewed after a year")
	}
	if after[1].Number.Cmp(before[1].Number) <= 0 || !after[1].NextUpdate.After(before[1].NextUpdate) {
		t.Error("the root's list was not renewed a year before its end")
	}
}

func TestUploadedListsReplaceOlderOnesOfAncestors(t *testing.T) {
	o := testOptions()
	o.Hierarchy = Intermediate
	b := newBench(t, o)
	lists := parsePublished(t, b.CRLs())
	own, root := lists[0], lists[1]
	rootKey, err := b.key(root.AuthorityKeyId)
	if err != nil {
		t.Fatal(err)
	}
	list := func(key crypto.Signer, number int64, change func(*crlSpec)) []byte {
		spec := crlSpec{issuer: root.RawIssuer, keyID: root.AuthorityKeyId, number: big.NewInt(number), thisUpdate: time.Now().Add(-time.Hour), nextUpdate: time.Now().Add(year)}
		if change != nil {
			change(&spec)
		}
		der, err := spec.sign(key)
		if err != nil {
			t.Fatal(err)
		}
		return listPEM(der)
	}
	otherKey, err := newKey(EC256)
	if err != nil {
		t.Fatal(err)
	}
	revokeIssuer, err := newEntry(revocation{Serial: serialText(b.Issuer().SerialNumber), At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		body []byte
		want string
	}{
		{"nothing", nil, "No valid CRLs submitted."},
		{"no list", b.Bundle(), `Request body holds a PEM block "CERTIFICATE" where only "X509 CRL" is expected`},
		{"forged", list(otherKey, 9, nil), "Invalid certs and/or CRLs: the list of Root of Puppet CA: puppet.example.test is not signed by it"},
		{"ended", list(rootKey, 9, func(s *crlSpec) { s.nextUpdate = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }), "Invalid certs and/or CRLs: the list of Root of Puppet CA: puppet.example.test ended at 2020-01-01T00:00:00UTC"},
		{"two of one number", append(list(rootKey, 9, nil), list(rootKey, 9, func(s *crlSpec) { s.nextUpdate = s.nextUpdate.Add(time.Hour) })...), "Could not determine newest CRL."},
		{"revokes the issuer", list(rootKey, 9, func(s *crlSpec) { s.entries = []entry{revokeIssuer} }), "Invalid certs and/or CRLs: the list of Root of Puppet CA: puppet.example.test revokes Puppet CA: puppet.example.test, under which every agent would be shut out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantFault(t, b.UpdateCRLs(t.Context(), test.body), fault.Invalid, test.want)
		})
	}

	newer := list(rootKey, 9, nil)
	for _, body := range [][]byte{newer, newer, append(newer, newer...), listPEM(root.Raw), listPEM(own.Raw)} {
		if err := b.UpdateCRLs(t.Context(), body); err != nil {
			t.Fatal(err)
		}
		got := parsePublished(t, b.CRLs())
		if got[1].Number.Int64() != 9 || string(got[0].RawIssuer) != string(own.RawIssuer) {
			t.Errorf("published are %d of %s and %d", got[0].Number, got[0].Issuer, got[1].Number)
		}
	}
}

func TestExpirationsNameCertificatesAndLists(t *testing.T) {
	b := newBench(t, testOptions())
	e := b.Expirations()
	bundle, err := parseCertificates(b.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range bundle {
		cn := c.Subject.CommonName
		if e.CACerts[cn] != timeText(c.NotAfter) || e.CRLs[cn] != timeText(parsePublished(t, b.CRLs())[i].NextUpdate) {
			t.Errorf("expirations of %s are %s and %s", cn, e.CACerts[cn], e.CRLs[cn])
		}
	}
}

func TestAListMayEndItsPEM(t *testing.T) {
	b := newBench(t, testOptions())
	text := b.CRLs()
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			t.Fatalf("text after the last block: %q", text)
		}
		text = rest
	}
}
