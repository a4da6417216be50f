package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/authn"
	"troupe/internal/fault"
)

// A realFolder is a cadir in puppetserver's format: three certificates, of which
// one is revoked and one has only its line in the inventory; a second revoked
// serial of which nothing else is known; and a request.
type realFolder struct {
	dir   string
	web1  *x509.Certificate // signed
	web2  *x509.Certificate // signed, revoked
	web3  *big.Int          // in the inventory only
	lost  *big.Int          // revoked, otherwise unknown
	list  *x509.RevocationList
	plan  *creation
	other *issuer
}

func newRealFolder(tb testing.TB, h Hierarchy) realFolder {
	tb.Helper()
	f := realFolder{dir: tb.TempDir(), web3: big.NewInt(5), lost: big.NewInt(2)}
	f.plan = &creation{now: time.Now().Add(-1000 * time.Hour), lifetime: 5 * year, keyType: RSA2048, hierarchy: h, name: "Puppet CA: old.example.test", origin: "old"}
	made, err := f.plan.make()
	if err != nil {
		tb.Fatal(err)
	}
	if f.other, err = newIssuer(made.setup, 0); err != nil {
		tb.Fatal(err)
	}
	f.other.key = made.keys[made.setup.Key]
	f.web1, f.web2 = f.leaf(tb, "web1.example.test", 3), f.leaf(tb, "web2.example.test", 4)

	revokedAt := time.Now().Add(-10 * time.Hour)
	spec := crlSpec{issuer: f.other.cert.RawSubject, keyID: f.other.cert.SubjectKeyId, number: big.NewInt(2), thisUpdate: time.Now().Add(-time.Hour), nextUpdate: time.Now().Add(5 * year)}
	for _, n := range []*big.Int{f.web2.SerialNumber, f.lost} {
		line, err := newEntry(revocation{Serial: serialText(n), At: revokedAt, Reason: 1})
		if err != nil {
			tb.Fatal(err)
		}
		spec.entries = append(spec.entries, line)
	}
	der, err := spec.sign(f.other.key)
	if err != nil {
		tb.Fatal(err)
	}
	if f.list, err = x509.ParseRevocationList(der); err != nil {
		tb.Fatal(err)
	}
	f.write(tb, made, der)
	return f
}

func (f realFolder) leaf(tb testing.TB, name string, serial int64) *x509.Certificate {
	tb.Helper()
	key, err := newKey(EC256)
	if err != nil {
		tb.Fatal(err)
	}
	spec := certificateSpec{serial: big.NewInt(serial), publicKey: key.Public()}
	spec.notBefore, spec.notAfter = validity(f.plan.now, 5*year)
	if spec.extensions, err = leafExtensions(f.other, key.Public(), altNames{}.with(name), nil); err != nil {
		tb.Fatal(err)
	}
	if spec.subject, err = commonName(name); err != nil {
		tb.Fatal(err)
	}
	der, err := spec.sign(f.other.cert.RawSubject, f.other.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func (f realFolder) write(tb testing.TB, made foundation, list []byte) {
	tb.Helper()
	for _, dir := range []string{dirSigned, dirRequests} {
		if err := os.Mkdir(filepath.Join(f.dir, dir), 0o750); err != nil {
			tb.Fatal(err)
		}
	}
	key, err := encodeKey(f.other.key)
	if err != nil {
		tb.Fatal(err)
	}
	lists := string(listPEM(list))
	for _, a := range made.ancestors {
		lists += string(listPEM(a))
	}
	inventory := fmt.Sprintf("0x0001 %s %s /CN=Puppet CA: old.example.test\n", timeText(f.other.cert.NotBefore), timeText(f.other.cert.NotAfter))
	for _, c := range []*x509.Certificate{f.web1, f.web2} {
		inventory += inventoryLine{c.SerialNumber, c.NotBefore, c.NotAfter, c.Subject.CommonName}.String() + "\n"
	}
	inventory += fmt.Sprintf("0x%04X %s %s /CN=web3.example.test\n", f.web3, timeText(f.web1.NotBefore), timeText(f.web1.NotAfter))
	for name, text := range map[string]string{
		fileKey: string(key), fileCert: made.setup.Bundle, fileCRL: lists, fileInventory: inventory, fileSerial: "0006",
		fileInfra: "web1.example.test\n", fileInfraNums: "3\n",
		"signed/web1.example.test.pem":      string(certificatePEM(f.web1.Raw)),
		"signed/web2.example.test.pem":      string(certificatePEM(f.web2.Raw)),
		"signed/broken.example.test.pem":    "no certificate",
		"signed/stranger.example.test.pem":  string(realFile(tb, "leaf.pem")),
		"signed/.web9.example.test.pem.swp": "an editor's",
		"requests/web4.example.test.pem":    string(csrSpec{cn: "web4.example.test"}.pem(tb)),
	} {
		writeText(tb, filepath.Join(f.dir, name), 0o640, text)
	}
}

func (f realFolder) importInto(tb testing.TB) (*bench, Imported) {
	tb.Helper()
	b := &bench{dir: tb.TempDir(), jdir: tb.TempDir()}
	b.j = openJournal(tb, b.jdir)
	got, err := ImportFolder(tb.Context(), b.dir, b.j, f.dir, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	b.open(tb, Options{})
	return b, got
}

func TestAnImportedFolderGoesOnWithItsIssuer(t *testing.T) {
	for _, h := range []Hierarchy{Single, Intermediate} {
		t.Run(string(h), func(t *testing.T) {
			f := newRealFolder(t, h)
			b, got := f.importInto(t)
			problems := got.Problems
			got.Problems = nil
			if diff := cmp.Diff(Imported{Issuer: "Puppet CA: old.example.test", Signed: 2, Listed: 1, Requests: 1, Revoked: 2}, got); diff != "" {
				t.Errorf("imported (-want +got):\n%s", diff)
			}
			if len(problems) != 2 || !strings.HasPrefix(problems[0], "signed/broken.example.test.pem: ") || !strings.HasPrefix(problems[1], "signed/stranger.example.test.pem: issued by ") {
				t.Errorf("problems are %q, want the broken file and the stranger's", problems)
			}

			bundle, err := os.ReadFile(filepath.Join(f.dir, fileCert))
			if err != nil || !slices.Equal(b.Bundle(), bundle) {
				t.Errorf("the bundle's bytes changed: agents that pin them would fail (%v)", err)
			}
			if !b.Revoked(f.web2) || b.Revoked(f.web1) {
				t.Error("revocations were not taken over")
			}
			if got, want := b.listed(t), []string{"2", "4"}; !slices.Equal(got, want) {
				t.Errorf("revocation list has %v, want %v", got, want)
			}
			f.checkLater(t, b)

			cert := b.sign(t, "web5.example.test")
			if err := cert.CheckSignatureFrom(f.other.cert); err != nil {
				t.Errorf("a new certificate is not of the same issuer: %v", err)
			}
			if err := b.Sign(t.Context(), "web4.example.test", 0); err != nil {
				t.Errorf("sign imported request: %v", err)
			}
			if err := b.Revoke(t.Context(), "web3.example.test"); err != nil {
				t.Errorf("revoke a certificate of which only the inventory tells: %v", err)
			}
			if got, want := b.listed(t), []string{"2", "4", "5"}; !slices.Equal(got, want) {
				t.Errorf("revocation list has %v, want %v", got, want)
			}
			_, err = ImportFolder(t.Context(), b.dir, b.j, f.dir, Options{})
			if fault.KindOf(err) != fault.Conflict {
				t.Errorf("a second import: %v, want a refusal", err)
			}
		})
	}
}

// checkLater holds that agents take the published list for newer than the imported one.
func (f realFolder) checkLater(t *testing.T, b *bench) {
	t.Helper()
	block, rest := pem.Decode(b.CRLs())
	l, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if l.Number.Cmp(f.list.Number) <= 0 || !l.ThisUpdate.After(f.list.ThisUpdate) {
		t.Errorf("list %d of %s is not later than the imported list %d of %s", l.Number, l.ThisUpdate, f.list.Number, f.list.ThisUpdate)
	}
	lists := 1
	for block, rest = pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		lists++
	}
	if want := len(f.other.bundle); lists != want {
		t.Errorf("%d lists are published, want one for each of the %d certificates", lists, want)
	}
}

// A puppetserver writes the name of its issuer as UTF8String into certificates and lists; the certificate of an issuer from
// outside may have another type of string.
func TestTheIssuersNameMayHaveAnotherEncodingInAFolder(t *testing.T) {
	f := newRealFolder(t, Single)
	other := *f.other.cert
	other.RawSubject = bytes.Replace(other.RawSubject, []byte{asn1.TagUTF8String, 27}, []byte{asn1.TagPrintableString, 27}, 1)
	if bytes.Equal(other.RawSubject, f.other.cert.RawSubject) {
		t.Fatal("both names have one encoding")
	}
	f.other.cert = &other
	f.web1 = f.leaf(t, "web1.example.test", 3)
	line, err := newEntry(revocation{Serial: serialText(f.web1.SerialNumber), At: time.Now().Add(-time.Hour), Reason: 1})
	if err != nil {
		t.Fatal(err)
	}
	spec := crlSpec{issuer: other.RawSubject, keyID: other.SubjectKeyId, number: big.NewInt(3), thisUpdate: time.Now().Add(-time.Hour), nextUpdate: time.Now().Add(year), entries: []entry{line}}
	list, err := spec.sign(f.other.key)
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(f.dir, "signed/web1.example.test.pem"), 0o640, string(certificatePEM(f.web1.Raw)))
	writeText(t, filepath.Join(f.dir, fileCRL), 0o640, string(listPEM(list)))

	b, got := f.importInto(t)
	if cert := b.certificate(t, "web1.example.test"); !cert.Equal(f.web1) {
		t.Errorf("web1 has another certificate: %+v", got)
	}
	if !b.Revoked(f.web1) {
		t.Error("web1 is not revoked any more")
	}
	if authn.SameName(other.RawSubject, f.web1.RawSubject) {
		t.Error("two names are the same")
	}
}

func TestAnInterruptedImportIsFinishedByTheNext(t *testing.T) {
	f := newRealFolder(t, Single)
	dir, j := t.TempDir(), openJournal(t, t.TempDir())
	a, err := openEmpty(t.Context(), dir, j, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := openCADir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := c.authority()
	if err != nil {
		t.Fatal(err)
	}
	m := &importing{a: a, files: files, got: &Imported{}}
	for _, step := range []func() error{
		func() error { return m.certificates(t.Context(), c) }, func() error { return m.requests(t.Context(), c) }, c.close, a.Close,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(t.Context(), dir, j, testOptions()); fault.KindOf(err) != fault.Conflict {
		t.Errorf("Open after half an import: %v, want a refusal", err)
	}
	if _, err := ImportFolder(t.Context(), dir, j, f.dir, Options{}); err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: dir, j: j}
	b.open(t, Options{})
	states := b.states(t)
	if len(states) != 3 {
		t.Errorf("names are %v, want web1, web2 and web4 once each", states)
	}
}

func TestAnExportedFolderIsImportedAgain(t *testing.T) {
	for _, h := range []Hierarchy{CrossSigned, Intermediate, Single} {
		t.Run(string(h), func(t *testing.T) {
			b := newBench(t, Options{Name: "Puppet CA: puppet.example.test", KeyType: RSA2048, Hierarchy: h})
			kept, gone := b.sign(t, "kept.example.test"), b.sign(t, "gone.example.test")
			b.submit(t, "waiting.example.test")
			if err := b.Revoke(t.Context(), "gone.example.test"); err != nil {
				t.Fatal(err)
			}
			folder := filepath.Join(t.TempDir(), "export")
			if err := b.Export(t.Context(), folder); err != nil {
				t.Fatal(err)
			}
			for name, mode := range map[string]os.FileMode{
				"": 0o750, fileKey: 0o640, fileCert: 0o644, fileCRL: 0o644, filePublic: 0o644, fileInventory: 0o640, fileSerial: 0o644,
				"signed": 0o750, "requests": 0o750, "signed/kept.example.test.pem": 0o644, fileInfra: 0o640, fileInfraCRL: 0o644, fileInfraNums: 0o644,
			} {
				info, err := os.Stat(filepath.Join(folder, name))
				if err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: mode %v, %v; want %v", name, info.Mode().Perm(), err, mode)
				}
			}
			serial, err := os.ReadFile(filepath.Join(folder, fileSerial))
			if err != nil || string(serial) != "0001" {
				t.Errorf("serial is %q, %v; want 0001", serial, err)
			}
			if err := b.Export(t.Context(), folder); fault.KindOf(err) != fault.Conflict {
				t.Errorf("export into a folder that is not empty: %v, want a refusal", err)
			}

			dir, j := t.TempDir(), openJournal(t, t.TempDir())
			got, err := ImportFolder(t.Context(), dir, j, folder, Options{})
			if err != nil || len(got.Problems) > 0 {
				t.Fatalf("import of the export: %+v, %v", got, err)
			}
			again := &bench{dir: dir, j: j}
			again.open(t, Options{})
			if diff := cmp.Diff(b.states(t), again.states(t)); diff != "" {
				t.Errorf("names changed on the way out and in (-before +after):\n%s", diff)
			}
			if !again.Revoked(gone) || again.Revoked(kept) {
				t.Error("revocations changed on the way out and in")
			}
		})
	}
}

func TestAnECAuthorityCannotBeExported(t *testing.T) {
	b := newBench(t, testOptions())
	if err := b.Export(t.Context(), filepath.Join(t.TempDir(), "export")); fault.KindOf(err) != fault.Conflict {
		t.Errorf("Export: %v, want a refusal", err)
	}
}

func TestExternalFilesBecomeAnAuthority(t *testing.T) {
	f := newRealFolder(t, Intermediate)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bundle, key, lists := read(fileCert), read(fileKey), read(fileCRL)
	otherKey, err := newKey(EC256)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := encodeKey(otherKey)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := pem.Decode(bundle)
	firstList, _ := pem.Decode(lists)
	for name, test := range map[string]struct {
		e    External
		want string
	}{
		"wrong key":         {External{wrong, bundle, lists}, "Could not find certificate matching private key"},
		"no root":           {External{key, certificatePEM(first.Bytes), lists}, "Leaf certificate could not be validated: "},
		"no list of root":   {External{key, bundle, listPEM(firstList.Bytes)}, "No revocation list of Root of Puppet CA: old.example.test was given"},
		"no key":            {External{nil, bundle, lists}, "The private key is unreadable: "},
		"everything there":  {External{key, bundle, lists}, ""},
		"other order of it": {External{key, reversedPEM(bundle), reversedPEM(lists)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, j := t.TempDir(), openJournal(t, t.TempDir())
			_, err := ImportExternal(t.Context(), dir, j, test.e, Options{})
			if test.want != "" {
				if fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Message(err), test.want) {
					t.Errorf("ImportExternal: %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			b := &bench{dir: dir, j: j}
			b.open(t, Options{})
			cert := b.sign(t, "web1.example.test")
			if err := cert.CheckSignatureFrom(f.other.cert); err != nil {
				t.Error(err)
			}
		})
	}
}

func reversedPEM(text []byte) []byte {
	var blocks [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, pem.EncodeToMemory(block))
	}
	slices.Reverse(blocks)
	return slices.Concat(blocks...)
}

func TestLinesOfAnInventory(t *testing.T) {
	for line, want := range map[string]string{
		"0x000D 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=node13.example.test":   "d node13.example.test",
		"0x00af 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /O=x/CN=node.example.test": "af node.example.test",
		"0x1 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=Puppet CA: a b":           "1 Puppet CA: a b",
		"1 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=a":                          "error",
		"0xZZ 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=a":                       "error",
		"0x-1 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=a":                       "error",
		"0x1 yesterday 2031-11-20T08:17:46UTC /CN=a":                                     "error",
		"0x1 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /O=a":                         "error",
		"0x1 2026-11-20T08:17:46UTC":                                                     "error",
	} {
		got := "error"
		if l, err := parseInventoryLine(line); err == nil {
			got = serialText(l.serial) + " " + l.name
		}
		if got != want {
			t.Errorf("line %q gives %q, want %q", line, got, want)
		}
	}
}
