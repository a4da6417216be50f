package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file has the records about the troupe, and folds them. Any order gives the same state: sets grow, removal wins, and of
// two words of a member about itself the later one counts.

const (
	kindPrefix       = "troupe."
	kindFounded      = "troupe.founded"
	kindMember       = "troupe.member"
	kindMemberKey    = "troupe.member-key"
	kindEdge         = "troupe.edge"
	kindRemoved      = "troupe.removed"
	kindToken        = "troupe.token"
	kindTokenUsed    = "troupe.token-used"
	kindTokenRevoked = "troupe.token-revoked"

	keyTroupe = "troupe"
)

// kinds are those that this program folds.
func kinds() []string {
	return []string{kindFounded, kindMember, kindMemberKey, kindEdge, kindRemoved, kindToken, kindTokenUsed, kindTokenRevoked}
}

type foundedRecord struct {
	ID string `json:"id"` // random
	CA []byte `json:"ca"` // DER of the infrastructure CA
}

type memberRecord struct{ Member }

func (m memberRecord) equal(n memberRecord) bool {
	return m.Origin == n.Origin && m.Name == n.Name && m.Site == n.Site && m.Address == n.Address && m.Version == n.Version && slices.Equal(m.Roles, n.Roles)
}

type memberKeyRecord struct {
	Origin journal.Origin `json:"origin"`
	Key    string         `json:"key"` // SHA-256 of the public key with which that member proves itself, hex
}

// An edgeRecord is written once, by the member that admits the edge.
type edgeRecord struct{ Edge }

type removedRecord struct {
	Origin journal.Origin `json:"origin"`
}

type tokenRecord struct {
	ID      string    `json:"id"`
	Sum     []byte    `json:"sum"` // SHA-256 of the secret
	Site    string    `json:"site,omitempty"`
	Roles   []Role    `json:"roles"`
	Names   []string  `json:"names,omitempty"` // that an edge may serve under
	Uses    int       `json:"uses"`
	Expires time.Time `json:"expires"`
}

type tokenUsedRecord struct {
	ID     string         `json:"id"`
	Origin journal.Origin `json:"origin"`
}

type tokenRevokedRecord struct {
	ID string `json:"id"`
}

// state is the fold of all records about the troupe.
type state struct {
	positions map[journal.Origin]uint64
	founded   *founded
	members   map[journal.Origin]said
	keys      map[journal.Origin]memberKeys
	edges     map[journal.Origin]edgeSaid
	removed   map[journal.Origin]bool
	tokens    map[string]tokenRecord
	used      map[string]map[journal.Origin]bool // by token
	revoked   map[string]bool                    // tokens
}

type founded struct {
	foundedRecord

	cert *x509.Certificate
	pool *x509.CertPool
	at   journal.Time
	by   journal.Origin
}

// said is the last word about a member.
type said struct {
	memberRecord

	at journal.Time
	by journal.Origin // whose record it is: its own, or of who admitted it
}

// edgeSaid is the first word about an edge.
type edgeSaid struct {
	edgeRecord

	at journal.Time
	by journal.Origin
}

// memberKeys are the keys of a member. What others say of them counts only until it has spoken itself: whoever admits a member names
// its key, and nobody can give it another one afterwards.
type memberKeys struct {
	own    map[string]bool
	spoken journal.Time // the first word of its own
	told   []toldKey
}

type toldKey struct {
	key string
	at  journal.Time
}

func (k memberKeys) add(r journal.Record, m memberKeyRecord) memberKeys {
	if r.Origin != m.Origin {
		k.told = append(k.told, toldKey{m.Key, r.Time})
		return k
	}
	if k.own == nil {
		k.own = map[string]bool{}
	}
	k.own[m.Key] = true
	if k.spoken == 0 || r.Time < k.spoken {
		k.spoken = r.Time
	}
	return k
}

func (k memberKeys) has(key string) bool {
	return k.own[key] || slices.ContainsFunc(k.told, func(t toldKey) bool { return t.key == key && (k.spoken == 0 || t.at < k.spoken) })
}

// effective are the keys that count, sorted.
func (k memberKeys) effective() []string {
	all := slices.Collect(maps.Keys(k.own))
	for _, t := range k.told {
		if k.has(t.key) {
			all = append(all, t.key)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func newState() state {
	return state{
		keys: map[journal.Origin]memberKeys{}, edges: map[journal.Origin]edgeSaid{},
		positions: map[journal.Origin]uint64{}, members: map[journal.Origin]said{}, removed: map[journal.Origin]bool{},
		tokens: map[string]tokenRecord{}, used: map[string]map[journal.Origin]bool{}, revoked: map[string]bool{},
	}
}

// refresh folds what is new in the journal.
func (c *Cluster) refresh(ctx context.Context) error {
	origins, err := c.j.Origins(ctx)
	if err != nil {
		return fmt.Errorf("list origins of the journal: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	news, err := c.foldInto(ctx, &c.state, origins)
	if news {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	return err
}

// foldInto folds what is new to a state, and reports whether anything was.
func (c *Cluster) foldInto(ctx context.Context, s *state, origins []journal.Origin) (news bool, err error) {
	for _, o := range origins {
		for {
			records, end, err := c.j.Select(ctx, o, journal.State, kindPrefix, s.positions[o])
			if damage, ok := errors.AsType[*journal.DamageError](err); ok {
				end = damage.Number // the journal has said so; a copy of it is fetched, and then all is folded anew
			} else if err != nil {
				return news, fmt.Errorf("read records about the troupe: %w", err)
			}
			if end == s.positions[o] {
				break
			}
			for _, r := range records {
				if err := s.fold(r); err != nil {
					c.log.ErrorContext(ctx, "record cannot be folded", "origin", r.Origin, "number", r.Number, "kind", r.Kind, telemetry.KeyErr, err)
				}
				news = true
			}
			s.positions[o] = end
		}
	}
	return news, nil
}

func (s *state) fold(r journal.Record) error {
	switch r.Kind {
	case kindFounded:
		return decode(r, func(f foundedRecord) error { return s.found(r, f) })
	case kindMember:
		return decode(r, func(m memberRecord) error {
			if before := s.members[m.Origin]; r.Time > before.at || r.Time == before.at && r.Origin > before.by {
				s.members[m.Origin] = said{m, r.Time, r.Origin}
			}
			return nil
		})
	case kindMemberKey:
		return decode(r, func(m memberKeyRecord) error { s.keys[m.Origin] = s.keys[m.Origin].add(r, m); return nil })
	case kindEdge:
		return decode(r, func(e edgeRecord) error {
			before, known := s.edges[e.Origin]
			if !known || r.Time < before.at || r.Time == before.at && r.Origin < before.by {
				s.edges[e.Origin] = edgeSaid{e, r.Time, r.Origin}
			}
			return nil
		})
	case kindRemoved:
		return decode(r, func(m removedRecord) error { s.removed[m.Origin] = true; return nil })
	case kindToken:
		return decode(r, func(t tokenRecord) error { s.tokens[t.ID] = t; return nil })
	case kindTokenUsed:
		return decode(r, func(u tokenUsedRecord) error {
			if s.used[u.ID] == nil {
				s.used[u.ID] = map[journal.Origin]bool{}
			}
			s.used[u.ID][u.Origin] = true
			return nil
		})
	case kindTokenRevoked:
		return decode(r, func(t tokenRevokedRecord) error { s.revoked[t.ID] = true; return nil })
	}
	return nil // written by a newer member
}

// found takes the first foundation; there is a second one only if somebody has tampered with a journal.
func (s *state) found(r journal.Record, f foundedRecord) error {
	cert, err := x509.ParseCertificate(f.CA)
	if err != nil {
		return fmt.Errorf("certificate of the infrastructure CA: %w", err)
	}
	if s.founded != nil && s.founded.ID == f.ID && s.founded.at == r.Time && s.founded.by == r.Origin {
		return nil // the same once more
	}
	if s.founded != nil && (s.founded.at < r.Time || s.founded.at == r.Time && s.founded.by <= r.Origin) {
		return fmt.Errorf("a second foundation, of %s", f.ID)
	}
	s.founded = &founded{foundedRecord: f, cert: cert, pool: x509.NewCertPool(), at: r.Time, by: r.Origin}
	s.founded.pool.AddCert(cert)
	return nil
}

func decode[T any](r journal.Record, apply func(T) error) error {
	var body T
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return apply(body)
}

// A draft is a record that is to be written.
type draft struct {
	kind, key string
	body      any
}

// append writes records and folds them, and waits a while until another member has them, too.
func (c *Cluster) append(ctx context.Context, drafts ...draft) error {
	all := make([]journal.Draft, len(drafts))
	for i, d := range drafts {
		body, err := json.Marshal(d.body)
		if err != nil {
			return fmt.Errorf("encode %s: %w", d.kind, err)
		}
		all[i] = journal.Draft{Stream: journal.State, Kind: d.kind, Key: d.key, Body: body}
	}
	records, err := c.j.Append(ctx, all...)
	if err != nil {
		return err
	}
	if err := c.refresh(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	journal.AwaitCopy(ctx, c.o.Copied, records[len(records)-1], c.log)
	return nil
}
