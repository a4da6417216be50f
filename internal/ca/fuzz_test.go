package ca

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/fault"
)

// Whatever a client sends as a request must be refused in words or be described
// and judged without a panic.
func FuzzRequest(f *testing.F) {
	f.Add(realFile(f, "csr.pem"))
	f.Add(realFile(f, "renewing.csr.pem"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		csr, err := parseRequest(text)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Fatalf("refused without words: %v", err)
			}
			return
		}
		if _, err := requestStatus("x", csr).MarshalJSON(); err != nil {
			t.Fatal(err)
		}
		p := Policy{AllowSubjectAltNames: true, AllowAuthorizationExtensions: true, AllowAutoRenewal: true}
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		p.ttl(csr)
		name, err := p.judge(csr.Subject.CommonName, csr)
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatalf("judged without words: %v", err)
		}
		for _, e := range csr.Extensions {
			if err == nil && e.Id.String() == oidCLIAuth {
				t.Fatalf("%s would be signed with pp_cli_auth", name)
			}
		}
	})
}

// The same with the content of DER, which a fuzzer reaches more easily.
func FuzzRequestDER(f *testing.F) {
	block, _ := pem.Decode(realFile(f, "csr.pem"))
	f.Add(block.Bytes)
	f.Fuzz(func(_ *testing.T, der []byte) {
		csr, err := parseRequest(requestPEM(der))
		if err != nil {
			return
		}
		renewsItself(csr)
		for _, e := range csr.Extensions {
			extensionText(e.Value)
		}
	})
}

func FuzzImportFolder(f *testing.F) {
	f.Add(realFile(f, "ca.pem"), realFile(f, "cakey.pem"), realFile(f, "crl2.pem"), []byte("0x000D 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=node13.example.test\n"), realFile(f, "leaf.pem"))
	f.Fuzz(func(t *testing.T, bundle, key, lists, inventory, cert []byte) {
		if files, err := newAuthorityFiles(bundle, key, lists); err == nil {
			files.foundation()
		}
		for _, l := range parseInventory(inventory, func(string, ...any) {}) {
			if _, err := parseInventoryLine(l.String()); err != nil {
				t.Fatalf("line %q is not read again: %v", l, err)
			}
		}
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, dirSigned), 0o700); err != nil {
			t.Fatal(err)
		}
		writeText(t, filepath.Join(dir, dirSigned, "a.pem"), 0o600, string(cert))
		c, err := openCADir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for range c.files(dirSigned, []string{"CERTIFICATE"}, func(string, ...any) {}) {
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzLists(f *testing.F) {
	f.Add(realFile(f, "crl.pem"))
	f.Add(realFile(f, "crl2.pem"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lists, err := parseLists(text)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("refused without words: %v", err)
			}
			return
		}
		for _, l := range lists {
			sortableNumber(l.Number)
			foreignRevocations(l)
		}
	})
}

// A csr_attributes.yaml is the operator's, but the extensions that it gives go into a certificate.
func FuzzCSRAttributes(f *testing.F) {
	f.Add("custom_attributes:\n  challengePassword: x\nextension_requests:\n  pp_role: web\n  1.3.6.1.4.1.34380.1.2.1: 7\n")
	f.Add("extension_requests: {pp_cli_auth: true}\n")
	f.Add("---\n...\n--- &a\nextension_requests: *a\n")
	path := filepath.Join(f.TempDir(), "csr_attributes.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		writeText(t, path, 0o600, text)
		extensions, err := LoadCSRAttributes(path)
		if err != nil {
			if !strings.HasPrefix(err.Error(), path) {
				t.Errorf("%q is refused without the file's name: %v", text, err)
			}
			return
		}
		for name, value := range extensions {
			if _, err := grantableOID(name); err != nil {
				t.Errorf("%s=%q would be granted: %v", name, value, err)
			}
		}
	})
}

// Whatever certificate x509 reads, ours can be described, folded and compared.
func FuzzCertificate(f *testing.F) {
	for _, name := range []string{"ca.pem", "leaf.pem"} {
		block, _ := pem.Decode(realFile(f, name))
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		status, err := certificateStatus("x", cert).MarshalJSON()
		if err != nil || !json.Valid(status) {
			t.Errorf("its status is %q (%v)", status, err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if _, err := newAuthorityFiles(text, nil, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("without a key it is an authority, or refused without words: %v", err)
		}
	})
}
