package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"troupe/internal/authn"
	"troupe/internal/ca"
	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// This file is the TLS front: one port for agents, tools and other servers, as
// Puppet Server has it. A client certificate is wanted, not required; whoever
// shows one must have it from our CA and not revoked, or the handshake fails.

// front is the listener with its certificate, which can be replaced while
// connections stay open.
type front struct {
	authority *ca.Authority
	clients   *authn.Clients
	cert      atomic.Pointer[tls.Certificate]
	http      *http.Server
	listener  net.Listener
	limits    frontLimits
	log       *slog.Logger
}

// frontLimits bound what one client may hold on to.
type frontLimits struct {
	header, read, write, idle time.Duration
	grace                     time.Duration
	minTLS                    uint16
	ciphers                   []uint16 // of TLS 1.2
}

// frontLimitsOf takes the operator's limits, or ours. Half an
// hour of writing covers the longest compile and a large file to a slow site.
func frontLimitsOf(cfg *config.Config) frontLimits {
	return frontLimits{
		header: cmp.Or(cfg.HTTP.HeaderTimeout, 30*time.Second), read: cmp.Or(cfg.HTTP.ReadTimeout, 10*time.Minute),
		write: cmp.Or(cfg.HTTP.WriteTimeout, 30*time.Minute), idle: cmp.Or(cfg.HTTP.IdleTimeout, time.Minute), grace: frontGrace,
		minTLS: minTLS(cfg.TLS.Min), ciphers: cipherSuites(cfg.TLS.Ciphers),
	}
}

func minTLS(version string) uint16 {
	if version == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// cipherSuites turns names that config has checked into Go's numbers. None means those that authenticate what they
// encrypt, as Puppet Server's defaults do; every agent since 5.5 has them.
func cipherSuites(names []string) []uint16 {
	if len(names) == 0 {
		return []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		}
	}
	var ids []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if slices.Contains(names, s.Name) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func newFront(authority *ca.Authority, cert *tls.Certificate, listener net.Listener, l frontLimits, log *slog.Logger) *front {
	f := &front{authority: authority, clients: &authn.Clients{Pool: authority.Pool, Issuers: authority.Issuers, Now: time.Now}, listener: newCrowd(listener, connectionLimit(), log), limits: l, log: log}
	f.cert.Store(cert)
	f.http = &http.Server{
		ReadHeaderTimeout: l.header,
		ReadTimeout:       l.read,
		WriteTimeout:      l.write,
		IdleTimeout:       l.idle,
		MaxHeaderBytes:    256 << 10,
		ErrorLog:          stdlog.New(refusals{log}, "", 0),
		// Agents speak HTTP/1.1 only; without HTTP/2 there is one behaviour to prove.
		Protocols: http1Only(),
	}
	return f
}

// refusals takes what net/http says of connections. A client certificate that was
// refused is for the operator, since its agent sees no more than a TLS alert, and so
// is a process without file descriptors; all else that goes wrong before a request is
// the noise of scanners.
type refusals struct{ log *slog.Logger }

func (r refusals) Write(line []byte) (int, error) {
	said, handshake := strings.CutPrefix(strings.TrimSpace(string(line)), "http: TLS handshake error from ")
	remote, why, _ := strings.Cut(said, ": ")
	switch {
	case handshake && strings.Contains(why, "certificate") && !strings.HasPrefix(why, "remote error: "):
		r.log.Warn("client certificate refused", "remote", remote, telemetry.KeyErr, why)
	case strings.HasPrefix(said, "http: Accept error: "): // every second at most
		r.log.Warn("connections cannot be taken", telemetry.KeyErr, strings.TrimPrefix(said, "http: Accept error: "), "remedy", "raise the limit of open files, or add a member")
	default:
		r.log.Debug("connection failed", telemetry.KeyErr, said)
	}
	return len(line), nil
}

func http1Only() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// listen binds the port. An address in use is told with the way out.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: another process has this port; stop it (a puppetserver?) or choose another with --listen: %w", addr, err)
	}
	if errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("listen on %s: no permission for this port; run as root or choose a port above 1023 with --listen: %w", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

// run serves until ctx ends, then calls stopping and lets running requests finish.
func (f *front) run(ctx context.Context, stopping func()) error {
	served := make(chan error, 1)
	go func() { served <- f.http.Serve(tls.NewListener(f.listener, f.tlsConfig())) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.limits.grace)
	defer cancel()
	err := f.http.Shutdown(stop)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests still running after %v were cut", f.limits.grace), f.http.Close())
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// close lets go of a port that was never served.
func (f *front) close() error {
	if err := f.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (f *front) tlsConfig() *tls.Config {
	base := &tls.Config{
		MinVersion:     f.limits.minTLS,
		CipherSuites:   f.limits.ciphers,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cert.Load(), nil },
		// crypto/tls checks that the client has the key; whose it is, admit finds out.
		ClientAuth:       tls.RequestClientCert,
		VerifyConnection: f.admit,
	}
	// The names of the issuers help clients with several certificates to choose.
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient = nil
		c.ClientCAs = f.authority.Pool()
		return c, nil
	}
	return base
}

// admit refuses who shows a certificate that is not ours, not valid now, or revoked.
// It also runs when a session is resumed, so nobody can come back on a ticket. The
// issuers are those of now: an imported or renewed one counts for the next
// connection without a restart.
func (f *front) admit(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	chains, err := f.clients.Chains(cs.PeerCertificates)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if f.authority.Revoked(chain[0]) {
			return fmt.Errorf("certificate %s of %q is revoked, or is of a stolen issuer and unknown here", serial(chain[0]), chain[0].Subject.CommonName)
		}
	}
	// Whoever sends a certificate has accepted ours; who resumes a session has not looked at it.
	shown := f.cert.Load().Leaf
	if cs.DidResume {
		shown = nil
	}
	f.authority.Seen(chains[0][0], shown)
	return nil
}

func serial(c *x509.Certificate) string { return fmt.Sprintf("%X", c.SerialNumber) }
