package code

import (
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"troupe/internal/puppet"
)

// This file is one immutable state of one environment.

// A Version is one state of an environment and of the module folders that it
// uses. It never changes; the paths below Root can be read by the Ruby workers.
type Version struct {
	Environment     puppet.Environment
	ID              string      // content id, 64 hex digits: Puppet's code_id
	Serial          uint64      // no other Version of this process has it: what was computed from this one may be kept under it
	Root            string      // folder of the snapshot
	EnvironmentPath string      // below Root; contains a folder named as the environment
	BaseModulePath  []string    // below Root, in the order of the setting; missing folders are left out
	ModulePath      []string    // below Root: all of the environment's module folders
	Manifest        string      // below Root: file or folder of the main manifest, which may not exist
	Settings        Settings    // as environment.conf has them, with original paths
	Paths           [][2]string // snapshot path and original path, longest first: put the second for the first in what people read
	Warnings        []string    // what of the folder is not served, and why
	ConfigVersion   string      // of catalogs, where no script can be asked for it; "" asks the script, or the clock
	Built           time.Time   // when this state was first seen by this process

	repo    *Repo
	plan    *plan
	modules []*Module
	users   *atomic.Int64 // shared by all Versions of one snapshot
}

// Path is the environment's folder, where the version was made.
func (v *Version) Path() string { return v.plan.tree.roots[0].original }

// Retain keeps the snapshot on disk until a matching Release.
func (v *Version) Retain() { v.users.Add(1) }

// Release ends what Retain began.
func (v *Version) Release() { v.users.Add(-1) }

// OriginalPath turns a path below Root into the path it was copied from; other
// paths are returned as they are.
func (v *Version) OriginalPath(path string) string {
	for _, p := range v.Paths {
		if rest, ok := strings.CutPrefix(path, p[0]); ok && (rest == "" || rest[0] == '/') {
			return p[1] + rest
		}
	}
	return path
}

// Attributes are what the original of a file in a snapshot has; its copy has the
// mode that workers need and the time at which it was made.
type Attributes struct {
	Owner, Group      int
	Mode              uint32 // permission bits
	Modified, Changed time.Time
}

// Attributes describes the original of a path below Root, which may also be named
// by its own path. ok is false for paths that are not part of the version.
func (v *Version) Attributes(path string, follow bool) (attributes Attributes, ok bool) {
	path = v.OriginalPath(path)
	for _, r := range v.plan.tree.roots {
		rest, ok := below(path, r.original)
		if !ok {
			continue
		}
		a, err := branch{node: r.node, repo: v.repo}.stat(rest, follow)
		if err != nil {
			return Attributes{}, false
		}
		return Attributes{Owner: int(a.uid), Group: int(a.gid), Mode: a.mode, Modified: a.mtime, Changed: a.ctime}, true
	}
	return Attributes{}, false
}

// Modules returns the modules of the environment in modulepath order, by name
// within a folder. Of two with the same name only the first is there, as in
// Puppet.
func (v *Version) Modules() []*Module { return v.modules }

// Module returns the module of that name, or nil.
func (v *Version) Module(name string) *Module {
	for _, m := range v.modules {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// version makes the Version of a plan whose snapshot is on disk.
func (e *environment) version(id string, p *plan) *Version {
	root := e.r.store.version(id)
	v := &Version{
		Environment: e.name, ID: id, Serial: e.r.serials.Add(1), Root: root,
		EnvironmentPath: filepath.Join(root, environmentsLabel),
		Manifest:        filepath.Join(root, p.manifest),
		Settings:        p.settings,
		Warnings:        p.warnings,
		Built:           time.Now(),
		repo:            e.r, plan: p,
	}
	for _, d := range p.basePath {
		v.BaseModulePath = append(v.BaseModulePath, filepath.Join(root, d.label))
	}
	for _, d := range p.modulePath {
		v.ModulePath = append(v.ModulePath, filepath.Join(root, d.label))
	}
	for _, r := range p.tree.roots {
		v.Paths = append(v.Paths, [2]string{filepath.Join(root, r.label), r.original})
	}
	v.Paths = append(v.Paths, [2]string{v.EnvironmentPath, filepath.Dir(p.tree.roots[0].original)})
	slices.SortStableFunc(v.Paths, func(a, b [2]string) int { return len(b[0]) - len(a[0]) })

	var warnings []string
	v.modules, warnings = findModules(e.r, p.modulePath)
	v.Warnings = slices.Concat(v.Warnings, warnings)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users[id] == nil {
		e.users[id] = new(atomic.Int64)
	}
	v.users = e.users[id]
	return v
}
