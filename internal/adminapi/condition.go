package adminapi

import (
	"context"
	"net"
	"net/http"
	"time"

	"troupe/internal/ca"
	"troupe/internal/cluster"
	"troupe/internal/engine/ruby"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file tells how the parts of the member do, for `troupe doctor`. Each part is asked by itself, so that one that hangs
// takes no other with it. Nothing that is secret is in any answer.

// Settings are those of a member's settings that an examination needs. There may be secrets among the others.
type Settings struct {
	Data            string   `json:"data"`
	Listen          string   `json:"listen"`
	Certname        string   `json:"certname"`
	AltNames        []string `json:"dns_alt_names"`
	ClusterListen   string   `json:"cluster_listen"`
	EnvironmentPath []string `json:"environmentpath"`
	Workers         int      `json:"workers"`
	MaxMemory       int64    `json:"max_memory"` // of one worker
	AutoRenewal     bool     `json:"auto_renewal"`

	Commands []Command `json:"commands"` // that the member starts
}

// A Command is a program of the operator's own, without its arguments.
type Command struct {
	Setting string `json:"setting"`
	Path    string `json:"path"`
}

// Process is the member as a process.
type Process struct {
	Settings Settings  `json:"settings"` // in force
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	PID      int       `json:"pid"`
	UID      int       `json:"uid"`
	Phase    string    `json:"phase"`   // starting, running or stopping
	Address  string    `json:"address"` // where agents are served
	Replaced bool      `json:"replaced"`

	Files    int    `json:"files"` // open ones; -1 when that is not known
	MaxFiles uint64 `json:"max_files"`

	Engine  ruby.Stats `json:"engine"`
	User    string     `json:"user"` // of the Ruby processes
	UserUID int        `json:"user_uid"`

	ConfigError string   `json:"config_error,omitempty"` // why the configuration could not be read again
	Notes       []string `json:"notes"`                  // settings of Puppet's files that are not followed
	Restart     []string `json:"restart"`                // settings that have changed and wait for a restart
	Reload      []string `json:"reload"`                 // settings that have changed and wait for a reload
}

// Environment is one environment as the member has it.
type Environment struct {
	Name    puppet.Environment `json:"name"`
	Path    string             `json:"path"`
	Version string             `json:"version"` // in service; "" when nobody has asked for it yet
	Error   string             `json:"error,omitempty"`
}

func (a *API) process(r *http.Request) (any, error) { return a.m.Process(r.Context()), nil }

// Process tells how the member's process does.
func (c *Client) Process(ctx context.Context) (p Process, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/condition/process", nil, &p)
}

// examineMost bounds the look through the journal's file, which keeps its write-ahead log from being emptied meanwhile.
const examineMost = 4 * time.Second

func (a *API) journalCondition(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), examineMost)
	defer cancel()
	return a.m.Journal.Examine(ctx)
}

// Journal tells how the journal does.
func (c *Client) Journal(ctx context.Context) (j journal.Condition, err error) {
	return j, c.call(ctx, http.MethodGet, "/v1/condition/journal", nil, &j)
}

func (a *API) authorityCondition(r *http.Request) (any, error) {
	return a.m.Authority.Examine(r.Context(), puppet.Certname(a.m.Name))
}

// Authority tells how the certificate authority does.
func (c *Client) Authority(ctx context.Context) (s ca.Condition, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/condition/authority", nil, &s)
}

func (a *API) clusterCondition(*http.Request) (any, error) { return a.m.Cluster.Examine(), nil }

// Cluster tells how the member stands in its troupe.
func (c *Client) Cluster(ctx context.Context) (s cluster.Condition, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/condition/troupe", nil, &s)
}

// probeMost bounds how long members are tried.
const probeMost = 4 * time.Second

func (a *API) probes(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), probeMost)
	defer cancel()
	return a.m.Cluster.ProbeAll(ctx, ListenIP(a.m.Process(ctx).Settings.ClusterListen)), nil
}

// Probes tries the ports of all members.
func (c *Client) Probes(ctx context.Context) (all []cluster.Probe, err error) {
	return all, c.call(ctx, http.MethodGet, "/v1/condition/members", nil, &all)
}

// ListenIP is the one address that a port listens on, nil for all. Connections to other members come from there, for the rules
// of firewalls.
func ListenIP(listen string) net.IP {
	host, _, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && ip != nil && !ip.IsUnspecified() {
		return ip
	}
	return nil
}

func (a *API) environmentConditions(r *http.Request) (any, error) {
	known, err := a.m.Code.Environments(r.Context())
	if err != nil {
		return nil, err
	}
	all := make([]Environment, len(known))
	for i, e := range known {
		all[i] = Environment{Name: e.Name, Path: e.Path, Version: e.Current}
		if e.Err != nil {
			all[i].Error = e.Err.Error()
		}
	}
	return all, nil
}

// Environments tells how the environments do.
func (c *Client) Environments(ctx context.Context) (all []Environment, err error) {
	return all, c.call(ctx, http.MethodGet, "/v1/condition/environments", nil, &all)
}
