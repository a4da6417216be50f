package code

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/puppet"
)

// This file puts together all that one version consists of: the environment's
// folder, and module folders and manifests that lie elsewhere.

// A plan is a scanned environment before it becomes a version.
type plan struct {
	tree       *tree
	settings   Settings
	modulePath []moduleDir
	basePath   []moduleDir
	manifest   string // label; the place need not exist
	conf       []byte // of environment.conf as the workers see it
	warnings   []string
	missing    []string // paths that would be scanned if they existed

	content map[Content]*node // made when somebody asks for it
}

// environmentsLabel is the folder of a snapshot that Ruby gets as environmentpath.
const environmentsLabel = "environments"

// assemble scans the environment in folder dir.
func (s *scanner) assemble(name puppet.Environment, dir string, o Options) (*plan, error) {
	p := &plan{tree: &tree{}}
	home := environmentsLabel + "/" + string(name)
	if err := p.add(s, home, dir); err != nil {
		return nil, err
	}
	if p.tree.roots == nil {
		return nil, fmt.Errorf("%s %w", dir, errMoved)
	}

	conf, err := p.readConf(s, dir)
	if err != nil {
		return nil, err
	}
	c := settingsContext{name: string(name), dir: dir, o: o}
	if p.settings, err = c.settings(conf); err != nil {
		return nil, err
	}
	if p.modulePath, err = p.moduleDirs(s, "modulepath", p.settings.ModulePath); err != nil {
		return nil, err
	}
	if p.basePath, err = p.moduleDirs(s, "basemodulepath", o.BaseModulePath); err != nil {
		return nil, err
	}
	if err := p.linkedModules(s); err != nil {
		return nil, err
	}
	if p.manifest, err = p.place(s, "manifest", p.settings.Manifest); err != nil {
		return nil, err
	}

	p.warnings = append(p.warnings, s.skipped...)
	p.warnings = append(p.warnings, s.resolve(p.tree)...)
	p.conf = p.renderConf(conf, home, o)
	return p, nil
}

// equal reports whether two plans make the same version with the same metadata.
func (p *plan) equal(q *plan) bool {
	return bytes.Equal(p.conf, q.conf) && slices.Equal(p.warnings, q.warnings) &&
		slices.EqualFunc(p.tree.roots, q.tree.roots, func(a, b *root) bool {
			return a.label == b.label && a.original == b.original && a.node.equal(b.node)
		})
}

func (n *node) equal(m *node) bool {
	return n.name == m.name && n.attributes.equal(m.attributes) && n.sum == m.sum && n.toLabel == m.toLabel && n.away == m.away &&
		slices.EqualFunc(n.children, m.children, (*node).equal)
}

// add scans the folder or file at original and makes it a root, unless it lies
// in one already. A path that does not exist is only noted.
func (p *plan) add(s *scanner, label, original string) error {
	s.way(original, 0)
	real, err := filepath.EvalSymlinks(original)
	if errors.Is(err, fs.ErrNotExist) {
		p.missing = append(p.missing, original)
		return nil
	}
	if err != nil {
		return unreadable(original, err)
	}
	if n, _ := p.tree.at(real); n != nil {
		return nil
	}
	n, err := s.scan(real)
	if err != nil {
		return err
	}
	p.tree.roots = append(p.tree.roots, &root{label: label, original: original, real: real, node: n})
	return nil
}

// place makes sure that original is part of the version and returns its label.
// What does not exist gets the label that it would have.
func (p *plan) place(s *scanner, label, original string) (string, error) {
	if err := p.add(s, label, original); err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(original); err == nil {
		if n, at := p.tree.at(real); n != nil {
			return at, nil
		}
	}
	env := p.tree.roots[0]
	if rest, ok := below(original, env.original); ok {
		return path.Join(env.label, rest), nil
	}
	return label, nil
}

// moduleDirs makes every folder of a modulepath part of the version. Those that
// do not exist are left out, as Puppet leaves them out.
func (p *plan) moduleDirs(s *scanner, label string, folders []string) ([]moduleDir, error) {
	var dirs []moduleDir
	for i, folder := range folders {
		at, err := p.place(s, fmt.Sprintf("%s/%d", label, i), folder)
		if err != nil {
			return nil, err
		}
		if n := p.node(at); n != nil && n.kind == dirKind {
			dirs = append(dirs, moduleDir{original: folder, label: at, node: n})
		}
	}
	return dirs, nil
}

// node returns what is at a label.
func (p *plan) node(label string) *node {
	for _, r := range p.tree.roots {
		if rest, ok := below(label, r.label); ok {
			return exact(r.node, rest)
		}
	}
	return nil
}

// linkedModules adds the targets of modules that are links out of the modulepath,
// as developers and packages lay them: the operator put them in the modulepath as
// surely as a real folder.
func (p *plan) linkedModules(s *scanner) error {
	for i, d := range slices.Concat(p.modulePath, p.basePath) {
		for _, c := range d.node.children {
			if c.kind != linkKind || !moduleName.MatchString(c.name) {
				continue
			}
			target := d.original + "/" + c.name
			if info, err := os.Stat(target); err != nil || !info.IsDir() {
				continue
			}
			if err := p.add(s, fmt.Sprintf("linked/%d/%s", i, c.name), target); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxConf bounds environment.conf.
const maxConf = 1 << 20

func (p *plan) readConf(s *scanner, dir string) (environmentConf, error) {
	n := p.tree.roots[0].node.child("environment.conf")
	if n == nil {
		return environmentConf{}, nil
	}
	if n.kind == linkKind { // the roots are not known yet that would resolve it
		return p.readLinkedConf(dir)
	}
	if n.kind != fileKind {
		return environmentConf{}, nil
	}
	text, err := s.store.read(n, maxConf)
	if err != nil {
		return nil, fmt.Errorf("reading environment.conf of %s: %w", dir, err)
	}
	conf, warnings, err := parseEnvironmentConf(dir+"/environment.conf", text)
	p.warnings = append(p.warnings, warnings...)
	return conf, err
}

// readLinkedConf reads an environment.conf that is a link, if it stays inside the
// environment.
func (p *plan) readLinkedConf(dir string) (environmentConf, error) {
	text, err := readSmall(p.tree.roots[0].real + "/environment.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return environmentConf{}, nil
	}
	if err != nil {
		return nil, unreadable(dir+"/environment.conf", err)
	}
	conf, warnings, err := parseEnvironmentConf(dir+"/environment.conf", text)
	p.warnings = append(p.warnings, warnings...)
	return conf, err
}

// renderConf writes the workers' environment.conf: it names every folder, so
// that a worker needs no basemodulepath of its own and finds nothing outside the
// snapshot.
func (p *plan) renderConf(conf environmentConf, home string, o Options) []byte {
	relative := func(label string) string {
		if rest, ok := below(label, home); ok {
			return first(rest, ".")
		}
		return strings.Repeat("../", strings.Count(home, "/")+1) + label
	}
	var modulePath []string
	for _, d := range p.modulePath {
		modulePath = append(modulePath, relative(d.label))
	}
	if len(modulePath) == 0 { // Puppet would take an empty setting for the default
		modulePath = []string{"modules"}
	}
	manifest := relative(p.manifest)
	if strings.EqualFold(o.Settings["disable_per_environment_manifest"], "true") {
		manifest = conf["manifest"] // so that Puppet itself finds the conflict
	}
	return conf.render(modulePath, manifest, p.settings.ConfigVersion)
}
