package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"troupe/internal/journal"
)

// provesItself holds that a believes of b what b has signed, and nothing else.
func provesItself(t *testing.T, a, b *Cluster) {
	t.Helper()
	message := []byte("records")
	key, signature, err := b.Sign(message)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.CheckSigned(b.j.Origin(), key, signature, message); err != nil {
		t.Errorf("what a member has signed is not taken: %v", err)
	}
	strange, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(message)
	forged, err := ecdsa.SignASN1(rand.Reader, strange, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(strange.Public())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		by                      journal.Origin
		key, signature, message []byte
	}{
		"another member":       {a.j.Origin(), key, signature, message},
		"a stranger":           {"nobody", key, signature, message},
		"another message":      {b.j.Origin(), key, signature, []byte("recordz")},
		"a key of nobody":      {b.j.Origin(), public, forged, message},
		"another's signature":  {b.j.Origin(), key, forged, message},
		"no signature":         {b.j.Origin(), key, nil, message},
		"no key":               {b.j.Origin(), nil, signature, message},
		"a key with something": {b.j.Origin(), append(append([]byte(nil), key...), 0), signature, message},
	} {
		if a.CheckSigned(c.by, c.key, c.signature, c.message) == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
