package code

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"troupe/internal/fault"
)

// This file reads environment.conf and gives its settings their final values
// (puppet/settings/environment_conf.rb and ini_file.rb).

// Settings are those of one environment, interpolated and with original paths.
type Settings struct {
	ModulePath         []string
	Manifest           string // file or folder
	ConfigVersion      string // command line that prints the configuration's version; "" means none
	EnvironmentTimeout Timeout
	StaticCatalogs     bool
	RichData           bool
}

// A Timeout is a time to live in seconds; negative means unlimited. It is shown
// to clients and otherwise unused: a change of a folder is always noticed.
type Timeout int64

// MarshalJSON writes a number, or "unlimited".
func (t Timeout) MarshalJSON() ([]byte, error) {
	if t < 0 {
		return []byte(`"unlimited"`), nil
	}
	return strconv.AppendInt(nil, int64(t), 10), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Timeout) UnmarshalJSON(text []byte) error {
	if string(text) == `"unlimited"` {
		*t = -1
		return nil
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return fmt.Errorf("environment_timeout %s is neither a number nor \"unlimited\"", text)
	}
	*t = Timeout(n)
	return nil
}

// MarshalJSON writes the settings as GET /puppet/v3/environments shows them.
func (s Settings) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ModulePath         []string `json:"modulepath"`
		Manifest           string   `json:"manifest"`
		EnvironmentTimeout Timeout  `json:"environment_timeout"`
		ConfigVersion      string   `json:"config_version"`
	}{s.ModulePath, s.Manifest, s.EnvironmentTimeout, s.ConfigVersion})
}

// environmentConf is the parsed file: the settings that Puppet reads from it.
type environmentConf map[string]string

var (
	confSection = regexp.MustCompile(`^\s*\[(\w+)\]\s*$`)
	confSetting = regexp.MustCompile(`^\s*(\w+)\s*=\s*(.*?)\s*$`)
	confIgnored = regexp.MustCompile(`^\s*(#.*)?$`)
)

// parseEnvironmentConf returns what is set outside of sections, and what of the
// file has no effect.
func parseEnvironmentConf(path string, text []byte) (conf environmentConf, warnings []string, err error) {
	conf = environmentConf{}
	known := []string{"modulepath", "manifest", "config_version", "environment_timeout", "environment_data_provider", "static_catalogs", "rich_data"}
	section := "main"
	for i, line := range strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n") {
		if m := confSection.FindStringSubmatch(line); m != nil {
			section = m[1]
			if section != "main" {
				warnings = append(warnings, fmt.Sprintf("%s:%d: section [%s] is ignored; environment.conf has no sections", path, i+1, section))
			}
			continue
		}
		m := confSetting.FindStringSubmatch(line)
		if m == nil {
			if confIgnored.MatchString(line) {
				continue
			}
			return nil, nil, fault.New(fault.Failed, "%s:%d: could not match line %s; write settings as name = value", path, i+1, line)
		}
		if section != "main" {
			continue
		}
		if !slices.Contains(known, m[1]) {
			warnings = append(warnings, fmt.Sprintf("%s:%d: unknown setting %s is ignored", path, i+1, m[1]))
			continue
		}
		if _, twice := conf[m[1]]; !twice { // of two, Puppet takes the first
			conf[m[1]] = unquote(m[2])
		}
	}
	return conf, warnings, nil
}

// unquote takes one quote from each end, as Puppet's ValueTranslator does.
func unquote(s string) string {
	if s != "" && strings.ContainsRune(`'"`, rune(s[0])) {
		s = s[1:]
	}
	if s != "" && strings.ContainsRune(`'"`, rune(s[len(s)-1])) {
		s = s[:len(s)-1]
	}
	return strings.TrimRight(s, " \t")
}

// settingsContext is what settings of one environment are read against.
type settingsContext struct {
	name string
	dir  string // original folder of the environment
	o    Options
}

// settings gives conf its defaults and final form.
func (c settingsContext) settings(conf environmentConf) (Settings, error) {
	var s Settings
	var err error
	if s.ModulePath, err = c.modulePath(conf); err != nil {
		return s, err
	}
	if s.Manifest, err = c.manifest(conf); err != nil {
		return s, err
	}
	if s.ConfigVersion, err = c.configVersion(conf); err != nil {
		return s, err
	}

	ttl := first(conf["environment_timeout"], c.o.Settings["environment_timeout"], "0")
	if s.EnvironmentTimeout, err = parseTimeout(ttl); err != nil {
		return s, err
	}
	s.StaticCatalogs = !strings.EqualFold(first(conf["static_catalogs"], c.o.Settings["static_catalogs"], "true"), "false")
	s.RichData = !strings.EqualFold(first(conf["rich_data"], c.o.Settings["rich_data"], "true"), "false")
	return s, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// modulePath splits, completes and expands the setting. Entries that do not
// exist stay, as in the list that Puppet shows.
func (c settingsContext) modulePath(conf environmentConf) ([]string, error) {
	value, ok := conf["modulepath"]
	if !ok {
		return append([]string{filepath.Join(c.dir, "modules")}, c.o.BaseModulePath...), nil
	}

	var all []string
	for p := range strings.SplitSeq(value, ":") {
		if p == "" {
			continue
		}
		p, err := c.interpolate(p, "modulepath")
		if err != nil {
			return nil, err
		}
		for p := range strings.SplitSeq(p, ":") { // $basemodulepath is a list
			p = c.absolute(p)
			if !strings.ContainsAny(p, "*?[{") {
				all = append(all, p)
				continue
			}
			matches, err := filepath.Glob(p)
			if err != nil {
				return nil, fault.New(fault.Failed, "modulepath of environment '%s' has a bad pattern %s: %v", c.name, p, err)
			}
			all = append(all, matches...)
		}
	}
	return all, nil
}

func (c settingsContext) manifest(conf environmentConf) (string, error) {
	fallback, err := c.interpolate(first(c.o.Settings["default_manifest"], "./manifests"), "default_manifest")
	if err != nil {
		return "", err
	}
	fallback = c.absolute(fallback)
	value, ok := conf["manifest"]
	if !ok || strings.EqualFold(c.o.Settings["disable_per_environment_manifest"], "true") {
		return fallback, nil
	}
	if value, err = c.interpolate(value, "manifest"); err != nil {
		return "", err
	}
	return c.absolute(value), nil
}

// configVersion makes the first word, the command, absolute.
func (c settingsContext) configVersion(conf environmentConf) (string, error) {
	value := conf["config_version"]
	if value == "" {
		return "", nil
	}
	value, err := c.interpolate(value, "config_version")
	if err != nil {
		return "", err
	}
	return c.absolute(value), nil
}

func (c settingsContext) absolute(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(c.dir, p)
}

var confVariable = regexp.MustCompile(`\$(\w+)|\$\{(\w+)\}`)

// interpolate puts in settings. $environment is known to config_version alone,
// as in Puppet.
func (c settingsContext) interpolate(value, setting string) (string, error) {
	var unknown string
	value = confVariable.ReplaceAllStringFunc(value, func(expression string) string {
		name := strings.Trim(expression, "${}")
		switch name {
		case "environment":
			if setting != "config_version" {
				return expression
			}
			return c.name
		case "basemodulepath":
			return strings.Join(c.o.BaseModulePath, ":")
		case "environmentpath":
			return strings.Join(c.o.EnvironmentPath, ":")
		}
		if v, ok := c.o.Settings[name]; ok {
			return v
		}
		unknown = expression
		return expression
	})
	if unknown != "" {
		return "", fault.New(fault.Failed, "Could not find value for %s in %s of environment '%s'; set it in puppet.conf or write the path out", unknown, setting, c.name)
	}
	return value, nil
}

var ttlFormat = regexp.MustCompile(`^(\d{1,12})([ydhms]?)$`)

// parseTimeout reads "4s", "3m", "1y" or "unlimited".
func parseTimeout(s string) (Timeout, error) {
	if s == "unlimited" {
		return -1, nil
	}
	m := ttlFormat.FindStringSubmatch(s)
	if m == nil {
		return 0, fault.New(fault.Failed, "Invalid 'time to live' format '%s' for parameter: environment_timeout", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading environment_timeout: %w", err)
	}
	units := map[string]int64{"y": 365 * 24 * 3600, "d": 24 * 3600, "h": 3600, "m": 60, "s": 1, "": 1}
	return Timeout(n * units[m[2]]), nil
}

// render writes the file that the Ruby workers find in the snapshot: module
// folders and manifest relative to where the snapshot has them.
func (conf environmentConf) render(modulePath []string, manifest, configVersion string) []byte {
	var b strings.Builder
	b.WriteString("# Written by troupe for this snapshot; edit the original.\n")
	fmt.Fprintf(&b, "modulepath = %s\n", strings.Join(modulePath, ":"))
	fmt.Fprintf(&b, "manifest = %s\n", manifest)
	if configVersion != "" {
		fmt.Fprintf(&b, "config_version = %s\n", configVersion)
	}
	for _, key := range []string{"environment_timeout", "environment_data_provider", "static_catalogs", "rich_data"} {
		if v, ok := conf[key]; ok {
			fmt.Fprintf(&b, "%s = %s\n", key, v)
		}
	}
	return []byte(b.String())
}
