package server

import (
	"cmp"
	"fmt"
	"maps"
	"net"

	"troupe/internal/account"
	"troupe/internal/agentapi"
	"troupe/internal/authz"
	"troupe/internal/ca"
	"troupe/internal/classifier"
	"troupe/internal/cluster"
	"troupe/internal/code"
	"troupe/internal/config"
	"troupe/internal/deploy"
	"troupe/internal/engine/ruby"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file hands each part its own Options. A part never sees the whole
// configuration, and no default is decided here: a zero means the part's own.

func storeOptions(cfg *config.Config, m *member) store.Options {
	return store.Options{
		ReportAge: cfg.Store.Reports.Age, CompilesPerNode: cfg.Store.Compiles.Count, CatalogsPerNode: cfg.Store.Catalogs.Count,
		ForgetAfter: cfg.Store.Facts.Age, JournalAge: cfg.Store.JournalAge, InactiveAfter: cfg.Store.InactiveAfter, BucketAge: cfg.Store.Bucket.Age, MaxBucketFile: cfg.HTTP.MaxBody.Bucket,
		Fetch: m.fetchContent, Log: m.log, Registerer: m.registry,
	}
}

func caOptions(cfg *config.Config, m *member) ca.Options {
	return ca.Options{
		Name:    cmp.Or(cfg.CA.Name, "Puppet CA: "+cfg.Certname), // as puppetserver names it
		KeyType: ca.KeyType(cfg.CA.KeyType), Copied: m.copied, Members: m.signers, Hierarchy: ca.Hierarchy(cfg.CA.Hierarchy), Policy: caPolicy(cfg, m), Log: m.log,
	}
}

func clusterOptions(cfg *config.Config, m *member) cluster.Options {
	o := cluster.Options{Name: cfg.Certname, Address: cfg.Cluster.Address, Version: m.o.Version, Log: m.log, Copied: m.copied, Keys: m.keys, Taken: m.nameTaken}
	if !cfg.IsDefault("site") {
		o.Site = cfg.Site
	}
	return o
}

func deployOptions(cfg *config.Config, m *member) deploy.Options {
	return deploy.Options{Name: cfg.Certname, Peers: m.peers, Dial: m.dialPeer, Copied: m.copied, Account: commandsRunAs(m), Log: m.log}
}

// commandsRunAs is who the operator's own commands run as: like Ruby, never root.
// Before there is an engine, and offline, nothing is signed or classified by one.
func commandsRunAs(m *member) account.Account {
	if m.engine == nil {
		return account.Account{}
	}
	_, uid, gid := m.engine.Account()
	return account.Account{UID: uid, GID: gid}
}

func caPolicy(cfg *config.Config, m *member) ca.Policy {
	return ca.Policy{
		Autosign:             autosign(cfg, commandsRunAs(m)),
		AllowDuplicateCerts:  cfg.CA.AllowDuplicateCerts,
		AllowSubjectAltNames: cfg.CA.AllowSubjectAltNames, AllowAuthorizationExtensions: cfg.CA.AllowAuthorizationExtensions,
		AllowAutoRenewal: cfg.CA.AllowAutoRenewal, TTL: cfg.CA.TTL, AutoRenewalTTL: cfg.CA.AutoRenewalCertTTL,
		RevokeLater: cfg.CA.Conflict == "revoke-later",
	}
}

// autosign is true, false, or the path of a list or a policy executable.
func autosign(cfg *config.Config, as account.Account) ca.Autosign {
	switch cfg.CA.Autosign {
	case "true":
		return ca.Autosign{All: true}
	case "", "false":
		return ca.Autosign{}
	}
	return ca.Autosign{Path: cfg.CA.Autosign, Account: as, Timeout: cfg.CA.AutosignTimeout, RubyLib: cfg.Engine.PuppetLib}
}

func codeOptions(cfg *config.Config, m *member) (code.Options, error) {
	// Only the Ruby workers read snapshots: Hiera data may hold secrets.
	_, _, group := m.engine.Account()
	o := code.Options{
		EnvironmentPath: cfg.EnvironmentPath, BaseModulePath: cfg.BaseModulePath, Settings: cfg.Puppet,
		Dir: m.folder("versions"), Group: group, Interval: cfg.Code.Interval, Keep: cfg.Code.Keep, Log: m.log, Registerer: m.registry,
	}
	mounts, err := fileMounts(cfg, m)
	o.FileMounts = mounts
	return o, err
}

func engineOptions(cfg *config.Config, m *member) ruby.Options {
	resources := m.store.ExportedResources
	if m.o.Exported != nil {
		resources = m.o.Exported
	}
	return ruby.Options{
		Ruby: cfg.Engine.Ruby, PuppetLib: cfg.Engine.PuppetLib, Workers: cfg.Engine.Workers, MaxQueue: cfg.Engine.MaxQueue,
		Deadline: cfg.Engine.Deadline, MaxRequests: cfg.Engine.MaxRequests, MaxMemory: cfg.Engine.MaxMemory,
		User: cfg.Engine.User, Dir: m.folder("engine"), Settings: puppetSettings(cfg),
		Resources: resources, Warm: m.knownNodes, Log: m.log, Registerer: m.registry,
	}
}

// fileMounts reads fileserver.conf.
func fileMounts(cfg *config.Config, m *member) ([]code.FileMount, error) {
	if cfg.FileserverConf == "" {
		return nil, nil
	}
	mounts, warnings, err := code.LoadFileMounts(cfg.FileserverConf)
	for _, w := range warnings {
		m.log.Warn("a line of fileserver.conf has no effect", "problem", w)
	}
	return mounts, err
}

// puppetSettings are what a manifest may read as $settings::NAME and what shapes a
// compile: all that puppet.conf says, where it lies, and what our own file adds.
func puppetSettings(cfg *config.Config) map[string]string {
	out := maps.Clone(cfg.Puppet)
	if out == nil {
		out = map[string]string{}
	}
	out["certname"], out["codedir"] = cfg.Certname, cfg.CodeDir
	if dir := cfg.Layout.ConfDir; dir != "" {
		out["confdir"] = dir
	}
	maps.Copy(out, cfg.Engine.Settings)
	return out
}

func classifierOptions(cfg *config.Config, m *member) classifier.Options {
	return classifier.Options{
		Command: cfg.Classifier.Command, Timeout: cfg.Classifier.Timeout, Cache: m.store, Log: m.log,
		External: cfg.Engine.Settings["trusted_external_command"], Account: commandsRunAs(m),
	}
}

// guardOptions reads auth.conf, or takes the default rules when there is none.
func guardOptions(cfg *config.Config, m *member) (authz.GuardOptions, error) {
	o := authz.GuardOptions{CustomOIDs: cfg.CustomOIDs, Log: m.log}
	if m.authority != nil {
		o.Revoked = m.authority.Revoked
	}
	if cfg.AuthConf == "" {
		o.Rules = authz.Default()
		return o, nil
	}
	rules, err := authz.Load(cfg.AuthConf)
	if err != nil {
		return o, fmt.Errorf("read the authorization rules: %w", err)
	}
	o.Rules = rules
	return o, nil
}

func agentOptions(cfg *config.Config, m *member) agentapi.Options {
	ip4, ip6 := ownAddresses()
	return agentapi.Options{
		ServerName: cfg.Certname, HostName: config.HostName(), ServerIP: ip4, ServerIP6: ip6, Version: m.engine.Stats().Puppet,
		DefaultEnvironment: puppet.Environment(cfg.Puppet["environment"]),
		MaxRetryAfter:      cfg.HTTP.MaxRetryAfter,
		Limits:             agentapi.Limits{Catalog: cfg.HTTP.MaxBody.Facts, Facts: cfg.HTTP.MaxBody.Facts, Report: cfg.HTTP.MaxBody.Report, Bucket: cfg.HTTP.MaxBody.Bucket},
		Log:                m.log,
	}
}

// ownAddresses are what Facter would call ipaddress and ipaddress6: the first
// global address of an interface that is up.
func ownAddresses() (ip4, ip6 string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", "" // the facts are left out, as on a host without a network
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() {
			continue
		}
		if v4 := n.IP.To4(); v4 != nil && ip4 == "" {
			ip4 = v4.String()
		} else if v4 == nil && ip6 == "" {
			ip6 = n.IP.String()
		}
	}
	return ip4, ip6
}
