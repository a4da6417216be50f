package code

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// This file knows modules: which folders are one, and what their metadata.json
// says (puppet/module.rb, puppet/node/environment.rb).

// A Module is a folder of the modulepath.
type Module struct {
	Name      string
	Path      string // original
	ForgeName string // author/name, "" without metadata
	Version   string // "" without metadata

	label string // place in the snapshot
	node  *node
	repo  *Repo
}

// ListName is the name that GET /puppet/v3/environment_modules shows.
func (m *Module) ListName() string {
	if m.ForgeName != "" {
		return m.ForgeName
	}
	return m.Name
}

var moduleName = regexp.MustCompile(`\A[a-z][a-z0-9_]*\z`)

// moduleDir is one folder of the modulepath.
type moduleDir struct {
	original string
	label    string
	node     *node
}

// findModules lists the modules of all folders. A module whose metadata.json
// lacks a key that Puppet insists on is no module at all, as in Puppet; each is
// named in the warnings.
func findModules(r *Repo, dirs []moduleDir) (modules []*Module, warnings []string) {
	seen := map[string]bool{}
	for _, d := range dirs {
		for _, c := range d.node.children {
			n := c.follow()
			if n == nil || n.kind != dirKind || !moduleName.MatchString(c.name) || seen[c.name] {
				continue
			}
			seen[c.name] = true
			m := &Module{Name: c.name, Path: d.original + "/" + c.name, label: d.label + "/" + c.name, node: n, repo: r}
			usable, err := m.readMetadata()
			if err != nil {
				warnings = append(warnings, err.Error())
			}
			if usable {
				modules = append(modules, m)
			}
		}
	}
	return modules, warnings
}

// maxModuleMetadata bounds metadata.json and the metadata of tasks.
const maxModuleMetadata = 4 << 20

// readMetadata reports whether the module can be used. A file that is no JSON is
// only complained about, as with Puppet's strict=warning.
func (m *Module) readMetadata() (usable bool, err error) {
	n := m.node.find("metadata.json")
	if n != nil {
		n = n.follow()
	}
	if n == nil || n.kind != fileKind {
		return true, nil
	}
	text, err := m.repo.store.read(n, maxModuleMetadata)
	if err != nil {
		return false, fmt.Errorf("reading metadata.json of module %s: %w", m.Name, err)
	}

	var metadata map[string]json.RawMessage
	if err := json.Unmarshal(text, &metadata); err != nil {
		return true, fmt.Errorf("%s has an invalid and unparsable metadata.json file. The parse error: %w", m.Name, err)
	}
	if len(metadata) == 0 {
		return true, nil
	}
	for _, key := range []string{"source", "author", "version", "license", "dependencies"} {
		if v, ok := metadata[key]; !ok || string(v) == "null" {
			return false, fmt.Errorf("module %s is ignored: no %s module metadata provided for %s; add it to %s/metadata.json", m.Name, key, m.Name, m.Path)
		}
	}
	if v := metadata["dependencies"]; v[0] != '[' {
		return false, fmt.Errorf("module %s is ignored: the value for the key dependencies in %s/metadata.json must be an array", m.Name, m.Path)
	}
	m.ForgeName = strings.ReplaceAll(stringOf(metadata["name"]), "-", "/")
	m.Version = stringOf(metadata["version"])
	return true, nil
}

// stringOf returns a JSON string's text, and "" for any other value.
func stringOf(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// place finds a folder of the module or, if given, what is at rest in it. The
// path is joined as Ruby's File.join does.
func (m *Module) place(folder, rest string, given bool) (place, error) {
	path, relative := m.Path+"/"+folder, folder
	if given {
		path += "/" + strings.TrimLeft(rest, "/")
		relative += "/" + rest
	}
	n := m.node.find(relative)
	if n == nil || n.follow() == nil {
		return place{}, fs.ErrNotExist
	}
	return place{path: path, folder: branch{n, m.repo}}, nil
}
