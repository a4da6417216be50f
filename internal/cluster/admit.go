package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"troupe/internal/failpoint"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file answers whoever wants to join.

// A joinRequest is what a fresh machine says about itself.
type joinRequest struct {
	Token   string         `json:"token"`
	Secret  string         `json:"secret"`
	Request []byte         `json:"request"` // DER of a certificate request, which proves its key
	Origin  journal.Origin `json:"origin"`
	Name    string         `json:"name"`
	Site    string         `json:"site"`
	Address string         `json:"address"`
	Version string         `json:"version"`
	Format  int            `json:"format"` // of journal records
	Time    time.Time      `json:"time"`
}

// A joinAnswer makes it a member.
type joinAnswer struct {
	ID          string `json:"id"`
	Certificate []byte `json:"certificate"`      // DER
	CA          []byte `json:"ca"`               // DER
	CAKey       []byte `json:"ca_key,omitempty"` // of role server only, as the keys
	Keys        Keys   `json:"keys,omitzero"`
	Member      Member `json:"member"`
	From        Member `json:"from"` // whose journal to take
	Edge        *Edge  `json:"edge,omitempty"`
}

const (
	maxJoin  = 64 << 10
	maxDrift = 5 * time.Minute // as in package journal, which would not take its records
	maxName  = 255
)

// Handler serves the member port: anybody may try to join, a machine with a certificate of the troupe may introduce itself, edges
// have what is below /edge/, the rest is for members.
func (c *Cluster) Handler(members, edges http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cluster/v1/join", c.answerJoin)
	mux.HandleFunc("POST /cluster/v1/introduce", c.answerIntroduction)
	mux.Handle("/edge/", c.edgesOnly(edges))
	mux.Handle("/", c.members(members))
	return mux
}

func (c *Cluster) answerJoin(w http.ResponseWriter, r *http.Request) {
	var q joinRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&q)
	if err != nil {
		err = fault.Wrap(fault.Invalid, err, "the request to join cannot be read: is it the same troupe version?")
	}
	var answer joinAnswer
	if err == nil {
		answer, err = c.admit(r.Context(), q)
	}
	if err != nil {
		c.log.WarnContext(r.Context(), "somebody was not admitted", "remote", r.RemoteAddr, "name", q.Name, "origin", q.Origin, "token", q.Token, telemetry.KeyErr, err)
		http.Error(w, fault.Message(err), joinStatus(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		c.log.WarnContext(r.Context(), "a new member went away before it had its answer; it may ask again", "name", q.Name, telemetry.KeyErr, err)
	}
}

func joinStatus(err error) int {
	switch fault.KindOf(err) { //nolint:exhaustive // the rest is ours
	case fault.Invalid, fault.TooLarge:
		return http.StatusBadRequest
	case fault.Denied:
		return http.StatusForbidden
	case fault.Conflict:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// admit makes a machine with a good token a member. It may be asked twice by the same one.
func (c *Cluster) admit(ctx context.Context, q joinRequest) (answer joinAnswer, err error) {
	c.admitting.Lock()
	defer c.admitting.Unlock()
	t, err := c.judge(q.Token, q.Secret, q.Origin)
	if err != nil {
		return answer, err
	}
	public, err := q.check(c.o.Now(), c.o.Version)
	if err != nil {
		return answer, err
	}
	site := q.Site
	switch {
	case t.Site != "" && site != "" && site != t.Site:
		return answer, fault.New(fault.Denied, "the token is for site %s, not for %s", t.Site, site)
	case t.Site != "":
		site = t.Site
	case site == "":
		site = c.self().Site
	}
	if err := c.nameFree(q); err != nil {
		return answer, err
	}

	if slices.Contains(t.Roles, RoleEdge) {
		return c.admitEdge(ctx, q, t, site, public)
	}
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	member := Member{Origin: q.Origin, Name: q.Name, Site: site, Roles: t.Roles, Address: q.Address, Version: q.Version}
	cert, err := c.certifyMember(f, member, public)
	if err != nil {
		return answer, fmt.Errorf("certificate of the new member: %w", err)
	}
	answer = joinAnswer{ID: f.ID, Certificate: cert.Raw, CA: f.cert.Raw, Member: member, From: c.self().Member}
	if answer.CAKey, err = c.vault.Open(f.cert.SubjectKeyId); err != nil {
		return joinAnswer{}, err
	}
	if c.o.Keys != nil {
		if answer.Keys, err = c.o.Keys(); err != nil {
			return joinAnswer{}, fmt.Errorf("keys for the new member: %w", err)
		}
	}
	// The record comes before the answer: a token that was told to be good is used.
	err = c.append(ctx, draft{kindTokenUsed, q.Token, tokenUsedRecord{ID: q.Token, Origin: q.Origin}}, draft{kindMember, q.Name, memberRecord{member}},
		draft{kindMemberKey, q.Name, memberKeyRecord{Origin: q.Origin, Key: memberKey(cert)}})
	if err != nil {
		return joinAnswer{}, fmt.Errorf("record the new member: %w", err)
	}
	failpoint.Here("cluster.admitted")
	c.log.InfoContext(ctx, "member admitted", "member", q.Name, "site", site, "origin", q.Origin, "address", q.Address, "token", q.Token)
	return answer, nil
}

// check judges everything but the token, and returns the key that the request proves.
func (q joinRequest) check(now time.Time, version string) (*ecdsa.PublicKey, error) {
	if drift := q.Time.Sub(now).Abs(); drift > maxDrift {
		return nil, fault.New(fault.Invalid, "the clock of this machine differs from that of the troupe by %v: set it right (NTP) and join again", drift.Round(time.Second))
	}
	if q.Format < journal.Format {
		return nil, fault.New(fault.Invalid, "this troupe writes journal records of format %d, which the new member (troupe %s, format %d) cannot read: install troupe %s on it",
			journal.Format, q.Version, q.Format, version)
	}
	if q.Format > journal.Format {
		return nil, fault.New(fault.Invalid, "the new member (troupe %s) writes journal records of format %d, which this one (troupe %s, format %d) cannot read: "+
			"upgrade the members first, or install troupe %s on it", q.Version, q.Format, version, journal.Format, version)
	}
	if q.Origin == "" || q.Name == "" || q.Address == "" || len(q.Origin) > maxName || len(q.Name) > maxName || len(q.Site) > maxName || len(q.Address) > maxName {
		return nil, fault.New(fault.Invalid, "a member has an origin, a name and an address of at most %d characters", maxName)
	}
	csr, err := x509.ParseCertificateRequest(q.Request)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the certificate request of the new member is not good")
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fault.New(fault.Invalid, "the certificate request of the new member has a key of type %T, not ECDSA", csr.PublicKey)
	}
	return public, nil
}

// nameFree refuses a name that another member has. One that was removed may come again, with a new data folder.
func (c *Cluster) nameFree(q joinRequest) error {
	if c.isRemoved(q.Origin) {
		return fault.New(fault.Denied, "this data folder belongs to a member that was removed: join with an empty one")
	}
	for _, m := range c.Members() {
		if m.Name == q.Name && m.Origin != q.Origin {
			return fault.New(fault.Conflict, "there is a member %s already, at %s in site %s: remove it first (troupe remove %s), or choose another --certname", m.Name, m.Address, m.Site, m.Name)
		}
	}
	return nil
}
