package ca

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/account"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

var (
	role          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 1, 13}
	authorization = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 1}
	cliAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 39}
	foreign       = asn1.ObjectIdentifier{1, 2, 3, 4}
	foreign2      = asn1.ObjectIdentifier{1, 2, 3, 5}
)

const againText = " Then restart the puppetserver and try signing this certificate again."

func TestRefusalsHavePuppetserversWords(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	allowAll := Policy{AllowSubjectAltNames: true, AllowAuthorizationExtensions: true}
	for _, test := range []struct {
		name   string
		policy Policy
		url    string
		csr    csrSpec
		want   string // "" means signed
	}{
		{"plain", Policy{}, "", csrSpec{cn: "a.example.test"}, ""},
		{"its own name as alternative name", Policy{}, "", csrSpec{cn: "a.example.test", dns: []string{"a.example.test"}}, ""},
		{"registered extension", Policy{}, "", csrSpec{cn: "a.example.test", extensions: []pkix.Extension{textExtension(t, role, "web")}}, ""},
		{"name of another", Policy{}, "b.example.test", csrSpec{cn: "a.example.test"}, `Instance name "a.example.test" does not match requested key "b.example.test"`},
		{"upper case", Policy{}, "", csrSpec{cn: "A.example.test"}, "Certificate names must be lower case."},
		{"wildcard", Policy{}, "", csrSpec{cn: "*.example.test"}, "Subject contains a wildcard, which is not allowed: *.example.test"},
		{"hyphen at the end", Policy{}, "", csrSpec{cn: "a.example-"}, "Subject hostname format is invalid"},
		{"dot in front", Policy{}, "", csrSpec{cn: ".example"}, "Subject hostname format is invalid"},
		{"slash", Policy{}, "", csrSpec{cn: "a/b"}, "Subject hostname format is invalid"},
		{"not ASCII", Policy{}, "", csrSpec{cn: "caf\u00e9"}, "Subject hostname format is invalid"},
		{"two dots", Policy{}, "", csrSpec{cn: "a..b"}, "Subject hostname format is invalid"},
		{"underscore", Policy{}, "", csrSpec{cn: "_a_.b_c"}, ""},
		{
			"alternative names",
			Policy{},
			"",
			csrSpec{cn: "a.example.test", dns: []string{"x", "a.example.test"}, ips: []net.IP{net.IPv4(10, 0, 0, 1)}},
			"CSR 'a.example.test' contains extra subject alternative names (IP:10.0.0.1, DNS:x), which are disallowed. To allow subject alternative names, set allow-subject-alt-names to true in your ca.conf file." + againText,
		},
		{"alternative names allowed", allowAll, "", csrSpec{cn: "a.example.test", dns: []string{"x"}}, ""},
		{"wildcard as alternative name", allowAll, "", csrSpec{cn: "a.example.test", dns: []string{"*.x"}}, "Cert subjectAltName contains a wildcard, which is not allowed: *.x"},
		{
			"authorization",
			Policy{},
			"",
			csrSpec{cn: "a.example.test", extensions: []pkix.Extension{textExtension(t, authorization, "x")}},
			"CSR 'a.example.test' contains an authorization extension, which is disallowed. To allow authorization extensions, set allow-authorization-extensions to true in your ca.conf file." + againText,
		},
		{"authorization allowed", allowAll, "", csrSpec{cn: "a.example.test", extensions: []pkix.Extension{textExtension(t, authorization, "x")}}, ""},
		{"pp_cli_auth is never signed", allowAll, "", csrSpec{cn: "a.example.test", extensions: []pkix.Extension{textExtension(t, cliAuth, "true")}}, "Found extensions that are not permitted: 1.3.6.1.4.1.34380.1.3.39"},
		{
			"foreign extensions", allowAll, "",
			csrSpec{cn: "a.example.test", extensions: []pkix.Extension{textExtension(t, foreign, "x"), textExtension(t, role, "x"), textExtension(t, foreign2, "x")}},
			"Found extensions that are not permitted: 1.2.3.4, 1.2.3.5",
		},
		{"short key", Policy{}, "", csrSpec{cn: "a.example.test", key: small}, "CSR 'a.example.test' has an RSA key of 1024 bits; the shortest that is signed has 2048. " +
			"Remove the agent's ssl folder, set keylength to at least 2048 in its puppet.conf and run it again."},
		{"short key allowed", Policy{MinRSABits: 1024}, "", csrSpec{cn: "a.example.test", key: small}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := testOptions()
			o.Policy = test.policy
			o.Policy.Autosign.All = true
			b := newBench(t, o)
			url := test.url
			if url == "" {
				url = test.csr.cn
			}
			err := b.SubmitRequest(t.Context(), url, test.csr.pem(t))
			if test.want == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				b.certificate(t, url)
				return
			}
			wantFault(t, err, fault.Invalid, test.want)

			// Signed by a person, the same request is a conflict.
			pending, err := b.Statuses(t.Context(), StateRequested)
			if err != nil {
				t.Fatal(err)
			}
			if len(pending) == 1 {
				wantFault(t, b.Sign(t.Context(), puppet.Certname(url), 0), fault.Conflict, test.want)
			}
		})
	}
}

func TestABrokenRequestIsRefused(t *testing.T) {
	b := newBench(t, testOptions())
	good := csrSpec{cn: "a.example.test"}.pem(t)
	block, _ := pem.Decode(good)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1

	for _, test := range []struct {
		name string
		body []byte
		kind fault.Kind
		want string
	}{
		{"empty", nil, fault.Invalid, "Request body must hold one certificate request in PEM form, not 0"},
		{"text", []byte("hello"), fault.Invalid, "Request body must hold one certificate request in PEM form, not 0"},
		{"two", append(good, good...), fault.Invalid, "Request body must hold one certificate request in PEM form, not 2"},
		{"a certificate", b.Bundle(), fault.Invalid, `Request body holds a PEM block "CERTIFICATE" where only "CERTIFICATE REQUEST" is expected`},
		{"too large", []byte(strings.Repeat("x", maxRequest+1)), fault.TooLarge, "Certificate request has 65537 bytes, more than 65536"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantFault(t, b.SubmitRequest(t.Context(), "a.example.test", test.body), test.kind, test.want)
		})
	}
	t.Run("forged signature", func(t *testing.T) {
		if err := b.SubmitRequest(t.Context(), "a.example.test", requestPEM(forged)); err != nil {
			t.Fatal(err)
		}
		wantFault(t, b.Sign(t.Context(), "a.example.test", 0), fault.Conflict, "CSR contains a public key that does not correspond to the signing key")
	})
}

// TestAKeyTooShortForGoIsRefusedForItsLength: Go checks no signature of such a key, and would call it forged. The request
// comes from OpenSSL, since Go makes none either.
func TestAKeyTooShortForGoIsRefusedForItsLength(t *testing.T) {
	const short = `-----BEGIN CERTIFICATE REQUEST-----
MIHSMH4CAQAwGTEXMBUGA1UEAwwOYS5leGFtcGxlLnRlc3QwXDANBgkqhkiG9w0B
AQEFAANLADBIAkEAuyce1u9jksKyXmQsQYytSOKgu6jJaJVQ6Q26NZfSbet1URV+
C6evceM3RT9APSwBf/NWime5BhT5DKtRHABYGwIDAQABoAAwDQYJKoZIhvcNAQEL
BQADQQAN3QX/zteFScVDzXXCrPvMFF+x/8n4MdaHnX1tqXji4a9D6PzKOtcGKO87
1ckeZiwW3EeNmaYiiKlGrugqHuXa
-----END CERTIFICATE REQUEST-----
`
	b := newBench(t, testOptions())
	if err := b.SubmitRequest(t.Context(), "a.example.test", []byte(short)); err != nil {
		t.Fatal(err)
	}
	wantFault(t, b.Sign(t.Context(), "a.example.test", 0), fault.Conflict, "CSR 'a.example.test' has an RSA key of 512 bits; the shortest that is signed has 2048. "+
		"Remove the agent's ssl folder, set keylength to at least 2048 in its puppet.conf and run it again.")
}

func TestDuplicatesReplaceWhenAllowed(t *testing.T) {
	o := testOptions()
	o.Policy.AllowDuplicateCerts = true
	b := newBench(t, o)
	first := b.sign(t, "a.example.test")
	second := b.sign(t, "a.example.test")
	if first.Equal(second) {
		t.Fatal("the second request gave the first certificate")
	}
	if err := b.Revoke(t.Context(), "a.example.test"); err != nil {
		t.Fatal(err)
	}
	if !b.Revoked(first) || !b.Revoked(second) {
		t.Error("revoking a name left one of its certificates valid")
	}
}

func TestARequestThatWaitsIsNotStoredTwice(t *testing.T) {
	o := testOptions()
	o.Policy.AllowDuplicateCerts = true
	b := newBench(t, o)
	csr := csrSpec{cn: "a.example.test"}.pem(t)
	var last uint64
	for i := range 3 {
		if err := b.SubmitRequest(t.Context(), "a.example.test", csr); err != nil {
			t.Fatal(err)
		}
		n, err := b.j.Last(t.Context(), b.j.Origin(), journal.State)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && n != last {
			t.Errorf("the same request was written to the journal again: %d records, then %d", last, n)
		}
		last = n
	}
}

func TestTheAutosignListIsReadAsPuppetserverReadsIt(t *testing.T) {
	for _, test := range []struct {
		line, name string
		want       bool
	}{
		{"a.example.test", "a.example.test", true},
		{"A.example.test", "a.example.test", false},
		{"a.example.test", "b.example.test", false},
		{"*", "anything", true},
		{"*.example.test", "a.example.test", true},
		{"*.EXAMPLE.test", "a.b.example.test", true},
		{"*.example.test", "example.test", true},
		{"*.example.test", "aexample.test", false},
		{"*.example.test", "example.test.evil", false},
	} {
		if got := matchesLine(test.line, test.name); got != test.want {
			t.Errorf("line %q matches %q: %t, want %t", test.line, test.name, got, test.want)
		}
	}
}

func TestAutosignByListAndByExecutable(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "autosign.conf")
	writeText(t, list, 0o644, "# comment\n\nweb1.example.test\nbad line # here\n*.good.test\n")
	policy := filepath.Join(dir, "policy")
	writeText(t, policy, 0o755, `#!/bin/sh
grep -q 'BEGIN CERTIFICATE REQUEST' || exit 3
case "$1" in yes.*) [ "$RUBYLIB" = /some/lib ] && [ "$GEM_PATH" = /some/gems ] && exit 0 ;; slow.*) sleep 60 ;; esac
echo no >&2; head -c 1000000 /dev/zero; exit 1
`)
	for _, test := range []struct {
		autosign Autosign
		name     string
		want     string
	}{
		{Autosign{}, "web1.example.test", StateRequested},
		{Autosign{All: true}, "web1.example.test", StateSigned},
		{Autosign{Path: filepath.Join(dir, "missing")}, "web1.example.test", StateRequested},
		{Autosign{Path: list}, "web1.example.test", StateSigned},
		{Autosign{Path: list}, "a.good.test", StateSigned},
		{Autosign{Path: list}, "web2.example.test", StateRequested},
		{Autosign{Path: policy, RubyLib: []string{"/some/lib"}, GemPath: []string{"/some/gems"}}, "yes.example.test", StateSigned},
		{Autosign{Path: policy}, "no.example.test", StateRequested},
		{Autosign{Path: policy, Timeout: 50 * time.Millisecond}, "slow.example.test", StateRequested},
	} {
		t.Run(test.autosign.String()+" "+test.name, func(t *testing.T) {
			t.Setenv("RUBYLIB", "")
			t.Setenv("GEM_PATH", "")
			o := testOptions()
			o.Policy.Autosign = test.autosign
			b := newBench(t, o)
			b.submit(t, test.name)
			s, err := b.Status(t.Context(), test.name)
			if err != nil || s.State != test.want {
				t.Errorf("state is %q, %v; want %q", s.State, err, test.want)
			}
		})
	}
}

// TestThePolicyExecutableRunsAsTheAccount changes the user only as root.
func TestThePolicyExecutableRunsAsTheAccount(t *testing.T) {
	own := fmt.Sprintf("%d %d %s %s", os.Geteuid(), os.Getegid(), os.Getenv("HOME"), os.Getenv("USER"))
	for name, test := range map[string]struct {
		account account.Account
		asRoot  string
	}{
		"none":    {account.Account{}, own},
		"our own": {account.Account{UID: os.Geteuid(), GID: os.Getegid()}, own},
		"another": {account.Account{UID: 54321, GID: 54322, Home: "/srv"}, "54321 54322 /srv 54321"},
	} {
		t.Run(name, func(t *testing.T) {
			want := test.asRoot
			if os.Geteuid() != 0 {
				want, test.account = own, account.Account{}
			}
			dir := t.TempDir()
			for _, d := range []string{filepath.Dir(dir), dir} {
				if err := os.Chmod(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "policy")
			writeText(t, path, 0o755, "#!/bin/sh\n[ \"$(id -u) $(id -g) $HOME $USER\" = '"+want+"' ]\n")
			o := testOptions()
			o.Policy.Autosign = Autosign{Path: path, Account: test.account}
			b := newBench(t, o)
			b.submit(t, "web1.example.test")
			if s, err := b.Status(t.Context(), "web1.example.test"); err != nil || s.State != StateSigned {
				t.Errorf("state is %q, %v: the executable did not run as %q", s.State, err, want)
			}
		})
	}
}

func writeText(tb testing.TB, path string, mode os.FileMode, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		tb.Fatal(err)
	}
}

func TestAgentsThatRenewThemselvesGetShortCertificates(t *testing.T) {
	o := testOptions()
	o.Policy.AllowAutoRenewal = true
	o.Policy.AutoRenewalTTL = 48 * time.Hour
	b := newBench(t, o)
	long := b.sign(t, "old.example.test")
	if got := long.NotAfter.Sub(long.NotBefore); got != defaultTTL+24*time.Hour {
		t.Errorf("certificate of an old agent is valid for %s, want %s", got, defaultTTL+24*time.Hour)
	}
	if err := b.SubmitRequest(t.Context(), "new.example.test", realFile(t, "renewing.csr.pem")); err != nil {
		t.Fatal(err)
	}
	if err := b.Sign(t.Context(), "new.example.test", 0); err != nil {
		t.Fatal(err)
	}
	short := b.certificate(t, "new.example.test")
	if got := short.NotAfter.Sub(short.NotBefore); got != 72*time.Hour {
		t.Errorf("certificate of a renewing agent is valid for %s, want %s", got, 72*time.Hour)
	}

	text, err := b.Renew(t.Context(), short)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := parseCertificates(text)
	if err != nil || len(renewed) != 1 {
		t.Fatalf("renewed certificate: %v, %v", renewed, err)
	}
	if !samePublicKey(renewed[0].PublicKey, short.PublicKey) || renewed[0].SerialNumber.Cmp(short.SerialNumber) == 0 || len(renewed[0].Extensions) != len(short.Extensions) {
		t.Error("renewal did not keep key and extensions under a new serial")
	}
	if err := renewed[0].CheckSignatureFrom(b.Issuer()); err != nil {
		t.Error(err)
	}
	if b.certificate(t, "new.example.test").SerialNumber.Cmp(renewed[0].SerialNumber) != 0 {
		t.Error("the renewed certificate is not the current one")
	}
	if err := b.Revoke(t.Context(), "new.example.test"); err != nil {
		t.Fatal(err)
	}
	_, err = b.Renew(t.Context(), renewed[0])
	wantFault(t, err, fault.Denied, "Certificate present, but does not match signature")
	_, err = b.Renew(t.Context(), nil)
	wantFault(t, err, fault.Invalid, "No valid certificate found in renewal request")

	other := newBench(t, o).sign(t, "new.example.test")
	_, err = b.Renew(t.Context(), other)
	wantFault(t, err, fault.Denied, "Certificate present, but does not match signature")

	if err := b.SetPolicy(Policy{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Renew(t.Context(), short)
	wantFault(t, err, fault.NotFound, "Not Found")
}

func TestGenerateMakesAClientOfTheAPI(t *testing.T) {
	b := newBench(t, testOptions())
	key, cert, err := b.Generate(t.Context(), GenerateRequest{Certname: "admin.example.test", AltNames: []string{"admin", "IP:10.0.0.1"}, Client: true, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parseCertificates(cert)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := parseKey(key)
	if err != nil || !samePublicKey(parsed[0].PublicKey, signer.Public()) {
		t.Errorf("key and certificate do not belong together: %v", err)
	}
	s, err := b.Status(t.Context(), "admin.example.test")
	if err != nil || len(s.Extensions) != 1 || s.Extensions[0] != (AuthorizationExtension{"pp_cli_auth", "true"}) {
		t.Errorf("authorization extensions are %v, %v; want pp_cli_auth", s.Extensions, err)
	}
	_, _, err = b.Generate(t.Context(), GenerateRequest{Certname: "admin.example.test"})
	wantFault(t, err, fault.Conflict, "admin.example.test already has a signed certificate; ignoring certificate request")
	if _, err := b.Reissue(t.Context(), "admin.example.test", 0); err != nil {
		t.Error(err)
	}
}

func TestTheServerCertificateIsKeptUntilItMustChange(t *testing.T) {
	now := time.Now()
	o := testOptions()
	o.Now = func() time.Time { return now }
	b := newBench(t, o)
	request := ServerRequest{Certname: "puppet.example.test", AltNames: []string{"puppet"}}
	serial := func(q ServerRequest) string {
		t.Helper()
		cert, err := b.ServerCertificate(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return serialText(cert.Leaf.SerialNumber)
	}
	first := serial(request)
	if again := serial(request); again != first {
		t.Error("a second call made a new certificate")
	}
	info, err := os.Stat(filepath.Join(b.dir, "server", "puppet.example.test.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key's file is %v, %v; want 0600", info.Mode(), err)
	}
	more := request
	more.AltNames = append(more.AltNames, "other")
	second := serial(more)
	if second == first {
		t.Error("another name did not make a new certificate")
	}
	now = now.Add(defaultTTL - 29*24*time.Hour)
	third := serial(more)
	if third == second {
		t.Error("a certificate that ends in 29 days was not renewed")
	}
	if err := b.Revoke(t.Context(), "puppet.example.test"); err != nil {
		t.Fatal(err)
	}
	if serial(more) == third {
		t.Error("a revoked certificate was kept")
	}
}

// A member that dies between the two would leave a request that waits for a person, and the node's next attempt is a duplicate.
func TestARequestThatIsSignedAtOnceIsOneWriteWithItsCertificate(t *testing.T) {
	o := testOptions()
	o.Policy.Autosign = Autosign{All: true}
	var writes []uint64
	o.Copied = func(_ context.Context, number uint64) error { writes = append(writes, number); return nil }
	b := newBench(t, o)
	writes = nil
	if err := b.SubmitRequest(t.Context(), "new.example.test", csrSpec{cn: "new.example.test"}.pem(t)); err != nil {
		t.Fatal(err)
	}
	last, err := b.j.Last(t.Context(), b.j.Origin(), journal.State)
	if err != nil {
		t.Fatal(err)
	}
	records, err := b.j.Read(t.Context(), b.j.Origin(), journal.State, last-2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(writes) != 1 || writes[0] != last || records[0].Kind != kindRequest || records[1].Kind != kindIssued {
		t.Errorf("writes ended at %v; the last records are %s and %s, of %d", writes, records[0].Kind, records[1].Kind, last)
	}
	if got := b.certificate(t, "new.example.test"); got.Subject.CommonName != "new.example.test" {
		t.Errorf("the certificate is of %s", got.Subject)
	}
}
