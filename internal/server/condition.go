package server

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"troupe/internal/adminapi"
	"troupe/internal/config"
	"troupe/internal/engine/ruby"
)

// This file tells how the member does as a process, for an operator who asks.

// SettingsOf returns what an examination needs to know of a configuration.
func SettingsOf(cfg *config.Config) adminapi.Settings {
	workers, memory := ruby.Options{Workers: cfg.Engine.Workers, MaxMemory: cfg.Engine.MaxMemory}.Footprint()
	s := adminapi.Settings{
		Data: cfg.Data, Listen: cfg.Listen, Certname: cfg.Certname, AltNames: slices.Clone(cfg.DNSAltNames),
		ClusterListen: cfg.Cluster.Listen, EnvironmentPath: slices.Clone(cfg.EnvironmentPath),
		Workers: workers, MaxMemory: memory, AutoRenewal: cfg.CA.AllowAutoRenewal,
	}
	for _, c := range []adminapi.Command{
		{Setting: "classifier.command", Path: cfg.Classifier.Command}, {Setting: "trusted_external_command", Path: cfg.Engine.Settings["trusted_external_command"]}, {Setting: "ca.autosign", Path: cfg.CA.Autosign},
	} {
		words := strings.Fields(c.Path)
		if len(words) > 0 && filepath.IsAbs(words[0]) { // others are none, true or false
			s.Commands = append(s.Commands, adminapi.Command{Setting: c.Setting, Path: words[0]})
		}
	}
	return s
}

// process reads the configuration again to say what has changed since it was put in force, and changes nothing.
func (m *member) process(context.Context) adminapi.Process {
	cfg := m.cfg.Load()
	p := adminapi.Process{
		Settings: SettingsOf(cfg), Version: m.o.Version, Started: m.started, PID: os.Getpid(), UID: os.Geteuid(), Phase: string(*m.phase.Load()),
		Files: openFiles(), Engine: m.engine.Stats(), Notes: cfg.Notes, Restart: []string{}, Reload: []string{},
	}
	p.User, p.UserUID, _ = m.engine.Account()
	if m.front != nil {
		p.Address = m.front.listener.Addr().String()
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		p.MaxFiles = limit.Cur
	}
	if path, err := os.Readlink("/proc/self/exe"); err == nil {
		p.Replaced = strings.HasSuffix(path, " (deleted)")
	}
	if m.o.Load == nil {
		return p
	}
	now, err := m.o.Load()
	if err != nil {
		p.ConfigError = err.Error()
		return p
	}
	p.Notes, p.Restart = now.Notes, waiting(cfg, now)
	inForce := map[string]string{}
	for _, s := range cfg.Show() {
		inForce[s.Key] = s.Value
	}
	for _, s := range now.Show() {
		if slices.Contains(reloaded(), s.Key) && inForce[s.Key] != s.Value {
			p.Reload = append(p.Reload, s.Key)
		}
	}
	return p
}
