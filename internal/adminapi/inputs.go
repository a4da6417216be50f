package adminapi

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"troupe/internal/authz"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file hands out what shapes a node's catalog besides the code, so that a
// member that knows no node can compile as this one would.

// Inputs are what a member knows of a node.
type Inputs struct {
	Facts          json.RawMessage   `json:"facts,omitempty"` // an object; none if the node never sent any
	FactsTimestamp time.Time         `json:"facts_timestamp,omitzero"`
	Environment    string            `json:"environment"` // the classifier's, else the one in which the facts came
	Classes        json.RawMessage   `json:"classes,omitempty"`
	Parameters     json.RawMessage   `json:"parameters,omitempty"`
	Stale          bool              `json:"stale_classification"`
	Extensions     map[string]string `json:"extensions"`         // of its certificate, if this CA has issued one
	External       json.RawMessage   `json:"external,omitempty"` // $trusted['external']
	ServerFacts    map[string]string `json:"server_facts"`

	EnvironmentPath []string `json:"environmentpath"` // where the member has its environments
}

func (a *API) inputs(r *http.Request) (any, error) {
	name, err := puppet.ParseCertname(r.PathValue("certname"))
	if err != nil {
		return nil, err
	}
	return a.inputsOf(r.Context(), name)
}

// inputsOf asks all that an agent's own request for a catalog would ask.
func (a *API) inputsOf(ctx context.Context, name puppet.Certname) (*Inputs, error) {
	facts, err := a.m.Store.Facts(ctx, name)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return nil, err
	}
	node, err := a.m.Classifier.Classify(ctx, name)
	if err != nil {
		return nil, err
	}
	in := &Inputs{
		Facts: facts.Values, FactsTimestamp: facts.Timestamp,
		Environment: string(cmp.Or(node.Environment, facts.Environment)),
		Classes:     node.Classes, Parameters: node.Parameters, Stale: node.Stale,
		ServerFacts: engine.ServerFacts(cmp.Or(a.m.HostName, a.m.Name), a.m.ServerIP, a.m.ServerIP6),
	}
	for _, path := range a.m.Code.SearchPaths() {
		in.EnvironmentPath = append(in.EnvironmentPath, strings.TrimPrefix(path, "file://"))
	}
	if in.Extensions, err = a.extensionsOf(ctx, name); err != nil {
		return nil, err
	}
	in.External, err = a.m.Classifier.External(ctx, name)
	return in, err
}

// extensionsOf reads the node's certificate; a node without one has none.
func (a *API) extensionsOf(ctx context.Context, name puppet.Certname) (map[string]string, error) {
	text, err := a.m.Authority.Certificate(ctx, string(name))
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate of %s: %w", name, err)
	}
	return authz.Extensions(cert, a.m.CustomOIDs), nil
}

// trusted is $trusted as the node itself would get it.
func (in *Inputs) trusted(name puppet.Certname) puppet.Trusted {
	t := authz.Identity{Certname: name, Authenticated: true, Extensions: in.Extensions}.Trusted()
	t.External = in.External
	return t
}

// factsFor prefers the facts that were given to those that are stored.
func (in *Inputs) factsFor(name puppet.Certname, given json.RawMessage) (puppet.Facts, error) {
	if len(given) > 0 {
		if given[0] != '{' {
			return puppet.Facts{}, fault.New(fault.Invalid, "the facts must be one JSON object: name to value")
		}
		return puppet.Facts{Certname: name, Timestamp: time.Now(), Values: given}, nil
	}
	if len(in.Facts) == 0 {
		return puppet.Facts{}, fault.New(fault.NotFound, "no facts of %s are stored; give some with --facts FILE (on the node: puppet facts show --render-as json)", name)
	}
	return puppet.Facts{Certname: name, Timestamp: in.FactsTimestamp, Values: in.Facts}, nil
}

// Inputs returns what the member knows of a node, and of one that it has never
// seen what it would believe.
func (c *Client) Inputs(ctx context.Context, certname string) (*Inputs, error) {
	var out Inputs
	err := c.call(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(certname)+"/inputs", nil, &out)
	return &out, err
}

// resourceQuery is a [store.ResourceQuery] on the wire. It is sent in a body: a
// filter may be longer than an address.
type resourceQuery struct {
	Type        string          `json:"type"`
	Filter      json.RawMessage `json:"filter,omitempty"`
	NotCertname puppet.Certname `json:"not_certname,omitempty"`
}

func (a *API) exported(r *http.Request) (any, error) {
	var q resourceQuery
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	list, err := a.m.Store.ExportedResources(r.Context(), store.ResourceQuery(q))
	if list == nil {
		list = []puppet.Resource{}
	}
	return list, err
}

// ExportedResources returns what a collector finds.
func (c *Client) ExportedResources(ctx context.Context, q store.ResourceQuery) ([]puppet.Resource, error) {
	var out []puppet.Resource
	err := c.call(ctx, http.MethodPost, "/v1/resources/exported", resourceQuery(q), &out)
	return out, err
}
