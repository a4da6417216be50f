package hocon

import (
	"fmt"
	"slices"
	"strings"
)

// This file looks substitutions up and reduces the tree to values.

// maxWork bounds what substitutions may blow a file up to: one unit per value
// and per byte of joined text.
const maxWork = 8 << 20

// maxResolve bounds how deep substitutions refer to each other.
const maxResolve = 500

type resolveState uint8

const (
	untouched resolveState = iota
	active                 // being resolved: a reference to it is a reference to itself
	done
)

type resolver struct {
	root  *node
	env   func(string) (string, bool)
	work  int
	depth int
}

func resolve(root *node, env func(string) (string, bool)) (v Value, err error) {
	r := &resolver{root: root, env: env}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Error:
			v, err = Value{}, p
		default:
			panic(p)
		}
	}()
	v, _ = r.value(root)
	return v, nil
}

func (r *resolver) fail(n *node, format string, args ...any) {
	panic(&Error{n.pos, fmt.Sprintf(format, args...)})
}

func (r *resolver) charge(n *node, units int) {
	if r.work += units; r.work > maxWork {
		r.fail(n, "the substitutions make the configuration larger than %d units", maxWork)
	}
}

// value reduces a node. It reports false for an optional substitution that found
// nothing, and for a node that is being reduced and has nothing below itself.
func (r *resolver) value(n *node) (Value, bool) {
	switch n.state {
	case done:
		return n.result, n.have
	case active:
		if n.kind == stackNode {
			return r.below(n)
		}
		return Value{}, false
	case untouched:
	}
	if r.depth++; r.depth > maxResolve {
		r.fail(n, "substitutions refer to each other more than %d deep", maxResolve)
	}
	n.state = active
	v, have := r.reduce(n)
	n.state, n.result, n.have = done, v, have
	r.depth--
	r.charge(n, 1)
	return v, have
}

func (r *resolver) reduce(n *node) (Value, bool) {
	switch n.kind {
	case arrayNode:
		v := Value{kind: Array, pos: n.pos}
		for _, item := range n.items {
			if e, ok := r.value(item); ok {
				v.items = append(v.items, e)
			}
		}
		return v, true
	case objectNode:
		v := Value{kind: Object, pos: n.pos}
		for _, f := range n.fields {
			if e, ok := r.value(f.value); ok {
				v.fields = append(v.fields, Field{f.key, e})
			}
		}
		return v, true
	case concatNode:
		return r.concat(n)
	case substNode:
		return r.substitute(n)
	case stackNode: // with nothing taken from it yet
		n.top = len(n.items)
		return r.below(n)
	default:
		return n.scalar, true
	}
}

// below reduces what lies under the top of a stack: the uppermost value that is
// there wins, and objects join with objects further down.
func (r *resolver) below(n *node) (Value, bool) {
	saved := n.top
	defer func() { n.top = saved }()
	var out Value
	have := false
	for n.top--; n.top >= 0; n.top-- {
		v, ok := r.value(n.items[n.top])
		switch {
		case !ok:
			continue
		case !have:
			out, have = v, true
		case v.kind != Object:
			return out, true
		default:
			r.charge(n, mergeWork(v, out))
			out = merge(v, out)
		}
		if out.kind != Object {
			break
		}
	}
	return out, have
}

// mergeWork estimates what merging two objects costs: each key is looked for.
func mergeWork(a, b Value) int {
	return len(a.fields) + len(b.fields) + len(a.fields)*len(b.fields)/16
}

// substitute looks up ${path}, first from the place of the include, then from
// the root, then in the environment.
func (r *resolver) substitute(n *node) (Value, bool) {
	paths := [][]string{n.path}
	if n.prefix > 0 {
		paths = append(paths, n.path[n.prefix:])
	}
	for _, path := range paths {
		if v, ok := r.find(r.root, path); ok {
			return v, true
		}
	}
	name := strings.Join(n.path[n.prefix:], ".")
	if r.env != nil {
		if text, ok := r.env(name); ok {
			return Value{kind: String, text: text, pos: n.pos}, true
		}
	}
	if !n.optional {
		r.fail(n, "${%s} is not defined, or only by itself; write ${?%s} if it may be missing", name, name)
	}
	return Value{}, false
}

// find walks down a path without reducing more than it must, so that one part
// of an object may refer to another.
func (r *resolver) find(n *node, path []string) (Value, bool) {
	if len(path) == 0 {
		return r.value(n)
	}
	switch {
	case n.kind == objectNode:
		if child := n.get(path[0]); child != nil {
			return r.find(child, path[1:])
		}
		return Value{}, false
	case n.state == active && (n.kind == stackNode || n.kind == concatNode):
		for _, item := range slices.Backward(n.items) {
			if item.state == active && item.kind != objectNode {
				continue
			}
			if v, ok := r.find(item, path); ok {
				return v, true
			}
		}
		return Value{}, false
	}
	v, ok := r.value(n)
	if !ok {
		return Value{}, false
	}
	return v.Get(path...)
}

// concat joins the pieces of one value: texts to a text, lists to a list, objects
// to an object.
func (r *resolver) concat(n *node) (Value, bool) {
	var parts []Value
	kind := Null
	for _, item := range n.items {
		v, ok := r.value(item)
		if !ok {
			continue
		}
		parts = append(parts, v)
		if v.kind == Array || v.kind == Object {
			kind = v.kind
		}
	}
	if len(parts) == 0 {
		return Value{}, false // nothing but optional substitutions that found nothing
	}
	if kind == Array || kind == Object {
		return r.join(n, kind), true
	}
	var b strings.Builder
	for _, v := range parts {
		r.charge(n, len(v.text))
		b.WriteString(v.written())
	}
	return Value{kind: String, text: b.String(), pos: n.pos}, true
}

// join joins lists or objects; blanks between them mean nothing.
func (r *resolver) join(n *node, kind Kind) Value {
	out := Value{kind: kind, pos: n.pos}
	for _, item := range n.items {
		v, ok := r.value(item)
		switch {
		case !ok || item.kind == blankNode:
			continue
		case v.kind != kind:
			r.fail(item, "%s and %s cannot be joined", kind, v.kind)
		case kind == Array:
			r.charge(n, len(v.items))
			out.items = append(out.items, v.items...)
		default:
			r.charge(n, mergeWork(out, v))
			out = merge(out, v)
		}
	}
	out.pos = n.pos
	return out
}
