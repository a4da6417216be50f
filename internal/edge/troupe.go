package edge

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file is about an edge that belongs to a troupe: it asks the members, once a second, who they are, how they do and whom they let
// in, and gets its certificates from them. What it was told last is on its disk, so that it can start while nobody answers.

const (
	troupeFolder = "troupe"
	trustFile    = "trust.json"
	agentsFile   = "agents.pem" // key and certificate that agents see

	askEvery    = time.Second
	askMost     = 2 * time.Second
	maxView     = 4 << 20
	maxTrust    = 64 << 20            // of a CA with a million revocations
	renewBefore = 30 * 24 * time.Hour // or the last third of a shorter life
)

// A membership is what this edge has from its troupe.
type membership struct {
	side    *cluster.EdgeSide
	dir     string
	clients map[journal.Origin]*http.Client // used by one goroutine
	last    journal.Origin                  // who answered last
	forgets error                           // the members of now are not on the disk, either
	sum     string                          // of the trust in force
	unsaved map[string][]byte               // what is in force and not on the disk yet, by file
	beats   atomic.Pointer[map[string]cluster.ViewPeer]
}

// Join makes the machine of conf an edge of a troupe. invitation is TOKEN@HOST, of a token of role edge.
func Join(ctx context.Context, conf *config.Edge, version, invitation string) (cluster.Edge, error) {
	if conf.OwnTLS() {
		return cluster.Edge{}, fault.New(fault.Conflict, "the edge has certificates of its own (tls): an edge of a troupe gets them from the troupe; remove them first")
	}
	side, err := cluster.JoinEdge(ctx, filepath.Join(conf.Data, troupeFolder), cluster.EdgeOptions{Name: conf.Name, Site: conf.Site, Version: version}, invitation)
	if err != nil {
		return cluster.Edge{}, err
	}
	return side.Edge(), nil
}

// openMembership finds out whether this edge belongs to a troupe.
func (e *Edge) openMembership() error {
	dir := filepath.Join(e.conf.Data, troupeFolder)
	side, err := cluster.OpenEdge(dir, "")
	if cluster.NotAnEdge(err) {
		return nil
	}
	if err != nil {
		return err
	}
	e.troupe = &membership{side: side, dir: dir, clients: map[journal.Origin]*http.Client{}, unsaved: map[string][]byte{}}
	if e.conf.Site == "" {
		e.conf.Site = side.Edge().Site
	}
	return nil
}

// settle has certificates and trust before the first agent: from the members, else as they were last.
func (e *Edge) settle(ctx context.Context) error {
	if e.troupe == nil {
		return nil
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for said := false; ; said = true {
		err := e.askTroupe(ctx)
		if err != nil && e.trust.Load() != nil {
			e.log.Warn("what the troupe says is in force, and not on the disk", telemetry.KeyErr, err)
			err = nil
		}
		if err == nil {
			return nil
		}
		if cached := e.recall(); cached == nil {
			e.log.Warn("no member answers: the edge begins with what it knew last", telemetry.KeyErr, err)
			return nil
		}
		if !said {
			e.log.Warn("no member answers, and this edge was never told whom to let in: it waits", telemetry.KeyErr, err, "members", names(e.troupe.side.Peers()))
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

func names(peers []cluster.Peer) (all []string) {
	for _, p := range peers {
		all = append(all, p.Name+" at "+p.Address)
	}
	return all
}

// followTroupe asks again and again, until ctx ends.
func (e *Edge) followTroupe(ctx context.Context) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	defer func() {
		for _, c := range e.troupe.clients {
			c.CloseIdleConnections()
		}
	}()
	var warned time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := e.askTroupe(ctx); err != nil && ctx.Err() == nil && time.Since(warned) > time.Minute {
			warned = time.Now()
			e.log.Warn("the troupe cannot be asked: the edge goes on with what it knows", telemetry.KeyErr, err)
		}
	}
}

// askTroupe asks the member that answered last, else the others, those of this site first.
func (e *Edge) askTroupe(ctx context.Context) error {
	m := e.troupe
	peers := m.side.Peers()
	slices.SortStableFunc(peers, func(a, b cluster.Peer) int { return cmp.Compare(m.distance(a), m.distance(b)) })
	var errs []error
	for _, p := range peers {
		err := e.askMember(ctx, p)
		if err == nil {
			m.last = p.Origin
			return m.save()
		}
		errs = append(errs, fmt.Errorf("%s at %s: %w", p.Name, p.Address, err))
	}
	return errors.Join(errs...)
}

func (m *membership) distance(p cluster.Peer) int {
	switch {
	case p.Origin == m.last:
		return 0
	case p.Site == m.side.Edge().Site:
		return 1
	}
	return 2
}

func (e *Edge) askMember(ctx context.Context, p cluster.Peer) error {
	m := e.troupe
	var view cluster.View
	if err := m.call(ctx, p, http.MethodGet, "/view", nil, maxView, &view); err != nil {
		return err
	}
	peers := make([]cluster.Peer, len(view.Peers))
	beats := map[string]cluster.ViewPeer{}
	for i, v := range view.Peers {
		peers[i] = v.Peer
		peers[i].Self = false
		beats[v.Name] = v
	}
	m.beats.Store(&beats)
	m.forgets = m.side.Remember(peers)
	if view.Trust != m.sum {
		var t cluster.Trust
		if err := m.call(ctx, p, http.MethodGet, "/trust", nil, maxTrust, &t); err != nil {
			return err
		}
		if err := e.certify(ctx, p, t); err != nil {
			return err
		}
	}
	if err := e.renew(ctx, p); err != nil {
		return err
	}
	return e.setMembers(peers)
}

// heard is what members said of themselves last, by their names.
func (m *membership) heard() map[string]cluster.ViewPeer {
	if beats := m.beats.Load(); beats != nil {
		return *beats
	}
	return nil
}

// call asks a member for something.
func (m *membership) call(ctx context.Context, p cluster.Peer, method, path string, body []byte, most int64, out any) error {
	c := m.clients[p.Origin]
	if c == nil {
		c = &http.Client{Transport: &http.Transport{TLSClientConfig: m.side.ClientTLS(p.Origin), TLSHandshakeTimeout: askMost, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2}}
		m.clients[p.Origin] = c
	}
	if path == "/view" { // what is large may take longer
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askMost)
		defer cancel()
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+p.Address+cluster.EdgePath+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := c.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("it says %s: %s", response.Status, bytes.TrimSpace(text[:min(len(text), 500)]))
	case int64(len(text)) > most:
		return fmt.Errorf("its answer is longer than %d bytes", most)
	}
	return json.Unmarshal(text, out)
}

// certify takes a trust into force, with a certificate that agents who hold it will accept.
func (e *Edge) certify(ctx context.Context, p cluster.Peer, t cluster.Trust) error {
	pair, err := e.agentsCertificate()
	if err != nil || !accepted(pair, t.Bundle, e.troupe.side.Edge()) {
		if pair, err = e.newCertificate(ctx, p); err != nil {
			return err
		}
	}
	now, err := newTrust(pair, t.Bundle, t.CRLs)
	if err != nil {
		return err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	e.troupe.unsaved[trustFile] = text
	e.trust.Store(now)
	e.troupe.sum = t.Sum
	e.log.Info("whom to let in was learnt anew", "from", p.Name, "authorities", len(now.issuers), "revoked", len(now.revoked))
	return nil
}

// accepted tells whether a certificate will do: it is of the bundle, has all names and does not end soon.
func accepted(pair *tls.Certificate, bundle []byte, as cluster.Edge) bool {
	if endsSoon(pair.Leaf) {
		return false
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return false
	}
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	for _, name := range as.Names {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "DNS:"), "IP:") // as puppetserver writes alternative names
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); err != nil {
			return false
		}
	}
	return true
}

func endsSoon(c *x509.Certificate) bool {
	return time.Until(c.NotAfter) < min(renewBefore, c.NotAfter.Sub(c.NotBefore)/3)
}

// newCertificate has a member sign a new key for agents.
func (e *Edge) newCertificate(ctx context.Context, p cluster.Peer) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	var got cluster.Certified
	if err := e.troupe.call(ctx, p, http.MethodPost, "/certificate", csr, maxView, &got); err != nil {
		return nil, fmt.Errorf("certificate for agents: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), got.Certificate...)
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("certificate for agents: %w", err)
	}
	e.log.Info("a new certificate for agents", "from", p.Name, "names", pair.Leaf.DNSNames, "not_after", pair.Leaf.NotAfter)
	e.troupe.unsaved[agentsFile] = text
	return &pair, nil
}

// agentsCertificate is the one that agents see now, else the one that is on the disk.
func (e *Edge) agentsCertificate() (*tls.Certificate, error) {
	if t := e.trust.Load(); t != nil {
		return t.certificate, nil
	}
	path := filepath.Join(e.troupe.dir, agentsFile)
	pair, err := tls.LoadX509KeyPair(path, path)
	return &pair, err
}

// save writes what is in force to the disk, for a start without a member. What cannot be written now is tried again each time.
func (m *membership) save() error {
	for _, name := range slices.Sorted(maps.Keys(m.unsaved)) {
		if err := atomicfile.Write(filepath.Join(m.dir, name), m.unsaved[name], 0o600); err != nil {
			return fmt.Errorf("%w: the edge goes on; until there is room it could not start again without a member", err)
		}
		delete(m.unsaved, name)
	}
	return m.forgets
}

// recall takes what was learnt last.
func (e *Edge) recall() error {
	text, err := os.ReadFile(filepath.Join(e.troupe.dir, trustFile))
	if err != nil {
		return err
	}
	var t cluster.Trust
	if err := json.Unmarshal(text, &t); err != nil {
		return err
	}
	pair, err := e.agentsCertificate()
	if err != nil {
		return err
	}
	now, err := newTrust(pair, t.Bundle, t.CRLs)
	if err != nil {
		return err
	}
	e.trust.Store(now)
	return e.setMembers(e.troupe.side.Peers())
}

// renew keeps both certificates from ending.
func (e *Edge) renew(ctx context.Context, p cluster.Peer) error {
	if e.troupe.side.EndsSoon(time.Now()) {
		var got cluster.Certified
		if err := e.troupe.call(ctx, p, http.MethodPost, "/renewal", nil, maxView, &got); err != nil {
			return fmt.Errorf("certificate of this edge: %w", err)
		}
		if err := e.troupe.side.Renew(got.Certificate); err != nil {
			return err
		}
	}
	if t := e.trust.Load(); t != nil && endsSoon(t.certificate.Leaf) {
		e.troupe.sum = "" // the next turn fetches everything, with a new certificate
	}
	return nil
}

// setMembers gives the pools of members their servers.
func (e *Edge) setMembers(peers []cluster.Peer) error {
	byName := map[string]cluster.Peer{}
	var list []config.EdgeServer
	for _, p := range peers {
		byName[p.Name] = p
		list = append(list, config.EdgeServer{Name: p.Name, Address: p.Address, Site: p.Site, Origin: string(p.Origin)})
	}
	before, err := json.Marshal(list)
	if err != nil || string(before) == e.members {
		return err
	}
	for _, p := range e.pools {
		if !p.conf.Members {
			continue
		}
		err := p.set(list, func(s config.EdgeServer) (*tls.Config, string, error) {
			return e.troupe.side.ClientTLS(byName[s.Name].Origin), cluster.EdgeAgents, nil
		})
		if err != nil {
			return err
		}
	}
	if err := e.watch(); err != nil {
		return err
	}
	e.members = string(before)
	return nil
}
