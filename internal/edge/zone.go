package edge

import (
	"context"
	"fmt"
	"strings"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/dns"
	"troupe/internal/edge/health"
	"troupe/internal/fault"
	"troupe/internal/secretfile"
)

// This file is about the beginning of the zone: its keys, and the moment from which on it can be answered for.

// offers are the services that an edge is meant for; nil means all.
func offers(d config.EdgeDNSEdge) (all []dns.Service) {
	for _, s := range d.Services {
		all = append(all, dns.Service(s))
	}
	return all
}

// maxSecret is more than a TSIG key of any algorithm has.
const maxSecret = 1 << 10

// secretFile reads the secret of a TSIG key.
func secretFile(path string) (string, error) {
	if err := secretfile.Check(path); err != nil {
		return "", fmt.Errorf("secret_file: %w", err)
	}
	secret, err := secretfile.Line(path, "the secret in base64", maxSecret)
	if err != nil {
		return "", fmt.Errorf("secret_file: %w", err)
	}
	return strings.TrimSpace(secret), nil
}

// aMoment is what a first check may take beyond its own time, on a machine that is busy starting.
const aMoment = 500 * time.Millisecond

// serveZone answers for the zone once every edge in it was checked. Before, the judge believes nobody to serve, and an answer would be
// everybody, the dead among them.
func (e *Edge) serveZone(ctx context.Context) error {
	if err := e.awaitChecks(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return e.patiently(ctx, e.zoneBegun, e.zone.Run)
}

// awaitChecks waits for the first check of each edge that DNS tells of, for as long as one may take.
func (e *Edge) awaitChecks(ctx context.Context) error {
	targets, err := e.dnsTargets()
	if err != nil {
		return err
	}
	most, unchecked := time.Duration(0), map[string]bool{}
	for _, t := range targets {
		if t.Check.Type != health.TypeNone {
			unchecked[t.ID] = true
			most = max(most, t.Check.Timeout+time.Duration(t.Check.Spread*float64(t.Check.Interval)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, most+aMoment)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, s := range e.judge.All() {
			if s.Checks > 0 {
				delete(unchecked, s.ID)
			}
		}
		if len(unchecked) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// zoneAnswers tells whether the zone can be asked. Who looks at it before its edges were checked would see them all down, and make that known.
func (e *Edge) zoneAnswers() error {
	if e.zone == nil {
		return fault.New(fault.NotFound, "this edge answers for no zone: its configuration has no dns")
	}
	select {
	case <-e.answering:
		return nil
	default:
		return fault.New(fault.Unavailable, "the zone is not answered for yet: its edges are checked first, or its port is taken (see the log); ask again in a moment")
	}
}
