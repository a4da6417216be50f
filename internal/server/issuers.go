package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"troupe/internal/carrier"
	"troupe/internal/cluster"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file follows a roll-over of the agents' CA: it fetches the key of a new issuer from another member, and changes the server's
// own certificate when another issuer is to be shown.

const (
	keysPath     = "/ca/v1/keys"
	keysMost     = 30 * time.Second // of one question to a member
	maxKeys      = 1 << 20          // bytes of an answer
	lookForKeys  = 5 * time.Second  // while a key is missing
	lookAnyway   = time.Minute
	certifyAgain = 10 * time.Second // after a server certificate could not be made
)

// withKeys puts the keys of the CA in front of what else members ask each other.
func (m *member) withKeys(caller func(*http.Request) journal.Origin, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET "+keysPath, func(w http.ResponseWriter, r *http.Request) { m.giveKeys(w, r, caller(r)) })
	return mux
}

// giveKeys answers a member that may sign. [cluster.Cluster.Handler] has seen to it that it is a member now.
func (m *member) giveKeys(w http.ResponseWriter, r *http.Request, origin journal.Origin) {
	if !slices.Contains(m.signers(), origin) {
		m.log.WarnContext(r.Context(), "a member that may not sign asked for the keys of the CA", "origin", origin, "remote", r.RemoteAddr)
		http.Error(w, "this member may not hold the keys of the CA", http.StatusForbidden)
		return
	}
	keys, err := m.authority.Keys()
	if err != nil {
		m.log.ErrorContext(r.Context(), "keys of the CA for another member", telemetry.KeyErr, err)
		http.Error(w, "the keys cannot be read here", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(cluster.Keys{Authority: keys}); err != nil {
		m.log.WarnContext(r.Context(), "a member went away before it had the keys; it asks again", "origin", origin, telemetry.KeyErr, err)
		return
	}
	m.log.InfoContext(r.Context(), "keys of the CA given to a member", "origin", origin)
}

// signers are the members that may hold the keys of the CA.
func (m *member) signers() []journal.Origin {
	if m.cluster == nil || !m.cluster.Founded() {
		return nil
	}
	var all []journal.Origin
	for _, other := range m.cluster.Members() {
		if slices.Contains(other.Roles, cluster.RoleServer) {
			all = append(all, other.Origin)
		}
	}
	return all
}

// runIssuers follows the issuers until ctx ends.
func (m *member) runIssuers(ctx context.Context) error {
	told := false
	for {
		wait := lookAnyway
		issuer, changed := m.authority.Shown()
		if have := m.front.cert.Load().Leaf; have.CheckSignatureFrom(issuer) != nil {
			if err := m.renewCertificate(ctx); err != nil {
				m.log.ErrorContext(ctx, "the server certificate of another issuer was not made: the old one stays", telemetry.KeyErr, err)
				wait = certifyAgain
			} else if m.front.cert.Load().Leaf.CheckSignatureFrom(issuer) == nil {
				m.log.InfoContext(ctx, "agents are shown a certificate of another issuer", "issuer", issuer.Subject.CommonName)
			}
		}
		if missing := m.authority.MissingKeys(); len(missing) > 0 && m.cluster.Founded() {
			switch err := m.fetchKeys(ctx, missing); {
			case err == nil:
				told = false
				continue
			case !told && ctx.Err() == nil:
				told = true
				m.log.WarnContext(ctx, "a key of the CA is not here yet and is asked for again; until it is, this member signs with another or not at all", "keys", missing, telemetry.KeyErr, err)
			}
			wait = min(wait, lookForKeys)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// fetchKeys asks one member after the other. It returns nil when something that was missing has come.
func (m *member) fetchKeys(ctx context.Context, missing []string) error {
	peers, _ := m.peers()
	problems := []error{errors.New("no other member had it")}
	for _, p := range peers {
		keys, err := m.askKeys(ctx, p)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", p.Name, err))
			continue
		}
		if !slices.ContainsFunc(missing, func(id string) bool { return keys[id] != nil }) {
			continue
		}
		if err := m.authority.AddKeys(ctx, keys); err != nil {
			problems = append(problems, fmt.Errorf("keys from %s: %w", p.Name, err))
			continue
		}
		m.log.InfoContext(ctx, "keys of the CA came from another member", "member", p.Name)
		return nil
	}
	return errors.Join(problems...)
}

func (m *member) askKeys(ctx context.Context, p carrier.Peer) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, keysMost)
	defer cancel()
	ask := m.dialPeer(p)
	defer ask.HTTP.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, ask.URL+keysPath, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := ask.HTTP.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s", answer.Status)
	}
	var keys cluster.Keys
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxKeys)).Decode(&keys); err != nil {
		return nil, fmt.Errorf("read its answer: %w", err)
	}
	return keys.Authority, nil
}
