package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/vault"
)

// This file is the troupe as an edge knows it: who the members are, and how the edge proves itself to them. An edge that is started
// while no member answers goes on with what it knew last.

const edgeFile = "edge.json"

// An EdgeSide is an edge's own side of its belonging to a troupe. Its methods may be called concurrently.
type EdgeSide struct {
	dir   string
	vault *vault.Vault
	own   atomic.Pointer[tls.Certificate]

	mu    sync.Mutex
	known edgeKnows
}

// edgeKnows is what an edge keeps on its disk, beside its sealed key.
type edgeKnows struct {
	ID    string `json:"id"`
	CA    []byte `json:"ca"` // DER of the infrastructure CA
	Edge  Edge   `json:"edge"`
	Peers []Peer `json:"peers"`
}

// EdgeOptions tells who an edge is.
type EdgeOptions struct {
	Name    string
	Site    string // "" leaves it to the token
	Version string
	SealKey string // as in package vault
}

// JoinEdge asks to become an edge. text is TOKEN@HOST[:PORT], of a token of role edge.
func JoinEdge(ctx context.Context, dir string, o EdgeOptions, text string) (*EdgeSide, error) {
	invited, err := parseInvitation(text, DefaultPort)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, edgeFile)); err == nil {
		return nil, fault.New(fault.Conflict, "%s belongs to an edge of a troupe already: begin with an empty folder", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	v, err := vault.Open(dir, o.SealKey)
	if err != nil {
		return nil, err
	}
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	o.Name = strings.ToLower(o.Name) // as names of certificates are
	answer, err := invited.ask(ctx, joinRequest{
		Token: invited.id, Secret: invited.secret, Request: csr, Origin: journal.Origin(strings.ToLower(rand.Text())),
		Name: o.Name, Site: o.Site, Address: o.Name, Version: o.Version, Format: journal.Format, Time: time.Now().UTC(),
	})
	if err != nil {
		return nil, err
	}
	if answer.Edge == nil {
		return nil, fault.New(fault.Invalid, "the token is for a member, not for an edge: make one with troupe token create --role edge")
	}
	e := &EdgeSide{dir: dir, vault: v, known: edgeKnows{ID: answer.ID, CA: answer.CA, Edge: *answer.Edge, Peers: []Peer{{Member: answer.From}}}}
	if err := e.take(answer.Certificate, key); err != nil {
		return nil, err
	}
	return e, e.save()
}

// OpenEdge finds out whether a folder belongs to an edge of a troupe; if not, the error is [fs.ErrNotExist].
func OpenEdge(dir, sealKey string) (*EdgeSide, error) {
	text, err := os.ReadFile(filepath.Join(dir, edgeFile))
	if err != nil {
		return nil, err
	}
	e := &EdgeSide{dir: dir}
	if err := json.Unmarshal(text, &e.known); err != nil {
		return nil, fmt.Errorf("%s is damaged: join again with an empty folder: %w", filepath.Join(dir, edgeFile), err)
	}
	if e.vault, err = vault.Open(dir, sealKey); err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(e.known.CA)
	if err != nil {
		return nil, fmt.Errorf("certificate of the infrastructure CA: %w", err)
	}
	pair, err := (&Cluster{dir: dir, vault: e.vault}).loadCertificate(&founded{cert: ca})
	if err != nil {
		return nil, fmt.Errorf("certificate of this edge: join again with an empty folder: %w", err)
	}
	e.own.Store(pair)
	return e, nil
}

// take keeps a certificate with its key.
func (e *EdgeSide) take(der []byte, key *ecdsa.PrivateKey) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("certificate of this edge: %w", err)
	}
	ca, err := x509.ParseCertificate(e.known.CA)
	if err != nil {
		return fmt.Errorf("certificate of the infrastructure CA: %w", err)
	}
	c := &Cluster{dir: e.dir, vault: e.vault}
	if err := c.saveCertificate(cert, ca, key); err != nil {
		return err
	}
	pair, err := c.loadCertificate(&founded{cert: ca})
	if err != nil {
		return err
	}
	e.own.Store(pair)
	return nil
}

// Renew takes a new certificate for the same key.
func (e *EdgeSide) Renew(der []byte) error {
	key, ok := e.own.Load().PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the key of this edge is no ECDSA key")
	}
	return e.take(der, key)
}

// EndsSoon tells whether the certificate must be renewed.
func (e *EdgeSide) EndsSoon(now time.Time) bool {
	return e.own.Load().Leaf.NotAfter.Sub(now) < renewBefore
}

// Edge is who this edge is.
func (e *EdgeSide) Edge() Edge {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known.Edge
}

// Peers are the members as they were heard of last.
func (e *EdgeSide) Peers() []Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.known.Peers)
}

// Remember keeps who the members are. A troupe without members is a mistake, and not believed.
func (e *EdgeSide) Remember(peers []Peer) error {
	if len(peers) == 0 {
		return errors.New("a member says that there are no members")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	before, err := json.Marshal(e.known.Peers)
	if err != nil {
		return err
	}
	after, err := json.Marshal(peers)
	if err != nil || string(before) == string(after) {
		return err
	}
	old := e.known.Peers
	e.known.Peers = slices.Clone(peers)
	if err := e.saveLocked(); err != nil {
		e.known.Peers = old // so that it is tried again
		return err
	}
	return nil
}

func (e *EdgeSide) save() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.saveLocked()
}

func (e *EdgeSide) saveLocked() error {
	text, err := json.Marshal(e.known)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(e.dir, edgeFile), text, 0o600)
}

// ClientTLS is the configuration of connections to a member: whoever answers must be that member, with a key that it is known by.
func (e *EdgeSide) ClientTLS(origin journal.Origin) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.own.Load(), nil },
		ClientSessionCache:   tls.NewLRUClientSessionCache(16),
		InsecureSkipVerify:   true, //nolint:gosec // members are known by origin, not by host name: VerifyConnection checks more
		VerifyConnection: func(cs tls.ConnectionState) error {
			return e.verify(cs.PeerCertificates, origin)
		},
	}
}

func (e *EdgeSide) verify(certs []*x509.Certificate, origin journal.Origin) error {
	e.mu.Lock()
	known := e.known
	e.mu.Unlock()
	ca, err := x509.ParseCertificate(known.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("whoever answers is not of this troupe: %w", err)
	}
	id, got, err := parseIdentity(certs[0])
	switch {
	case err != nil:
		return err
	case id != known.ID:
		return errors.New("whoever answers is of another troupe")
	case got != origin:
		return fmt.Errorf("another member answers at this address: %s", got)
	}
	sum := sha256.Sum256(certs[0].RawSubjectPublicKeyInfo)
	for _, p := range known.Peers {
		if p.Origin == origin && len(p.Keys) > 0 && !slices.Contains(p.Keys, hex.EncodeToString(sum[:])) {
			return fmt.Errorf("the certificate of member %s is not for the key that it is known by", p.Name)
		}
	}
	return nil
}

// NotAnEdge reports whether an error of [OpenEdge] says that the folder belongs to none.
func NotAnEdge(err error) bool { return errors.Is(err, fs.ErrNotExist) }
