package code

import (
	"bytes"
	"slices"
	"strings"
)

// This file says whether two versions have the same Ruby code: what a process has
// loaded of one then serves for the other.

// SameRuby reports whether nothing that Ruby loads differs between two versions:
// no file in a folder "lib", no other *.rb, no link, no environment.conf, no
// folder of the modulepath. Manifests, templates and data may differ.
func (v *Version) SameRuby(w *Version) bool {
	a, b := v.plan, w.plan
	return v.Environment == w.Environment && bytes.Equal(a.conf, b.conf) &&
		slices.EqualFunc(a.basePath, b.basePath, func(x, y moduleDir) bool { return x.label == y.label && x.original == y.original }) &&
		slices.EqualFunc(a.tree.roots, b.tree.roots, func(x, y *root) bool {
			return x.label == y.label && x.original == y.original && sameRuby(x.node, y.node, false)
		})
}

// sameRuby compares two folders. Everything inside of a lib folder counts: Ruby
// files read others when they are loaded.
func sameRuby(n, m *node, inLib bool) bool {
	a, b := n.children, m.children
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].name < b[0].name:
			if a[0].hasRuby(inLib) {
				return false
			}
			a = a[1:]
		case len(a) == 0 || b[0].name < a[0].name:
			if b[0].hasRuby(inLib) {
				return false
			}
			b = b[1:]
		default:
			if !sameRubyAt(a[0], b[0], inLib) {
				return false
			}
			a, b = a[1:], b[1:]
		}
	}
	return true
}

// sameRubyAt compares what has the same name.
func sameRubyAt(x, y *node, inLib bool) bool {
	switch {
	case x.kind != y.kind:
		return !x.hasRuby(inLib) && !y.hasRuby(inLib)
	case x.kind == dirKind:
		return sameRuby(x, y, inLib || x.name == "lib")
	case x.kind == linkKind:
		return x.target == y.target && x.toLabel == y.toLabel && x.away == y.away
	case x.hasRuby(inLib):
		return x.sum == y.sum && x.executable() == y.executable()
	}
	return true
}

func (n *node) hasRuby(inLib bool) bool {
	switch n.kind {
	case linkKind: // to anything
		return true
	case fileKind:
		return inLib || strings.HasSuffix(n.name, ".rb")
	case dirKind:
		return slices.ContainsFunc(n.children, func(c *node) bool { return c.hasRuby(inLib || n.name == "lib") })
	}
	return true
}
