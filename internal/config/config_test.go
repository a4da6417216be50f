package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// This file tests the package from outside in: folders of files to a Config.

// write puts files below dir and returns dir.
func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load loads and fails the test on any problem.
func load(t *testing.T, src Sources) *Config {
	t.Helper()
	c, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// problems loads and returns the text of the problems.
func problems(t *testing.T, src Sources) string {
	t.Helper()
	_, err := Load(src)
	if err == nil {
		t.Fatal("loaded without a problem")
	}
	return err.Error()
}

func TestNothingIsNeeded(t *testing.T) {
	c := load(t, Sources{ConfDir: "none"})
	if c.Listen != ":8140" || c.CA.TTL != 5*365*24*time.Hour || c.CA.Autosign != "false" || c.Certname == "" || c.PuppetConf != "" {
		t.Errorf("defaults: %+v", c)
	}
	if diff := cmp.Diff([]string{"/var/lib/troupe/code/environments"}, c.EnvironmentPath); diff != "" {
		t.Error(diff)
	}
}

func TestTheExampleFileIsGoodAndNamesEverySetting(t *testing.T) {
	const example = "../../docs/troupe.example.yaml"
	c := load(t, Sources{File: example, ConfDir: "none"})
	if c.Store.Reports.Age != 14*24*time.Hour || c.Engine.Settings["strict_variables"] != "true" || c.Metrics.Listen != "127.0.0.1:9140" {
		t.Errorf("values of the example: %+v", c)
	}
	src, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.settings() {
		if last := s.key[strings.LastIndexByte(s.key, '.')+1:]; !strings.Contains(string(src), last+":") {
			t.Errorf("the example does not mention %s", s.key)
		}
	}
}

func TestAllProblemsAreReportedWithTheirLines(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"troupe.yaml": `listn: x
ca:
  autosing: true
  ttl: 5x
autosign: true
engine:
  workers: [1, 2]
  max_memory: lots
http:
  max_body: 3
log:
  level: loud
metrics: { listen: nowhere }
certname:
code: { keep: -1 }
listen: "here:99999"
`})
	got := problems(t, Sources{File: filepath.Join(dir, "troupe.yaml"), ConfDir: "none", Flags: map[string]string{"lissten": "x"}})
	got = strings.ReplaceAll(got, dir+"/", "")
	for _, want := range []string{
		`troupe.yaml:1: there is no setting "listn"; did you mean "listen"?`,
		`troupe.yaml:3: there is no setting "ca.autosing"; did you mean "ca.autosign"?`,
		`troupe.yaml:4: ca.ttl: "5x" is not a time such as 90s, 20m, 12h, 30d or 5y`,
		`troupe.yaml:5: there is no setting "autosign"; did you mean "ca.autosign"?`,
		`troupe.yaml:7: engine.workers takes one value, not a list`,
		`troupe.yaml:8: engine.max_memory: "lots" is not a size such as 64M or 2G`,
		`troupe.yaml:10: http.max_body takes keys and values below it`,
		`troupe.yaml:12: log.level: "loud" is not one of debug, info, warn, error`,
		`troupe.yaml:13: metrics.listen: "nowhere" is not an address such as :8140 or 192.0.2.1:8140`,
		`troupe.yaml:14: certname has no value; remove the line to have the default`,
		`troupe.yaml:15: code.keep: "-1" is not a whole number from 0`,
		`troupe.yaml:16: listen: the port "99999" is not a number up to 65535`,
		`flag: there is no setting "lissten"; did you mean "listen"?`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s\nin:\n%s", want, got)
		}
	}
}

func TestBackupsThatCouldNeverBeMadeAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"backup: { every: 1h }":                                                      "backup.every: backup.to must say where to",
		"backup: { every: 1h, to: /mnt }":                                            "backup.every: backups are encrypted: set backup.passphrase_file or backup.recipients",
		"backup: { every: 10s, to: /mnt, passphrase_file: /p }":                      "backup.every: must be 1m or longer",
		"backup: { passphrase_file: /p, recipients: [age1x] }":                       "backup.recipients: a backup is locked with a passphrase or for recipients, not with both",
		"backup: { keep: -1 }":                                                       "backup.keep: \"-1\" is not a whole number",
		"backup: { to: /mnt, every: 1h, keep: 3, recipients: [age1x], s3_region: x}": "",
	} {
		dir := write(t, t.TempDir(), map[string]string{"troupe.yaml": text + "\n"})
		sources := Sources{File: filepath.Join(dir, "troupe.yaml"), ConfDir: "none"}
		if want == "" {
			load(t, sources)
		} else if got := problems(t, sources); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestNATSThatCouldNeverWorkIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`user: troupe, password_file: PRIVATE`:                                         `cluster.nats.servers: says not where NATS is`,
		`servers: nats.example.com`:                                                    `troupe.yaml:1: cluster.nats.servers: "nats.example.com" is not a server such as tls://`,
		`servers: "ws://nats.example.com"`:                                             `is not a server such as tls://`,
		`servers: "nats://nats.example.com:4222"`:                                      `would carry facts and catalogs in the clear: write tls://`,
		`servers: "tls://u:secret@nats.example.com"`:                                   `has credentials in it`,
		`servers: ["tls://nats.example.com", "nats://127.0.0.1"]`:                      `some are tls:// and some are not`,
		`servers: "nats://127.0.0.1", tls: { ca: PRIVATE }`:                            `cluster.nats.tls.ca: TLS has no effect`,
		`servers: "tls://nats.example.com", tls: { key: PRIVATE }`:                     `a certificate and its key go together`,
		`servers: "tls://nats.example.com", tls: { ca: /nowhere }`:                     `/nowhere does not exist`,
		`servers: "tls://nats.example.com", token_file: OPEN`:                          `so others may read it: chmod 0600`,
		`servers: "tls://nats.example.com", credentials: /nowhere`:                     `no such file`,
		`servers: "tls://nats.example.com", credentials: /`:                            `is no regular file`,
		`servers: "tls://nats.example.com", user: troupe`:                              `a user and password_file go together`,
		`servers: "tls://nats.example.com", credentials: PRIVATE, token_file: PRIVATE`: `choose one`,
		`servers: "tls://nats.example.com", prefix: "a.*"`:                             `cluster.nats.prefix: "a.*" is not a subject`,
		`servers: "tls://nats.example.com", replicas: 7`:                               `must be 1 to 5`,
		`servers: "tls://nats.example.com", max_age: 1m`:                               `must be 10m or longer`,
		`servers: "tls://nats.example.com", max_bytes: 1M`:                             `must be 16M or more`,
		`servers: "nats://nats.example.com", allow_plaintext: true`:                    ``,
		`servers: ["tls://a.example.com:4222", "tls://b.example.com:4222"], user: troupe, password_file: PRIVATE, prefix: infra.troupe, replicas: 3, max_age: 2d, max_bytes: 4G`: ``,
	} {
		dir := write(t, t.TempDir(), map[string]string{"private": "x\n", "open": "x\n"})
		for name, mode := range map[string]os.FileMode{"private": 0o600, "open": 0o644} {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
		text = strings.NewReplacer("PRIVATE", filepath.Join(dir, "private"), "OPEN", filepath.Join(dir, "open")).Replace(text)
		write(t, dir, map[string]string{"troupe.yaml": "cluster: { nats: { " + text + " } }\n"})
		sources := Sources{File: filepath.Join(dir, "troupe.yaml"), ConfDir: "none"}
		if want == "" {
			load(t, sources)
			continue
		}
		got := problems(t, sources)
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if strings.Contains(got, "secret") {
			t.Errorf("a password is shown: %s", got)
		}
	}
}

func TestYAMLThatIsNotPlainIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"syntax", "a: [1\n", "troupe.yaml:1:"},
		{"a key twice", "listen: a:1\nlisten: b:1\n", "already defined"},
		{"anchor", "listen: &x a:1\n", "anchors and merge keys are not supported"},
		{"a list", "- a\n", "the file takes keys and values below it"},
		{"two documents", "listen: a:1\n---\nlisten: b:1\n", "more than one YAML document"},
		{"a map as a value", "listen: {a: b}\n", "listen takes a text, a number, true or false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, t.TempDir(), map[string]string{"troupe.yaml": c.text})
			if got := problems(t, Sources{File: filepath.Join(dir, "troupe.yaml"), ConfDir: "none"}); !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %q", got, c.want)
			}
		})
	}
	dir := write(t, t.TempDir(), map[string]string{"troupe.yaml": "# nothing\nca:\n"})
	load(t, Sources{File: filepath.Join(dir, "troupe.yaml"), ConfDir: "none"})
}

// vendorFiles is an installation from the vendor's packages.
func vendorFiles() map[string]string {
	return map[string]string{
		"etc/puppetlabs/puppet/puppet.conf": `# comment
[main]
certname = main.example.com
codedir = /ignored
dns_alt_names = puppet, puppet.example.com
[master]
ca_ttl = 2y
certname = master.example.com
[server]
certname = Server.example.com
environmentpath = $codedir/environments:${codedir}/more
basemodulepath = /srv/modules
strict = error
hiera_config = $confdir/hiera.yaml
node_terminus = exec
external_nodes = /usr/local/bin/enc --flag
autosign = $confdir/policy { mode = 755 }
reports = store,puppetdb
vardir = /srv/var
manifest = $vardir/site/$environment
[agent]
certname = agent.example.com
[production]
modulepath = /x
`,
		"etc/puppetlabs/puppetserver/conf.d/puppetserver.conf": `jruby-puppet: { server-code-dir: /srv/code, max-active-instances: 3, max-retry-delay: 60 }`,
		"etc/puppetlabs/puppetserver/conf.d/webserver.conf":    "webserver: {\n ssl-host: 0.0.0.0\n ssl-port: 8141\n}\n",
		"etc/puppetlabs/puppetserver/conf.d/ca.conf":           "certificate-authority: { allow-subject-alt-names: true, auto-renewal-cert-ttl: 60d }",
		"etc/puppetlabs/puppetserver/conf.d/auth.conf":         "authorization: { version: 1, rules: [] }",
		"etc/puppetlabs/puppet/fileserver.conf":                "[extra]\npath /srv/extra\n",
		"etc/puppetlabs/puppet/custom_trusted_oid_mapping.yaml": `---
oid_mapping:
  1.3.6.1.4.1.34380.1.2.1:
    shortname: 'our_key'
    longname: 'Our key'
  '1.3.6.1.4.1.34380.1.2.2':
    shortname: other
`,
	}
}

func TestAnExistingInstallationIsFollowed(t *testing.T) {
	files := vendorFiles()
	files["etc/puppetlabs/puppet/puppet.conf"] = strings.Replace(files["etc/puppetlabs/puppet/puppet.conf"], "Server.", "server.", 1)
	root := write(t, t.TempDir(), files)
	c := load(t, Sources{Root: root, Flags: map[string]string{"ca.ttl": "1y"}})
	type view struct {
		Certname, Listen, CodeDir, Command, Autosign, Auth, Fileserver string
		AltNames, Environments, Modules                                []string
		TTL, Renewal, RetryAfter                                       time.Duration
		Workers                                                        int
		AltNamesAllowed                                                bool
		Settings, OIDs                                                 map[string]string
		Manifest                                                       string
	}
	conf := filepath.Join(root, "etc/puppetlabs")
	want := view{
		Certname: "server.example.com", Listen: ":8141", CodeDir: "/srv/code", Command: "/usr/local/bin/enc --flag",
		Autosign: conf + "/puppet/policy", Auth: conf + "/puppetserver/conf.d/auth.conf", Fileserver: conf + "/puppet/fileserver.conf",
		AltNames: []string{"puppet", "puppet.example.com"}, Environments: []string{"/srv/code/environments", "/srv/code/more"},
		Modules: []string{"/srv/modules"}, TTL: 365 * 24 * time.Hour, Renewal: 60 * 24 * time.Hour, RetryAfter: time.Minute, Workers: 3,
		AltNamesAllowed: true,
		Settings:        map[string]string{"strict": "error", "hiera_config": conf + "/puppet/hiera.yaml"},
		OIDs:            map[string]string{"1.3.6.1.4.1.34380.1.2.1": "our_key", "1.3.6.1.4.1.34380.1.2.2": "other"},
		Manifest:        "/srv/var/site/$environment",
	}
	got := view{
		c.Certname, c.Listen, c.CodeDir, c.Classifier.Command, c.CA.Autosign, c.AuthConf, c.FileserverConf,
		c.DNSAltNames, c.EnvironmentPath, c.BaseModulePath, c.CA.TTL, c.CA.AutoRenewalCertTTL, c.HTTP.MaxRetryAfter,
		c.Engine.Workers, c.CA.AllowSubjectAltNames, c.Engine.Settings, c.CustomOIDs, c.Puppet["manifest"],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{
		"certname":               conf + "/puppet/puppet.conf:10 [server]",
		"dns_alt_names":          conf + "/puppet/puppet.conf:5 [main]",
		"codedir":                conf + "/puppetserver/conf.d/puppetserver.conf:1",
		"listen":                 conf + "/puppetserver/conf.d/webserver.conf:3",
		"ca.ttl":                 "flag",
		"engine.settings.strict": conf + "/puppet/puppet.conf:13 [server]",
		"auth_conf":              "found",
		"site":                   "default",
	} {
		if got := c.Origin(key); got != want {
			t.Errorf("origin of %s: %q, want %q", key, got, want)
		}
	}
	notes := strings.Join(c.Notes, "\n")
	if !strings.Contains(notes, "reports is not used") || !strings.Contains(notes, "the section [production] is not read") {
		t.Errorf("notes:\n%s", notes)
	}
	shown := c.Show()
	if i := slices.IndexFunc(shown, func(s Setting) bool { return s.Key == "engine.settings.strict" }); i < 0 || shown[i].Value != "error" {
		t.Errorf("shown: %v", shown)
	}
}

func TestTroupesOwnFileBeatsPuppets(t *testing.T) {
	files := vendorFiles()
	files["troupe.yaml"] = "certname: own.example.com\nca: { ttl: 3y }\nengine: { settings: { strict: 'off' }, workers: auto }\n"
	root := write(t, t.TempDir(), files)
	c := load(t, Sources{Root: root, File: filepath.Join(root, "troupe.yaml")})
	if c.Certname != "own.example.com" || c.CA.TTL != 3*365*24*time.Hour || c.Engine.Settings["strict"] != "off" || c.Engine.Workers != 3 {
		t.Errorf("certname %s, ttl %s, strict %s, workers %d", c.Certname, c.CA.TTL, c.Engine.Settings["strict"], c.Engine.Workers)
	}
	if got, want := c.Origin("ca.ttl"), filepath.Join(root, "troupe.yaml")+":2"; got != want {
		t.Errorf("origin %q, want %q", got, want)
	}
}

func TestBothLayoutsAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
		want  string
		code  string
	}{
		{"vendor", []string{"etc/puppetlabs/puppet/puppet.conf"}, "puppetlabs", "etc/puppetlabs/code/environments"},
		{"Debian", []string{"etc/puppet/puppet.conf"}, "debian", "etc/puppet/code/environments"},
		{"both, a server in Debian's", []string{"etc/puppetlabs/puppet/puppet.conf", "etc/puppet/puppet.conf", "etc/puppet/puppetserver/conf.d/x.conf"}, "debian", "etc/puppet/code/environments"},
		{"neither", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{}
			for _, f := range c.files {
				files[f] = ""
			}
			root := write(t, t.TempDir(), files)
			got := load(t, Sources{Root: root})
			if got.Layout.Name != c.want {
				t.Errorf("layout %q, want %q", got.Layout.Name, c.want)
			}
			if c.code != "" && got.EnvironmentPath[0] != filepath.Join(root, c.code) {
				t.Errorf("environmentpath %v", got.EnvironmentPath)
			}
		})
	}
}

func TestANamedFolderIsReadInEitherLayout(t *testing.T) {
	vendor := write(t, t.TempDir(), map[string]string{"puppet/puppet.conf": "", "puppetserver/conf.d/auth.conf": "", "x.yaml": ""})
	c := load(t, Sources{ConfDir: filepath.Join(vendor, "puppet")})
	if c.AuthConf != filepath.Join(vendor, "puppetserver/conf.d/auth.conf") || c.CodeDir != filepath.Join(vendor, "code") {
		t.Errorf("vendor: auth.conf %s, code %s", c.AuthConf, c.CodeDir)
	}
	debian := write(t, t.TempDir(), map[string]string{"puppet.conf": "", "puppetserver/conf.d/auth.conf": ""})
	for _, src := range []Sources{{ConfDir: debian}, {Flags: map[string]string{"puppet_conf": filepath.Join(debian, "puppet.conf")}}} {
		c = load(t, src)
		if c.AuthConf != filepath.Join(debian, "puppetserver/conf.d/auth.conf") || c.CodeDir != filepath.Join(debian, "code") {
			t.Errorf("Debian: auth.conf %s, code %s", c.AuthConf, c.CodeDir)
		}
	}
	if got := problems(t, Sources{ConfDir: filepath.Join(debian, "missing")}); !strings.Contains(got, "name the folder of puppet.conf, or none") {
		t.Error(got)
	}
	if c := load(t, Sources{Root: debian, Flags: map[string]string{"puppet_conf": "none"}}); c.Layout.Name != "" || c.PuppetConf != "" {
		t.Errorf("puppet_conf: none read %q", c.PuppetConf)
	}
}

func TestProblemsInPuppetsFilesAreNamed(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"upper case", "puppet.conf", "[server]\ncertname = Server.example.com\n", `puppet.conf:2 [server]: certname: Certname "Server.example.com" must be lower case`},
		{"no setting", "puppet.conf", "[main]\nwhat is this\n", "puppet.conf:2: neither a [section] nor a setting = value"},
		{"unknown reference", "puppet.conf", "environmentpath = $nowhere/x\n", "puppet.conf:1 [main]: environmentpath: $nowhere is not set"},
		{"circle", "puppet.conf", "codedir = $environmentpath\nenvironmentpath = $codedir\n", "refer to each other in a circle"},
		{"ENC without a command", "puppet.conf", "node_terminus = exec\n", "needs external_nodes"},
		{"bad TTL", "puppet.conf", "ca_ttl = ever\n", `ca.ttl: "ever" is not a time`},
		{"HOCON", "puppetserver/conf.d/ca.conf", "certificate-authority: {", "ca.conf:1:24: the object that begins here is not closed"},
		{"bad boolean", "puppetserver/conf.d/ca.conf", "certificate-authority: { allow-auto-renewal: perhaps }", `"perhaps" is neither true nor false`},
		{"OIDs", "custom_trusted_oid_mapping.yaml", "oid_mapping:\n  pp_role:\n    shortname: x\n", `"pp_role" is not an OID`},
		{"OIDs without a name", "custom_trusted_oid_mapping.yaml", "oid_mapping:\n  1.2.3.4: {}\n", "needs a shortname"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, t.TempDir(), map[string]string{"puppet.conf": "", c.file: c.text})
			if got := problems(t, Sources{ConfDir: dir}); !strings.Contains(got, c.want) {
				t.Errorf("got %s\nwant %q", got, c.want)
			}
		})
	}
}

func TestABadLineOfTheAllowListIsANote(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"puppet.conf": "", "autosign.conf": "# who\n*.example.com\nnot a name\n"})
	c := load(t, Sources{ConfDir: dir})
	want := []string{filepath.Join(dir, "autosign.conf") + `:3: "not a name" is neither a certname nor *.suffix and is ignored`}
	if diff := cmp.Diff(want, c.Notes); diff != "" {
		t.Error(diff)
	}
}

func TestAnAgentsSettingNeedNotMakeSense(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"puppet.conf": "[main]\nclassfile = $strange/classes.txt\nprivatekeydir = $ssldir/private_keys { group = service }\n"})
	c := load(t, Sources{ConfDir: dir})
	if got, want := c.Puppet["privatekeydir"], filepath.Join(dir, "ssl/private_keys"); got != want {
		t.Errorf("privatekeydir %q, want %q", got, want)
	}
	if got := c.Puppet["classfile"]; got != "$strange/classes.txt" {
		t.Errorf("classfile %q", got)
	}
}

func TestADisabledCAServiceStaysDisabled(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{
		"puppet.conf":                      "",
		"puppetserver/services.d/ca.cfg":   "#puppetlabs.services.ca.certificate-authority-service/certificate-authority-service\npuppetlabs.services.ca.certificate-authority-disabled-service/certificate-authority-disabled-service\n",
		"puppetserver/conf.d/global.conf":  "global: {}",
		"puppetserver/conf.d/ignored.text": "{",
	})
	if c := load(t, Sources{ConfDir: dir}); c.CA.Enabled {
		t.Error("the CA is enabled")
	}
}

func TestTimesAreReadInPuppetsUnits(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "20m": 20 * time.Minute, "12h": 12 * time.Hour, "30d": 30 * 24 * time.Hour, "5y": 5 * 365 * 24 * time.Hour,
		"1h30m": 90 * time.Minute, "250ms": 250 * time.Millisecond, "3600": time.Hour, "0": 0,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "x", "5x", "-5s", "5 s", "1h30", "9999999y", "1.5h", "m"} {
		if got, err := ParseDuration(text); err == nil && text != "5" {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "auto", time.Minute: "1m", 36 * time.Hour: "36h", 5 * 365 * 24 * time.Hour: "5y", 1500 * time.Millisecond: "1.5s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}

func TestSizesAreReadInBinaryUnits(t *testing.T) {
	for text, want := range map[string]int64{"64M": 64 << 20, "2G": 2 << 30, "2 GiB": 2 << 30, "512k": 512 << 10, "10": 10, "64MB": 64 << 20} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1T", "9999999999G", "1.5G"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func TestTheHostsFullNameIsFoundWithoutTheNetwork(t *testing.T) {
	root := write(t, t.TempDir(), map[string]string{
		"hosts":       "127.0.0.1 localhost localhost.localdomain\n192.0.2.1 Web1.Example.com web1 # comment\n",
		"resolv.conf": "nameserver 192.0.2.53\nsearch example.org example.net\n",
	})
	if got := fullNameFromHosts(filepath.Join(root, "hosts"), "web1"); got != "web1.example.com" {
		t.Errorf("from hosts: %q", got)
	}
	if got := fullNameFromHosts(filepath.Join(root, "hosts"), "db1"); got != "" {
		t.Errorf("an unknown host is named %q", got)
	}
	if got := domainFromResolver(filepath.Join(root, "resolv.conf")); got != "example.org" {
		t.Errorf("from resolv.conf: %q", got)
	}
}

func FuzzYAML(f *testing.F) {
	example, err := os.ReadFile("../../docs/troupe.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte("ca: {ttl: 5y}\nengine:\n  settings: {a: b}\n"))
	f.Fuzz(func(_ *testing.T, src []byte) {
		l := newLoader(&Config{})
		l.yaml("fuzz", src)
		l.config.Show()
	})
}

func FuzzPuppetConf(f *testing.F) {
	f.Add([]byte(vendorFiles()["etc/puppetlabs/puppet/puppet.conf"]))
	f.Fuzz(func(_ *testing.T, src []byte) {
		all, _ := parseINI("fuzz", src)
		conf := newPuppetConf("fuzz", all, map[string]string{"vardir": "/var", "statedir": "$vardir/state"})
		for name := range conf.settings {
			_, _, _, _ = conf.get(name)
		}
	})
}

// A mapping gives names to extensions that rules of auth.conf allow by.
func FuzzOIDMapping(f *testing.F) {
	f.Add([]byte("oid_mapping:\n  1.3.6.1.4.1.34380.1.2.1.1:\n    shortname: 'myshortname'\n    longname: 'My Long Name'\n"))
	f.Add([]byte("oid_mapping: {1.2: {shortname: pp_role}, 1.2.3: ~}\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		mapping, err := ParseOIDMapping("mapping.yaml", src)
		for oid, name := range mapping {
			if strings.Trim(oid, "0123456789.") != "" || strings.TrimSpace(name) == "" {
				t.Errorf("%q is named %q", oid, name)
			}
		}
		if err != nil && !strings.HasPrefix(err.Error(), "mapping.yaml") {
			t.Errorf("refused without the file's name: %v", err)
		}
	})
}
