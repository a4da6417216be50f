package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"troupe/internal/ca"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file lists, signs, revokes, cleans, makes, renews and exports certificates.

// Certificate is a request or a certificate, with the keys of certificate_status.
type Certificate struct {
	Name            string            `json:"name"`
	State           string            `json:"state"` // requested, signed, revoked
	DNSAltNames     []string          `json:"dns_alt_names"`
	SubjectAltNames []string          `json:"subject_alt_names"`
	Extensions      map[string]string `json:"authorization_extensions"`
	Fingerprint     string            `json:"fingerprint"`
	Fingerprints    ca.Fingerprints   `json:"fingerprints"`
	SerialNumber    string            `json:"serial_number,omitempty"` // upper-case hex
	NotBefore       time.Time         `json:"not_before,omitzero"`
	NotAfter        time.Time         `json:"not_after,omitzero"`
}

func certificateOf(s ca.Status) Certificate {
	c := Certificate{
		Name: s.Name, State: s.State, DNSAltNames: s.DNSAltNames, SubjectAltNames: s.AltNames, Extensions: map[string]string{},
		Fingerprint: s.Fingerprints.Default, Fingerprints: s.Fingerprints, NotBefore: s.NotBefore, NotAfter: s.NotAfter,
	}
	for _, e := range s.Extensions {
		c.Extensions[e.Name] = e.Value
	}
	if s.Serial != nil {
		c.SerialNumber = fmt.Sprintf("%X", s.Serial)
	}
	return c
}

func (a *API) certificates(r *http.Request) (any, error) {
	list, err := a.m.Authority.Statuses(r.Context(), r.URL.Query().Get("state"))
	if err != nil {
		return nil, err
	}
	out := make([]Certificate, len(list))
	for i, s := range list {
		out[i] = certificateOf(s)
	}
	return out, nil
}

// Certificates lists requests and certificates; state is "", requested, signed or revoked.
func (c *Client) Certificates(ctx context.Context, state string) ([]Certificate, error) {
	var out []Certificate
	err := c.call(ctx, http.MethodGet, "/v1/certificates?state="+url.QueryEscape(state), nil, &out)
	return out, err
}

// CertificateRequest names what to act on. All takes every pending request (sign only).
type CertificateRequest struct {
	Certnames []string      `json:"certnames"`
	All       bool          `json:"all,omitempty"`
	TTL       time.Duration `json:"ttl,omitempty"` // 0 means the CA's own
}

// CertificateResult tells what became of each name.
type CertificateResult struct {
	Done   []string          `json:"done"`
	Errors map[string]string `json:"errors"`
}

// each acts on the names one by one; one that fails does not stop the others.
func each(names []string, act func(puppet.Certname) error) CertificateResult {
	out := CertificateResult{Done: []string{}, Errors: map[string]string{}}
	for _, n := range names {
		name, err := puppet.ParseCertname(n)
		if err == nil {
			err = act(name)
		}
		if fault.KindOf(err) == fault.NotFound {
			err = errors.New("there is no such request or certificate (see: troupe ca list --all)")
		}
		if err != nil {
			out.Errors[n] = err.Error()
			continue
		}
		out.Done = append(out.Done, n)
	}
	return out
}

func (a *API) sign(r *http.Request) (any, error) {
	var q CertificateRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if q.All {
		pending, err := a.m.Authority.Statuses(r.Context(), "requested")
		if err != nil {
			return nil, err
		}
		for _, p := range pending {
			q.Certnames = append(q.Certnames, p.Name)
		}
	}
	return each(q.Certnames, func(n puppet.Certname) error { return a.m.Authority.Sign(r.Context(), n, q.TTL) }), nil
}

// Sign signs pending requests.
func (c *Client) Sign(ctx context.Context, q CertificateRequest) (CertificateResult, error) {
	var out CertificateResult
	err := c.call(ctx, http.MethodPost, "/v1/certificates/sign", q, &out)
	return out, err
}

func (a *API) revoke(r *http.Request) (any, error) {
	var q CertificateRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	return each(q.Certnames, func(n puppet.Certname) error { return a.m.Authority.Revoke(r.Context(), n) }), nil
}

// Revoke revokes certificates; connections that use them are refused at once.
func (c *Client) Revoke(ctx context.Context, q CertificateRequest) (CertificateResult, error) {
	var out CertificateResult
	err := c.call(ctx, http.MethodPost, "/v1/certificates/revoke", q, &out)
	return out, err
}

func (a *API) clean(r *http.Request) (any, error) {
	var q CertificateRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	return each(q.Certnames, func(n puppet.Certname) error {
		missing, err := a.m.Authority.Clean(r.Context(), n)
		if err == nil && len(missing) > 0 {
			err = fault.New(fault.NotFound, "nothing to clean")
		}
		return err
	}), nil
}

// Clean revokes certificates and forgets them, so that the name can be requested again.
func (c *Client) Clean(ctx context.Context, q CertificateRequest) (CertificateResult, error) {
	var out CertificateResult
	err := c.call(ctx, http.MethodPost, "/v1/certificates/clean", q, &out)
	return out, err
}

// KeyPair is a certificate with its private key, both PEM.
type KeyPair struct {
	Certname    string `json:"certname"`
	Certificate string `json:"certificate"`
	PrivateKey  string `json:"private_key,omitempty"`
	Bundle      string `json:"ca_bundle"`
	CRLs        string `json:"crls"`
}

// GenerateRequest describes a certificate that the CA makes with its key.
type GenerateRequest struct {
	Certname string        `json:"certname"`
	AltNames []string      `json:"alt_names,omitempty"`
	TTL      time.Duration `json:"ttl,omitempty"`
	CAClient bool          `json:"ca_client,omitempty"` // may use the CA's API (pp_cli_auth)
}

func (a *API) generate(r *http.Request) (any, error) {
	var q GenerateRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	name, err := puppet.ParseCertname(q.Certname)
	if err != nil {
		return nil, err
	}
	key, cert, err := a.m.Authority.Generate(r.Context(), ca.GenerateRequest{Certname: name, AltNames: q.AltNames, TTL: q.TTL, Client: q.CAClient})
	if err != nil {
		return nil, err
	}
	return KeyPair{q.Certname, string(cert), string(key), string(a.m.Authority.Bundle()), string(a.m.Authority.CRLs())}, nil
}

// Generate makes a key and a certificate for a name.
func (c *Client) Generate(ctx context.Context, q GenerateRequest) (KeyPair, error) {
	var out KeyPair
	err := c.call(ctx, http.MethodPost, "/v1/certificates/generate", q, &out)
	return out, err
}

type nameRequest struct {
	Certname string `json:"certname"`
}

func (a *API) renew(r *http.Request) (any, error) {
	var q nameRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	name, err := puppet.ParseCertname(q.Certname)
	if err != nil {
		return nil, err
	}
	cert, err := a.m.Authority.Reissue(r.Context(), name, 0)
	if err != nil {
		return nil, err
	}
	return KeyPair{Certname: q.Certname, Certificate: string(cert), Bundle: string(a.m.Authority.Bundle()), CRLs: string(a.m.Authority.CRLs())}, nil
}

// Renew issues a name's certificate again for the same key.
func (c *Client) Renew(ctx context.Context, certname string) (KeyPair, error) {
	var out KeyPair
	err := c.call(ctx, http.MethodPost, "/v1/certificates/renew", nameRequest{certname}, &out)
	return out, err
}

func (a *API) expirations(r *http.Request) (any, error) {
	return a.m.Authority.Expirations(), r.Context().Err()
}

// Expirations tells when the CA's certificates and CRLs end.
func (c *Client) Expirations(ctx context.Context) (ca.Expirations, error) {
	var out ca.Expirations
	err := c.call(ctx, http.MethodGet, "/v1/certificates/expirations", nil, &out)
	return out, err
}

type folderRequest struct {
	Folder string `json:"folder"`
}

func (a *API) export(r *http.Request) (any, error) {
	var q folderRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(q.Folder) { // the member's working folder is not the operator's
		return nil, fault.New(fault.Invalid, "the folder to export to must be an absolute path, not %q", q.Folder)
	}
	if err := a.m.Authority.Export(r.Context(), q.Folder); err != nil {
		return nil, err
	}
	return done{true}, nil
}

// Export writes the CA as a folder on which a Puppet Server can start.
func (c *Client) Export(ctx context.Context, folder string) error {
	return c.call(ctx, http.MethodPost, "/v1/certificates/export", folderRequest{folder}, nil)
}

func (a *API) conflicts(r *http.Request) (any, error) { return a.m.Authority.Conflicts(r.Context()) }

// Conflicts lists names for which two members have signed different keys.
func (c *Client) Conflicts(ctx context.Context) (all []ca.Conflict, err error) {
	return all, c.call(ctx, http.MethodGet, "/v1/certificates/conflicts", nil, &all)
}
