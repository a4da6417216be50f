package fakeagent

// This file gives every node of a fleet its identity before the load begins.

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// keys is how many keys a fleet shares: making one for each of thousands would take longer than many a load lasts, and
// a server sees only that certificates differ.
const keys = 16

// Muster says where a fleet's certificates come from: from a folder that has them, signed here by an Issuer, or else
// by asking the server, which must sign at once (autosign).
type Muster struct {
	Certs  SSLDir                // "" keeps none
	Issuer *Issuer               // nil asks the server
	AtOnce int                   // requests under way at the same time; 0 means 8
	Plugin bool                  // one node fetches the plugins, the others have them from it
	Count  func(ready, made int) // called as it goes on, if set
}

// Prepare gives all agents their identity. One of them fetches the trust anchors that all share.
func (m Muster) Prepare(ctx context.Context, agents []*Agent) error {
	if len(agents) == 0 {
		return errors.New("no agents")
	}
	shared := make([]crypto.Signer, min(keys, len(agents)))
	for i := range shared {
		var err error
		if shared[i], err = newKey(); err != nil {
			return err
		}
	}

	// 5.x keeps the first certificate of the bundle only, which would not do for the others.
	first := max(slices.IndexFunc(agents, func(a *Agent) bool { return !a.dialect.legacy }), 0)
	scout := agents[first]
	if _, err := m.prepare(ctx, scout, shared[0]); err != nil {
		return err
	}
	if m.Plugin {
		if _, err := scout.SyncPlugins(ctx); err != nil {
			return fmt.Errorf("fetch the plugins: %w", err)
		}
	}
	return m.others(ctx, slices.Concat(agents[:first], agents[first+1:]), scout, shared)
}

func (m Muster) others(ctx context.Context, agents []*Agent, scout *Agent, shared []crypto.Signer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	line := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ready, made := 1, 0
	for range cmp.Or(m.AtOnce, 8) {
		wg.Go(func() {
			for i := range line {
				agents[i].Adopt(scout)
				fresh, err := m.prepare(ctx, agents[i], shared[i%len(shared)])
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				ready++
				count(&made, fresh)
				if m.Count != nil {
					m.Count(ready, made)
				}
				mu.Unlock()
			}
		})
	}
	for i := range agents {
		select {
		case line <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(line)
	wg.Wait()
	return context.Cause(ctx)
}

// prepare reports whether the certificate is a new one.
func (m Muster) prepare(ctx context.Context, a *Agent, key crypto.Signer) (fresh bool, err error) {
	known := false
	if m.Certs != "" {
		if known, err = m.Certs.Load(a); err != nil {
			return false, err
		}
	}
	if !known && a.o.Key == nil {
		a.o.Key = key
	}
	if !known && m.Issuer != nil {
		a.identity.Key = a.o.Key
		if a.identity.Certificate, err = m.Issuer.Issue(a.certname, a.o.Key); err != nil {
			return false, err
		}
	}
	if a.identity.Certificate == nil || a.identity.CA == nil || a.identity.CRLs == nil {
		if err := a.Enroll(ctx); err != nil {
			return false, fmt.Errorf("enroll %s: %w", a.certname, err)
		}
	}
	if m.Certs == "" || known {
		return !known, nil
	}
	return true, m.Certs.Save(a)
}

// SyncPlugins fetches the plugins outside a run, as `puppet plugin download` does.
func (a *Agent) SyncPlugins(ctx context.Context) (RunResult, error) {
	r := a.newRun()
	defer r.client.close()
	if a.o.FreshPlugins {
		a.state.plugins = map[string]string{}
	}
	var err error
	if r.trust, err = r.bootstrap(ctx); err != nil {
		return r.result, err
	}
	r.session = r.newSession()
	_, err = r.pluginsync(ctx)
	r.result.Took = time.Since(r.begin)
	return r.result, err
}
