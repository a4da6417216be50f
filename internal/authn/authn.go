// Package authn verifies the certificates of clients, for whoever ends their TLS: a member or an edge.
package authn

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// This file remembers who was verified. To verify the signature of our CA
// is a third of what a handshake costs, and agents come back with the same
// certificate every half hour; so whoever was verified is known for as long as the
// outcome cannot change.

// maxKnown bounds the clients that are known, about 200 bytes each; then all are
// forgotten and verified again.
const maxKnown = 50_000

// Clients verifies what crypto/tls would with [tls.VerifyClientCertIfGiven]. Whether
// a certificate is revoked is not its business: that is asked at every handshake and
// every request.
type Clients struct {
	Pool    func() *x509.CertPool      // the issuers of now; another one when they change
	Issuers func() []*x509.Certificate // likewise; their names are looked for in other encodings too
	Now     func() time.Time

	mu    sync.Mutex
	under *x509.CertPool // the issuers that verified those who are known
	known map[[sha256.Size]byte]verified
}

// verified is what the signature of one certificate, named by the sum of its whole
// encoding, has proved. It holds from the youngest notBefore to the oldest notAfter
// of all that is in the chains.
type verified struct {
	above       [][]*x509.Certificate // the chains without the certificate itself
	from, until time.Time
}

// Chains returns the chains from the certificate that a client has shown to our
// issuers, or why there is none. The client has proved that it has the key.
func (c *Clients) Chains(shown []*x509.Certificate) ([][]*x509.Certificate, error) {
	pool, now := c.Pool(), c.Now()
	shown = c.underOurName(shown)
	if len(shown) > 1 { // not an agent: they send their own certificate alone
		return verifyClient(shown, pool, now)
	}
	leaf, sum := shown[0], sha256.Sum256(shown[0].Raw)
	if v, ok := c.lookup(sum, pool); ok && !now.Before(v.from) && !now.After(v.until) {
		chains := make([][]*x509.Certificate, len(v.above))
		for i, above := range v.above {
			chains[i] = append([]*x509.Certificate{leaf}, above...)
		}
		return chains, nil
	}
	chains, err := verifyClient(shown, pool, now)
	if err != nil {
		return nil, err
	}
	v := verified{from: leaf.NotBefore, until: leaf.NotAfter}
	for _, chain := range chains {
		v.above = append(v.above, slices.Clone(chain[1:])) // a part of the chain would keep the leaf, 3 kB
		for _, cert := range chain {
			if cert.NotBefore.After(v.from) {
				v.from = cert.NotBefore
			}
			if cert.NotAfter.Before(v.until) {
				v.until = cert.NotAfter
			}
		}
	}
	c.remember(sum, pool, v)
	return chains, nil
}

// underOurName lets Go find the issuer of a certificate that has its name in another
// encoding: it looks for the bytes. The signature covers what was sent.
func (c *Clients) underOurName(shown []*x509.Certificate) []*x509.Certificate {
	for _, issuer := range c.Issuers() {
		name := issuer.RawSubject
		if bytes.Equal(shown[0].RawIssuer, name) || !SameName(shown[0].RawIssuer, name) {
			continue
		}
		leaf := *shown[0] // crypto/tls shares the certificates of a client among its connections
		leaf.RawIssuer = name
		return append([]*x509.Certificate{&leaf}, shown[1:]...)
	}
	return shown
}

func verifyClient(shown []*x509.Certificate, pool *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	o := x509.VerifyOptions{
		Roots: pool, CurrentTime: now, Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range shown[1:] {
		o.Intermediates.AddCert(cert)
	}
	chains, err := shown[0].Verify(o)
	if err != nil {
		return nil, fmt.Errorf("verify the certificate of client %q: %w", shown[0].Subject.CommonName, err)
	}
	return chains, nil
}

func (c *Clients) lookup(sum [sha256.Size]byte, pool *x509.CertPool) (verified, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under != pool {
		return verified{}, false
	}
	v, ok := c.known[sum]
	return v, ok
}

func (c *Clients) remember(sum [sha256.Size]byte, pool *x509.CertPool, v verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under != pool || len(c.known) >= maxKnown {
		c.under, c.known = pool, map[[sha256.Size]byte]verified{}
	}
	c.known[sum] = v
}

// Identified gives requests the chains of their client, as crypto/tls would have. A
// certificate that has become invalid since its handshake has none any more, and its
// client is a stranger.
func (c *Clients) Identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		state := *r.TLS
		chains, err := c.Chains(state.PeerCertificates)
		if err != nil {
			chains = nil
		}
		state.VerifiedChains = chains
		r = r.WithContext(r.Context())
		r.TLS = &state
		next.ServeHTTP(w, r)
	})
}
