package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"troupe/internal/fault"
)

// This file lets members learn of one that nobody has admitted: it came from a backup. Records are fetched from members who are
// known, so nobody would ever ask it. Its certificate proves that it holds the key of the infrastructure CA, which a thief of a disk
// or of a backup has, too: so an operator has to take it in.

const (
	introduceMost = 10 * time.Second
	maxWaiting    = 16 // machines; the oldest go
)

// An Introduction is a machine with a certificate of this troupe that waits to be taken in.
type Introduction struct {
	Member

	Key   string    `json:"key"` // SHA-256 of its public key, hex
	Since time.Time `json:"since"`
}

// members lets only members through.
func (c *Cluster) members(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, ok := OriginOf(r.TLS)
		if !ok {
			http.Error(w, "this port is for members: show a member's certificate, or join with a token", http.StatusForbidden)
			return
		}
		if c.isRemoved(origin) { // its connection is older than its removal
			w.Header().Set("Connection", "close")
			http.Error(w, "this member was removed from the troupe", http.StatusForbidden)
			return
		}
		if err := c.checkKey(origin, r.TLS.PeerCertificates[0]); err != nil {
			w.Header().Set("Connection", "close")
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// answerIntroduction notes who wants to be a member: 202 until somebody has taken it in, then 204.
func (c *Cluster) answerIntroduction(w http.ResponseWriter, r *http.Request) {
	origin, ok := OriginOf(r.TLS)
	if !ok || c.isRemoved(origin) {
		http.Error(w, "only a machine with a certificate of this troupe may introduce itself, and none that was removed", http.StatusForbidden)
		return
	}
	var m Member
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&m)
	if err == nil && origin != m.Origin {
		err = fmt.Errorf("it speaks for %s", m.Origin)
	}
	if err == nil && (m.Name == "" || m.Address == "" || len(m.Name) > maxName || len(m.Site) > maxName || len(m.Address) > maxName || len(m.Roles) > maxName) {
		err = fmt.Errorf("a member has a name and an address of at most %d characters", maxName)
	}
	if err != nil {
		http.Error(w, "this introduction is not good: "+err.Error(), http.StatusBadRequest)
		return
	}
	err = c.checkKey(origin, r.TLS.PeerCertificates[0])
	if _, stranger := errors.AsType[*strangerError](err); stranger {
		c.meet(r.Context(), m, memberKey(r.TLS.PeerCertificates[0]))
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// meet notes a machine that waits.
func (c *Cluster) meet(ctx context.Context, m Member, key string) {
	m.Self = false
	c.mu.Lock()
	i := slices.IndexFunc(c.waiting, func(w Introduction) bool { return w.Origin == m.Origin })
	if i >= 0 {
		c.waiting[i].Member, c.waiting[i].Key = m, key
	} else {
		c.waiting = append(c.waiting, Introduction{m, key, c.o.Now().UTC()})
		c.waiting = c.waiting[max(0, len(c.waiting)-maxWaiting):]
	}
	c.mu.Unlock()
	if i < 0 {
		c.log.WarnContext(ctx, "a machine with a certificate of this troupe wants to be a member; nobody has admitted it", "member", m.Name, "site", m.Site, "origin", m.Origin,
			"address", m.Address, "key", key, "remedy", "if it came from a backup by your hand: troupe accept "+m.Name+"; if not, somebody has the keys of the troupe: docs/security.md")
	}
}

// Waiting are the machines that want to be members and that no record names.
func (c *Cluster) Waiting() []Introduction {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []Introduction{}
	for _, w := range c.waiting {
		if _, known := c.state.members[w.Origin]; !known && !c.state.removed[w.Origin] {
			all = append(all, w)
		}
	}
	return all
}

// Accept makes a machine that waits a member, by its name or origin.
func (c *Cluster) Accept(ctx context.Context, name string) (Member, error) {
	c.admitting.Lock()
	defer c.admitting.Unlock()
	var found []Introduction
	for _, w := range c.Waiting() {
		if w.Name == name || string(w.Origin) == name {
			found = append(found, w)
		}
	}
	switch len(found) {
	case 0:
		return Member{}, fault.New(fault.NotFound, "no machine of that name waits here to be a member: it introduces itself every few seconds to every member that it can reach")
	case 1:
	default:
		return Member{}, fault.New(fault.Conflict, "%d machines say that they are %s: name the origin of the one that you mean (troupe accept)", len(found), name)
	}
	w := found[0]
	if err := c.append(ctx, draft{kindMember, w.Name, memberRecord{w.Member}}, draft{kindMemberKey, w.Name, memberKeyRecord{Origin: w.Origin, Key: w.Key}}); err != nil {
		return Member{}, err
	}
	c.log.InfoContext(ctx, "a machine that came from a backup is a member", "member", w.Name, "site", w.Site, "origin", w.Origin, "address", w.Address)
	return w.Member, nil
}

// Introduce tells another member who this one is, and reports whether that one knows it as a member. It may be repeated.
func (c *Cluster) Introduce(ctx context.Context, client *http.Client, url string) (known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, introduceMost)
	defer cancel()
	body, err := json.Marshal(c.self().Member)
	if err != nil {
		return false, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/cluster/v1/introduce", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	response, err := client.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxJoin))
	if err == nil && response.StatusCode != http.StatusNoContent && response.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return response.StatusCode == http.StatusNoContent, err
}
