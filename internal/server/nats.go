package server

import (
	"context"

	"troupe/internal/carrier"
	"troupe/internal/carrier/nats"
	"troupe/internal/config"
	"troupe/internal/journal"
)

// This file carries records through an operator's own NATS, too.

// carrierOptions are those of the carrier; with NATS it asks others less, as long as that carries.
func (m *member) carrierOptions(cfg *config.Config) carrier.Options {
	o := carrier.Options{Peers: m.peers, Dial: m.dialPeer, Mended: m.mended, Folds: m.folds(), Log: m.log, Registerer: m.registry}
	if n := cfg.Cluster.NATS; len(n.Servers) > 0 {
		m.nats = nats.New(m.journal, nats.Options{
			Servers: n.Servers, Credentials: n.Credentials, User: n.User, PasswordFile: n.PasswordFile, TokenFile: n.TokenFile,
			CA: n.CA, Certificate: n.Certificate, Key: n.Key, Prefix: n.Prefix, Replicas: n.Replicas, MaxAge: n.MaxAge, MaxBytes: n.MaxBytes,
			ID: m.cluster.ID, Others: m.otherOrigins, Sign: m.cluster.Sign, Check: m.cluster.CheckSigned, Log: m.log, Registerer: m.registry,
		})
		o.Feed = m.nats
	}
	return o
}

func (m *member) otherOrigins() ([]journal.Origin, <-chan struct{}) {
	peers, changed := m.peers()
	all := make([]journal.Origin, len(peers))
	for i, p := range peers {
		all[i] = p.Origin
	}
	return all, changed
}

func (m *member) runNATS(ctx context.Context) error {
	if m.nats == nil {
		<-ctx.Done()
		return nil
	}
	return m.nats.Run(ctx)
}

func (m *member) natsStatus(ctx context.Context) (*nats.Status, error) {
	if m.nats == nil || !m.carrier.Running() {
		return nil, nil //nolint:nilnil // there is none, or this is a command on a folder that nobody serves
	}
	s, err := m.nats.Status(ctx)
	return &s, err
}
