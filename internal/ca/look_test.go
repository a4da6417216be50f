package ca

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheConditionOfAnAuthorityIsTheSameOpenAndClosed(t *testing.T) {
	b := newBench(t, testOptions())
	b.sign(t, "web1.example.test")
	b.submit(t, "web2.example.test")
	b.sign(t, "web3.example.test")
	if err := b.Revoke(t.Context(), "web3.example.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ServerCertificate(t.Context(), ServerRequest{Certname: "puppet.example.test", AltNames: []string{"puppet"}}); err != nil {
		t.Fatal(err)
	}
	open, err := b.Examine(t.Context(), "puppet.example.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	look := func(at time.Time) Condition {
		t.Helper()
		c, err := Look(t.Context(), b.dir, "", "puppet.example.test", at)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	closed := look(time.Now())
	if diff := cmp.Diff(open, closed); diff != "" {
		t.Errorf("open and closed differ:\n%s", diff)
	}
	if c := closed; c.Signed != 2 || c.Waiting != 1 || c.Ending != 0 || c.Ended != 0 || c.KeyError != "" || c.NoKey || c.ServerError != "" || c.Revoked {
		t.Errorf("condition %+v", c)
	}
	cert, err := x509.ParseCertificate(closed.Server)
	if err != nil || cert.VerifyHostname("puppet") != nil {
		t.Errorf("server certificate: %v, %v", cert, err)
	}
	// The lists end when those end that agents get.
	want := map[string]time.Time{}
	b.open(t, testOptions())
	p := b.current()
	want[b.Issuer().Subject.CommonName] = p.own.nextUpdate
	for _, l := range p.ancestors {
		want[l.Issuer.CommonName] = l.NextUpdate
	}
	for _, l := range closed.Lists {
		if !want[l.Issuer].Equal(l.NextUpdate) {
			t.Errorf("the list of %s ends at %v, and agents get one that ends at %v", l.Issuer, l.NextUpdate, want[l.Issuer])
		}
		delete(want, l.Issuer)
	}
	if len(want) > 0 {
		t.Errorf("no word of the lists of %v", want)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	// Ten days before the end of all certificates, and after it.
	end := cert.NotAfter
	if c := look(end.Add(-10 * 24 * time.Hour)); c.Ending != 2 || !slices.Contains(c.First, "web1.example.test") || slices.Contains(c.First, "web3.example.test") {
		t.Errorf("ten days before the end: %+v", c)
	}
	if c := look(end.Add(24 * time.Hour)); c.Ending != 0 || c.Ended != 2 {
		t.Errorf("after the end: %+v", c)
	}
}

func TestLookSaysWhyAKeyCannotBeUsed(t *testing.T) {
	b := newBench(t, testOptions())
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	look := func() Condition {
		t.Helper()
		c, err := Look(t.Context(), b.dir, "", "puppet.example.test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	seal := filepath.Join(b.dir, "seal.key")
	if err := os.WriteFile(seal, []byte("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := look(); !strings.Contains(c.KeyError, "sealed with another key") {
		t.Errorf("another sealing key: %+v", c)
	}
	if err := os.Remove(seal); err != nil {
		t.Fatal(err)
	}
	if c := look(); !strings.Contains(c.KeyError, "seal.key") {
		t.Errorf("no sealing key: %+v", c)
	}
	if _, err := os.Stat(seal); err == nil {
		t.Error("a sealing key was made")
	}
}

func TestLookMakesNoAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := Look(t.Context(), dir, "", "puppet.example.test", time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made")
	}
}
