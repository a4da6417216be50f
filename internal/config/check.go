package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"troupe/internal/puppet"
)

// This file checks settings against each other and against the files they name.

// Check names every problem of the values themselves. Load has called it.
func (c *Config) Check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s: %s", c.origins[key], key, fmt.Sprintf(format, args...)))
	}
	if _, err := puppet.ParseCertname(c.Certname); err != nil {
		bad("certname", "%v", err)
	}
	for _, name := range c.DNSAltNames {
		if strings.ContainsAny(name, " /") {
			bad("dns_alt_names", "%q is not a name", name)
		}
	}
	checkAddress(c.Listen, "listen", bad)
	if c.Metrics.Listen != "" {
		checkAddress(c.Metrics.Listen, "metrics.listen", bad)
	}
	if c.CA.TTL <= 0 {
		bad("ca.ttl", "must be longer than nothing")
	}
	if c.CA.TTL > maxTTL {
		bad("ca.ttl", "must not be longer than 50y")
	}
	if c.CA.AutoRenewalCertTTL <= 0 || c.CA.AutoRenewalCertTTL > maxTTL {
		bad("ca.auto_renewal_cert_ttl", "must be between 1s and 50y")
	}
	if a := c.CA.Autosign; a != "true" && a != "false" && !filepath.IsAbs(a) {
		bad("ca.autosign", "%q must be true, false, or the absolute path of an allow-list or an executable", a)
	}
	if c.AuthConf != "" && !exists(c.AuthConf) {
		bad("auth_conf", "%s does not exist", c.AuthConf)
	}
	c.Backup.check(bad)
	c.Cluster.NATS.check(bad)
	return errors.Join(problems...)
}

// check looks at the backups that are made without anybody there who would see why not.
func (b Backup) check(bad func(key, format string, args ...any)) {
	if b.PassphraseFile != "" && len(b.Recipients) > 0 {
		bad("backup.recipients", "a backup is locked with a passphrase or for recipients, not with both")
	}
	switch {
	case b.Every == 0:
		return
	case b.Every < time.Minute:
		bad("backup.every", "must be 1m or longer")
	case b.To == "":
		bad("backup.every", "backup.to must say where to: a folder, or s3://BUCKET/PREFIX")
	case b.PassphraseFile == "" && len(b.Recipients) == 0:
		bad("backup.every", "backups are encrypted: set backup.passphrase_file or backup.recipients")
	}
}

// maxTTL is puppetserver's longest CA lifetime (max-ca-ttl).
const maxTTL = 50 * 365 * 24 * 3600 * 1e9

func checkAddress(address, key string, bad func(key, format string, args ...any)) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		bad(key, "%q is not an address such as :8140 or 192.0.2.1:8140", address)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		bad(key, "the port %q is not a number up to 65535", port)
	}
}

// autosignLine is what an allow-list may hold: a name or a *.suffix
// (certificate_authority.clj, whitelist-matches?).
var autosignLine = regexp.MustCompile(`^(\*|(\*\.)?[\w.-]+)$`)

// noteAutosign names the lines of an allow-list that the CA will ignore.
func (l *loader) noteAutosign() {
	path := l.config.CA.Autosign
	info, err := os.Stat(path)
	if !filepath.IsAbs(path) || err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 != 0 {
		return // true, false, not there yet, or an executable
	}
	src, err := readFile(path)
	if err != nil {
		l.problem(fmt.Errorf("ca.autosign: %w", err))
		return
	}
	for i, line := range strings.Split(string(src), "\n") {
		if line != "" && line[0] != '#' && !autosignLine.MatchString(line) {
			l.config.Notes = append(l.config.Notes, fmt.Sprintf("%s:%d: %q is neither a certname nor *.suffix and is ignored", path, i+1, line))
		}
	}
}

// readOIDMapping reads custom_trusted_oid_mapping.yaml.
func (l *loader) readOIDMapping() {
	path := l.config.OIDMapping
	if path == "" || !exists(path) {
		return
	}
	src, err := readFile(path)
	if err != nil {
		l.problem(fmt.Errorf("reading the names of trusted extensions: %w", err))
		return
	}
	mapping, err := ParseOIDMapping(path, src)
	l.problem(err)
	l.config.CustomOIDs = mapping
}

// ParseOIDMapping reads the text of a custom_trusted_oid_mapping.yaml and returns
// short names by OID.
func ParseOIDMapping(name string, src []byte) (map[string]string, error) {
	var file struct {
		Mapping map[string]struct {
			Shortname string `yaml:"shortname"`
			Longname  string `yaml:"longname"`
		} `yaml:"oid_mapping"`
	}
	if err := yaml.Unmarshal(src, &file); err != nil {
		return nil, syntaxError(name, err)
	}
	out := map[string]string{}
	var problems []error
	for oid, names := range file.Mapping {
		switch {
		case strings.Trim(oid, "0123456789.") != "" || !strings.Contains(oid, "."):
			problems = append(problems, fmt.Errorf("%s: %q is not an OID such as 1.3.6.1.4.1.34380.1.2.1", name, oid))
		case !validShortName.MatchString(names.Shortname):
			problems = append(problems, fmt.Errorf("%s: the OID %s needs a shortname of letters, digits and underscores", name, oid))
		default:
			out[oid] = names.Shortname
		}
	}
	return out, errors.Join(problems...)
}

var validShortName = regexp.MustCompile(`^\w[\w-]*$`)
