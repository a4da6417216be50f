package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
	"troupe/internal/vault"
)

// This file says how the member stands in its troupe, and tries the others' ports.

// Look is Open for a folder that nobody serves, and changes nothing. j may be one that [journal.Look] has opened. What keeps
// the member from proving itself is in its [Condition].
func Look(ctx context.Context, dir string, j *journal.Journal, o Options) (*Cluster, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Cluster{dir: dir, j: j, o: o, state: newState(), changed: make(chan struct{}), log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "cluster")}
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	if f != nil {
		c.broken = c.lookProof(f)
	}
	return c, nil
}

// lookProof loads what this member shows to others.
func (c *Cluster) lookProof(f *founded) (err error) {
	if c.vault, err = vault.Look(c.dir, c.o.SealKey); err != nil {
		return err
	}
	pair, err := c.loadCertificate(f)
	if err != nil {
		return fmt.Errorf("certificate of this member: %w", err)
	}
	c.own.Store(pair)
	return nil
}

// A Condition says how a member stands in its troupe.
type Condition struct {
	Founded  bool   `json:"founded"`
	Joining  bool   `json:"joining"`             // joining was interrupted
	Removed  bool   `json:"removed"`             // the others speak to this member no more
	CA       []byte `json:"ca,omitempty"`        // DER of the infrastructure CA
	Own      []byte `json:"own,omitempty"`       // DER of this member's certificate
	OwnError string `json:"own_error,omitempty"` // why it cannot be used
	KeyError string `json:"key_error,omitempty"` // why the infrastructure CA's key cannot be used here; "" when it can
}

// Examine says how this member stands in its troupe.
func (c *Cluster) Examine() Condition {
	var out Condition
	if _, err := os.Stat(filepath.Join(c.dir, joiningName)); err == nil {
		out.Joining = true
	}
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	if f == nil {
		return out
	}
	out.Founded, out.CA, out.Removed = true, f.cert.Raw, c.isRemoved(c.j.Origin())
	if c.broken != nil {
		out.OwnError = c.broken.Error()
	}
	if pair := c.own.Load(); pair != nil {
		out.Own = pair.Leaf.Raw
		if _, err := c.check([]*x509.Certificate{pair.Leaf}, x509.ExtKeyUsageServerAuth); err != nil && !out.Removed {
			out.OwnError = err.Error()
		}
	}
	if c.vault == nil || c.broken != nil {
		return out
	}
	text, err := c.vault.Open(f.cert.SubjectKeyId)
	if err == nil {
		_, err = parseKey(text)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		out.KeyError = "this member does not hold it"
	case err != nil:
		out.KeyError = err.Error()
	}
	return out
}

// A Probe is what came of trying a member's port.
type Probe struct {
	Member

	Addresses []string      `json:"addresses"`         // that its host name resolves to
	Problem   string        `json:"problem,omitempty"` // why it does not answer as the member that it is; "" when it does
	Ahead     time.Duration `json:"ahead"`             // how far its clock is ahead of ours, to a second or so; 0 with a problem
	Took      time.Duration `json:"took"`
}

// ProbeAll tries the ports of all members at once, this one's own included, by the addresses that they announce. from is where
// connections come from, nil for anywhere. Nothing is asked of a member but who it is and what time it has.
func (c *Cluster) ProbeAll(ctx context.Context, from net.IP) []Probe {
	members := c.Members()
	all := make([]Probe, len(members))
	done := make(chan int)
	for i, m := range members {
		go func() { all[i] = c.probe(ctx, m, from); done <- i }()
	}
	for range members {
		<-done
	}
	return all
}

func (c *Cluster) probe(ctx context.Context, m Member, from net.IP) Probe {
	p := Probe{Member: m, Addresses: []string{}}
	host, _, err := net.SplitHostPort(m.Address)
	if err == nil {
		p.Addresses, err = net.DefaultResolver.LookupHost(ctx, host)
	}
	if err == nil {
		p.Ahead, p.Took, err = c.greet(ctx, m, from)
	}
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		p.Problem = err.Error()
		if ctx.Err() != nil {
			p.Problem = "no answer in time"
		}
	}
	return p
}

// greet asks for a page that no version has: every answer has a date, and only a member gives one.
func (c *Cluster) greet(ctx context.Context, m Member, from net.IP) (ahead, took time.Duration, err error) {
	if c.own.Load() == nil {
		return 0, 0, errors.New("this member has no certificate to show")
	}
	dialer := &net.Dialer{}
	if from != nil && !from.IsUnspecified() {
		dialer.LocalAddr = &net.TCPAddr{IP: from}
	}
	transport := &http.Transport{TLSClientConfig: c.ClientTLS(m.Origin), DialContext: dialer.DialContext, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+m.Address+"/cluster/v1/clock", http.NoBody)
	if err != nil {
		return 0, 0, err
	}
	asked := time.Now()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close()
	took = time.Since(asked)
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if err != nil {
		return 0, took, err
	}
	if answer.StatusCode == http.StatusForbidden {
		return 0, took, fmt.Errorf("it answers %s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	date, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return 0, took, fmt.Errorf("it answers without a date: %w", err)
	}
	// The date is cut to a second: half a second is right on average.
	return date.Add(time.Second / 2).Sub(asked.Add(took / 2)), took, nil
}
