package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"troupe/internal/edge/balance"
	"troupe/internal/edge/bgp"
	"troupe/internal/edge/health"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file is what an operator asks of a running edge, server and client side by side. It listens on a Unix socket in the data
// folder; whoever may open it (mode 0600) is the operator.

const (
	controlSocket = "edge.sock"
	nextSocket    = ".next"
)

// A Status is an edge on one screen.
type Status struct {
	Name      string       `json:"name"`
	Site      string       `json:"site,omitempty"`
	Version   string       `json:"version"`
	Started   time.Time    `json:"started"`
	Serving   bool         `json:"serving"`
	Why       string       `json:"why,omitempty"` // it does not
	Drained   bool         `json:"drained"`
	Listeners []string     `json:"listeners"`
	Runs      int          `json:"runs"`
	Sessions  int          `json:"sessions"`
	Memory    int64        `json:"bodies_memory"`
	Disk      int64        `json:"bodies_disk"`
	Pools     []PoolStatus `json:"pools"`
	BGP       *bgp.Status  `json:"bgp,omitempty"`
	Zone      string       `json:"zone,omitempty"` // that it answers for
}

// A PoolStatus is one pool.
type PoolStatus struct {
	Name    string          `json:"name"`
	Queue   int             `json:"queue"`
	Usable  int             `json:"usable"`
	Servers []BackendStatus `json:"servers"`
}

// A BackendStatus is one server as balancing and the judge see it.
type BackendStatus struct {
	Name     string       `json:"name"`
	Address  string       `json:"address"`
	Site     string       `json:"site,omitempty"`
	State    health.State `json:"state"`
	Reason   string       `json:"reason"`
	Since    time.Time    `json:"since"`
	Check    string       `json:"check"`
	Weight   float64      `json:"weight"` // that counts now
	Backup   bool         `json:"backup"`
	Current  int          `json:"current"`
	MaxConns int          `json:"max_connections"`
	Total    uint64       `json:"total"`
	Failed   uint64       `json:"failed"`
}

// An Explanation says where a client's next request would go, and why not elsewhere.
type Explanation struct {
	Client   string           `json:"client"`
	Run      *RunStatus       `json:"run,omitempty"`
	Pool     string           `json:"pool"`
	Servers  []balance.Reason `json:"servers"`
	SetAside string           `json:"set_aside,omitempty"`
}

// runControl serves the socket. It gets its name in [Edge.begin]: until then that is the socket of the process before this one.
func (e *Edge) runControl(ctx context.Context, begun func()) error {
	path := filepath.Join(e.conf.Data, controlSocket+nextSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // it may be another edge's by then
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { e.reply(w, e.status(), nil) })
	mux.HandleFunc("GET /v1/runs", func(w http.ResponseWriter, _ *http.Request) { e.reply(w, e.runs.list(listMost), nil) })
	mux.HandleFunc("GET /v1/sessions", func(w http.ResponseWriter, _ *http.Request) { e.reply(w, e.sessions.list(listMost), nil) })
	mux.HandleFunc("GET /v1/table/{pool}", e.answerTable)
	mux.HandleFunc("DELETE /v1/table/{pool}/{key}", e.forget)
	mux.HandleFunc("GET /v1/explain/{client}", e.answerExplain)
	mux.HandleFunc("POST /v1/servers/{pool}/{server}", e.change)
	mux.HandleFunc("POST /v1/edge", e.changeEdge)
	mux.HandleFunc("POST /v1/takeover", e.giveOver)
	mux.HandleFunc("GET /v1/passed", e.answerPassOn)
	mux.HandleFunc("GET /v1/dns/explain", e.answerDNS)
	mux.HandleFunc("GET /v1/dns/export", e.answerExport)
	begun()
	return e.serveBeside(ctx, l, mux)
}

// listMost is how many rows a list has at most.
const listMost = 10_000

func (e *Edge) reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		status := http.StatusBadRequest
		if fault.KindOf(err) == fault.NotFound {
			status = http.StatusNotFound
		}
		http.Error(w, fault.Message(err), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		e.log.Debug("an operator went away", telemetry.KeyErr, err)
	}
}

func (e *Edge) status() Status {
	s := Status{Name: e.conf.Name, Site: e.conf.Site, Version: e.o.Version, Started: e.started, Drained: e.drained.Load(), Runs: e.runs.open(), Memory: e.bodies.memory.Load(), Disk: e.bodies.disk.Load(), Listeners: []string{}, Pools: []PoolStatus{}}
	s.Serving, s.Why = e.serving()
	if e.speaker != nil {
		b := e.speaker.Status()
		s.BGP = &b
	}
	if e.conf.DNS != nil {
		s.Zone = e.conf.DNS.Zone
	}
	e.sessions.mu.Lock()
	s.Sessions = len(e.sessions.all)
	e.sessions.mu.Unlock()
	for _, l := range e.listeners {
		s.Listeners = append(s.Listeners, l.Addr().String()+" "+l.conf.Mode)
	}
	checks := map[string]health.Status{}
	for _, c := range e.judge.All() {
		checks[c.ID] = c
	}
	for _, name := range e.poolNames() {
		p := e.pools[name]
		ps := PoolStatus{Name: name, Queue: p.Queue(), Usable: p.Usable(), Servers: []BackendStatus{}}
		for _, b := range p.Stats().Servers {
			c := checks[name+"/"+b.Name]
			ps.Servers = append(ps.Servers, BackendStatus{
				Name: b.Name, Address: b.Address, Site: b.Site, State: c.Verdict.State, Reason: c.Verdict.Reason, Since: c.Verdict.Since, Check: c.Check,
				Weight: b.Weight, Backup: b.Backup, Current: b.Current, MaxConns: b.MaxConns, Total: b.Total, Failed: b.Failed,
			})
		}
		s.Pools = append(s.Pools, ps)
	}
	return s
}

func (e *Edge) poolNames() []string {
	names := make([]string, 0, len(e.pools))
	for name := range e.pools {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (e *Edge) answerTable(w http.ResponseWriter, r *http.Request) {
	t := e.tables[r.PathValue("pool")]
	if t == nil {
		e.reply(w, nil, fault.New(fault.NotFound, "pool %s has no stick table; those with one: %s", r.PathValue("pool"), strings.Join(e.tableNames(), ", ")))
		return
	}
	e.reply(w, t.Entries(), nil)
}

func (e *Edge) tableNames() (names []string) {
	for name := range e.tables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (e *Edge) forget(w http.ResponseWriter, r *http.Request) {
	t := e.tables[r.PathValue("pool")]
	if t == nil {
		e.reply(w, nil, fault.New(fault.NotFound, "pool %s has no stick table", r.PathValue("pool")))
		return
	}
	t.Delete(r.PathValue("key"))
	e.reply(w, struct{}{}, nil)
}

func (e *Edge) answerExplain(w http.ResponseWriter, r *http.Request) {
	client := lower(r.PathValue("client"))
	x := &exchange{client: client, environment: r.URL.Query().Get("environment"), verb: verb{name: "catalog"}}
	name := r.URL.Query().Get("pool")
	if name == "" && len(e.conf.Listeners) > 0 {
		name = e.conf.Listeners[0].Pool
	}
	p := e.pools[name]
	if p == nil {
		e.reply(w, nil, fault.New(fault.NotFound, "there is no pool %q; there are %s", name, strings.Join(e.poolNames(), ", ")))
		return
	}
	out := Explanation{Client: client, SetAside: e.poison.judge(x)}
	if s, ok := e.runs.find(client); ok {
		out.Run = &s
		if x.environment == "" {
			x.environment = s.Environment
		}
	}
	p = p.orOverflow()
	out.Pool = p.name
	ask := balance.Ask{Key: client, Environment: x.environment, Cost: p.costs.Expect(client, x.environment), Run: out.Run != nil}
	if out.Run != nil {
		ask.Prefer = e.runs.at(client, p.name)
	}
	out.Servers = p.Explain(ask)
	e.reply(w, out, nil)
}

// A Change is what an operator wants of a server.
type Change struct {
	Mode   string `json:"mode,omitempty"` // ready, drain, maint
	Weight *int   `json:"weight,omitempty"`
	Cut    bool   `json:"cut,omitempty"` // end what is under way there
}

func (e *Edge) change(w http.ResponseWriter, r *http.Request) {
	var c Change
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&c); err != nil {
		e.reply(w, nil, fault.Wrap(fault.Invalid, err, "the request cannot be read"))
		return
	}
	e.reply(w, struct{}{}, e.words.speak(func() error { return e.changeServer(r.PathValue("pool"), r.PathValue("server"), c) }))
}

func (e *Edge) changeServer(pool, name string, c Change) error {
	p := e.pools[pool]
	if p == nil {
		return fault.New(fault.NotFound, "there is no pool %q; there are %s", pool, strings.Join(e.poolNames(), ", "))
	}
	s := p.server(name)
	if s == nil {
		return fault.New(fault.NotFound, "pool %s has no server %q", pool, name)
	}
	if c.Weight != nil && (*c.Weight < 0 || *c.Weight > 256) {
		return fault.New(fault.Invalid, "a weight is a number from 0 to 256, not %d", *c.Weight)
	}
	if c.Mode != "" {
		if err := e.judge.Admin(s.id, c.Mode); err != nil {
			return err
		}
		e.log.Info("an operator changed a server", "server", s.id, "mode", c.Mode)
	}
	if c.Weight != nil {
		if err := e.words.setWeight(s.id, *c.Weight, s.configured); err != nil {
			return err
		}
		if err := p.SetWeight(name, *c.Weight); err != nil {
			return err
		}
		e.log.Info("an operator changed a server", "server", s.id, "weight", *c.Weight)
	}
	if c.Cut {
		s.cut(true)
		e.log.Info("an operator cut what was under way", "server", s.id)
	}
	return nil
}

// changeEdge drains the whole edge, or takes it into service again: agents and balancers that look at /status/v1/simple, DNS and BGP
// send nobody any more, and who comes all the same is served.
func (e *Edge) changeEdge(w http.ResponseWriter, r *http.Request) {
	var c Change
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&c)
	switch {
	case err != nil:
		err = fault.Wrap(fault.Invalid, err, "the request cannot be read")
	case c.Cut || c.Weight != nil:
		err = fault.New(fault.Invalid, "cut and weight are for one server: name POOL/SERVER. What runs on the whole edge ends when the edge is stopped")
	case c.Mode == "drain" || c.Mode == "ready":
		err = e.words.speak(func() error { return e.drain(c.Mode == "drain") })
	default:
		err = fault.New(fault.Invalid, "an edge is drained or ready; %q is neither", c.Mode)
	}
	e.reply(w, struct{}{}, err)
}

func (e *Edge) drain(on bool) error {
	if err := e.words.change(func(s *saidWords) { s.Drained = on }); err != nil {
		return err
	}
	e.drained.Store(on)
	if e.speaker != nil {
		e.speaker.Drain(on)
	}
	e.log.Info("an operator changed this edge", "drain", on)
	return nil
}

// A Client asks a running edge.
type Client struct{ http *http.Client }

// ErrNotRunning is that no edge serves the data folder.
var ErrNotRunning = errors.New("no edge is running with this data folder")

// Dial finds the edge of a data folder.
func Dial(ctx context.Context, data string) (*Client, error) {
	client, err := dialControl(ctx, filepath.Join(data, controlSocket))
	if err != nil {
		return nil, fmt.Errorf("%w: %s (is it another one? --data names it): %w", ErrNotRunning, data, err)
	}
	return client, nil
}

func dialControl(ctx context.Context, path string) (*Client, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	}
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 30 * time.Second}}, conn.Close()
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://edge"+path, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	response, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		return errors.Join(errors.New(strings.TrimSpace(string(text))), err)
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// Status asks how the edge does.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Runs asks for the runs under way, the latest first.
func (c *Client) Runs(ctx context.Context) (all []RunStatus, err error) {
	return all, c.do(ctx, http.MethodGet, "/v1/runs", nil, &all)
}

// Sessions asks for the connections in mode passthrough.
func (c *Client) Sessions(ctx context.Context) (all []SessionStatus, err error) {
	return all, c.do(ctx, http.MethodGet, "/v1/sessions", nil, &all)
}

// Table asks for a pool's stick table.
func (c *Client) Table(ctx context.Context, pool string) (all []balance.Entry, err error) {
	return all, c.do(ctx, http.MethodGet, "/v1/table/"+url.PathEscape(pool), nil, &all)
}

// Forget takes a client out of a stick table.
func (c *Client) Forget(ctx context.Context, pool, key string) error {
	return c.do(ctx, http.MethodDelete, "/v1/table/"+url.PathEscape(pool)+"/"+url.PathEscape(key), nil, &struct{}{})
}

// Explain asks where a client's next request would go.
func (c *Client) Explain(ctx context.Context, client, environment, pool string) (x Explanation, err error) {
	q := url.Values{"environment": {environment}, "pool": {pool}}
	return x, c.do(ctx, http.MethodGet, "/v1/explain/"+url.PathEscape(client)+"?"+q.Encode(), nil, &x)
}

// Change changes a server.
func (c *Client) Change(ctx context.Context, pool, server string, change Change) error {
	return c.do(ctx, http.MethodPost, "/v1/servers/"+url.PathEscape(pool)+"/"+url.PathEscape(server), change, &struct{}{})
}

// ChangeEdge drains the edge, or takes it into service again.
func (c *Client) ChangeEdge(ctx context.Context, mode string) error {
	return c.do(ctx, http.MethodPost, "/v1/edge", Change{Mode: mode}, &struct{}{})
}
