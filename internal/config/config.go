// Package config reads everything that an operator says about a member: one
// strict YAML file, flags, and the files of an existing Puppet Server where they
// lie.
//
// [Load] finds the value of each setting in this order: flag, troupe's own file,
// Puppet's files, default. It names all problems at once, each with its place.
// The result is plain values; the server package hands each package its own
// Options. Where a value came from is kept and shown by [Config.Show].
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Config is one member's configuration, with defaults filled in. A zero in a
// number or duration leaves the choice to the package that uses it; Show prints
// it as "auto".
type Config struct {
	Data            string // folder of everything that the member keeps
	Listen          string // address that agents connect to
	Certname        string
	DNSAltNames     []string
	Site            string
	CodeDir         string
	EnvironmentPath []string
	BaseModulePath  []string

	Cluster    Cluster
	CA         CA
	TLS        TLS
	Engine     Engine
	Code       Code
	Classifier Classifier
	Store      Store
	HTTP       HTTP
	Backup     Backup
	Metrics    Metrics
	Log        Log

	// Puppet's own files; "" when there is none.
	PuppetConf     string
	AuthConf       string
	FileserverConf string
	OIDMapping     string // custom_trusted_oid_mapping.yaml
	Layout         Layout // where Puppet's files were found

	// Puppet holds every setting of puppet.conf that holds for a server,
	// interpolated, by name.
	Puppet map[string]string
	// CustomOIDs is what OIDMapping says: OID to short name.
	CustomOIDs map[string]string
	// Notes are settings of Puppet's files that troupe reads but does not follow.
	Notes []string

	origins map[string]string
}

// CA configures the certificate authority.
type CA struct {
	Enabled                      bool
	Name                         string
	KeyType                      string
	Hierarchy                    string
	TTL                          time.Duration
	Autosign                     string // "true", "false", or the path of an allow-list or an executable
	AutosignTimeout              time.Duration
	AllowSubjectAltNames         bool
	AllowAuthorizationExtensions bool
	AllowDuplicateCerts          bool
	AllowAutoRenewal             bool
	AutoRenewalCertTTL           time.Duration
	Conflict                     string // "keep" or "revoke-later": two members have signed different keys for one name
}

// Cluster configures how members find each other.
type Cluster struct {
	Listen  string // address of the port for members; opened once this member belongs to a troupe
	Address string // host:port by which other members reach it; "" means the certname and that port
	NATS    NATS
}

// NATS configures a NATS cluster of the operator's through which records travel, too. Without servers there is none.
type NATS struct {
	Servers        []string // URLs
	Credentials    string   // .creds file; or
	User           string
	PasswordFile   string // of the user; or
	TokenFile      string
	CA             string // PEM; "" means the system's
	Certificate    string
	Key            string
	AllowPlaintext bool // nats:// to servers that are not on the loopback
	Prefix         string
	Replicas       int // of streams that are made; 0: three, or one where the servers cannot
	MaxAge         time.Duration
	MaxBytes       int64
}

// TLS configures the listener that agents connect to.
type TLS struct {
	KeyType string
	Min     string   // "1.2" or "1.3"
	Ciphers []string // of TLS 1.2, by Go's names; nil means all with GCM or ChaCha20
}

// Engine configures the Ruby workers.
type Engine struct {
	Ruby        string
	PuppetLib   []string
	Workers     int
	MaxQueue    int
	Deadline    time.Duration
	MaxRequests int
	MaxMemory   int64
	User        string
	Settings    map[string]string // Puppet settings that shape a compile
}

// Code configures environments and their versions.
type Code struct {
	Interval time.Duration
	Keep     int
}

// Classifier configures the external node classifier.
type Classifier struct {
	Command string
	Timeout time.Duration
}

// Retention says how long records are kept: until they are older than Age, or no
// more than Count of one node. Each sort of record has one of the two.
type Retention struct {
	Age   time.Duration
	Count int
}

// Store configures what is kept. A node whose last facts are older than
// Facts.Age is forgotten with everything that belongs to it.
type Store struct {
	Facts, Catalogs, Reports, Compiles, Bucket Retention

	JournalAge    time.Duration // of the journal's bulk stream
	InactiveAfter time.Duration // a silent node's exported resources vanish
}

// HTTP configures limits of the agent-facing API.
type HTTP struct {
	MaxBody       MaxBody
	HeaderTimeout time.Duration
	ReadTimeout   time.Duration
	WriteTimeout  time.Duration
	IdleTimeout   time.Duration
	MaxRetryAfter time.Duration
}

// MaxBody bounds request bodies in bytes, by what they carry.
type MaxBody struct {
	Facts, Report, Bucket int64
}

// Backup configures the backups that the member makes by itself, and the place of those that are made by hand.
type Backup struct {
	To             string        // a folder, or s3://BUCKET/PREFIX; "" means none
	Every          time.Duration // 0 makes none
	Keep           int           // of this member; 0 keeps all
	PassphraseFile string
	Recipients     []string // age1…; instead of a passphrase
	S3Endpoint     string
	S3Region       string
}

// Metrics configures a listener of its own for metrics, without TLS.
type Metrics struct{ Listen string }

// Log configures what the member says.
type Log struct{ Level, Format string }

// Sources say where configuration comes from. The zero Sources read Puppet's
// files where packages put them.
type Sources struct {
	File    string            // troupe's own file; "" means none
	ConfDir string            // folder of puppet.conf; "" asks the setting puppet_conf, then looks in the usual places; "none" reads none of Puppet's files
	Flags   map[string]string // by key, as in "ca.autosign"
	Root    string            // put before the usual places; "" means "/"
}

// Load reads the configuration. Its error joins all problems.
func Load(src Sources) (*Config, error) {
	c := &Config{}
	l := newLoader(c)
	layout, err := findLayout(src, namedPuppetConf(src))
	l.problem(err)
	c.Layout = layout
	l.defaults()
	l.puppetFiles()
	if src.File != "" {
		l.yamlFile(src.File)
	}
	l.flags(src.Flags)
	l.derive()
	l.readOIDMapping()
	l.noteAutosign()
	l.problem(c.Check())
	if len(l.problems) > 0 {
		return nil, fmt.Errorf("the configuration has problems:\n%w", errors.Join(l.problems...))
	}
	return c, nil
}

// namedPuppetConf looks ahead for puppet_conf, which decides what else is read.
// Its problems are reported when the file is read for good.
func namedPuppetConf(src Sources) string {
	var c Config
	l := newLoader(&c)
	if src.File != "" {
		l.yamlFile(src.File)
	}
	l.flags(src.Flags)
	return c.PuppetConf
}

// A loader puts sources on top of each other.
type loader struct {
	config   *Config
	settings []setting
	byKey    map[string]*setting
	problems []error
}

func newLoader(c *Config) *loader {
	c.origins = map[string]string{}
	l := &loader{config: c, settings: c.settings(), byKey: map[string]*setting{}}
	for i := range l.settings {
		l.byKey[l.settings[i].key] = &l.settings[i]
	}
	return l
}

func (l *loader) problem(err error) {
	if err != nil {
		l.problems = append(l.problems, err)
	}
}

// set gives a setting a value; a later call replaces an earlier one. "auto" is
// as good as no call.
func (l *loader) set(key, origin string, texts ...string) {
	if len(texts) == 1 && texts[0] == "auto" {
		return
	}
	s := l.byKey[key]
	if err := s.value.set(texts); err != nil {
		l.problem(fmt.Errorf("%s: %s: %w", origin, key, err))
		return
	}
	l.config.origins[key] = origin
}

func (l *loader) defaults() {
	for _, s := range l.settings {
		if s.fallback != "" {
			l.set(s.key, originDefault, s.fallback)
		} else {
			l.config.origins[s.key] = originDefault
		}
	}
}

const originDefault = "default"

// flags come last and win.
func (l *loader) flags(flags map[string]string) {
	for _, s := range l.settings {
		if text, ok := flags[s.key]; ok {
			l.set(s.key, "flag", text)
		}
	}
	for key := range flags {
		if l.byKey[key] == nil {
			l.problem(fmt.Errorf("flag: there is no setting %q%s", key, l.suggest(key)))
		}
	}
}

// derive fills in what follows from other settings, and makes folders absolute.
func (l *loader) derive() {
	c := l.config
	if c.PuppetConf == "none" {
		c.PuppetConf = ""
	}
	if c.Certname == "" {
		l.set("certname", "the host's name", hostCertname(c.Layout.root))
	}
	if c.CodeDir == "" {
		l.set("codedir", originDefault, filepath.Join(c.Data, "code"))
	}
	if len(c.EnvironmentPath) == 0 {
		l.set("environmentpath", originDefault, filepath.Join(c.CodeDir, "environments"))
	}
	if len(c.BaseModulePath) == 0 && c.Layout.Name == "" {
		l.set("basemodulepath", originDefault, filepath.Join(c.CodeDir, "modules"))
	}
	paths := []*string{&c.Data, &c.CodeDir, &c.PuppetConf, &c.AuthConf, &c.FileserverConf, &c.OIDMapping}
	paths = append(paths, c.Cluster.NATS.files()...)
	for i := range c.EnvironmentPath {
		paths = append(paths, &c.EnvironmentPath[i])
	}
	for i := range c.BaseModulePath {
		paths = append(paths, &c.BaseModulePath[i])
	}
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		l.problem(err)
		*p = abs
	}
}

// readFile reads a file of a size that a person may have written.
func readFile(path string) ([]byte, error) {
	const maxSize = 4 << 20
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxSize)
	}
	return os.ReadFile(path)
}
