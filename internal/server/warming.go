package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"troupe/internal/authz"
	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file has the engine load versions of code before somebody waits for them:
// at the start those of the nodes that were heard of last, later every new version
// of an environment in use.

const (
	warmedAtStart = 4                      // environments; more of them wait for their first request
	lookForNew    = 250 * time.Millisecond // between looks at what package code has found
)

func (m *member) runWarming(ctx context.Context) error {
	if err := m.waitForEngine(ctx); err != nil {
		return nil // the member was stopped before it began
	}
	warmed := map[puppet.Environment]string{} // code id by environment
	known, err := m.store.RecentEnvironments(ctx, warmedAtStart)
	if err != nil {
		m.log.Warn("environments to warm are not known", telemetry.KeyErr, err)
	}
	for _, e := range known {
		if v, err := m.code.Current(ctx, e); err == nil { // else the first request is told
			m.warmVersion(ctx, v, warmed)
		}
	}

	tick := time.NewTicker(lookForNew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, e := range m.engine.InUse() {
			if v := m.code.Newest(e); v != nil {
				m.warmVersion(ctx, v, warmed)
			}
		}
	}
}

// warmVersion has a version loaded that is not the last one of its environment.
func (m *member) warmVersion(ctx context.Context, v *code.Version, warmed map[puppet.Environment]string) {
	if warmed[v.Environment] == v.ID {
		return
	}
	warmed[v.Environment] = v.ID
	v.Retain()
	defer v.Release()
	if err := m.engine.Prepare(ctx, v); err != nil {
		m.log.Debug("version was not loaded ahead of requests", telemetry.KeyEnvironment, v.Environment, telemetry.KeyErr, err)
	}
}

// knownNodes are requests that recent nodes of an environment would make.
func (m *member) knownNodes(ctx context.Context, e puppet.Environment, n int) ([]engine.Request, error) {
	facts, err := m.store.RecentNodes(ctx, e, n)
	if err != nil {
		return nil, err
	}
	var all []engine.Request
	for _, f := range facts {
		node, err := m.classifier.Last(ctx, f.Certname)
		if err != nil {
			return nil, err
		}
		trusted, err := m.lastTrusted(ctx, f.Certname)
		if err != nil {
			return nil, err
		}
		all = append(all, engine.Request{
			Certname: f.Certname, Facts: f, Classes: node.Classes, Parameters: node.Parameters, Trusted: trusted, Rich: true, Static: true,
		})
	}
	return all, nil
}

// lastTrusted is $trusted as the node's certificate has it; a node whose
// certificate is not known here is known by its name.
func (m *member) lastTrusted(ctx context.Context, name puppet.Certname) (puppet.Trusted, error) {
	identity := authz.Identity{Certname: name, Authenticated: true}
	text, err := m.authority.Certificate(ctx, string(name))
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return puppet.Trusted{}, err
	}
	if block, _ := pem.Decode(text); block != nil {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return puppet.Trusted{}, fmt.Errorf("read the certificate of %s: %w", name, err)
		}
		identity.Extensions = authz.Extensions(cert, m.cfg.Load().CustomOIDs)
	}
	return identity.Trusted(), nil
}
