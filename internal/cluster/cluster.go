// Package cluster knows who belongs to a troupe: it founds one, hands out tokens, admits and removes members, and proves to each
// member who the others are.
//
// Members prove themselves to each other with certificates of the troupe's infrastructure CA, which has nothing to do with the
// CA of the agents: an agent's certificate opens no member port, and a member's opens no agent API. What belongs to the troupe
// (its CA's certificate, members, tokens) is in the state stream of the journal; keys are sealed in the data folder.
//
// Begin with [Open]. The first member calls [Cluster.Found]; it makes a token with [Cluster.CreateToken]; a fresh machine becomes
// a member with [Join]. DESIGN.md beside this file tells what must stay true and why.
package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
	"troupe/internal/vault"
)

// A Role is what a member may do for the troupe.
type Role string

// RoleServer does every job, and holds the keys of the CAs.
const RoleServer Role = "server"

// RoleEdge serves agents in front of members. It holds no key of a CA and gets no journal.
const RoleEdge Role = "edge"

// Options tells who this member is.
type Options struct {
	Name    string // its certname
	Site    string // "" keeps what the journal says, else "default"
	Address string // host:port where others reach its member port; "" keeps what the journal says, else Name and the default port
	Version string
	SealKey string // as in package vault

	// Keys returns what a new member of role server must hold. nil gives nothing.
	Keys func() (Keys, error)

	// Copied returns nil when another member has the record of that number, too; as in package ca. nil means that nobody is asked.
	Copied func(ctx context.Context, number uint64) error
	// Taken reports whether the CA of agents knows a good certificate, or a request, of that name. nil knows none.
	Taken func(name string) bool

	Now func() time.Time // nil means time.Now
	Log *slog.Logger     // nil discards
}

// Keys are what all members of role server hold, and what is in no record.
type Keys struct {
	Authority map[string][]byte `json:"authority,omitempty"` // PEM by key id: what signs for agents
	Store     []byte            `json:"store,omitempty"`     // of what stands for sensitive parameters
}

// A Cluster is a member's view of its troupe. Its methods may be called concurrently.
type Cluster struct {
	dir   string
	j     *journal.Journal
	o     Options
	log   *slog.Logger
	vault *vault.Vault

	mu      sync.Mutex // guards what follows
	state   state
	changed chan struct{}
	waiting []Introduction // oldest first

	certifying sync.Mutex // one certificate of this member at a time

	admitting sync.Mutex // one admission at a time, so that a token is counted right
	own       atomic.Pointer[tls.Certificate]
	broken    error // of Look: why this member cannot prove itself
}

// Open reads what the journal knows about the troupe. There may be none yet: see [Cluster.Founded].
func Open(ctx context.Context, dir string, j *journal.Journal, o Options) (*Cluster, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create folder of the troupe: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, joiningName)); err == nil {
		return nil, fault.New(fault.Conflict, "joining a troupe, or taking it from a backup, was interrupted: run the same `troupe join` or `troupe backup restore` again, or begin with an empty data folder")
	}
	v, err := vault.Open(dir, o.SealKey)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, j: j, o: o, vault: v, state: newState(), changed: make(chan struct{}), log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "cluster")}
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	if c.Founded() {
		if err := c.certify(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// A Member is one that belongs to the troupe.
type Member struct {
	Origin  journal.Origin `json:"origin"`
	Name    string         `json:"name"`
	Site    string         `json:"site"`
	Roles   []Role         `json:"roles"`
	Address string         `json:"address"`
	Version string         `json:"version"`
	Self    bool           `json:"self"`
}

// Founded reports whether this member belongs to a troupe. One that does not serves alone.
func (c *Cluster) Founded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.founded != nil
}

// Members returns all members by site and name.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Member
	for origin, m := range c.state.members {
		if !c.state.removed[origin] {
			m.Self = origin == c.j.Origin()
			all = append(all, m.Member)
		}
	}
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Origin, b.Origin))
	})
	return all
}

// Changed returns a channel that is closed when the members change.
func (c *Cluster) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Found makes this member the first of a new troupe. site and address take the place of those in Options; "" leaves them.
func (c *Cluster) Found(ctx context.Context, site, address string) error {
	c.admitting.Lock()
	defer c.admitting.Unlock()
	if c.Founded() {
		return fault.New(fault.Conflict, "this member belongs to a troupe already")
	}
	made, err := newInfrastructure(c.o.Now())
	if err != nil {
		return fmt.Errorf("make the infrastructure CA: %w", err)
	}
	if err := c.vault.Stage(made.cert.SubjectKeyId, made.key); err != nil {
		return fmt.Errorf("seal the key of the infrastructure CA: %w", err)
	}
	self := c.self()
	self.Site, self.Address = cmp.Or(site, self.Site), cmp.Or(address, self.Address)
	err = c.append(ctx,
		draft{kindFounded, keyTroupe, foundedRecord{ID: made.id, CA: made.cert.Raw}},
		draft{kindMember, c.o.Name, self},
	)
	if err != nil {
		return fmt.Errorf("found a troupe: %w", err)
	}
	if err := c.certify(ctx); err != nil {
		return err
	}
	c.log.InfoContext(ctx, "troupe founded", "site", self.Site, "address", self.Address)
	return nil
}

// self is what this member says about itself.
func (c *Cluster) self() memberRecord {
	c.mu.Lock()
	before := c.state.members[c.j.Origin()]
	c.mu.Unlock()
	roles := before.Roles
	if len(roles) == 0 {
		roles = []Role{RoleServer}
	}
	return memberRecord{Member{
		Origin: c.j.Origin(), Name: c.o.Name, Roles: roles, Version: c.o.Version,
		Site:    cmp.Or(c.o.Site, before.Site, "default"),
		Address: cmp.Or(c.o.Address, before.Address, net.JoinHostPort(c.o.Name, DefaultPort)),
	}}
}

// Announce records where this member is to be found, if that has changed.
func (c *Cluster) Announce(ctx context.Context) error {
	now := c.self()
	c.mu.Lock()
	before, known := c.state.members[c.j.Origin()]
	founded := c.state.founded != nil
	c.mu.Unlock()
	if !founded || known && now.equal(before.memberRecord) {
		return nil
	}
	return c.append(ctx, draft{kindMember, c.o.Name, now})
}

// Remove ends the membership of a member or an edge: from now on nobody speaks to it, and nothing that it writes later is taken.
func (c *Cluster) Remove(ctx context.Context, name string) (Member, error) {
	for _, m := range c.Members() {
		if m.Name != name && string(m.Origin) != name {
			continue
		}
		if err := c.append(ctx, draft{kindRemoved, m.Name, removedRecord{Origin: m.Origin}}); err != nil {
			return m, fmt.Errorf("remove member %s: %w", name, err)
		}
		c.log.WarnContext(ctx, "member removed", "member", m.Name, "site", m.Site)
		return m, nil
	}
	if e, found, err := c.removeEdge(ctx, name); found {
		if err != nil {
			return Member{}, fmt.Errorf("remove edge %s: %w", name, err)
		}
		c.log.WarnContext(ctx, "edge removed", "edge", e.Name, "site", e.Site)
		return Member{Origin: e.Origin, Name: e.Name, Site: e.Site, Roles: []Role{RoleEdge}}, nil
	}
	var names []string
	for _, m := range c.Members() {
		names = append(names, m.Name)
	}
	for _, e := range c.Edges() {
		names = append(names, e.Name)
	}
	return Member{}, fault.New(fault.NotFound, "no member is called %s; there are: %s", name, strings.Join(names, ", "))
}

// Reseal seals the keys of the troupe that this member holds under another sealing key; see [vault.Vault.Reseal].
func (c *Cluster) Reseal(keyFile string) (pending bool, err error) { return c.vault.Reseal(keyFile) }

func (c *Cluster) isRemoved(o journal.Origin) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.removed[o]
}

// Run follows what members write about the troupe, until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	renew := time.NewTicker(time.Hour)
	defer renew.Stop()
	told := false
	for {
		changed := c.j.Changed()
		err := c.refresh(ctx)
		if err == nil && c.Founded() {
			err = c.certify(ctx)
		}
		if gone := c.isRemoved(c.j.Origin()); gone && !told {
			told = true
			c.log.ErrorContext(ctx, "this member was removed from its troupe: what it writes from now on stays here", "remedy", "stop it; to come back, join with an empty data folder")
		}
		if err != nil && ctx.Err() == nil {
			c.log.ErrorContext(ctx, "follow the journal", telemetry.KeyErr, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-renew.C:
		}
	}
}

// OriginOf returns the member that a connection belongs to. The connection must have been checked by [Cluster.ServerTLS].
func OriginOf(cs *tls.ConnectionState) (journal.Origin, bool) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return "", false
	}
	_, origin, err := parseIdentity(cs.PeerCertificates[0])
	return origin, err == nil
}

// ServerTLS is the configuration of the member port. A certificate is not required, since whoever joins has none; one that is
// shown must be a member's, an edge's, or that of a machine of which nobody has told: it may introduce itself, see [Cluster.Handler].
func (c *Cluster) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.own.Load(), nil },
		ClientAuth:     tls.RequestClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			if _, err := c.checkEdge(cs.PeerCertificates); err == nil {
				return nil
			}
			_, err := c.check(cs.PeerCertificates, x509.ExtKeyUsageClientAuth)
			if _, stranger := errors.AsType[*strangerError](err); stranger {
				return nil
			}
			return err
		},
	}
}

// A strangerError is a certificate of this troupe for an origin that no record names.
type strangerError struct{ name string }

func (e *strangerError) Error() string {
	return fmt.Sprintf("nobody has told here of the member %s: if it has just joined, it is let in when this member has heard of it; if it came from a backup, "+
		"an operator has to take it in: troupe accept %[1]s", e.name)
}

// ClientTLS is the configuration of connections to a member: whoever answers must be that member.
func (c *Cluster) ClientTLS(origin journal.Origin) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.own.Load(), nil },
		InsecureSkipVerify:   true, //nolint:gosec // members are known by origin, not by host name: VerifyConnection checks more
		VerifyConnection: func(cs tls.ConnectionState) error {
			got, err := c.check(cs.PeerCertificates, x509.ExtKeyUsageServerAuth)
			if err == nil && got != origin {
				err = fmt.Errorf("another member answers at this address: %s", got)
			}
			return err
		},
	}
}

// check returns the member whom certificates belong to.
func (c *Cluster) check(certs []*x509.Certificate, usage x509.ExtKeyUsage) (journal.Origin, error) {
	c.mu.Lock()
	founded, strangers := c.state.founded, len(c.state.members) == 0 // a machine that joins knows nobody yet
	c.mu.Unlock()
	if founded == nil || len(certs) == 0 {
		return "", errors.New("no certificate of a member")
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: founded.pool, CurrentTime: c.o.Now(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return "", fmt.Errorf("the certificate is not one of this troupe: %w", err)
	}
	id, origin, err := parseIdentity(certs[0])
	if err != nil {
		return "", err
	}
	if id != founded.ID {
		return "", errors.New("the certificate is of another troupe")
	}
	if c.isRemoved(origin) {
		return "", fmt.Errorf("member %s was removed from this troupe", certs[0].Subject.CommonName)
	}
	if !strangers {
		if err := c.checkKey(origin, certs[0]); err != nil {
			return "", err
		}
	}
	return origin, nil
}

// checkKey holds that a certificate is for the key that this member is known by. The infrastructure CA's signature is not enough:
// its key lies on every member, and one of them may have been stolen.
func (c *Cluster) checkKey(origin journal.Origin, cert *x509.Certificate) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.state.members[origin]
	keys, told := c.state.keys[origin]
	switch {
	case !known:
		return &strangerError{cert.Subject.CommonName}
	case told && !keys.has(memberKey(cert)):
		return fmt.Errorf("the certificate of member %s is not for the key that it is known by", cert.Subject.CommonName)
	}
	return nil // a member that has told no key is of a version before there were any
}
