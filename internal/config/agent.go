package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// This file reads puppet.conf with the eyes of an agent.

// AgentConf is what an agent takes from its puppet.conf: [agent] before [main], and nothing else.
type AgentConf struct {
	File   string
	Unread []string // settings in sections that an agent does not look into, with their places
	Broken error    // a line that an agent cannot read: it then reads nothing of the file, says so, and goes on with its defaults

	conf *puppetConf
}

// ReadAgentConf reads a puppet.conf. File "" is an agent without one. Sections are those that the agent's version knows,
// defaults what $name may refer to.
func ReadAgentConf(file string, sections []string, defaults map[string]string) (*AgentConf, error) {
	a := &AgentConf{File: file}
	var all []iniSetting
	if file != "" {
		src, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading an agent's puppet.conf: %w", err)
		}
		if all, err = agentLines(file, string(src), sections); err != nil {
			a.Broken, all = err, nil
		}
	}
	a.conf = ofSections(file, all, defaults, "main", "agent")
	for _, s := range all {
		if !slices.Contains([]string{"main", "agent"}, s.section) {
			a.Unread = append(a.Unread, fmt.Sprintf("%s:%d [%s] %s", file, s.line, s.section, s.name))
		}
	}
	return a, nil
}

var (
	agentLine = regexp.MustCompile(`^\s*(\w+)\s*=\s*(.*?)\s*$`)
	// agentMeta is the owner and mode that a path may carry. Agents take any braces for it.
	agentMeta = regexp.MustCompile(`\{\s*([^}]+)\s*\}`)
	metaPart  = regexp.MustCompile(`^\s*(?:(?:owner|group)\s*=\s*\w+|mode\s*=\s*\d+)\s*$`)
)

// agentLines reads as agents do (lib/puppet/settings/config_file.rb): only # begins a comment; one line that is nothing
// else, an unknown section or other braces spoil the whole file; and of two settings of one name in a section the first counts.
func agentLines(file, src string, sections []string) ([]iniSetting, error) {
	var all []iniSetting
	section := "main"
	for i, line := range strings.Split(src, "\n") {
		line = strings.TrimSuffix(line, "\r")
		trimmed := strings.TrimSpace(line)
		if m := iniSection.FindStringSubmatch(line); m != nil {
			if section = m[1]; !slices.Contains(sections, section) {
				return nil, fmt.Errorf("%s:%d: there is no section [%s]; agents of this version know %s", file, i+1, section, strings.Join(sections, ", "))
			}
			continue
		}
		m := agentLine.FindStringSubmatch(line)
		if m == nil {
			if trimmed != "" && trimmed[0] != '#' {
				return nil, fmt.Errorf("%s:%d: %q is neither a setting nor a comment, which begins with #", file, i+1, trimmed)
			}
			continue
		}
		value := unquote(m[2])
		if meta := agentMeta.FindStringSubmatch(value); meta != nil {
			for part := range strings.SplitSeq(meta[1], ",") {
				if !metaPart.MatchString(part) {
					return nil, fmt.Errorf("%s:%d: braces hold owner, group and mode of a file, not %q; write $name without them", file, i+1, meta[0])
				}
			}
			value = strings.TrimSpace(strings.Replace(value, meta[0], "", 1))
		}
		if !slices.ContainsFunc(all, func(s iniSetting) bool { return s.section == section && s.name == m[1] }) {
			all = append(all, iniSetting{section, m[1], value, i + 1, ""})
		}
	}
	return all, nil
}

// Get returns a setting with its references replaced, and where it stands.
func (a *AgentConf) Get(name string) (text, origin string, set bool, err error) {
	return a.conf.get(name)
}

// FindAgentConf returns the puppet.conf of this machine's agent, "" if it has none. A folder that is named counts alone.
func FindAgentConf(confdir string) string {
	folders := []string{"/etc/puppetlabs/puppet", "/etc/puppet"}
	switch confdir {
	case "":
	case "none":
		return ""
	default:
		folders = []string{confdir}
	}
	for _, folder := range folders {
		if path := filepath.Join(folder, "puppet.conf"); exists(path) {
			return path
		}
	}
	return ""
}
