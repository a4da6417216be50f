//go:build long

package haproxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestHAProxyItselfTakesTheFiles has the real HAProxy check each file of testdata, and the one that docs/edge.md shows: what is tested is
// its syntax, not ours.
func TestHAProxyItselfTakesTheFiles(t *testing.T) {
	bin, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("%v: run tools/packages.sh haproxy", err)
	}
	dir := t.TempDir()
	writePEM(t, dir)
	texts := map[string]string{}
	files, err := filepath.Glob("testdata/*.cfg")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(file)] = string(text)
	}
	for i, pair := range pagePairs(t) {
		texts["page"+string(rune('0'+i))+".cfg"] = pair[0]
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			text = strings.ReplaceAll(text, "/etc/haproxy/ssl", dir)
			text = strings.ReplaceAll(text, "chroot /var/lib/haproxy", "")
			text = strings.ReplaceAll(text, "lab.lst", filepath.Join(dir, "lab.lst"))
			text = regexp.MustCompile(`(?m)^\s+(user|group) haproxy$`).ReplaceAllString(text, "")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			// -L: the first peer that is named is this one.
			args := []string{"-c", "-f", path}
			if found := regexp.MustCompile(`(?m)^\s+peer (\S+)`).FindStringSubmatch(text); found != nil {
				args = append(args, "-L", found[1])
			}
			command := exec.CommandContext(t.Context(), bin, args...)
			command.Env = append(os.Environ(), "SSL="+dir) // the corners name files by it
			out, err := command.CombinedOutput()
			if err != nil || strings.Contains(string(out), "[ALERT]") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// writePEM makes the files that the configurations name.
func writePEM(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Puppet CA: test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, DNSNames: []string{"puppet.example.com"}, SubjectKeyId: []byte{1, 2, 3},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: c.NotBefore, NextUpdate: c.NotAfter}, c, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	lab, err := os.ReadFile("testdata/lab.lst")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for name, text := range map[string][]byte{
		"puppet.pem": append(block("CERTIFICATE", der), block("PRIVATE KEY", secret)...), "ca.pem": block("CERTIFICATE", der), "crl.pem": block("X509 CRL", crl), "lab.lst": lab,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
