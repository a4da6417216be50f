package adminapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"troupe/internal/engine"
	"troupe/internal/puppet"
)

// This file compiles a catalog for a person: nothing is stored, and the node need
// not exist.

// CompileRequest says for whom to compile. Without Facts the node's stored facts
// are used; without Environment the classifier's, else the one in which the node's
// facts came, else production.
type CompileRequest struct {
	Certname    string          `json:"certname"`
	Environment string          `json:"environment,omitempty"`
	Facts       json.RawMessage `json:"facts,omitempty"`  // an object: name to value
	Inputs      *Inputs         `json:"inputs,omitempty"` // what another member knows of the node; nil means what this one knows
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
	Stale       bool               `json:"stale_classification"` // the classifier failed; its last good answer was used
	Error       string             `json:"error,omitempty"`      // in Puppet's words; then there is no catalog
}

func (a *API) compile(r *http.Request) (any, error) {
	var q CompileRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	ask, in, err := a.subject(r.Context(), q, (*Inputs).factsFor)
	if err != nil {
		return nil, err
	}
	defer ask.Version.Release()

	start := time.Now()
	ask.Rich, ask.Static, ask.ChecksumTypes = true, ask.Version.Settings.StaticCatalogs, checksumTypes()
	result, err := a.m.Compiler.Compile(r.Context(), ask)
	out := CompileResult{Environment: string(ask.Version.Environment), CodeID: ask.Version.ID, Seconds: time.Since(start).Seconds(), Stale: in.Stale}
	if failed, ok := errors.AsType[*engine.CompileError](err); ok {
		out.Error, out.Logs, out.Timings = failed.Msg, failed.Logs, seconds(failed.Timings)
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	out.Catalog, out.Resources, out.Logs = result.Catalog, result.Resources, result.Logs
	if result.PSON { // strings that are not UTF-8: as the store keeps such a catalog
		if out.Catalog, err = puppet.PSONToJSON(result.Catalog); err != nil {
			return nil, err
		}
	}
	out.Timings = seconds(result.Timings)
	return out, nil
}

// subject is the node that a request is about, as its agent would be, with the code that it would get. The caller releases
// the version.
func (a *API) subject(ctx context.Context, q CompileRequest, facts func(*Inputs, puppet.Certname, json.RawMessage) (puppet.Facts, error)) (engine.Request, *Inputs, error) {
	name, err := puppet.ParseCertname(q.Certname)
	if err != nil {
		return engine.Request{}, nil, err
	}
	in := q.Inputs
	if in == nil {
		if in, err = a.inputsOf(ctx, name); err != nil {
			return engine.Request{}, nil, err
		}
	}
	values, err := facts(in, name, q.Facts)
	if err != nil {
		return engine.Request{}, nil, err
	}
	env, err := puppet.ParseEnvironment(cmp.Or(q.Environment, in.Environment, "production"))
	if err != nil {
		return engine.Request{}, nil, err
	}
	version, err := a.m.Code.Current(ctx, env)
	if err != nil {
		return engine.Request{}, nil, err
	}
	version.Retain()
	return engine.Request{
		Certname: name, Version: version, Classes: in.Classes, Parameters: in.Parameters, Facts: values,
		Trusted: in.trusted(name), ServerFacts: in.ServerFacts, Patient: true,
	}, in, nil
}

// checksumTypes is what agents of Puppet 7 and 8 send, so that the metadata of
// files is what such an agent gets (lib/puppet/configurer.rb; the setting
// supported_checksum_types).
func checksumTypes() []string { return []string{"sha256", "sha384", "sha512", "sha224", "md5"} }

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

func (a *API) redact(r *http.Request) (any, error) {
	var catalog json.RawMessage
	if err := decode(r, &catalog); err != nil {
		return nil, err
	}
	out, err := a.m.Store.Redact(catalog)
	return json.RawMessage(out), err
}

// Redact puts in the place of sensitive values what stands there in the catalogs
// that the member stores, so that a fresh catalog can be compared with one of them.
func (c *Client) Redact(ctx context.Context, catalog json.RawMessage) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, http.MethodPost, "/v1/redact", catalog, &out)
	return out, err
}
