package code

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"troupe/internal/puppet"
)

// This file reads fileserver.conf and finds the folders of custom mounts
// (puppet/file_serving/configuration/parser.rb, mount/file.rb).

// A FileMount is a section of fileserver.conf.
type FileMount struct {
	Name string
	Path string // %h, %H and %d stand for the agent's host name, certname and domain
}

// builtinMounts are served from modules and need no section.
var builtinMounts = []string{"modules", "plugins", "pluginfacts", "locales", "tasks", "scripts"}

// LoadFileMounts reads a fileserver.conf. One that does not exist has no mounts.
func LoadFileMounts(path string) (mounts []FileMount, warnings []string, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading file mounts: %w", err)
	}
	return ParseFileMounts(path, text)
}

var (
	mountSection = regexp.MustCompile(`\[([-\w]+)\]`)
	mountSetting = regexp.MustCompile(`^\s*(\w+)\s+(.+?)(\s*#.*)?$`)
)

// ParseFileMounts reads the text of a fileserver.conf. What has no effect, in
// Puppet as here, becomes a warning with its line.
func ParseFileMounts(name string, text []byte) (mounts []FileMount, warnings []string, err error) {
	var at *FileMount // the section being read
	for i, line := range strings.Split(string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))), "\n") {
		where := fmt.Sprintf("%s:%d", name, i+1)
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		if m := mountSection.FindStringSubmatch(line); m != nil {
			if slices.ContainsFunc(mounts, func(f FileMount) bool { return f.Name == m[1] }) {
				return nil, nil, fmt.Errorf("%s: mount [%s] is already there; give each mount one section", where, m[1])
			}
			mounts = append(mounts, FileMount{Name: m[1]})
			at = &mounts[len(mounts)-1]
			continue
		}
		m := mountSetting.FindStringSubmatch(line)
		if m == nil {
			return nil, nil, fmt.Errorf("%s: invalid entry %q; write a name, a space and a value", where, trimmed)
		}
		warning, err := at.set(m[1], strings.TrimSpace(m[2]))
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", where, err)
		}
		if warning != "" {
			warnings = append(warnings, where+": "+warning)
		}
	}

	var custom []FileMount
	for _, m := range mounts {
		if slices.Contains(builtinMounts, m.Name) {
			continue
		}
		if m.Path == "" {
			return nil, nil, fmt.Errorf("%s: mount [%s] has no path; mounts without paths are not usable", name, m.Name)
		}
		if warning := m.unusable(); warning != "" {
			warnings = append(warnings, fmt.Sprintf("%s: mount [%s] is left out: %s", name, m.Name, warning))
			continue
		}
		custom = append(custom, m)
	}
	return custom, warnings, nil
}

// set takes one setting of a section.
func (m *FileMount) set(name, value string) (warning string, err error) {
	switch {
	case strings.HasPrefix(value, "="):
		return "", errors.New("fileserver configuration does not use '=' as a separator; write a space")
	case m == nil:
		return "", fmt.Errorf("%s stands before the first [mount]", name)
	case name == "path" && slices.Contains(builtinMounts, m.Name):
		return fmt.Sprintf("the %s mount can not have a path", m.Name), nil
	case name == "path":
		m.Path = value
		return "", nil
	case name == "allow" && value == "*":
		return "", nil
	case name == "allow" || name == "deny":
		return fmt.Sprintf("entry '%s %s' is unsupported and has no effect; use auth.conf", name, value), nil
	}
	return "", fmt.Errorf("invalid argument '%s'; known are path, allow and deny", name)
}

// unusable says why a mount cannot be served. Paths with %h and the like may
// exist for some agents only.
func (m FileMount) unusable() string {
	if !filepath.IsAbs(m.Path) {
		return m.Path + " is not an absolute path"
	}
	if strings.Contains(m.Path, "%") {
		return ""
	}
	f, err := os.Open(m.Path)
	if err != nil {
		return err.Error()
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return err.Error()
	}
	if !info.IsDir() {
		return m.Path + " is not a folder"
	}
	return ""
}

// path is the mount's folder for one agent. A certname such as "x..." must not
// turn %d into "..", nor ".x" turn %h into the folder of all agents: then there
// is no folder.
func (m FileMount) path(node puppet.Certname) (path string, ok bool) {
	values := map[string]string{
		"%h": node.Hostname(),
		"%H": string(node),
		"%d": clientDomain(string(node)),
		"%%": "%",
	}
	ok = true
	path = mountPattern.ReplaceAllStringFunc(m.Path, func(pattern string) string {
		value, known := values[pattern]
		if !known {
			return pattern
		}
		if value == "" || value == "." || value == ".." || strings.Contains(value, "/") {
			ok = false
		}
		return value
	})
	return path, ok
}

var (
	mountPattern = regexp.MustCompile(`%.`)
	firstLabel   = regexp.MustCompile(`[^.]+\.`)
)

// clientDomain is the name without its first label, and the whole name when it
// has only one.
func clientDomain(name string) string {
	at := firstLabel.FindStringIndex(name)
	if at == nil {
		return name
	}
	return name[:at[0]] + name[at[1]:]
}
