package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"troupe/internal/config"
	"troupe/internal/stages"
	"troupe/internal/statusapi"
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
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if *m.phase.Load() == statusapi.StateRunning { // else READY would come too early or too late
		if err := m.notify.Send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", stages.MonotonicMicroseconds())); err != nil {
			m.log.Warn("service manager was not told of the reload", telemetry.KeyErr, err)
		}
		defer func() { // whatever the outcome, the member serves on
			if err := m.notify.Send("READY=1"); err != nil {
				m.log.Warn("service manager was not told that the reload is over", telemetry.KeyErr, err)
			}
		}()
	}
	cfg, err := m.o.Load()
	if err != nil {
		return err
	}
	if err := m.apply(ctx, cfg); err != nil {
		return err
	}
	m.log.Info("configuration read again")
	return nil
}

// apply puts cfg in force. What can fail comes before what counts.
func (m *member) apply(ctx context.Context, cfg *config.Config) error {
	guard, err := guardOptions(cfg, m)
	if err != nil {
		return err
	}
	mounts, err := fileMounts(cfg, m)
	if err != nil {
		return err
	}
	old := m.cfg.Load()
	if cfg.Data != old.Data || cfg.Certname != old.Certname || cfg.Listen != old.Listen {
		return errors.New("data, certname and listen change only with a restart")
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return err
	}
	var cert *tls.Certificate
	if m.front != nil {
		if cert, err = m.serverCertificate(ctx, cfg); err != nil {
			return err
		}
	}
	if err := m.authority.SetPolicy(caPolicy(cfg, m)); err != nil {
		return err
	}
	if m.front != nil {
		m.front.cert.Store(cert)
	}
	if m.o.Level != nil {
		m.o.Level.Set(level)
	}
	m.guard.Reload(guard.Rules, guard.CustomOIDs)
	m.code.SetFileMounts(mounts)
	m.cfg.Store(cfg)
	for _, key := range waiting(old, cfg) {
		m.log.Warn("this setting has changed and counts only after a restart", "setting", key)
	}
	return nil
}

// waiting names the settings that differ and that apply does not put in force.
func waiting(old, cfg *config.Config) []string {
	before := map[string]string{}
	for _, s := range old.Show() {
		before[s.Key] = s.Value
	}
	var out []string
	for _, s := range cfg.Show() {
		if v, ok := before[s.Key]; (!ok || v != s.Value) && !slices.Contains(reloaded(), s.Key) {
			out = append(out, s.Key)
		}
		delete(before, s.Key)
	}
	return append(out, slices.Sorted(maps.Keys(before))...)
}

// reloaded are the settings that apply puts in force.
func reloaded() []string {
	return []string{
		"auth_conf", "fileserver_conf", "trusted_oid_mapping_file", "dns_alt_names", "log.level", "tls.key_type", "ca.ttl", "ca.autosign", "ca.autosign_timeout", "ca.allow_subject_alt_names",
		"ca.allow_authorization_extensions", "ca.allow_duplicate_certs", "ca.allow_auto_renewal", "ca.auto_renewal_cert_ttl",
		"backup.to", "backup.every", "backup.keep", "backup.passphrase_file", "backup.recipients", "backup.s3_endpoint", "backup.s3_region",
	}
}

// renewCertificate puts the current server certificate in force: the next
// handshake uses it.
func (m *member) renewCertificate(ctx context.Context) error {
	m.reloading.Lock()
	defer m.reloading.Unlock()
	cert, err := m.serverCertificate(ctx, m.cfg.Load())
	if err != nil {
		return err
	}
	m.front.cert.Store(cert)
	return nil
}
