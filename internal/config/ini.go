package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// This file reads puppet.conf: sections of "name = value" lines, and $name
// inside values (lib/puppet/settings/ini_file.rb and settings.rb).

// iniSetting is one value with its place.
type iniSetting struct {
	section, name, text string
	line                int
	place               string // instead of section and line, when it comes from another file
}

var (
	iniSection = regexp.MustCompile(`^\s*\[(\w+)\]\s*$`)
	iniLine    = regexp.MustCompile(`^\s*([^\s=\[\]#;]+)\s*=\s*(.*?)\s*$`)
	// iniMeta is the owner and mode that a path may carry: "/path { mode = 664 }".
	iniMeta = regexp.MustCompile(`\s*\{[^}]*=[^}]*\}\s*$`)
	iniRef  = regexp.MustCompile(`\$(?:([A-Za-z_]\w*)|\{(\w+)\})`)
)

// parseINI reads all lines that it understands and reports the others.
func parseINI(name string, src []byte) ([]iniSetting, []error) {
	var out []iniSetting
	var problems []error
	section := "main"
	for i, line := range strings.Split(strings.ReplaceAll(string(src), "\r\n", "\n"), "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';':
		case iniSection.MatchString(line):
			section = iniSection.FindStringSubmatch(line)[1]
		case iniLine.MatchString(line):
			m := iniLine.FindStringSubmatch(line)
			out = append(out, iniSetting{section, m[1], unquote(m[2]), i + 1, ""})
		default:
			problems = append(problems, fmt.Errorf("%s:%d: neither a [section] nor a setting = value: %q", name, i+1, trimmed))
		}
	}
	return out, problems
}

// unquote drops one pair of quotes around a whole value.
func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// puppetConf holds the settings of puppet.conf that apply to a server.
type puppetConf struct {
	file     string
	settings map[string]iniSetting
	builtin  map[string]string // defaults that values may refer to
	notes    []string
}

// serverSections are the sections that a server reads, a later one wins;
// [master] is the old name of [server].
func serverSections() []string { return []string{"main", "master", "server"} }

func newPuppetConf(file string, all []iniSetting, builtin map[string]string) *puppetConf {
	p := ofSections(file, all, builtin, serverSections()...)
	seen := map[string]bool{"agent": true, "user": true}
	for _, name := range serverSections() {
		seen[name] = true
	}
	for _, s := range all {
		if !seen[s.section] {
			seen[s.section] = true
			p.notes = append(p.notes, fmt.Sprintf("%s:%d: the section [%s] is not read; settings of one environment belong into its environment.conf", file, s.line, s.section))
		}
	}
	return p
}

// ofSections takes the settings of some sections, a later one winning.
func ofSections(file string, all []iniSetting, builtin map[string]string, sections ...string) *puppetConf {
	p := &puppetConf{file: file, settings: map[string]iniSetting{}, builtin: builtin}
	for _, section := range sections {
		for _, s := range all {
			if s.section == section {
				p.settings[s.name] = s
			}
		}
	}
	return p
}

func (p *puppetConf) origin(s iniSetting) string {
	if s.place != "" {
		return s.place
	}
	return fmt.Sprintf("%s:%d [%s]", p.file, s.line, s.section)
}

// get returns a setting with its references replaced.
func (p *puppetConf) get(name string) (text, origin string, ok bool, err error) {
	s, ok := p.settings[name]
	if !ok {
		return "", "", false, nil
	}
	text, err = p.interpolate(s.text, name)
	if err != nil {
		return "", "", false, fmt.Errorf("%s: %s: %w", p.origin(s), name, err)
	}
	return text, p.origin(s), true, nil
}

// interpolate replaces $name and ${name}. $environment is left for whoever knows
// the environment.
func (p *puppetConf) interpolate(text string, within ...string) (string, error) {
	const maxDepth = 16
	if len(within) > maxDepth {
		return "", fmt.Errorf("the settings %s refer to each other in a circle", strings.Join(within[:4], ", "))
	}
	var failed error
	out := iniRef.ReplaceAllStringFunc(text, func(ref string) string {
		name := strings.Trim(ref, "${}")
		switch s, set := p.settings[name]; {
		case name == "environment":
			return ref
		case set:
			inner, err := p.interpolate(s.text, append(slices.Clip(within), name)...)
			if err != nil {
				failed = err
			}
			return inner
		}
		if def, ok := p.builtin[name]; ok {
			inner, err := p.interpolate(def, append(slices.Clip(within), name)...)
			if err != nil {
				failed = err
			}
			return inner
		}
		failed = fmt.Errorf("$%s is not set and has no default that troupe knows; write its value", name)
		return ref
	})
	return out, failed
}
