package agentroute

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// This file connects as an agent would, and stops where it would.

// ProbeOptions tune a probe.
type ProbeOptions struct {
	Timeout time.Duration  // of each contact; 0 means 5 s. Agents wait http_connect_timeout
	Roots   *x509.CertPool // the agent's CA bundle; nil checks only that a certificate carries the name
}

// Try is one contact of a probe.
type Try struct {
	Target  string `json:"target"`
	Address string `json:"address,omitempty"`
	By      string `json:"by"`
	Good    bool   `json:"good"`
	Result  string `json:"result"`
	Millis  int64  `json:"millis"`
}

// Probe walks the way of each service until a server is good enough, with the deadlines of the options instead of the
// agent's. It sends no certificate and asks for nothing but the status.
func (p *Plan) Probe(ctx context.Context, o ProbeOptions) {
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	for i := range p.Services {
		p.probe(ctx, &p.Services[i], o)
	}
}

func (p *Plan) probe(ctx context.Context, s *Service, o ProbeOptions) {
	for _, step := range s.Steps {
		for _, t := range step.Targets {
			if ctx.Err() != nil {
				s.Result = "not finished: " + ctx.Err().Error()
				return
			}
			begin := time.Now()
			address, failure, result := contact(ctx, p.version, step, t, o)
			target := net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
			s.Tries = append(s.Tries, Try{target, address, step.By, failure == "", result, time.Since(begin).Milliseconds()})
			if failure == "" {
				s.Chosen, s.Result = target, result
				return
			}
			if !p.goesOn(step, failure) {
				s.Result = fmt.Sprintf("the agent gives up at %s: %s", target, result)
				return
			}
		}
		if step.Last {
			s.Result = fmt.Sprintf("no server: nothing follows %s", step.By)
			return
		}
	}
	s.Result = "no server is left to try"
}

// contact tries one target. A failure of "" is none.
func contact(ctx context.Context, v Version, step Step, t Target, o ProbeOptions) (address string, f Failure, result string) {
	if t.Error != "" {
		return "", Unresolved, "cannot be resolved: " + t.Error
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	conn, address, err := dial(ctx, t)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return address, Refused, err.Error()
	case err != nil:
		return address, Silent, phrase(err, o.Timeout)
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // checked below, where a wrong name and a foreign CA can be told apart; nothing secret is sent
		ServerName:         t.Host,
	})
	if err := client.HandshakeContext(ctx); err != nil {
		return address, Unready, "no TLS: " + phrase(err, o.Timeout)
	}
	if err := trusted(client.ConnectionState().PeerCertificates, t.Host, o.Roots); err != nil {
		return address, Mistrusted, err.Error()
	}
	if step.Check != Status {
		return address, "", "connected"
	}
	f, result = status(ctx, v, client, t)
	return address, f, result
}

// dial tries the addresses in turn within one time, as most versions of Ruby do: the first that swallows packets takes
// all of it. With Ruby 3.1 each address has a time of its own.
func dial(ctx context.Context, t Target) (conn net.Conn, address string, err error) {
	addresses := t.Addresses
	if addresses == nil {
		addresses = []string{t.Host}
	}
	var d net.Dialer
	for _, a := range addresses {
		address = net.JoinHostPort(a, strconv.Itoa(t.Port))
		if conn, err = d.DialContext(ctx, "tcp", address); err == nil || ctx.Err() != nil {
			return conn, address, err
		}
	}
	return nil, address, err
}

func phrase(err error, limit time.Duration) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("nothing within %v (an agent waits http_connect_timeout)", limit)
	}
	return err.Error()
}

// trusted checks a server's certificate as an agent does, as far as the CA bundle is known.
func trusted(chain []*x509.Certificate, host string, roots *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("it shows no certificate")
	}
	if err := chain[0].VerifyHostname(host); err != nil {
		return fmt.Errorf("its certificate does not fit: %w", err)
	}
	if roots == nil {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("its certificate is not trusted: %w", err)
	}
	return nil
}

// status asks a server whether it serves, in the words of the agent's version.
func status(ctx context.Context, v Version, conn net.Conn, t Target) (f Failure, result string) {
	client := &http.Client{
		Transport: &http.Transport{
			// The connection that was checked is used for both questions; a second one would not have been.
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	paths := []string{"/status/v1/simple/server", "/status/v1/simple/master"}
	if !v.sessions() {
		paths = paths[1:]
	}
	for _, path := range paths {
		url := "https://" + net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) + path
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return Unready, err.Error()
		}
		req.Header.Set("X-Puppet-Version", v.String())
		res, err := client.Do(req)
		if err != nil {
			return Unready, fmt.Sprintf("GET %s: %v", path, err)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // only the status counts
		_ = res.Body.Close()
		result = fmt.Sprintf("GET %s: %s", path, res.Status)
		if res.StatusCode/100 == 2 || res.StatusCode == http.StatusForbidden && !v.sessions() {
			return "", result
		}
		if res.StatusCode != http.StatusNotFound {
			break
		}
	}
	return Unready, result
}
