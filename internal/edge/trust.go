package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"slices"
	"time"

	"troupe/internal/authn"
	"troupe/internal/config"
	"troupe/internal/secretfile"
	"troupe/internal/telemetry"
)

// This file says whom an edge believes, and as whom it speaks.

// A trust does not change; another one takes its place.
type trust struct {
	certificate *tls.Certificate // of the name that agents connect to
	pool        *x509.CertPool
	issuers     []*x509.Certificate
	revoked     map[string]struct{}
	ends        time.Time // of the revocation list that ends first
	unlisted    []string  // authorities without a revocation list
}

// newTrust puts a CA bundle and the revocation lists of its authorities together. A list of a stranger, or one whose signature is
// wrong, is refused: it could be a way to let somebody in again.
func newTrust(certificate *tls.Certificate, bundle, lists []byte) (*trust, error) {
	t := &trust{certificate: certificate, pool: x509.NewCertPool(), revoked: map[string]struct{}{}}
	for _, der := range blocks(bundle, "CERTIFICATE") {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("CA bundle: %w", err)
		}
		t.issuers = append(t.issuers, c)
		t.pool.AddCert(c)
	}
	if len(t.issuers) == 0 {
		return nil, errors.New("the CA bundle has no certificate in PEM")
	}
	listed := map[int]bool{}
	for _, der := range blocks(lists, "X509 CRL") {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("revocation list: %w", err)
		}
		i := slices.IndexFunc(t.issuers, func(c *x509.Certificate) bool {
			return authn.SameName(c.RawSubject, l.RawIssuer) && l.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			return nil, fmt.Errorf("revocation list of %q is not signed by an authority of the CA bundle", l.Issuer)
		}
		for _, entry := range l.RevokedCertificateEntries {
			t.revoked[revocation(t.issuers[i], entry.SerialNumber)] = struct{}{}
		}
		if t.ends.IsZero() || l.NextUpdate.Before(t.ends) {
			t.ends = l.NextUpdate
		}
		listed[i] = true
	}
	for i, c := range t.issuers {
		if !listed[i] {
			t.unlisted = append(t.unlisted, c.Subject.String())
		}
	}
	return t, nil
}

func revocation(issuer *x509.Certificate, serial *big.Int) string {
	return string(issuer.RawSubject) + "\x00" + serial.String()
}

func blocks(text []byte, kind string) (all [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if block.Type == kind {
			all = append(all, block.Bytes)
		}
	}
}

// admits refuses a client if every way to an authority has a revoked certificate in it.
func (t *trust) admits(chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		bad := false
		for i, c := range chain[:len(chain)-1] {
			_, bad = t.revoked[revocation(chain[i+1], c.SerialNumber)]
			if bad {
				break
			}
		}
		if !bad {
			return nil
		}
	}
	return fmt.Errorf("certificate %X of %q is revoked", chains[0][0].SerialNumber, chains[0][0].Subject.CommonName)
}

// believe takes an operator's files into force. Servers that take an identity from headers leave revocation to the edge.
func (e *Edge) believe(t *trust) {
	e.trust.Store(t)
	if len(t.unlisted) > 0 {
		e.log.Warn("whom these authorities have revoked is not known here: certificates of theirs are let in until they end", "authorities", t.unlisted,
			"remedy", "bring their revocation lists into the file tls.crl (puppetserver's ca_crl.pem has all)")
	}
}

// trustFiles reads the files of an edge that has its own. Its key must be for its owner alone.
func trustFiles(c config.EdgeTLS) (*trust, error) {
	if err := secretfile.Check(c.Key); err != nil {
		return nil, fmt.Errorf("key of the edge: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the edge: %w", err)
	}
	bundle, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("CA bundle: %w", err)
	}
	var lists []byte
	if c.CRL != "" {
		if lists, err = os.ReadFile(c.CRL); err != nil {
			return nil, fmt.Errorf("revocation lists: %w", err)
		}
	}
	t, err := newTrust(&pair, bundle, lists)
	if err != nil {
		return nil, err
	}
	if c.CRL != "" && len(blocks(lists, "X509 CRL")) == 0 {
		return nil, fmt.Errorf("%s has no revocation list in PEM", c.CRL)
	}
	return t, nil
}

// stamp changes when one of the files does.
func stamp(c config.EdgeTLS) string {
	var all bytes.Buffer
	for _, path := range []string{c.Certificate, c.Key, c.CA, c.CRL} {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(&all, path, info.ModTime().UnixNano(), info.Size())
		} else if !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(&all, path, err)
		}
	}
	return all.String()
}

// watchTrust takes changed files into use. Files that cannot be read change nothing: half a copy must not open or close the door.
func (e *Edge) watchTrust(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	seen, warned := stamp(e.conf.TLS), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if t := e.trust.Load(); !t.ends.IsZero() && time.Now().After(t.ends) && time.Since(warned) > time.Hour {
			warned = time.Now()
			e.log.WarnContext(ctx, "a revocation list has ended: who was revoked since is not known here", "ended", t.ends, "remedy", "bring a newer list to "+e.conf.TLS.CRL)
		}
		now := stamp(e.conf.TLS)
		if now == seen {
			continue
		}
		seen = now
		t, err := trustFiles(e.conf.TLS)
		if err != nil {
			e.log.ErrorContext(ctx, "changed certificates or revocation lists are not taken", telemetry.KeyErr, err, "remedy", "replace the files in one step each (mv)")
			seen = ""
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(5 * time.Second):
			}
			continue
		}
		e.believe(t)
		e.log.InfoContext(ctx, "certificates and revocation lists are read again", "revoked", len(t.revoked))
	}
}

// serverTLS ends the TLS of agents. A client certificate is wanted, not required: an agent that has none yet asks for one.
func (e *Edge) serverTLS() *tls.Config {
	least := uint16(tls.VersionTLS12)
	if e.conf.TLS.Min == "1.3" {
		least = tls.VersionTLS13
	}
	base := &tls.Config{
		MinVersion: least,
		NextProtos: []string{"http/1.1"},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.trust.Load().certificate, nil },
		ClientAuth:     tls.RequestClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			chains, err := e.clients.Chains(cs.PeerCertificates)
			if err != nil {
				return err
			}
			return e.trust.Load().admits(chains)
		},
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient = nil
		c.ClientCAs = e.trust.Load().pool
		return c, nil
	}
	return base
}

// client is who asks: the certname of a verified certificate, else the address.
func (e *Edge) client(r *http.Request) (name string, certificate *x509.Certificate, err error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if err := e.trust.Load().admits(r.TLS.VerifiedChains); err != nil {
			return "", nil, err
		}
		certificate = r.TLS.VerifiedChains[0][0]
		return lower(certificate.Subject.CommonName), certificate, nil
	}
	return host(r.RemoteAddr), nil, nil
}
