package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file shows nodes: when each was last seen, its facts, its catalog and its compiles.

// Node is one line of the list of nodes. A zero time means never.
type Node struct {
	Certname         string    `json:"certname"`
	Environment      string    `json:"environment"`
	Status           string    `json:"status"` // of the latest report
	Noop             bool      `json:"noop"`   // so was the latest run
	Active           bool      `json:"active"`
	FactsTimestamp   time.Time `json:"facts_timestamp,omitzero"`
	CatalogTimestamp time.Time `json:"catalog_timestamp,omitzero"`
	ReportTimestamp  time.Time `json:"report_timestamp,omitzero"`
	LastCompile      *Compile  `json:"last_compile,omitempty"`
}

// Compile is what one compile took, or why it failed.
type Compile struct {
	Time            time.Time          `json:"time"`
	Environment     string             `json:"environment"`
	CodeID          string             `json:"code_id"`
	TransactionUUID string             `json:"transaction_uuid"`
	Failed          bool               `json:"failed"`
	Error           string             `json:"error,omitempty"`
	Seconds         float64            `json:"seconds"`
	Timings         map[string]float64 `json:"timings,omitempty"` // seconds by phase
	Resources       int                `json:"resources"`
	Bytes           int                `json:"bytes"`
	Logs            []store.Log        `json:"logs,omitempty"`
}

// NodeDetail is one node with its newest compiles, newest first.
type NodeDetail struct {
	Node
	Compiles []Compile `json:"compiles"`

	// AsOf tells by site until when this member has everything that was written there; empty for one that serves alone.
	AsOf map[string]time.Time `json:"as_of,omitempty"`
}

func (a *API) nodes(r *http.Request) (any, error) {
	const page = 1000
	out := []Node{}
	for q := (store.NodeQuery{Inactive: true, Limit: page}); ; {
		list, err := a.m.Store.Nodes(r.Context(), q)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			node, err := a.nodeOf(r.Context(), n)
			if err != nil {
				return nil, err
			}
			out = append(out, node)
		}
		if len(list) < page {
			return out, nil
		}
		q.After = list[len(list)-1].Certname
	}
}

func (a *API) nodeOf(ctx context.Context, n store.Node) (Node, error) {
	out := Node{
		Certname: string(n.Certname), Environment: string(n.Environment), Status: n.Status, Noop: n.Noop, Active: !n.Inactive,
		FactsTimestamp: n.FactsAt, CatalogTimestamp: n.CatalogAt, ReportTimestamp: n.ReportAt,
	}
	compiles, err := a.m.Store.Compiles(ctx, n.Certname, 1)
	if err != nil {
		return out, err
	}
	if len(compiles) > 0 {
		c := compileOf(compiles[0])
		c.Logs = nil // they would make a list of all nodes long; see NodeDetail
		out.LastCompile = &c
	}
	return out, nil
}

func compileOf(c store.Compile) Compile {
	return Compile{
		Time: c.Start, Environment: string(c.Environment), CodeID: c.CodeID, TransactionUUID: c.TransactionUUID,
		Failed: c.Failed, Error: c.Error, Seconds: c.Duration.Seconds(), Timings: seconds(c.Timings),
		Resources: c.Resources, Bytes: c.Bytes, Logs: c.Logs,
	}
}

// Nodes lists the nodes that this member knows, by name.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var out []Node
	err := c.call(ctx, http.MethodGet, "/v1/nodes", nil, &out)
	return out, err
}

func (a *API) node(r *http.Request) (any, error) {
	name, err := puppet.ParseCertname(r.PathValue("certname"))
	if err != nil {
		return nil, err
	}
	list, err := a.m.Store.Nodes(r.Context(), store.NodeQuery{Certname: string(name), Inactive: true})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fault.New(fault.NotFound, "no node %s has been here (see: troupe node list)", name)
	}
	node, err := a.nodeOf(r.Context(), list[0])
	if err != nil {
		return nil, err
	}
	compiles, err := a.m.Store.Compiles(r.Context(), name, 20)
	if err != nil {
		return nil, err
	}
	out := NodeDetail{Node: node, Compiles: make([]Compile, len(compiles))}
	for i, c := range compiles {
		out.Compiles[i] = compileOf(c)
	}
	if a.m.Cluster != nil && a.m.Cluster.Founded() {
		s, err := a.statusOf(r.Context())
		if err != nil {
			return nil, err
		}
		out.AsOf = s.SiteAges()
	}
	return out, nil
}

// Node shows one node.
func (c *Client) Node(ctx context.Context, certname string) (NodeDetail, error) {
	var out NodeDetail
	err := c.call(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(certname), nil, &out)
	return out, err
}

func (a *API) facts(r *http.Request) (any, error) {
	name, err := puppet.ParseCertname(r.PathValue("certname"))
	if err != nil {
		return nil, err
	}
	f, err := a.m.Store.Facts(r.Context(), name)
	if err != nil {
		return nil, err
	}
	return f.Values, nil
}

// Facts returns the node's facts as one JSON object.
func (c *Client) Facts(ctx context.Context, certname string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(certname)+"/facts", nil, &out)
	return out, err
}

func (a *API) catalog(r *http.Request) (any, error) {
	name, err := puppet.ParseCertname(r.PathValue("certname"))
	if err != nil {
		return nil, err
	}
	_, body, err := a.m.Store.Catalog(r.Context(), name)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(body), nil
}

// Catalog returns the node's latest catalog.
func (c *Client) Catalog(ctx context.Context, certname string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(certname)+"/catalog", nil, &out)
	return out, err
}
