package code

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file resolves a mount and a path to files, and answers requests for them
// (puppet/file_serving/configuration.rb, mount/*.rb, indirector/file_server.rb).

// Metadata answers GET /puppet/v3/file_metadata/<mount>/<path>. Faults have
// Puppet's words: NotFound where it answers 404, Failed where it answers 500.
func (v *Version) Metadata(_ context.Context, mount, path string, o MetadataOptions) (FileMetadata, error) {
	p, done, err := v.find("file_metadata", mount, path, o.Node)
	if err != nil {
		return FileMetadata{}, err
	}
	defer done()
	if err := o.check(); err != nil {
		return FileMetadata{}, err
	}
	return p.describe("", o)
}

// Search answers GET /puppet/v3/file_metadatas/<mount>/<path>.
func (v *Version) Search(ctx context.Context, mount, path string, o SearchOptions) ([]FileMetadata, error) {
	if o.Links == "ignore" {
		return nil, fault.New(fault.Failed, "Invalid :links value 'ignore'")
	}
	places, done, err := v.findAll(mount, path, &o)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := o.check(); err != nil {
		return nil, err
	}
	return search(ctx, places, o, v.repo.o.Log)
}

// Open answers GET /puppet/v3/file_content/<mount>/<path>. Links are followed.
func (v *Version) Open(_ context.Context, mount, path string, node puppet.Certname) (*os.File, os.FileInfo, error) {
	p, done, err := v.find("file_content", mount, path, node)
	if err != nil {
		return nil, nil, err
	}
	defer done()

	var f *os.File
	switch at := p.folder.(type) {
	case branch:
		f, err = at.open()
	case liveFolder:
		f, err = at.open("")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fault.New(fault.NotFound, "Could not find file_content %s", key(mount, path))
	}
	if err != nil {
		return nil, nil, p.failure("rb_sysopen", "", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening %s: %w", p.path, err), f.Close())
	}
	return f, info, nil
}

// Immutable reports whether a mount belongs to the version. Its answers then depend
// on nothing but the version and the question; those of other mounts change with
// their folder and may differ from node to node.
func (v *Version) Immutable(mount string) bool { return slices.Contains(builtinMounts, mount) }

// ContentSum returns the SHA-256 of what Open would open, in hex, or "" when there
// is no such file or its mount is not Immutable.
func (v *Version) ContentSum(mount, path string) string {
	if !v.Immutable(mount) {
		return ""
	}
	p, done, err := v.find("file_content", mount, path, "")
	if err != nil {
		return ""
	}
	defer done()
	b, ok := p.folder.(branch)
	if !ok {
		return ""
	}
	if n := b.node.follow(); n != nil && n.kind == fileKind {
		return n.sum.String()
	}
	return ""
}

func (b branch) open() (*os.File, error) {
	n := b.node.follow()
	if n == nil || n.kind != fileKind {
		return nil, fs.ErrNotExist
	}
	return b.repo.store.open(n)
}

func key(mount, path string) string { return strings.TrimSuffix(mount+"/"+path, "/") }

var mountName = regexp.MustCompile(`\A[-\w]+\z`)

// split checks a mount and a path as Puppet's split_path does.
func split(mount, path string) (string, error) {
	if !mountName.MatchString(mount) {
		return "", fault.New(fault.Failed, "Cannot find file: Invalid mount '%s'", mount)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return "", fault.New(fault.Failed, "Cannot find file: Invalid relative path '%s'", path)
		}
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path, nil
}

func noop() {}

// find resolves to one place. The caller calls done after use.
func (v *Version) find(indirection, mount, path string, node puppet.Certname) (p place, done func(), err error) {
	clean, err := split(mount, path)
	if err != nil {
		return place{}, nil, err
	}

	switch mount {
	case "modules":
		p, err = v.inModule(clean, "files", "No module specified")
	case "scripts":
		p, err = v.inModule(clean, "scripts", "No module specified")
	case "tasks":
		p, err = v.inModule(clean, "tasks", "No task specified")
	case "plugins":
		p, err = v.inFirstModule(clean, "lib")
	case "pluginfacts":
		p, err = v.inFirstModule(clean, "facts.d")
	case "locales":
		p, err = v.inFirstModule(clean, "locales")
	default:
		p, done, err = v.inCustomMount("find on /"+indirection, mount, clean, node)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, nil, fault.New(fault.NotFound, "Could not find %s %s", indirection, key(mount, path))
	}
	if done == nil {
		done = noop
	}
	return p, done, err
}

// inModule finds "<module>/<path>" below one folder of the module.
func (v *Version) inModule(path, folder, unnamed string) (place, error) {
	if path == "" {
		return place{}, fault.New(fault.Failed, "%s", unnamed)
	}
	name, rest, given := strings.Cut(path, "/")
	m := v.Module(name)
	if m == nil {
		return place{}, fs.ErrNotExist
	}
	return m.place(folder, rest, given)
}

// inFirstModule finds a path in the first module that has it.
func (v *Version) inFirstModule(path, folder string) (place, error) {
	for _, m := range v.modules {
		if p, err := m.place(folder, path, path != ""); err == nil {
			return p, nil
		}
	}
	return place{}, fs.ErrNotExist
}

// inCustomMount opens the folder of a section of fileserver.conf.
func (v *Version) inCustomMount(call, mount, path string, node puppet.Certname) (p place, done func(), err error) {
	for _, m := range *v.repo.mounts.Load() {
		if m.Name != mount {
			continue
		}
		dir, ok := m.path(node)
		if !ok {
			return place{}, nil, fs.ErrNotExist
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return place{}, nil, outside(err)
		}
		l := liveFolder{root: root, base: path}
		p := place{path: dir, folder: l}
		if path != "" {
			p.path = strings.TrimSuffix(dir, "/") + "/" + path
		}
		if _, err := l.stat("", false); err != nil {
			return place{}, nil, errors.Join(err, root.Close())
		}
		return p, func() { root.Close() }, nil // reading only: nothing can be lost
	}
	return place{}, nil, fault.New(fault.Failed, "Not authorized to call %s/%s", call, key(mount, path))
}

// findAll resolves to the places of a search. Those of plugins, pluginfacts and
// locales are one of each module, whatever the path.
func (v *Version) findAll(mount, path string, o *SearchOptions) (places []place, done func(), err error) {
	if _, err := split(mount, path); err != nil {
		return nil, nil, err
	}
	folder, merged := map[string]string{"plugins": "lib", "pluginfacts": "facts.d", "locales": "locales"}[mount]
	if merged {
		return v.merged(folder, o), noop, nil
	}
	p, done, err := v.find("file_metadata", mount, path, o.Node)
	if fault.KindOf(err) == fault.NotFound {
		return nil, nil, fault.New(fault.NotFound, "Could not find instances in file_metadata with '%s'", key(mount, path))
	}
	if err != nil {
		return nil, nil, err
	}
	p.path = strings.TrimSuffix(p.path, "/")
	return []place{p}, done, nil
}

// merged lists a folder of every module that has it. Without any, agents still
// need a root that exists: that is the modulepath, without what is in it.
func (v *Version) merged(folder string, o *SearchOptions) []place {
	var places []place
	for _, m := range v.modules {
		if p, err := m.place(folder, "", false); err == nil {
			places = append(places, p)
		}
	}
	if len(places) > 0 {
		return places
	}

	o.Recurse = false
	for _, d := range v.plan.modulePath {
		places = append(places, place{path: d.original, folder: branch{d.node, v.repo}})
	}
	if len(places) == 0 {
		home := v.plan.tree.roots[0]
		dir := first(v.repo.o.Settings["codedir"], filepath.Dir(filepath.Dir(home.original)))
		places = append(places, place{path: dir, folder: branch{home.node, v.repo}})
	}
	return places
}
