package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// This file is about edges as members see them: machines that serve agents in front of members. An edge has a certificate of the
// infrastructure CA under another kind of name than members have, so that it opens nothing but what is for edges. It holds no
// key of a CA, no journal and no record; who steals one can answer agents in its place until it is removed.

// An Edge is one that belongs to the troupe.
type Edge struct {
	Origin journal.Origin `json:"origin"`
	Name   string         `json:"name"`
	Site   string         `json:"site"`
	Names  []string       `json:"names"` // that its certificate for agents may have
}

// Edges returns the edges that were not removed, by name.
func (c *Cluster) Edges() []Edge {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []Edge{}
	for o, e := range c.state.edges {
		if !c.state.removed[o] {
			all = append(all, e.Edge)
		}
	}
	slices.SortFunc(all, func(a, b Edge) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// admitEdge makes a machine with a good token an edge. It may be asked twice by the same one.
func (c *Cluster) admitEdge(ctx context.Context, q joinRequest, t tokenRecord, site string, public *ecdsa.PublicKey) (answer joinAnswer, err error) {
	for _, other := range c.Edges() {
		if other.Name == q.Name && other.Origin != q.Origin {
			return answer, fault.New(fault.Conflict, "there is an edge %s already, in site %s: remove it first (troupe remove %s), or give this one another name", q.Name, other.Site, q.Name)
		}
	}
	// Its certificate for agents has that name, so it must be nobody else's: an edge must not be able to pass for a node or a member.
	if q.Name != strings.ToLower(q.Name) {
		return answer, fault.New(fault.Invalid, "%q has capitals, which the name of a certificate has not: call the edge %s", q.Name, strings.ToLower(q.Name))
	}
	if c.o.Taken != nil && !c.wasEdge(q.Name) && c.o.Taken(q.Name) {
		return answer, fault.New(fault.Conflict, "there is a certificate for %s already, which is another machine's or this one's as a node: give the edge a name of its own (name in edge.yaml), such as edge.%s", q.Name, q.Name)
	}
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	edge := Edge{Origin: q.Origin, Name: q.Name, Site: site, Names: t.Names}
	cert, err := c.certifyAs(f, edge.Name, edgeIdentity(f.ID, edge.Origin), public)
	if err != nil {
		return answer, fmt.Errorf("certificate of the new edge: %w", err)
	}
	answer = joinAnswer{ID: f.ID, Certificate: cert.Raw, CA: f.cert.Raw, Edge: &edge, From: c.self().Member}
	err = c.append(ctx, draft{kindTokenUsed, q.Token, tokenUsedRecord{ID: q.Token, Origin: q.Origin}}, draft{kindEdge, q.Name, edgeRecord{edge}},
		draft{kindMemberKey, q.Name, memberKeyRecord{Origin: q.Origin, Key: memberKey(cert)}})
	if err != nil {
		return joinAnswer{}, fmt.Errorf("record the new edge: %w", err)
	}
	c.log.InfoContext(ctx, "edge admitted", "edge", q.Name, "site", site, "origin", q.Origin, "names", t.Names, "token", q.Token)
	return answer, nil
}

// wasEdge tells whether an edge has or had a name: what certificates there are for it were an edge's.
func (c *Cluster) wasEdge(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.state.edges {
		if e.Name == name {
			return true
		}
	}
	return false
}

func edgeIdentity(id string, o journal.Origin) *url.URL {
	return &url.URL{Scheme: "troupe", Host: id, Path: "/edge/" + string(o)}
}

// checkEdge returns the edge whom certificates belong to. As with members the key must be the one that the records name.
func (c *Cluster) checkEdge(certs []*x509.Certificate) (Edge, error) {
	if len(certs) == 0 {
		return Edge{}, errors.New("no certificate of an edge")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.state.founded
	if f == nil {
		return Edge{}, errors.New("this member belongs to no troupe")
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: f.pool, CurrentTime: c.o.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return Edge{}, fmt.Errorf("the certificate is not one of this troupe: %w", err)
	}
	origin, ok := edgeOrigin(certs[0], f.ID)
	switch said, known := c.state.edges[origin]; {
	case !ok:
		return Edge{}, errors.New("the certificate names no edge of this troupe")
	case c.state.removed[origin]:
		return Edge{}, fmt.Errorf("edge %s was removed from this troupe", certs[0].Subject.CommonName)
	case !known:
		return Edge{}, fmt.Errorf("nobody has told here of the edge %s: it is let in when this member has heard of it", certs[0].Subject.CommonName)
	case !c.state.keys[origin].has(memberKey(certs[0])):
		return Edge{}, fmt.Errorf("the certificate of edge %s is not for the key that it is known by", certs[0].Subject.CommonName)
	default:
		return said.Edge, nil
	}
}

func edgeOrigin(cert *x509.Certificate, id string) (journal.Origin, bool) {
	for _, u := range cert.URIs {
		if origin, ok := strings.CutPrefix(u.Path, "/edge/"); ok && u.Scheme == "troupe" && u.Host == id && origin != "" {
			return journal.Origin(origin), true
		}
	}
	return "", false
}

type edgeKey struct{}

// EdgeOf returns the edge that sent a request which [Cluster.Handler] has let through.
func EdgeOf(ctx context.Context) (Edge, bool) {
	e, ok := ctx.Value(edgeKey{}).(Edge)
	return e, ok
}

// edgesOnly lets only edges through. It looks at every request, for a connection may be older than a removal.
func (c *Cluster) edgesOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var certs []*x509.Certificate
		if r.TLS != nil {
			certs = r.TLS.PeerCertificates
		}
		e, err := c.checkEdge(certs)
		if err != nil {
			w.Header().Set("Connection", "close")
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), edgeKey{}, e)))
	})
}

// CertifyEdge renews the certificate with which an edge proves itself. Its key stays the same: the troupe knows it by that.
func (c *Cluster) CertifyEdge(e Edge, cs *tls.ConnectionState) (certificate []byte, err error) {
	public, ok := cs.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fault.New(fault.Invalid, "the key of edge %s is no ECDSA key", e.Name)
	}
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	cert, err := c.certifyAs(f, e.Name, edgeIdentity(f.ID, e.Origin), public)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

// A Peer is a member as edges must know it.
type Peer struct {
	Member

	Keys []string `json:"keys,omitempty"` // SHA-256 of the public keys that it may prove itself with; none: it has told none
}

// Peers returns all members with their keys.
func (c *Cluster) Peers() []Peer {
	all := []Peer{}
	members := c.Members()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range members {
		all = append(all, Peer{m, c.state.keys[m.Origin].effective()})
	}
	return all
}

// removeEdge is Remove for an edge.
func (c *Cluster) removeEdge(ctx context.Context, name string) (Edge, bool, error) {
	for _, e := range c.Edges() {
		if e.Name == name || string(e.Origin) == name {
			return e, true, c.append(ctx, draft{kindRemoved, e.Name, removedRecord{e.Origin}})
		}
	}
	return Edge{}, false, nil
}
