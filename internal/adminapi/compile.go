package adminapi

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"troupe/internal/authz"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file compiles a catalog for a person: nothing is stored, and the node need
// not exist.

// CompileRequest says for whom to compile. Without Facts the node's stored facts
// are used; without Environment the classifier's, else the one of the facts, else
// production.
type CompileRequest struct {
	Certname    string          `json:"certname"`
	Environment string          `json:"environment,omitempty"`
	Facts       json.RawMessage `json:"facts,omitempty"` // an object: name to value
}

// CompileResult is a catalog and what it took to make it.
type CompileResult struct {
	Catalog     json.RawMessage    `json:"catalog,omitempty"`
	Environment string             `json:"environment"`
	CodeID      string             `json:"code_id"`
	Seconds     float64            `json:"seconds"`
	Timings     map[string]float64 `json:"timings"` // seconds by phase
	Resources   int                `json:"resources"`
	Logs        []engine.Log       `json:"logs"`
	Error       string             `json:"error,omitempty"` // in Puppet's words; then there is no catalog
}

func (a *API) compile(r *http.Request) (any, error) {
	var q CompileRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	name, err := puppet.ParseCertname(q.Certname)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	facts, err := a.factsFor(ctx, name, q.Facts)
	if err != nil {
		return nil, err
	}
	node, err := a.m.Classifier.Classify(ctx, name)
	if err != nil {
		return nil, err
	}
	env, err := puppet.ParseEnvironment(cmp.Or(q.Environment, string(node.Environment), string(facts.Environment), "production"))
	if err != nil {
		return nil, err
	}
	trusted, err := a.trustedOf(ctx, name)
	if err != nil {
		return nil, err
	}
	version, err := a.m.Code.Current(ctx, env)
	if err != nil {
		return nil, err
	}
	version.Retain()
	defer version.Release()

	start := time.Now()
	result, err := a.m.Compiler.Compile(ctx, engine.Request{
		Certname: name, Version: version, Classes: node.Classes, Parameters: node.Parameters, Facts: facts,
		Trusted:     trusted,
		ServerFacts: map[string]string{"servername": a.m.Name, "environment": string(env)},
		Rich:        true, Patient: true,
	})
	out := CompileResult{Environment: string(env), CodeID: version.ID, Seconds: time.Since(start).Seconds()}
	if failed, ok := errors.AsType[*engine.CompileError](err); ok {
		out.Error, out.Logs, out.Timings = failed.Msg, failed.Logs, seconds(failed.Timings)
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	out.Catalog, out.Resources, out.Logs = result.Catalog, result.Resources, result.Logs
	out.Timings = seconds(result.Timings)
	return out, nil
}

func (a *API) factsFor(ctx context.Context, name puppet.Certname, given json.RawMessage) (puppet.Facts, error) {
	if len(given) > 0 && given[0] != '{' {
		return puppet.Facts{}, fault.New(fault.Invalid, "the facts must be one JSON object: name to value")
	}
	if len(given) > 0 {
		return puppet.Facts{Certname: name, Timestamp: time.Now(), Values: given}, nil
	}
	facts, err := a.m.Store.Facts(ctx, name)
	if fault.KindOf(err) == fault.NotFound {
		return facts, fault.New(fault.NotFound, "no facts of %s are stored; give some with --facts FILE (on the node: puppet facts show --render-as json)", name)
	}
	return facts, err
}

// trustedOf is $trusted as the node itself would get it: with the extensions of
// its certificate, if this CA has issued one.
func (a *API) trustedOf(ctx context.Context, name puppet.Certname) (puppet.Trusted, error) {
	id := authz.Identity{Certname: name, Authenticated: true}
	text, err := a.m.Authority.Certificate(ctx, string(name))
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return puppet.Trusted{}, err
	}
	if block, _ := pem.Decode(text); block != nil {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return puppet.Trusted{}, fmt.Errorf("read the certificate of %s: %w", name, err)
		}
		id.Extensions = authz.Extensions(cert, a.m.CustomOIDs)
	}
	trusted := id.Trusted()
	trusted.External, err = a.m.Classifier.External(ctx, name)
	return trusted, err
}

func seconds(timings map[string]time.Duration) map[string]float64 {
	out := make(map[string]float64, len(timings))
	for k, d := range timings {
		out[k] = d.Seconds()
	}
	return out
}

// Compile compiles a catalog without storing it.
func (c *Client) Compile(ctx context.Context, q CompileRequest) (CompileResult, error) {
	var out CompileResult
	err := c.call(ctx, http.MethodPost, "/v1/compile", q, &out)
	return out, err
}
