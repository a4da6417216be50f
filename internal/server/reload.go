package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"troupe/internal/telemetry"
)

// This file reads configuration and certificates again while connections stay
// open: on SIGHUP, when an operator asks, and for the certificate once a day.

// runReload waits for SIGHUP and looks after the server certificate's age.
func (m *member) runReload(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			if err := m.reload(ctx); err != nil {
				m.log.Error("reload refused, the old configuration stays in force", telemetry.KeyErr, err)
			}
		case <-daily.C:
			if err := m.renewCertificate(ctx); err != nil {
				m.log.Error("server certificate was not renewed", telemetry.KeyErr, err)
			}
		}
	}
}

// reload takes over what can change in a running member: auth.conf, the signing
// policy, the server certificate and the log level. All of it is read before any
// of it counts, so a broken file changes nothing.
func (m *member) reload(ctx context.Context) error {
	if m.o.Load == nil {
		return errors.New("this member was opened for one command and has nothing to reload")
	}
	defer func() { _ = m.notify.send("READY=1") }() // whatever the outcome, the member serves on
	if err := m.notify.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicroseconds())); err != nil {
		m.log.Warn("service manager was not told of the reload", telemetry.KeyErr, err)
	}
	cfg, err := m.o.Load()
	if err != nil {
		return err
	}
	guard, err := guardOptions(cfg, m)
	if err != nil {
		return err
	}
	old := m.cfg.Load()
	if cfg.Data != old.Data || cfg.Certname != old.Certname || cfg.Listen != old.Listen {
		return errors.New("data, certname and listen change only with a restart")
	}
	if m.o.Level != nil {
		if err := m.o.Level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
			return err
		}
	}
	if err := m.authority.SetPolicy(caPolicy(cfg)); err != nil {
		return err
	}
	m.guard.Reload(guard.Rules)
	m.cfg.Store(cfg)
	if err := m.renewCertificate(ctx); err != nil {
		return err
	}
	m.log.Info("configuration read again")
	return nil
}

// renewCertificate puts the current server certificate in force: the next
// handshake uses it.
func (m *member) renewCertificate(ctx context.Context) error {
	if m.front == nil {
		return nil
	}
	cert, err := m.serverCertificate(ctx, m.cfg.Load())
	if err != nil {
		return err
	}
	m.front.cert.Store(cert)
	return nil
}
