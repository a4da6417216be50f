package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/hocon"
)

// This file takes settings from the files of an existing Puppet Server. Inside
// puppetserver the folders named in puppetserver.conf beat puppet.conf, for it
// passes them to Ruby as command line options.

func (l *loader) puppetFiles() {
	layout := l.config.Layout
	if layout.Name == "" {
		return
	}
	server := l.serverConf(layout)
	l.puppetConf(layout, server)
	l.caConf(server)
	l.rubyConf(server)
	l.webserverConf(server)
	l.bootstrap(layout)
	l.existing("auth_conf", server.files, "auth.conf")
	if p := filepath.Join(layout.ConfDir, "fileserver.conf"); l.config.FileserverConf == "" && exists(p) {
		l.set("fileserver_conf", "found", p)
	}
	if p := filepath.Join(layout.ConfDir, "custom_trusted_oid_mapping.yaml"); l.config.OIDMapping == "" && exists(p) {
		l.set("trusted_oid_mapping_file", "found", p)
	}
}

// serverFiles are the parsed files of conf.d.
type serverFiles struct {
	files map[string]string // base name to path
	root  []hocon.Value
}

// serverConf reads conf.d but for auth.conf, which authz reads.
func (l *loader) serverConf(layout Layout) serverFiles {
	out := serverFiles{files: map[string]string{}}
	if layout.ServerConf == "" {
		return out
	}
	list, err := os.ReadDir(layout.ServerConf)
	if err != nil {
		l.problem(fmt.Errorf("reading puppetserver's configuration: %w", err))
		return out
	}
	for _, e := range list {
		path := filepath.Join(layout.ServerConf, e.Name())
		if filepath.Ext(path) != ".conf" {
			continue
		}
		out.files[e.Name()] = path
		if e.Name() == "auth.conf" {
			continue
		}
		v, err := hocon.ParseFile(path, hocon.Options{Env: os.LookupEnv})
		if err != nil {
			l.problem(fmt.Errorf("reading puppetserver's configuration: %w", err))
			continue
		}
		out.root = append(out.root, v)
	}
	return out
}

// get finds a value in whichever file has it: conf.d is one configuration.
func (s serverFiles) get(keys ...string) (hocon.Value, bool) {
	for _, v := range s.root {
		if found, ok := v.Get(keys...); ok && found.Kind() != hocon.Null {
			return found, true
		}
	}
	return hocon.Value{}, false
}

func (l *loader) existing(key string, files map[string]string, name string) {
	if path, ok := files[name]; ok {
		l.set(key, "found", path)
	}
}

// fromHOCON copies a scalar, or a list of scalars, into a setting.
func (l *loader) fromHOCON(key string, v hocon.Value) {
	pos := v.Position()
	origin := fmt.Sprintf("%s:%d", pos.File, pos.Line)
	switch v.Kind() {
	case hocon.Array:
		texts := []string{}
		for _, item := range v.Items() {
			texts = append(texts, item.Text())
		}
		l.set(key, origin, texts...)
	case hocon.Object:
		l.problem(fmt.Errorf("%s: expected a value for %s, found an object", origin, key))
	default:
		l.set(key, origin, v.Text())
	}
}

func (l *loader) caConf(server serverFiles) {
	for from, to := range map[string]string{
		"allow-subject-alt-names":        "ca.allow_subject_alt_names",
		"allow-authorization-extensions": "ca.allow_authorization_extensions",
		"allow-auto-renewal":             "ca.allow_auto_renewal",
		"auto-renewal-cert-ttl":          "ca.auto_renewal_cert_ttl",
		"ca-ttl":                         "ca.ttl",
	} {
		if v, ok := server.get("certificate-authority", from); ok {
			l.fromHOCON(to, v)
		}
	}
}

func (l *loader) rubyConf(server serverFiles) {
	for from, to := range map[string]string{
		"max-active-instances":      "engine.workers",
		"max-requests-per-instance": "engine.max_requests",
		"max-queued-requests":       "engine.max_queue",
		"max-retry-delay":           "http.max_retry_after",
	} {
		if v, ok := server.get("jruby-puppet", from); ok {
			l.fromHOCON(to, v)
		}
	}
}

// webserverConf reads the address of the TLS listener.
func (l *loader) webserverConf(server serverFiles) {
	port, ok := server.get("webserver", "ssl-port")
	if !ok {
		return
	}
	host, _ := server.get("webserver", "ssl-host")
	at := port.Position()
	address := host.Text()
	if address == "0.0.0.0" {
		address = "" // both address families, as agents of either kind expect
	}
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	l.set("listen", fmt.Sprintf("%s:%d", at.File, at.Line), address+":"+port.Text())
}

// bootstrap sees whether the CA service is switched off (services.d/ca.cfg).
func (l *loader) bootstrap(layout Layout) {
	if layout.Bootstrap == "" {
		return
	}
	path := filepath.Join(layout.Bootstrap, "ca.cfg")
	src, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		l.problem(fmt.Errorf("reading puppetserver's services: %w", err))
		return
	}
	for i, line := range strings.Split(string(src), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "puppetlabs.services.ca.certificate-authority-disabled-service/") {
			l.set("ca.enabled", fmt.Sprintf("%s:%d", path, i+1), "false")
		}
	}
}

// puppetConf reads puppet.conf.
func (l *loader) puppetConf(layout Layout, server serverFiles) {
	path := filepath.Join(layout.ConfDir, "puppet.conf")
	src, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		src, path = nil, ""
	case err != nil:
		l.problem(fmt.Errorf("reading puppet.conf: %w", err))
		return
	default:
		l.set("puppet_conf", "found", path)
	}
	all, problems := parseINI(path, src)
	l.problems = append(l.problems, problems...)
	conf := newPuppetConf(path, all, builtins(layout))
	for from, to := range map[string]string{
		"server-code-dir": "codedir", "server-var-dir": "vardir", "server-run-dir": "rundir", "server-log-dir": "logdir",
	} {
		if v, ok := server.get("jruby-puppet", from); ok {
			at := v.Position()
			conf.settings[to] = iniSetting{name: to, text: v.Text(), place: fmt.Sprintf("%s:%d", at.File, at.Line)}
		}
	}
	l.config.Notes = append(l.config.Notes, conf.notes...)
	l.applyPuppetConf(conf, layout)
}

// builtins are the defaults that values may refer to.
func builtins(l Layout) map[string]string {
	return map[string]string{
		"confdir": l.ConfDir, "codedir": l.CodeDir, "vardir": l.VarDir, "ssldir": l.SSLDir, "cadir": l.CADir,
		"rundir": l.RunDir, "logdir": l.LogDir,
		"statedir": "$vardir/state", "libdir": "$vardir/lib", "reportdir": "$vardir/reports", "yamldir": "$vardir/yaml",
		"environmentpath": "$codedir/environments", "basemodulepath": "$codedir/modules:" + l.BaseModules,
		"hiera_config": "$confdir/hiera.yaml", "certname": hostCertname(l.root), "server": "puppet",
		"autosign": "$confdir/autosign.conf", "fileserverconfig": "$confdir/fileserver.conf",
		"trusted_oid_mapping_file": "$confdir/custom_trusted_oid_mapping.yaml",
	}
}

type renamed struct{ from, to string }

// puppetNames pairs settings of puppet.conf with ours.
func puppetNames() []renamed {
	return []renamed{
		{"certname", "certname"},
		{"dns_alt_names", "dns_alt_names"},
		{"codedir", "codedir"},
		{"environmentpath", "environmentpath"},
		{"basemodulepath", "basemodulepath"},
		{"ca_name", "ca.name"},
		{"ca_ttl", "ca.ttl"},
		{"allow_duplicate_certs", "ca.allow_duplicate_certs"},
		{"fileserverconfig", "fileserver_conf"},
		{"trusted_oid_mapping_file", "trusted_oid_mapping_file"},
	}
}

// usedSettings are those whose values must make sense.
func usedSettings() []string {
	names := append(compileSettings(), "autosign", "node_terminus", "external_nodes")
	for _, m := range puppetNames() {
		names = append(names, m.from)
	}
	return names
}

// compileSettings are settings of puppet.conf that shape a compile and go to the
// engine as they are.
func compileSettings() []string {
	return []string{
		"strict", "strict_variables", "hiera_config", "rich_data", "digest_algorithm", "supported_checksum_types",
		"disable_warnings", "max_errors", "max_warnings", "max_deprecations", "trusted_external_command",
		"merge_dependency_warnings", "data_binding_terminus", "versioned_environment_dirs", "trusted_server_facts",
		"disable_per_environment_manifest", "default_manifest", "allow_pson_serialization",
		"number_of_facts_soft_limit", "fact_name_length_soft_limit", "fact_value_length_soft_limit",
		"top_level_facts_soft_limit", "payload_soft_limit",
	}
}

// unfollowed are settings that change what a server does and that troupe does
// not follow; somebody who set one should know.
func unfollowed() map[string]string {
	return map[string]string{
		"reports":                "troupe stores every report itself",
		"reporturl":              "troupe stores every report itself",
		"storeconfigs":           "troupe always stores facts, catalogs and exported resources",
		"ca_server":              "troupe serves the CA itself",
		"fact_terminus":          "troupe stores facts itself",
		"catalog_terminus":       "troupe compiles and stores catalogs itself",
		"catalog_cache_terminus": "troupe compiles and stores catalogs itself",
		"route_file":             "troupe has no indirections to reroute",
	}
}

func (l *loader) applyPuppetConf(conf *puppetConf, layout Layout) {
	l.config.Puppet = map[string]string{}
	for name, s := range conf.settings {
		text, origin, _, err := conf.get(name)
		if err != nil {
			// Only a setting that matters here may stop a start: a puppet.conf is shared
			// with the agent.
			if slices.Contains(usedSettings(), name) {
				l.problem(err)
			}
			text = s.text
		}
		text = iniMeta.ReplaceAllString(text, "")
		l.config.Puppet[name] = text
		if slices.Contains(compileSettings(), name) && err == nil {
			l.setEntry("engine.settings", name, origin, text)
		}
		if why, no := unfollowed()[name]; no {
			l.config.Notes = append(l.config.Notes, fmt.Sprintf("%s: %s is not used: %s", conf.origin(s), name, why))
		}
	}
	slices.Sort(l.config.Notes)
	for _, m := range puppetNames() {
		if text, origin, ok, err := conf.get(m.from); err == nil && ok {
			l.set(m.to, origin, iniMeta.ReplaceAllString(text, ""))
		}
	}
	for _, name := range []string{"codedir", "environmentpath", "basemodulepath"} {
		if _, set := conf.settings[name]; !set {
			text, err := conf.interpolate("$" + name)
			l.problem(err)
			l.set(name, layout.Name+" layout", text)
		}
	}
	l.hieraConfig(conf)
	l.autosign(conf, layout)
	l.externalNodes(conf)
}

func (l *loader) hieraConfig(conf *puppetConf) {
	if _, set := conf.settings["hiera_config"]; set {
		return
	}
	if path, err := conf.interpolate("$hiera_config"); err == nil && exists(path) {
		l.setEntry("engine.settings", "hiera_config", "found", path)
	}
}

// autosign defaults to an allow-list that need not exist yet.
func (l *loader) autosign(conf *puppetConf, layout Layout) {
	text, origin, ok, err := conf.get("autosign")
	if err != nil {
		return // reported with the other settings
	}
	if !ok {
		text, err = conf.interpolate("$autosign")
		l.problem(err)
		origin = layout.Name + " layout"
	}
	l.set("ca.autosign", origin, iniMeta.ReplaceAllString(text, ""))
}

func (l *loader) externalNodes(conf *puppetConf) {
	terminus, origin, ok, err := conf.get("node_terminus")
	if err != nil || !ok || terminus == "plain" {
		return
	}
	if terminus != "exec" {
		l.config.Notes = append(l.config.Notes, fmt.Sprintf("%s: node_terminus = %s is not used: plain and exec are supported", origin, terminus))
		return
	}
	command, origin, ok, err := conf.get("external_nodes")
	if err != nil {
		return
	}
	if !ok || command == "" || command == "none" {
		l.problem(fmt.Errorf("%s: node_terminus = exec needs external_nodes, the command that classifies nodes", conf.file))
		return
	}
	l.set("classifier.command", origin, command)
}
