package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// This file makes tokens, with which a fresh machine becomes a member, and judges them.

// A Token is what an operator may know of one: everything but its secret.
type Token struct {
	ID      string    `json:"id"`
	Site    string    `json:"site,omitempty"` // "" lets the new member choose
	Roles   []Role    `json:"roles"`
	Names   []string  `json:"names,omitempty"`
	Uses    int       `json:"uses"`
	Used    int       `json:"used"`
	Expires time.Time `json:"expires"`
	Revoked bool      `json:"revoked"`
}

// TokenRequest says what a token is good for.
type TokenRequest struct {
	Site  string        `json:"site,omitempty"`
	Role  Role          `json:"role,omitempty"`  // "" means RoleServer
	Names []string      `json:"names,omitempty"` // of role edge: those that its certificate for agents may have
	Uses  int           `json:"uses"`            // 0 means 1
	TTL   time.Duration `json:"ttl"`             // 0 means an hour
}

const (
	defaultTTL = time.Hour
	maxTTL     = 30 * 24 * time.Hour
	maxUses    = 1000
	maxNames   = 50
)

// CreateToken makes a token and returns its text, which is told this once: the journal has the secret's sum. The text pins the
// infrastructure CA, so that whoever joins speaks to this troupe and to nobody else.
func (c *Cluster) CreateToken(ctx context.Context, q TokenRequest) (text string, t Token, err error) {
	if q.Uses == 0 {
		q.Uses = 1
	}
	if q.TTL == 0 {
		q.TTL = defaultTTL
	}
	if q.Uses < 1 || q.Uses > maxUses || q.TTL < time.Minute || q.TTL > maxTTL {
		return "", t, fault.New(fault.Invalid, "a token has 1 to %d uses and is valid for a minute to %d days", maxUses, maxTTL/(24*time.Hour))
	}
	switch {
	case q.Role == "":
		q.Role = RoleServer
	case q.Role != RoleServer && q.Role != RoleEdge:
		return "", t, fault.New(fault.Invalid, "%q is no role: there are %s and %s", q.Role, RoleServer, RoleEdge)
	}
	if q.Role != RoleEdge && len(q.Names) > 0 || len(q.Names) > maxNames {
		return "", t, fault.New(fault.Invalid, "names are for the role edge, at most %d", maxNames)
	}
	if q.Role == RoleEdge && len(q.Names) == 0 {
		q.Names = []string{"puppet"}
	}
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	if f == nil {
		return "", t, errNotFounded()
	}
	id, secret := strings.ToLower(rand.Text())[:10], strings.ToLower(rand.Text())
	sum := sha256.Sum256([]byte(secret))
	r := tokenRecord{ID: id, Sum: sum[:], Site: q.Site, Roles: []Role{q.Role}, Names: q.Names, Uses: q.Uses, Expires: c.o.Now().Add(q.TTL).UTC().Truncate(time.Second)}
	if err := c.append(ctx, draft{kindToken, id, r}); err != nil {
		return "", t, fmt.Errorf("make a token: %w", err)
	}
	pin := sha256.Sum256(f.cert.Raw)
	return strings.Join([]string{tokenPrefix, id, secret, hex.EncodeToString(pin[:])}, "."), r.public(0, false), nil
}

func errNotFounded() error {
	return fault.New(fault.Conflict, "this member belongs to no troupe yet: begin one with troupe init --site NAME")
}

const tokenPrefix = "troupe1"

// An invitation is a token as a machine that wants to join reads it.
type invitation struct {
	id, secret string
	pin        []byte // SHA-256 of the infrastructure CA's certificate
	address    string // host:port
}

// parseInvitation reads TOKEN@HOST or TOKEN@HOST:PORT.
func parseInvitation(text, defaultPort string) (i invitation, err error) {
	token, host, ok := strings.Cut(strings.TrimSpace(text), "@")
	parts := strings.Split(token, ".")
	if !ok || host == "" || len(parts) != 4 || parts[0] != tokenPrefix {
		return i, fault.New(fault.Invalid, "this is no token: it has the form %s.….….…@HOST, as troupe token create prints it", tokenPrefix)
	}
	i.id, i.secret, i.address = parts[1], parts[2], host
	if i.pin, err = hex.DecodeString(parts[3]); err != nil || len(i.pin) != sha256.Size {
		return i, fault.New(fault.Invalid, "the token is cut off or misspelt: copy all of it")
	}
	if !hasPort(host) {
		i.address = host + ":" + defaultPort
	}
	return i, nil
}

// hasPort tells host:port from a host, which may be an IPv6 address in brackets.
func hasPort(host string) bool {
	colon := strings.LastIndexByte(host, ':')
	return colon > strings.LastIndexByte(host, ']') && colon >= 0
}

func (r tokenRecord) public(used int, revoked bool) Token {
	return Token{ID: r.ID, Site: r.Site, Roles: r.Roles, Names: r.Names, Uses: r.Uses, Used: used, Expires: r.Expires, Revoked: revoked}
}

// Tokens returns all tokens, those that expire last first.
func (c *Cluster) Tokens() []Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []Token{}
	for id, r := range c.state.tokens {
		all = append(all, r.public(len(c.state.used[id]), c.state.revoked[id]))
	}
	slices.SortFunc(all, func(a, b Token) int { return b.Expires.Compare(a.Expires) })
	return all
}

// RevokeToken makes a token useless. Members that have joined with it stay.
func (c *Cluster) RevokeToken(ctx context.Context, id string) error {
	c.mu.Lock()
	_, known := c.state.tokens[id]
	c.mu.Unlock()
	if !known {
		return fault.New(fault.NotFound, "there is no token %s", id)
	}
	return c.append(ctx, draft{kindTokenRevoked, id, tokenRevokedRecord{ID: id}})
}

// judge returns the token that somebody shows. A wrong secret and an unknown token are one error: nobody learns which exist.
func (c *Cluster) judge(id, secret string, origin journal.Origin) (tokenRecord, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, known := c.state.tokens[id]
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], t.Sum) != 1 || !known {
		return t, fault.New(fault.Denied, "the token is not one of this troupe: make a new one with troupe token create")
	}
	used := c.state.used[id]
	switch {
	case c.state.revoked[id]:
		return t, fault.New(fault.Denied, "the token was revoked: make a new one with troupe token create")
	case c.o.Now().After(t.Expires):
		return t, fault.New(fault.Denied, "the token expired at %s: make a new one with troupe token create", t.Expires.Format(time.RFC3339))
	case used[origin]: // the answer was lost: the same machine asks again
		return t, nil
	case len(used) >= t.Uses:
		return t, fault.New(fault.Denied, "the token was used already: make a new one with troupe token create")
	}
	return t, nil
}
