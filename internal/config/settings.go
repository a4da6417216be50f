package config

// This file lists every setting: its key, its default, and what it is for.

// A setting binds a key of the YAML file to a field of the Config.
type setting struct {
	key      string
	value    value
	fallback string // default, as a person would write it; "" leaves the zero
}

// A Setting is one line of "troupe config show".
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Show returns every setting in force, in the order of the documentation.
func (c *Config) Show() []Setting {
	var out []Setting
	for _, s := range c.settings() {
		if m, ok := s.value.(mapValue); ok {
			for _, k := range m.keys() {
				key := s.key + "." + k
				out = append(out, Setting{key, (*m.p)[k], c.origins[key]})
			}
			continue
		}
		out = append(out, Setting{s.key, s.value.String(), c.origins[s.key]})
	}
	return out
}

// IsDefault reports that nobody has given a setting a value.
func (c *Config) IsDefault(key string) bool { return c.origins[key] == originDefault }

// Origin says where a setting's value came from.
func (c *Config) Origin(key string) string { return c.origins[key] }

func keyTypes() []string { return []string{"ec256", "ec384", "rsa2048", "rsa3072", "rsa4096"} }

func (c *Config) settings() []setting {
	return []setting{
		{key: "data", value: textValue{p: &c.Data}, fallback: "/var/lib/troupe"},
		{key: "listen", value: textValue{p: &c.Listen}, fallback: ":8140"},
		{key: "certname", value: textValue{p: &c.Certname}},
		{key: "dns_alt_names", value: listValue{&c.DNSAltNames, ","}},
		{key: "site", value: textValue{p: &c.Site}, fallback: "default"},
		{key: "cluster.listen", value: textValue{p: &c.Cluster.Listen}, fallback: ":8143"},
		{key: "cluster.address", value: textValue{p: &c.Cluster.Address}},
		{key: "cluster.nats.servers", value: listValue{&c.Cluster.NATS.Servers, ","}},
		{key: "cluster.nats.credentials", value: textValue{p: &c.Cluster.NATS.Credentials}},
		{key: "cluster.nats.user", value: textValue{p: &c.Cluster.NATS.User}},
		{key: "cluster.nats.password_file", value: textValue{p: &c.Cluster.NATS.PasswordFile}},
		{key: "cluster.nats.token_file", value: textValue{p: &c.Cluster.NATS.TokenFile}},
		{key: "cluster.nats.tls.ca", value: textValue{p: &c.Cluster.NATS.CA}},
		{key: "cluster.nats.tls.certificate", value: textValue{p: &c.Cluster.NATS.Certificate}},
		{key: "cluster.nats.tls.key", value: textValue{p: &c.Cluster.NATS.Key}},
		{key: "cluster.nats.allow_plaintext", value: boolValue{&c.Cluster.NATS.AllowPlaintext}},
		{key: "cluster.nats.prefix", value: textValue{p: &c.Cluster.NATS.Prefix}, fallback: "troupe"},
		{key: "cluster.nats.replicas", value: intValue{&c.Cluster.NATS.Replicas}},
		{key: "cluster.nats.max_age", value: durationValue{&c.Cluster.NATS.MaxAge}},
		{key: "cluster.nats.max_bytes", value: sizeValue{&c.Cluster.NATS.MaxBytes}},
		{key: "codedir", value: textValue{p: &c.CodeDir}},
		{key: "environmentpath", value: listValue{&c.EnvironmentPath, ":"}},
		{key: "basemodulepath", value: listValue{&c.BaseModulePath, ":"}},

		{key: "ca.enabled", value: boolValue{&c.CA.Enabled}, fallback: "true"},
		{key: "ca.name", value: textValue{p: &c.CA.Name}},
		{key: "ca.key_type", value: textValue{p: &c.CA.KeyType, oneOf: append(keyTypes(), "")}},
		{key: "ca.hierarchy", value: textValue{p: &c.CA.Hierarchy, oneOf: []string{"cross-signed", "intermediate", "single", ""}}},
		{key: "ca.ttl", value: durationValue{&c.CA.TTL}, fallback: "5y"},
		{key: "ca.autosign", value: textValue{p: &c.CA.Autosign}, fallback: "false"},
		{key: "ca.autosign_timeout", value: durationValue{&c.CA.AutosignTimeout}},
		{key: "ca.allow_subject_alt_names", value: boolValue{&c.CA.AllowSubjectAltNames}},
		{key: "ca.allow_authorization_extensions", value: boolValue{&c.CA.AllowAuthorizationExtensions}},
		{key: "ca.allow_duplicate_certs", value: boolValue{&c.CA.AllowDuplicateCerts}},
		{key: "ca.allow_auto_renewal", value: boolValue{&c.CA.AllowAutoRenewal}},
		{key: "ca.auto_renewal_cert_ttl", value: durationValue{&c.CA.AutoRenewalCertTTL}, fallback: "90d"},
		{key: "ca.conflict", value: textValue{p: &c.CA.Conflict, oneOf: []string{"keep", "revoke-later"}}, fallback: "keep"},

		{key: "tls.key_type", value: textValue{p: &c.TLS.KeyType, oneOf: keyTypes()}, fallback: "ec256"},
		{key: "tls.min", value: textValue{p: &c.TLS.Min, oneOf: []string{"1.2", "1.3"}}, fallback: "1.2"},
		{key: "tls.ciphers", value: listValue{&c.TLS.Ciphers, ","}},

		{key: "engine.ruby", value: textValue{p: &c.Engine.Ruby}},
		{key: "engine.puppet_lib", value: listValue{&c.Engine.PuppetLib, ":"}},
		{key: "engine.workers", value: intValue{&c.Engine.Workers}},
		{key: "engine.max_queue", value: intValue{&c.Engine.MaxQueue}},
		{key: "engine.deadline", value: durationValue{&c.Engine.Deadline}},
		{key: "engine.max_requests", value: intValue{&c.Engine.MaxRequests}},
		{key: "engine.max_memory", value: sizeValue{&c.Engine.MaxMemory}},
		{key: "engine.user", value: textValue{p: &c.Engine.User}},
		{key: "engine.settings", value: mapValue{&c.Engine.Settings}},

		{key: "code.interval", value: durationValue{&c.Code.Interval}},
		{key: "code.keep", value: intValue{&c.Code.Keep}},

		{key: "classifier.command", value: textValue{p: &c.Classifier.Command}},
		{key: "classifier.timeout", value: durationValue{&c.Classifier.Timeout}},

		{key: "store.facts.age", value: durationValue{&c.Store.Facts.Age}},
		{key: "store.catalogs.count", value: intValue{&c.Store.Catalogs.Count}},
		{key: "store.reports.age", value: durationValue{&c.Store.Reports.Age}},
		{key: "store.compiles.count", value: intValue{&c.Store.Compiles.Count}},
		{key: "store.bucket.age", value: durationValue{&c.Store.Bucket.Age}},

		{key: "store.journal_age", value: durationValue{&c.Store.JournalAge}},
		{key: "store.inactive_after", value: durationValue{&c.Store.InactiveAfter}},

		{key: "http.max_body.facts", value: sizeValue{&c.HTTP.MaxBody.Facts}},
		{key: "http.max_body.report", value: sizeValue{&c.HTTP.MaxBody.Report}},
		{key: "http.max_body.filebucket", value: sizeValue{&c.HTTP.MaxBody.Bucket}},
		{key: "http.header_timeout", value: durationValue{&c.HTTP.HeaderTimeout}},
		{key: "http.read_timeout", value: durationValue{&c.HTTP.ReadTimeout}},
		{key: "http.write_timeout", value: durationValue{&c.HTTP.WriteTimeout}},
		{key: "http.idle_timeout", value: durationValue{&c.HTTP.IdleTimeout}},
		{key: "http.max_retry_after", value: durationValue{&c.HTTP.MaxRetryAfter}, fallback: "30m"},

		{key: "backup.to", value: textValue{p: &c.Backup.To}},
		{key: "backup.every", value: durationValue{&c.Backup.Every}},
		{key: "backup.keep", value: intValue{&c.Backup.Keep}},
		{key: "backup.passphrase_file", value: textValue{p: &c.Backup.PassphraseFile}},
		{key: "backup.recipients", value: listValue{&c.Backup.Recipients, ","}},
		{key: "backup.s3_endpoint", value: textValue{p: &c.Backup.S3Endpoint}},
		{key: "backup.s3_region", value: textValue{p: &c.Backup.S3Region}},

		{key: "metrics.listen", value: textValue{p: &c.Metrics.Listen}},
		{key: "log.level", value: textValue{p: &c.Log.Level, oneOf: []string{"debug", "info", "warn", "error"}}, fallback: "info"},
		{key: "log.format", value: textValue{p: &c.Log.Format, oneOf: []string{"text", "json"}}, fallback: "text"},

		{key: "puppet_conf", value: textValue{p: &c.PuppetConf}},
		{key: "auth_conf", value: textValue{p: &c.AuthConf}},
		{key: "fileserver_conf", value: textValue{p: &c.FileserverConf}},
		{key: "trusted_oid_mapping_file", value: textValue{p: &c.OIDMapping}},
	}
}
