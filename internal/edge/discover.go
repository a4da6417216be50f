package edge

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// This file finds the servers of pools that are named by SRV records.

const (
	discoverEvery = 10 * time.Second
	discoverMost  = 5 * time.Second
	maxDiscovered = 256
)

// discover looks records up again and again, until ctx ends. A name that cannot be looked up, or that has no servers any more, changes
// nothing: DNS that is away must not take servers away.
func (e *Edge) discover(ctx context.Context) error {
	tick := time.NewTicker(discoverEvery)
	defer tick.Stop()
	seen, failed := map[string]string{}, map[string]bool{}
	for {
		for name, p := range e.pools {
			if p.conf.SRV == "" {
				continue
			}
			list, err := lookUp(ctx, p.conf.SRV)
			if err == nil {
				err = e.found(name, list, seen)
			}
			if err != nil && !failed[name] && ctx.Err() == nil {
				e.log.Warn("the servers of a pool cannot be looked up: those that are known stay", "pool", name, "name", p.conf.SRV, telemetry.KeyErr, err)
			}
			failed[name] = err != nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lookUp turns SRV records into servers: a priority is a tier, and a weight of 0 is a small one, as agents take it.
func lookUp(ctx context.Context, name string) ([]config.EdgeServer, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverMost)
	defer cancel()
	_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(records, func(a, b *net.SRV) int { // they come in an order that is drawn
		return strings.Compare(a.Target+strconv.Itoa(int(a.Port)), b.Target+strconv.Itoa(int(b.Port)))
	})
	var priorities []uint16
	for _, r := range records {
		if !slices.Contains(priorities, r.Priority) {
			priorities = append(priorities, r.Priority)
		}
	}
	slices.Sort(priorities)
	var list []config.EdgeServer
	for _, r := range records[:min(len(records), maxDiscovered)] {
		target := strings.TrimSuffix(r.Target, ".")
		weight := min(max(int(r.Weight), 1), 256)
		address := net.JoinHostPort(target, strconv.Itoa(int(r.Port)))
		list = append(list, config.EdgeServer{Name: address, Address: address, Weight: &weight, Tier: slices.Index(priorities, r.Priority)})
	}
	return list, nil
}

// found takes a list into use if it is another one.
func (e *Edge) found(pool string, list []config.EdgeServer, seen map[string]string) error {
	text, err := json.Marshal(list)
	if err != nil || len(list) == 0 || string(text) == seen[pool] {
		return err
	}
	p := e.pools[pool]
	if err := p.set(list, e.foreignTLS(p.conf)); err != nil {
		return err
	}
	if err := e.watch(); err != nil {
		return err
	}
	seen[pool] = string(text)
	e.log.Info("servers were looked up", "pool", pool, "servers", len(list))
	return nil
}
