package authn

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
	"weak"
)

// An issuer makes certificates for tests.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (i issuer) issue(tb testing.TB, change func(*x509.Certificate)) issuer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "agent.example.test"}, BasicConstraintsValid: true,
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(c)
	parent, signer := i.cert, i.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return issuer{cert, key}
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func authority(c *x509.Certificate) {
	c.Subject.CommonName, c.IsCA, c.ExtKeyUsage = "Puppet CA", true, nil
	c.KeyUsage, c.NotBefore, c.NotAfter = x509.KeyUsageCertSign, noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)
}

func plain(*x509.Certificate) {}

func (i issuer) is() []*x509.Certificate { return []*x509.Certificate{i.cert} }

func poolOf(all ...issuer) *x509.CertPool {
	p := x509.NewCertPool()
	for _, i := range all {
		p.AddCert(i.cert)
	}
	return p
}

func TestKnownClientsAreVerifiedLikeNewOnes(t *testing.T) {
	root := issuer{}.issue(t, authority)
	below := root.issue(t, authority)
	agent := root.issue(t, plain)
	shown := map[string][]*x509.Certificate{
		"ours": {agent.cert}, "of another CA with our name": {issuer{}.issue(t, authority).issue(t, plain).cert},
		"with the name of another client": {agent.issue(t, plain).cert},
		"for servers only":                {root.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }).cert},
		"valid in half an hour":           {root.issue(t, func(c *x509.Certificate) { c.NotBefore = noon.Add(30 * time.Minute) }).cert},
		"valid for half an hour":          {root.issue(t, func(c *x509.Certificate) { c.NotAfter = noon.Add(30 * time.Minute) }).cert},
		"through an intermediate":         {below.issue(t, plain).cert, below.cert},
		"through one that is not shown":   {below.issue(t, plain).cert},
		"of an issuer that is to expire":  {root.issue(t, func(c *x509.Certificate) { c.NotAfter = noon.AddDate(2, 0, 0) }).cert},
	}
	now := noon
	pool := poolOf(root)
	c := &Clients{Pool: func() *x509.CertPool { return pool }, Issuers: root.is, Now: func() time.Time { return now }}
	accepted, refused := 0, 0
	for _, at := range []time.Duration{0, 0, 40 * time.Minute, 0, 2 * time.Hour, -2 * time.Hour, 0, 500 * 24 * time.Hour, 0} {
		now = noon.Add(at)
		for name, certs := range shown {
			got, err := c.Chains(certs)
			want, wantErr := verifyClient(certs, pool, now)
			if (err == nil) != (wantErr == nil) || len(got) != len(want) {
				t.Fatalf("%s, %v from noon: %d chains (%v), want %d (%v)", name, at, len(got), err, len(want), wantErr)
			}
			if err != nil {
				refused++
				continue
			}
			accepted++
			for i := range got {
				for j := range got[i] {
					if len(got[i]) != len(want[i]) || !got[i][j].Equal(want[i][j]) {
						t.Errorf("%s, %v from noon: chain %d differs", name, at, i)
					}
				}
			}
		}
	}
	if accepted < 20 || refused < 20 {
		t.Errorf("%d were accepted and %d refused: the test shows little", accepted, refused)
	}
}

func TestClientsAreKnownUnderTheirIssuersOnly(t *testing.T) {
	one, two := issuer{}.issue(t, authority), issuer{}.issue(t, authority)
	agent := []*x509.Certificate{one.issue(t, plain).cert}
	pool := poolOf(one)
	c := &Clients{Pool: func() *x509.CertPool { return pool }, Issuers: one.is, Now: func() time.Time { return noon }}
	for i, tt := range []struct {
		pool *x509.CertPool
		want bool
	}{{poolOf(one), true}, {poolOf(two), false}, {poolOf(one, two), true}, {poolOf(), false}, {poolOf(one), true}} {
		pool = tt.pool
		for range 2 {
			if chains, err := c.Chains(agent); (err == nil) != tt.want {
				t.Errorf("pool %d: %d chains (%v), want them: %t", i, len(chains), err, tt.want)
			}
		}
	}
}

// A puppetserver writes the name of its issuer anew into what it signs, as UTF8String; the issuer's own certificate may
// have another type of string.
func TestTheIssuersNameMayHaveAnotherEncoding(t *testing.T) {
	root := issuer{}.issue(t, authority)
	other := *root.cert
	other.RawSubject = bytes.Replace(root.cert.RawSubject, []byte{asn1.TagPrintableString, 9}, []byte{asn1.TagUTF8String, 9}, 1)
	agent := issuer{&other, root.key}.issue(t, plain).cert
	if bytes.Equal(agent.RawIssuer, root.cert.RawSubject) {
		t.Fatal("both names have one encoding")
	}
	c := &Clients{Pool: func() *x509.CertPool { return poolOf(root) }, Issuers: root.is, Now: func() time.Time { return noon }}
	if _, err := c.Chains([]*x509.Certificate{agent}); err != nil {
		t.Errorf("an agent of this authority: %v", err)
	}
	if bytes.Equal(agent.RawIssuer, root.cert.RawSubject) {
		t.Error("the certificate of the connection, which others share, was changed")
	}
	forger, forged := issuer{}.issue(t, authority), other
	forged.PublicKey = forger.key.Public()
	if _, err := c.Chains([]*x509.Certificate{issuer{&forged, forger.key}.issue(t, plain).cert}); err == nil {
		t.Error("a certificate with the signature of another was accepted for its issuer's name")
	}
}

func TestKnownClientsAreBounded(t *testing.T) {
	pool := poolOf()
	c := &Clients{}
	for i := range 2*maxKnown + 10 {
		c.remember([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, pool, verified{})
		if len(c.known) > maxKnown {
			t.Fatalf("%d clients are known, more than %d", len(c.known), maxKnown)
		}
	}
	if _, ok := c.lookup([32]byte{9, 0, 0}, pool); ok {
		t.Error("a client was not forgotten")
	}
}

func TestRequestsOfCertificatesThatEndedAreStrangers(t *testing.T) {
	root := issuer{}.issue(t, authority)
	agent := root.issue(t, plain).cert
	pool, now := poolOf(root), noon
	c := &Clients{Pool: func() *x509.CertPool { return pool }, Issuers: root.is, Now: func() time.Time { return now }}
	var got [][]*x509.Certificate
	h := c.Identified(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.TLS.VerifiedChains }))
	for _, tt := range []struct {
		after time.Duration
		shown []*x509.Certificate
		want  bool
	}{{0, []*x509.Certificate{agent}, true}, {2 * time.Hour, []*x509.Certificate{agent}, false}, {0, nil, false}} {
		now = noon.Add(tt.after)
		state := &tls.ConnectionState{PeerCertificates: tt.shown}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.TLS = state
		h.ServeHTTP(nil, r)
		if known := len(got) == 1 && got[0][0] == agent; known != tt.want || state.VerifiedChains != nil {
			t.Errorf("%v later, %d shown: known %t, want %t", tt.after, len(tt.shown), known, tt.want)
		}
	}
}

// BenchmarkClient verifies one client again and again, and as if it were new.
func BenchmarkClient(b *testing.B) {
	root := issuer{}.issue(b, authority)
	shown, pool := []*x509.Certificate{root.issue(b, plain).cert}, poolOf(root)
	c := &Clients{Pool: func() *x509.CertPool { return pool }, Issuers: root.is, Now: func() time.Time { return noon }}
	for name, verify := range map[string]func() error{
		"known": func() error { _, err := c.Chains(shown); return err },
		"new":   func() error { _, err := verifyClient(shown, pool, noon); return err },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := verify(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestAKnownClientKeepsNothingOfItsCertificate(t *testing.T) {
	root := issuer{}.issue(t, authority)
	pool := poolOf(root)
	c := &Clients{Pool: func() *x509.CertPool { return pool }, Issuers: root.is, Now: func() time.Time { return noon }}
	shown := func() weak.Pointer[x509.Certificate] {
		leaf := root.issue(t, plain).cert
		if _, err := c.Chains([]*x509.Certificate{leaf}); err != nil {
			t.Fatal(err)
		}
		return weak.Make(leaf)
	}()
	runtime.GC()
	runtime.GC()
	if len(c.known) != 1 {
		t.Errorf("%d clients are known", len(c.known))
	}
	if shown.Value() != nil {
		t.Error("the certificate of a client that has gone stays in memory")
	}
}
