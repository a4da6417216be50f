package code

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file writes down what a version is made of, so that a restarted process
// serves it without reading every file again.

const (
	manifestFile   = "manifest.json"
	manifestFormat = 2
)

// manifest is the file's form. Folders of the modulepath are written as pairs of
// original path and label.
type manifest struct {
	Format      int                `json:"format"`
	Environment puppet.Environment `json:"environment"`
	Roots       []manifestRoot     `json:"roots"`
	Settings    plainSettings      `json:"settings"`
	ModulePath  [][2]string        `json:"modulepath"`
	BasePath    [][2]string        `json:"basemodulepath"`
	Manifest    string             `json:"manifest"`
	Conf        []byte             `json:"conf"` // environment.conf as rendered
	Warnings    []string           `json:"warnings,omitempty"`
	Missing     []string           `json:"missing,omitempty"`
}

// plainSettings is Settings without the form that clients see.
type plainSettings Settings

type manifestRoot struct {
	Label    string        `json:"label"`
	Original string        `json:"original"`
	Real     string        `json:"real"`
	Node     *manifestNode `json:"node"`
}

type manifestNode struct {
	Name     string          `json:"n"`
	Kind     kind            `json:"k"`
	Mode     uint32          `json:"m"`
	UID      uint32          `json:"u"`
	GID      uint32          `json:"g"`
	Size     int64           `json:"s"`
	MTime    [2]int64        `json:"t"`
	CTime    [2]int64        `json:"c"`
	Inode    uint64          `json:"i"`
	Sum      string          `json:"h,omitempty"`
	Target   string          `json:"l,omitempty"`
	ToLabel  string          `json:"to,omitempty"`
	Away     string          `json:"away,omitempty"`
	Recent   bool            `json:"r,omitempty"`
	Children []*manifestNode `json:"e,omitempty"`
}

func (s *snapshots) writeManifest(dir string, env puppet.Environment, p *plan) error {
	m := manifest{
		Format: manifestFormat, Environment: env, Settings: plainSettings(p.settings),
		ModulePath: pairs(p.modulePath), BasePath: pairs(p.basePath), Manifest: p.manifest, Conf: p.conf,
		Warnings: p.warnings, Missing: p.missing,
	}
	for _, r := range p.tree.roots {
		m.Roots = append(m.Roots, manifestRoot{Label: r.label, Original: r.original, Real: r.real, Node: freeze(r.node)})
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding a manifest: %w", err)
	}
	return writeFile(filepath.Join(dir, manifestFile), text, 0o444)
}

func pairs(dirs []moduleDir) [][2]string {
	list := make([][2]string, len(dirs))
	for i, d := range dirs {
		list[i] = [2]string{d.original, d.label}
	}
	return list
}

func freeze(n *node) *manifestNode {
	m := &manifestNode{
		Name: n.name, Kind: n.kind, Mode: n.mode, UID: n.uid, GID: n.gid, Size: n.size, Inode: n.inode,
		MTime:  [2]int64{n.mtime.Unix(), int64(n.mtime.Nanosecond())},
		CTime:  [2]int64{n.ctime.Unix(), int64(n.ctime.Nanosecond())},
		Target: n.attributes.target, ToLabel: n.toLabel, Away: n.away, Recent: n.recent,
	}
	if n.kind == fileKind {
		m.Sum = n.sum.String()
	}
	for _, c := range n.children {
		m.Children = append(m.Children, freeze(c))
	}
	return m
}

func (m *manifestNode) thaw() (*node, error) {
	if m == nil {
		return nil, errors.New("manifest has an entry that is empty")
	}
	n := &node{
		name: m.Name, toLabel: m.ToLabel, away: m.Away, recent: m.Recent,
		attributes: attributes{
			kind: m.Kind, mode: m.Mode, uid: m.UID, gid: m.GID, size: m.Size, inode: m.Inode,
			mtime: time.Unix(m.MTime[0], m.MTime[1]), ctime: time.Unix(m.CTime[0], m.CTime[1]),
			target: m.Target,
		},
	}
	if n.kind == fileKind {
		if size, err := hex.Decode(n.sum[:], []byte(m.Sum)); err != nil || size != len(n.sum) {
			return nil, fmt.Errorf("manifest names no content for %s", m.Name)
		}
	}
	for _, c := range m.Children {
		child, err := c.thaw()
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, child)
	}
	return n, nil
}

// readManifest returns the plan that a version was built from.
func (s *snapshots) readManifest(id string) (puppet.Environment, *plan, error) {
	text, err := os.ReadFile(filepath.Join(s.version(id), manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fault.New(fault.NotFound, "no version %s is kept here", id)
	}
	if err != nil {
		return "", nil, fmt.Errorf("reading the manifest of version %s: %w", id, err)
	}
	env, p, err := parseManifest(id, text)
	if err != nil {
		return "", nil, fault.Wrap(fault.NotFound, err, "version %s cannot be used: %v", id, err)
	}
	// The name of a version covers all that it serves, so a flipped bit shows.
	if p.check(env) != nil || p.id() != id {
		return "", nil, fault.New(fault.NotFound, "version %s is damaged and not used", id)
	}
	conf, err := os.ReadFile(s.confFile(s.version(id), p))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("reading environment.conf of version %s: %w", id, err)
	}
	if !bytes.Equal(conf, p.conf) {
		return "", nil, fault.New(fault.NotFound, "environment.conf of version %s is damaged, and the version not used", id)
	}
	return env, p, nil
}

func parseManifest(id string, text []byte) (puppet.Environment, *plan, error) {
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return "", nil, fmt.Errorf("decoding the manifest of version %s: %w", id, err)
	}
	if m.Format != manifestFormat {
		return "", nil, fault.New(fault.NotFound, "version %s was made by another release of troupe", id)
	}
	p, err := m.plan()
	if err != nil {
		return "", nil, fmt.Errorf("reading the manifest of version %s: %w", id, err)
	}
	return m.Environment, p, nil
}

func (m *manifest) plan() (*plan, error) {
	p := &plan{tree: &tree{}, settings: Settings(m.Settings), manifest: m.Manifest, conf: m.Conf, warnings: m.Warnings, missing: m.Missing}
	for _, r := range m.Roots {
		n, err := r.Node.thaw()
		if err != nil {
			return nil, err
		}
		p.tree.roots = append(p.tree.roots, &root{label: r.Label, original: r.Original, real: r.Real, node: n})
	}
	for _, r := range p.tree.roots {
		p.relink(r.node)
	}
	p.modulePath, p.basePath = p.dirs(m.ModulePath), p.dirs(m.BasePath)
	return p, nil
}

// relink gives links their targets again.
func (p *plan) relink(n *node) {
	if n.toLabel != "" {
		n.to = p.node(n.toLabel)
	}
	for _, c := range n.children {
		p.relink(c)
	}
}

func (p *plan) dirs(list [][2]string) []moduleDir {
	var dirs []moduleDir
	for _, d := range list {
		if n := p.node(d[1]); n != nil {
			dirs = append(dirs, moduleDir{original: d[0], label: d[1], node: n})
		}
	}
	return dirs
}

// files fills a cache with what the last scan saw.
func (p *plan) files() statCache {
	cache := statCache{}
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		if n.kind == fileKind && !n.recent {
			cache[path] = n
		}
		for _, c := range n.children {
			walk(path+"/"+c.name, c)
		}
	}
	for _, r := range p.tree.roots {
		walk(r.real, r.node)
	}
	return cache
}
