package adminapi

import (
	"context"
	"net/http"

	"troupe/internal/ca"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file takes an operator from one issuer of agents' certificates to the next.

// Rollover tells how far a roll-over is, with the names of members.
type Rollover struct {
	ca.Rollover

	WaitingFor []string `json:"waiting_for"` // names of the members that do not hold the new key
}

func (a *API) rolloverNow(ctx context.Context) (r Rollover, err error) {
	if r.Rollover, err = a.m.Authority.RolloverStatus(ctx); err != nil {
		return r, err
	}
	names := map[journal.Origin]string{}
	for _, m := range a.m.Cluster.Members() {
		names[m.Origin] = m.Name
	}
	r.WaitingFor = []string{}
	for _, o := range r.Waiting {
		name := names[o]
		if name == "" {
			name = string(o)
		}
		r.WaitingFor = append(r.WaitingFor, name)
	}
	for i := range r.Issuers {
		if name := names[r.Issuers[i].By]; name != "" {
			r.Issuers[i].By = journal.Origin(name)
		}
	}
	return r, nil
}

func (a *API) rollover(r *http.Request) (any, error) { return a.rolloverNow(r.Context()) }

// Rollover tells how far a roll-over is.
func (c *Client) Rollover(ctx context.Context) (r Rollover, err error) {
	return r, c.call(ctx, http.MethodGet, "/v1/rollover", nil, &r)
}

// The steps of a roll-over that an operator takes.
const (
	RolloverBegin  = "begin"
	RolloverShow   = "show"
	RolloverHide   = "hide"
	RolloverFinish = "finish"
	RolloverCancel = "cancel"
)

// RolloverStep asks for one step.
type RolloverStep struct {
	Step   string `json:"step"`
	Force  bool   `json:"force,omitempty"`
	Stolen bool   `json:"stolen,omitempty"` // begin, finish: somebody else has the old key
}

func (a *API) rolloverStep(r *http.Request) (any, error) {
	var q RolloverStep
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	ctx, authority := r.Context(), a.m.Authority
	var err error
	switch q.Step {
	case RolloverBegin:
		err = authority.BeginRollover(ctx, q.Stolen)
	case RolloverShow:
		err = authority.ShowNew(ctx, true, q.Force)
	case RolloverHide:
		err = authority.ShowNew(ctx, false, q.Force)
	case RolloverFinish:
		err = authority.FinishRollover(ctx, q.Force, q.Stolen)
	case RolloverCancel:
		err = authority.CancelRollover(ctx, q.Force)
	default:
		err = fault.New(fault.Invalid, "unknown step %q of a roll-over", q.Step)
	}
	if err != nil {
		return nil, err
	}
	return a.rolloverNow(ctx)
}

// StepRollover takes one step and tells how far the roll-over is then.
func (c *Client) StepRollover(ctx context.Context, q RolloverStep) (r Rollover, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/rollover", q, &r)
}

// maxRenew bounds the names of one call: each may be a signature and a write to the disk.
const maxRenew = 500

// RolloverCertificates are certificates of the new issuer.
type RolloverCertificates struct {
	Bundle       string            `json:"ca_bundle"`
	CRLs         string            `json:"crls"`
	Certificates map[string]string `json:"certificates"` // PEM by certname
	Errors       map[string]string `json:"errors"`
}

type namesRequest struct {
	Certnames []string `json:"certnames"`
}

func (a *API) rolloverRenew(r *http.Request) (any, error) {
	var q namesRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if len(q.Certnames) > maxRenew {
		return nil, fault.New(fault.TooLarge, "%d names in one call, more than %d", len(q.Certnames), maxRenew)
	}
	out := RolloverCertificates{Certificates: map[string]string{}}
	out.Errors = each(q.Certnames, func(name puppet.Certname) error {
		cert, err := a.m.Authority.Renewed(r.Context(), name)
		if err == nil {
			out.Certificates[string(name)] = string(cert)
		}
		return err
	}).Errors
	out.Bundle, out.CRLs = string(a.m.Authority.Bundle()), string(a.m.Authority.CRLs())
	return out, nil
}

// RenewForRollover returns certificates of the new issuer for names that hang on the old one, for the keys that they have. Without
// names it returns the bundle and the lists only.
func (c *Client) RenewForRollover(ctx context.Context, names []string) (out RolloverCertificates, err error) {
	if len(names) > maxRenew {
		return out, fault.New(fault.TooLarge, "%d names in one call, more than %d", len(names), maxRenew)
	}
	return out, c.call(ctx, http.MethodPost, "/v1/rollover/renew", namesRequest{names}, &out)
}
