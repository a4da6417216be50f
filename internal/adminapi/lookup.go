package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file looks up Hiera data for a person, with what a member knows of the node.

// LookupRequest says what to look up for whom. Given facts count beside the stored ones.
type LookupRequest struct {
	CompileRequest

	Keys    []string             `json:"keys"`
	Options engine.LookupOptions `json:"options"`
}

// LookupResult is the answer of `puppet lookup`.
type LookupResult struct {
	Output      string       `json:"output"` // as puppet lookup prints it
	Found       bool         `json:"found"`
	Environment string       `json:"environment"`
	CodeID      string       `json:"code_id"`
	Logs        []engine.Log `json:"logs"`
	Stale       bool         `json:"stale_classification"` // the classifier failed; its last good answer was used
	Error       string       `json:"error,omitempty"`      // in Puppet's words; then there is no output
}

func (a *API) lookup(r *http.Request) (any, error) {
	var q LookupRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	ask, in, err := a.subject(r.Context(), q.CompileRequest, (*Inputs).factsBeside)
	if err != nil {
		return nil, err
	}
	defer ask.Version.Release()

	res, err := a.m.Compiler.Lookup(r.Context(), engine.LookupRequest{Node: ask, Keys: q.Keys, Options: q.Options})
	out := LookupResult{
		Output: res.Output, Found: res.Found, Logs: res.Logs,
		Environment: string(ask.Version.Environment), CodeID: ask.Version.ID, Stale: in.Stale,
	}
	if err != nil && fault.KindOf(err) == fault.Failed { // with the messages that came before
		out.Error = err.Error()
		return out, nil
	}
	return out, err
}

// factsBeside puts given facts over the stored ones (retrieve_node_facts in lib/puppet/application/lookup.rb).
func (in *Inputs) factsBeside(name puppet.Certname, given json.RawMessage) (puppet.Facts, error) {
	if len(given) == 0 || len(in.Facts) == 0 {
		facts, err := in.factsFor(name, given)
		if err != nil || len(given) == 0 {
			return facts, err
		}
		return facts, allOrNone(given)
	}

	if err := allOrNone(given); err != nil {
		return puppet.Facts{}, err
	}
	all, over := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal(in.Facts, &all); err != nil {
		return puppet.Facts{}, fmt.Errorf("reading the stored facts of %s: %w", name, err)
	}
	if err := json.Unmarshal(given, &over); err != nil {
		return puppet.Facts{}, fault.New(fault.Invalid, "the facts must be one JSON object: name to value")
	}
	maps.Copy(all, over)
	values, err := json.Marshal(all)
	return puppet.Facts{Certname: name, Timestamp: time.Now(), Values: values}, err
}

// allOrNone refuses facts that would make $trusted another node's by half, as Puppet 7 does (TRUSTED_INFORMATION_FACTS).
func allOrNone(given json.RawMessage) error {
	var facts map[string]json.RawMessage
	if err := json.Unmarshal(given, &facts); err != nil {
		return fault.New(fault.Invalid, "the facts must be one JSON object: name to value")
	}
	identity := []string{"hostname", "domain", "fqdn", "clientcert"}
	missing := 0
	for _, name := range identity {
		if _, ok := facts[name]; !ok {
			missing++
		}
	}
	if missing == 0 || missing == len(identity) {
		return nil
	}
	return fault.New(fault.Invalid, "of the facts %s either all or none must be given", strings.Join(identity, ", "))
}

// Lookup looks up data.
func (c *Client) Lookup(ctx context.Context, q LookupRequest) (LookupResult, error) {
	var out LookupResult
	err := c.call(ctx, http.MethodPost, "/v1/lookup", q, &out)
	return out, err
}
