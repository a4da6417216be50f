package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// This file compares what is deployed with what other members think, and folds it anew when they differ.

// DigestName is the name of the digest of this package.
const DigestName = "deploy"

// Digest sums the last words about all environments.
func (d *Deployer) Digest(context.Context) (journal.Digest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text, err := json.Marshal(d.deployed) // which sorts keys
	if err != nil {
		return journal.Digest{}, fmt.Errorf("sum what is deployed: %w", err)
	}
	return journal.Digest{Name: DigestName, At: journal.SumPositions(d.positions), Sum: sha256.Sum256(text)}, nil
}

// Refold reads everything anew from the journal.
func (d *Deployer) Refold(ctx context.Context) error {
	anew := &Deployer{j: d.j, log: d.log, positions: map[journal.Origin]uint64{}, deployed: map[puppet.Environment]word{}}
	if err := anew.refresh(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.positions, d.deployed = anew.positions, anew.deployed
	return nil
}
