package adminapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"troupe/internal/carrier/nats"
	"troupe/internal/cluster"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file has the troupe: its members and tokens, and how each of them does.

// InitRequest begins a troupe.
type InitRequest struct {
	Site    string `json:"site"`
	Address string `json:"address"` // host:port of the member port, "" for the configured one
}

func (a *API) initTroupe(r *http.Request) (any, error) {
	var q InitRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if err := a.m.Cluster.Found(r.Context(), q.Site, q.Address); err != nil {
		return nil, err
	}
	return a.status(r)
}

// Init begins a troupe with this member as its first.
func (c *Client) Init(ctx context.Context, q InitRequest) (s Status, err error) {
	return s, c.call(ctx, http.MethodPost, "/v1/troupe/init", q, &s)
}

// NewToken is a token with its text, which is told once.
type NewToken struct {
	cluster.Token

	Text    string `json:"text"`
	Address string `json:"address"` // of this member, for the new one
}

func (a *API) createToken(r *http.Request) (any, error) {
	var q cluster.TokenRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	text, token, err := a.m.Cluster.CreateToken(r.Context(), q)
	if err != nil {
		return nil, err
	}
	t := NewToken{Token: token, Text: text}
	for _, m := range a.m.Cluster.Members() {
		if m.Self {
			t.Address = m.Address
		}
	}
	return t, nil
}

// CreateToken makes a token for new members.
func (c *Client) CreateToken(ctx context.Context, q cluster.TokenRequest) (t NewToken, err error) {
	return t, c.call(ctx, http.MethodPost, "/v1/tokens", q, &t)
}

func (a *API) tokens(*http.Request) (any, error) { return a.m.Cluster.Tokens(), nil }

// Tokens lists tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) (all []cluster.Token, err error) {
	return all, c.call(ctx, http.MethodGet, "/v1/tokens", nil, &all)
}

func (a *API) revokeToken(r *http.Request) (any, error) {
	return done{true}, a.m.Cluster.RevokeToken(r.Context(), r.PathValue("id"))
}

// RevokeToken makes a token useless.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+id, nil, nil)
}

// removeMember ends a membership and revokes the certificate that agents would trust.
func (a *API) removeMember(r *http.Request) (any, error) {
	m, err := a.m.Cluster.Remove(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	err = a.m.Authority.Revoke(r.Context(), puppet.Certname(strings.ToLower(m.Name)))
	if fault.KindOf(err) == fault.NotFound {
		err = nil // it has never served
	}
	if err != nil {
		return nil, fault.Wrap(fault.KindOf(err), err, "%s is no member any more, and its certificate for agents is not revoked yet: %v. Say it at a member that has the CA's key: troupe ca revoke --certname %s", m.Name, err, strings.ToLower(m.Name))
	}
	return m, nil
}

// RemoveMember removes a member by name or origin.
func (c *Client) RemoveMember(ctx context.Context, name string) (m cluster.Member, err error) {
	return m, c.call(ctx, http.MethodDelete, "/v1/members/"+name, nil, &m)
}

func (a *API) acceptMember(r *http.Request) (any, error) {
	return a.m.Cluster.Accept(r.Context(), r.PathValue("name"))
}

// AcceptMember takes in a machine that waits, by name or origin.
func (c *Client) AcceptMember(ctx context.Context, name string) (m cluster.Member, err error) {
	return m, c.call(ctx, http.MethodPost, "/v1/members/"+name, nil, &m)
}

// Status is the troupe as this member sees it.
type Status struct {
	Founded bool                   `json:"founded"`
	Members []MemberStatus         `json:"members"`
	Waiting []cluster.Introduction `json:"waiting,omitempty"` // machines that want to be members, see AcceptMember
	Edges   []cluster.Edge         `json:"edges,omitempty"`
	NATS    *nats.Status           `json:"nats,omitempty"` // nil when records travel over HTTPS only
}

// MemberStatus is one member as this one sees it.
type MemberStatus struct {
	cluster.Member

	State  string    `json:"state"`           // self, connected, unknown
	Since  time.Time `json:"since,omitzero"`  // when it was last heard
	Behind uint64    `json:"behind"`          // records that it has not told to have
	AsOf   time.Time `json:"as_of,omitzero"`  // this member has everything that it wrote until then
	Newest time.Time `json:"newest,omitzero"` // when it wrote the newest record that this member has, by its clock
	Error  string    `json:"error,omitempty"`
	Alarms []string  `json:"alarms,omitempty"` // records that are not taken or damaged here, tables that are not the same as there

	Heartbeat Heartbeat `json:"heartbeat,omitzero"` // the last one
}

// A Heartbeat is how a member does, in its own words.
type Heartbeat struct {
	State   string    `json:"state"` // starting, running or stopping
	Problem string    `json:"problem,omitempty"`
	Workers int       `json:"workers"` // compiles at a time
	Busy    int       `json:"busy"`
	Waiting int       `json:"waiting"` // compiles
	Time    time.Time `json:"time"`    // by its own clock

	Heard     time.Time     `json:"heard"`           // by the clock of who heard it
	RoundTrip time.Duration `json:"round_trip"`      // of question and answer
	Ahead     time.Duration `json:"ahead,omitempty"` // its clock before that of who heard it, give or take half a round trip
}

// The states of a member. One that is not heard may be dead, or the network is cut: nobody here can know.
const (
	StateSelf      = "self"
	StateConnected = "connected"
	StateUnknown   = "unknown"
)

func (a *API) status(r *http.Request) (any, error) { return a.statusOf(r.Context()) }

func (a *API) statusOf(ctx context.Context) (Status, error) {
	peers, err := a.m.Carrier.Peers(ctx)
	if err != nil {
		return Status{}, err
	}
	var heard map[journal.Origin]Heartbeat
	if a.m.Heartbeats != nil {
		heard = a.m.Heartbeats(ctx)
	}
	s := Status{Founded: a.m.Cluster.Founded(), Members: []MemberStatus{}, Waiting: a.m.Cluster.Waiting(), Edges: a.m.Cluster.Edges()}
	for _, m := range a.m.Cluster.Members() {
		one := MemberStatus{Member: m, State: StateSelf, Heartbeat: heard[m.Origin]}
		if m.Self {
			one.AsOf = time.Now()
			one.Alarms = damageOf(a.m.Journal)
			if a.m.Authority != nil {
				unread, err := a.m.Authority.Unread(ctx)
				if err != nil {
					return Status{}, err
				}
				one.Alarms = append(one.Alarms, unread...)
			}
		}
		for _, p := range peers {
			if p.Origin != m.Origin {
				continue
			}
			one.AsOf, one.Newest = p.AsOf, p.Newest
			one.State, one.Since, one.Behind, one.Error, one.Alarms = StateConnected, p.Heard, p.Behind, p.Problem, append(p.Refused, p.Differs...)
			if p.Problem != "" || p.Heard.IsZero() {
				one.State = StateUnknown
			}
		}
		s.Members = append(s.Members, one)
	}
	if a.m.NATS != nil {
		s.NATS, err = a.m.NATS(ctx)
	}
	return s, err
}

// Status tells how the troupe does.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// SiteAges tells until when this member has everything that the members of each site wrote. A zero time means that it has
// nothing of one of them yet.
func (s Status) SiteAges() map[string]time.Time {
	ages := map[string]time.Time{}
	for _, m := range s.Members {
		if before, known := ages[m.Site]; !known || m.AsOf.Before(before) {
			ages[m.Site] = m.AsOf
		}
	}
	return ages
}
