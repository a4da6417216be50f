package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file lets members learn of one that nobody has admitted: it came from a backup. Records are fetched from members who are
// known, so nobody would ever ask it. Its certificate proves that it holds the keys of the troupe, or was admitted by one that does.

const introduceMost = 10 * time.Second

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
		h.ServeHTTP(w, r)
	})
}

// answerIntroduction takes the word of a member about itself.
func (c *Cluster) answerIntroduction(w http.ResponseWriter, r *http.Request) {
	var m Member
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&m)
	if origin, _ := OriginOf(r.TLS); err == nil && origin != m.Origin {
		err = fmt.Errorf("it speaks for %s", m.Origin)
	}
	if err == nil && (m.Name == "" || m.Address == "" || len(m.Name) > maxName || len(m.Site) > maxName || len(m.Address) > maxName || len(m.Roles) > maxName) {
		err = fmt.Errorf("a member has a name and an address of at most %d characters", maxName)
	}
	if err != nil {
		http.Error(w, "this introduction is not good: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := c.meet(r.Context(), m); err != nil {
		c.log.WarnContext(r.Context(), "a member that introduced itself could not be recorded", "member", m.Name, "origin", m.Origin, telemetry.KeyErr, err)
		http.Error(w, fault.Message(err), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *Cluster) meet(ctx context.Context, m Member) error {
	c.admitting.Lock()
	defer c.admitting.Unlock()
	c.mu.Lock()
	_, known := c.state.members[m.Origin]
	c.mu.Unlock()
	if known {
		return nil // what has changed since comes with its journal
	}
	m.Self = false
	if err := c.append(ctx, draft{kindMember, m.Name, memberRecord{m}}); err != nil {
		return err
	}
	c.log.InfoContext(ctx, "a member came from a backup", "member", m.Name, "site", m.Site, "origin", m.Origin, "address", m.Address)
	return nil
}

// Introduce tells another member who this one is. It may be repeated.
func (c *Cluster) Introduce(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, introduceMost)
	defer cancel()
	body, err := json.Marshal(c.self().Member)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/cluster/v1/introduce", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxJoin))
	if err == nil && response.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return err
}
