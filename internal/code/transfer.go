package code

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file brings a version from one member to another: first the manifest, which its id proves, then those contents that the
// other does not have, each proved by its sum. Nothing of it can be seen before all of it is there.

// MaxManifest bounds a manifest, in bytes. One of 10,000 files has 3 MB.
const MaxManifest = 256 << 20

// A Content names what files of a version hold.
type Content struct {
	Sum        string `json:"sum"` // SHA-256, 64 hex digits
	Executable bool   `json:"executable,omitempty"`
	Size       int64  `json:"size"` // bytes
}

// OpenManifest opens what Install of another member needs of a version. The caller closes it.
func (r *Repo) OpenManifest(id string) (io.ReadCloser, error) {
	if !contentID.MatchString(id) {
		return nil, fault.New(fault.Invalid, "%q is no content id", id)
	}
	f, err := os.Open(filepath.Join(r.store.version(id), manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "no version %s is kept here", id)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the manifest of version %s: %w", id, err)
	}
	return f, nil
}

// OpenContent opens a content that some version here has. The caller closes it.
func (r *Repo) OpenContent(c Content) (io.ReadCloser, error) {
	sum, err := c.hash()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(r.store.blob(sum, c.Executable))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "no content %s is kept here", c.Sum)
	}
	if err != nil {
		return nil, fmt.Errorf("opening content %s: %w", c.Sum, err)
	}
	return f, nil
}

func (c Content) hash() (sum hash, err error) {
	if n, err := hex.Decode(sum[:], []byte(c.Sum)); err != nil || n != len(sum) || len(c.Sum) != 2*len(sum) {
		return hash{}, fault.New(fault.Invalid, "%q is no SHA-256", c.Sum)
	}
	return sum, nil
}

// A Fetch brings contents: it calls take with each of them, in any order. It may leave some out, and is then asked again.
type Fetch func(ctx context.Context, want []Content, take func(Content, io.Reader) error) error

// Install makes a version of another member complete here and returns its environment. It does not serve yet: see [Repo.Pin].
func (r *Repo) Install(ctx context.Context, id string, text []byte, fetch Fetch) (puppet.Environment, error) {
	env, p, err := parseManifest(id, text)
	if err != nil {
		return "", err
	}
	if err := p.check(env); err != nil {
		return "", fault.Wrap(fault.Invalid, err, "the manifest of version %s cannot be trusted", id)
	}
	if got := p.id(); got != id {
		return "", fault.New(fault.Invalid, "a manifest for version %s is that of %s", id, got)
	}
	for _, n := range p.contents() {
		n.recent = true // its stat is another machine's and proves nothing here
	}
	stage := r.store.tmp()
	if err := os.Mkdir(stage, 0o700); err != nil {
		return "", sqlite.DiskFault(fmt.Errorf("receiving version %s: %w", id, err))
	}
	err = (&installation{r: r, id: id, env: env, plan: p, stage: stage, staged: map[Content]bool{}}).run(ctx, fetch)
	return env, errors.Join(err, removeTree(stage))
}

// An installation is one version on its way.
type installation struct {
	r      *Repo
	id     string
	env    puppet.Environment
	plan   *plan
	stage  string // folder of contents that have come
	staged map[Content]bool
}

// installTries bounds how often contents are asked for: what is here already may be removed while the rest is fetched.
const installTries = 3

func (i *installation) run(ctx context.Context, fetch Fetch) error {
	var want []Content
	for range installTries {
		var err error
		if want, err = i.build(); err != nil || len(want) == 0 {
			return err
		}
		if err := fetch(ctx, want, i.take); err != nil {
			return err
		}
	}
	return fault.New(fault.Unavailable, "%d contents of version %s were not given", len(want), i.id)
}

// build makes the version if everything is there, and returns what is not.
func (i *installation) build() (want []Content, err error) {
	s := i.r.store
	s.building.RLock()
	defer s.building.RUnlock()
	for c, n := range i.plan.contents() {
		_, err := os.Lstat(s.blob(n.sum, n.executable()))
		if err == nil || i.staged[c] {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for a blob: %w", err)
		}
		want = append(want, c)
	}
	if len(want) > 0 {
		slices.SortFunc(want, func(a, b Content) int { return strings.Compare(a.name(), b.name()) })
		return want, nil
	}
	for c := range i.staged {
		if err := i.adopt(c); err != nil {
			return nil, sqlite.DiskFault(err)
		}
	}
	clear(i.staged)
	if err := s.build(i.id, i.env, i.plan); err != nil {
		return nil, sqlite.DiskFault(err)
	}
	i.r.environment(i.env)
	return nil, nil
}

// adopt makes a content that has come a blob.
func (i *installation) adopt(c Content) error {
	f, err := os.Open(filepath.Join(i.stage, c.name()))
	if err != nil {
		return err
	}
	_, err = i.r.store.write(f, c.Executable)
	return errors.Join(err, f.Close())
}

func (c Content) name() string {
	if c.Executable {
		return c.Sum + "x"
	}
	return c.Sum
}

// take receives one content, of which nothing is believed.
func (i *installation) take(c Content, r io.Reader) (err error) {
	n := i.plan.contents()[c]
	if n == nil {
		return fault.New(fault.Invalid, "content %s was not asked for", c.Sum)
	}
	f, err := os.OpenFile(filepath.Join(i.stage, c.name()), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return sqlite.DiskFault(err)
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), io.LimitReader(r, c.Size+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return sqlite.DiskFault(fmt.Errorf("receiving content %s: %w", c.Sum, err))
	}
	if hash(h.Sum(nil)) != n.sum {
		return fault.New(fault.Invalid, "what came as content %s is something else", c.Sum)
	}
	i.staged[c] = true
	return nil
}

// contents are the different contents of a plan's files, each with one of those files.
func (p *plan) contents() map[Content]*node {
	if p.content != nil {
		return p.content
	}
	p.content = map[Content]*node{}
	var walk func(n *node)
	walk = func(n *node) {
		if n.kind == fileKind {
			p.content[Content{Sum: n.sum.String(), Executable: n.executable(), Size: n.size}] = n
		}
		for _, c := range n.children {
			walk(c)
		}
	}
	for _, r := range p.tree.roots {
		walk(r.node)
	}
	return p.content
}

// check holds a plan from outside to what a scan would give: names that stay below the version's folder, and the order by which
// they are found.
func (p *plan) check(env puppet.Environment) error {
	if _, err := puppet.ParseEnvironment(string(env)); err != nil {
		return err
	}
	home := environmentsLabel + "/" + string(env)
	if len(p.tree.roots) == 0 || p.tree.roots[0].label != home || p.tree.roots[0].node.kind != dirKind {
		return fmt.Errorf("it does not begin with %s", home)
	}
	if p.manifest != "" && !filepath.IsLocal(p.manifest) {
		return fmt.Errorf("main manifest %q lies outside", p.manifest)
	}
	entries := 0
	for i, r := range p.tree.roots {
		if r.label != filepath.Clean(r.label) || !filepath.IsLocal(r.label) {
			return fmt.Errorf("root %q lies outside", r.label)
		}
		for _, other := range p.tree.roots[:i] {
			_, within := below(r.label, other.label)
			_, around := below(other.label, r.label)
			if within || around {
				return fmt.Errorf("root %q lies in root %q", r.label, other.label)
			}
		}
		if err := r.node.check(&entries, 0); err != nil {
			return fmt.Errorf("in root %q: %w", r.label, err)
		}
	}
	return nil
}

func (n *node) check(entries *int, depth int) error {
	if *entries++; *entries > maxEntries || depth > maxDepth+1 {
		return fmt.Errorf("it has more than %d files or %d folders in each other", maxEntries, maxDepth)
	}
	switch {
	case n.kind > linkKind:
		return fmt.Errorf("%q is of an unknown kind", n.name)
	case n.kind != dirKind && len(n.children) > 0:
		return fmt.Errorf("%q is no folder and has entries", n.name)
	case n.kind == fileKind && n.size < 0:
		return fmt.Errorf("%q has %d bytes", n.name, n.size)
	case n.kind == linkKind && n.toLabel != "" && (n.to == nil || !filepath.IsLocal(n.toLabel)):
		return fmt.Errorf("link %q leads to %q, where nothing is", n.name, n.toLabel)
	case n.kind == linkKind && n.toLabel == "" && !filepath.IsAbs(n.away):
		return fmt.Errorf("link %q leads to %q", n.name, n.away)
	}
	for i, c := range n.children {
		if c.name == "" || c.name == "." || c.name == ".." || strings.ContainsAny(c.name, "/\x00") {
			return fmt.Errorf("%q cannot be the name of a file", c.name)
		}
		if i > 0 && n.children[i-1].name >= c.name {
			return fmt.Errorf("%q is out of order", c.name)
		}
		if err := c.check(entries, depth+1); err != nil {
			return err
		}
	}
	return nil
}
