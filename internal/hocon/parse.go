package hocon

import (
	"fmt"
	"strings"
)

// This file turns text into a tree of nodes.

// Limits on one file. A conf.d is a few kilobytes.
const (
	maxSize  = 4 << 20
	maxDepth = 100
)

// Parse reads HOCON text; name stands for it in messages. An include is refused,
// for text has no folder.
func Parse(name string, src []byte) (Value, error) {
	n, err := parse(name, src, nil, nil)
	if err != nil {
		return Value{}, err
	}
	return resolve(n, nil)
}

// parse reads one text. at is the path of the object that includes it, open
// reads further includes.
func parse(name string, src []byte, at []string, open *includer) (n *node, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Error:
			n, err = nil, p
		default:
			panic(p)
		}
	}()
	if len(src) > maxSize {
		return nil, fmt.Errorf("%s: the file has %d bytes, more than %d", name, len(src), maxSize)
	}
	p := &parser{scanner: scanner{file: name, src: string(src), line: 1}, path: at, prefix: len(at), open: open}
	return p.root(), nil
}

type parser struct {
	scanner
	depth  int
	path   []string // of the object that is being read, from the root of everything
	prefix int      // how much of path lies outside this file
	open   *includer
}

func (p *parser) root() *node {
	p.skip()
	at := p.pos()
	var n *node
	if p.peek() == '{' {
		n = p.object()
		p.skip()
	} else {
		n = &node{kind: objectNode, pos: at}
		p.members(n)
	}
	if !p.end() {
		p.fail(p.pos(), "unexpected %q after the end of the configuration", p.peek())
	}
	return n
}

func (p *parser) enter() {
	if p.depth++; p.depth > maxDepth {
		p.fail(p.pos(), "more than %d levels of nesting", maxDepth)
	}
}

// object reads { … }.
func (p *parser) object() *node {
	p.enter()
	n := &node{kind: objectNode, pos: p.pos()}
	p.off++
	p.members(n)
	if p.peek() != '}' {
		p.fail(n.pos, "the object that begins here is not closed: } is missing before %s", p.next())
	}
	p.off++
	p.depth--
	return n
}

// next names what stands at the scanner, for messages.
func (p *parser) next() string {
	if p.end() {
		return "the end of the file"
	}
	return fmt.Sprintf("%q at line %d", p.peek(), p.line)
}

// members reads the fields of an object up to } or the end.
func (p *parser) members(n *node) {
	p.skip()
	for !p.end() && p.peek() != '}' {
		p.member(n)
		p.separator("}")
	}
}

// separator passes over what ends a field or an element: a line end, a comma, or
// both. One comma may trail.
func (p *parser) separator(closing string) {
	ended := p.skip()
	if p.peek() == ',' {
		p.off++
		p.skip()
		if p.peek() == ',' {
			p.fail(p.pos(), "two commas in a row")
		}
		return
	}
	if !ended && !p.end() && !p.has(closing) {
		p.fail(p.pos(), "unexpected %q; a comma or a new line is missing, or the text needs quotes", p.peek())
	}
}

// member reads one field, or an include.
func (p *parser) member(n *node) {
	at := p.pos()
	if p.has("include") && p.includeFollows() {
		p.include(n)
		return
	}
	keys := p.keys()
	p.skip()
	depth := len(p.path)
	p.path = append(p.path, keys...)
	if len(p.path) > maxDepth {
		p.fail(at, "more than %d levels of nesting", maxDepth)
	}
	var v *node
	switch {
	case p.peek() == '{':
		v = p.value()
	case p.peek() == ':' || p.peek() == '=':
		p.off++
		p.skip()
		v = p.value()
	case p.has("+="):
		p.off += 2
		p.skip()
		v = p.appended(at)
	default:
		p.fail(p.pos(), "after the key %q comes a colon, =, += or {, not %s", strings.Join(keys, "."), p.next())
	}
	p.path = p.path[:depth]
	for i := len(keys) - 1; i > 0; i-- {
		outer := &node{kind: objectNode, pos: at}
		outer.set(keys[i], v)
		v = outer
	}
	n.set(keys[0], v)
}

// appended reads the element of "key += element" as "key = ${?key} [element]".
func (p *parser) appended(at Position) *node {
	self := &node{kind: substNode, pos: at, path: append([]string(nil), p.path...), optional: true}
	list := &node{kind: arrayNode, pos: p.pos(), items: []*node{p.value()}}
	return &node{kind: concatNode, pos: at, items: []*node{self, list}}
}

// keys reads a path of keys: dots outside quotes part it.
func (p *parser) keys() []string {
	at := p.pos()
	var keys []string
	var key strings.Builder
	filled := false // a quoted "" is a key, nothing at all is not
	space := ""
	for {
		switch {
		case p.peek() == '"':
			key.WriteString(space + p.quoted())
			filled = true
		default:
			text := p.unquoted()
			if text == "" {
				if !filled {
					p.fail(at, "a key is missing or has an empty part; put keys with special characters in quotes")
				}
				return append(keys, key.String())
			}
			for i, part := range strings.Split(space+text, ".") {
				if i > 0 {
					if !filled {
						p.fail(at, "a key has an empty part between dots; put it in quotes")
					}
					keys = append(keys, key.String())
					key.Reset()
					filled = false
				}
				key.WriteString(part)
				filled = filled || strings.TrimSpace(part) != ""
			}
		}
		space = p.blank()
	}
}

// value reads everything that makes up one value: pieces side by side on a line
// are joined.
func (p *parser) value() *node {
	at := p.pos()
	var pieces []*node
	for {
		before := p.off
		space := p.blank()
		n := p.piece()
		if n == nil {
			p.off = before
			p.blank()
			break
		}
		if space != "" && len(pieces) > 0 {
			pieces = append(pieces, &node{kind: blankNode, pos: n.pos, scalar: Value{kind: String, text: space, pos: n.pos}})
		}
		pieces = append(pieces, n)
	}
	switch len(pieces) {
	case 0:
		p.fail(at, "a value is missing before %s", p.next())
	case 1:
		return pieces[0]
	}
	return p.concat(at, pieces)
}

// concat joins pieces at once when all are known to be text.
func (p *parser) concat(at Position, pieces []*node) *node {
	var text strings.Builder
	for _, n := range pieces {
		if n.kind != scalarNode && n.kind != blankNode {
			return &node{kind: concatNode, pos: at, items: pieces}
		}
		text.WriteString(n.scalar.written())
	}
	return &node{kind: scalarNode, pos: at, scalar: Value{kind: String, text: text.String(), pos: at}}
}

// written is the text of a scalar inside a longer string.
func (v Value) written() string {
	if v.kind == Null {
		return "null"
	}
	return v.text
}

// piece reads one object, array, substitution or string; nil when none follows.
func (p *parser) piece() *node {
	at := p.pos()
	switch c := p.peek(); {
	case p.end() || p.has("//"):
		return nil
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case p.has("${"):
		return p.substitution()
	case c == '"':
		text := p.quoted()
		return &node{kind: scalarNode, pos: at, scalar: Value{kind: String, text: text, pos: at}}
	}
	text := p.unquoted()
	if text == "" {
		return nil
	}
	v := Value{kind: String, text: text, pos: at}
	switch {
	case text == "null":
		v.kind, v.text = Null, ""
	case text == "true" || text == "false":
		v.kind = Bool
	case number(text):
		v.kind = Number
	}
	return &node{kind: scalarNode, pos: at, scalar: v}
}

func (p *parser) array() *node {
	p.enter()
	n := &node{kind: arrayNode, pos: p.pos()}
	p.off++
	p.skip()
	for !p.end() && p.peek() != ']' {
		n.items = append(n.items, p.value())
		p.separator("]")
	}
	if p.end() {
		p.fail(n.pos, "the list that begins here is not closed: ] is missing")
	}
	p.off++
	p.depth--
	return n
}

// substitution reads ${path} or ${?path}.
func (p *parser) substitution() *node {
	n := &node{kind: substNode, pos: p.pos(), prefix: p.prefix}
	p.off += len("${")
	if p.peek() == '?' {
		n.optional = true
		p.off++
	}
	p.blank()
	n.path = append(append([]string(nil), p.path[:p.prefix]...), p.keys()...)
	if p.peek() != '}' {
		p.fail(n.pos, "the substitution that begins here is not closed: } is missing")
	}
	p.off++
	return n
}
