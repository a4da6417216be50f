package classifier

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// This file reads YAML as Ruby's Psych does when only symbols are permitted
// beside plain data, and gives it back as JSON with the order of keys kept.

const (
	maxYAMLDepth = 100
	maxYAMLBytes = 16 << 20 // of JSON, so that aliases cannot multiply without end
)

var errYAMLTooLarge = fmt.Errorf("the data is larger than %d bytes once its aliases are followed", maxYAMLBytes)

// A value is one YAML node in the form that it will have in JSON. For a mapping
// pairs is set as well, because a merge key takes from it.
type value struct {
	json  []byte
	pairs *pairs
	text  string // of a scalar, as a key shows it
	kind  string // Ruby's class: String, Symbol, Integer, …
}

// pairs is a mapping in order; a later duplicate replaces the value, not the place.
type pairs struct {
	keys   []string
	kinds  []string
	values map[string][]byte
}

func (p *pairs) set(key value, v []byte, replace bool) {
	if _, ok := p.values[key.text]; ok {
		if replace {
			p.values[key.text] = v
		}
		return
	}
	p.keys = append(p.keys, key.text)
	p.kinds = append(p.kinds, key.kind)
	p.values[key.text] = v
}

// loadYAML reads the first document of src.
func loadYAML(src []byte) (value, error) {
	if err := checkCharacters(src); err != nil {
		return value{}, err
	}
	f, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return value{}, errors.New(firstLine(err.Error()))
	}
	l := &yamlLoader{anchors: map[string]value{}}
	for _, d := range f.Docs {
		if d.Body != nil && d.Body.Type() != ast.DirectiveType {
			return l.node(d.Body, 0)
		}
	}
	return value{json: []byte("false"), kind: "FalseClass"}, nil
}

// checkCharacters refuses what libyaml's reader refuses, in its words.
func checkCharacters(src []byte) error {
	for line, text := range bytes.Split(src, []byte("\n")) {
		for len(text) > 0 {
			r, n := utf8.DecodeRune(text)
			if r == utf8.RuneError && n == 1 {
				return fmt.Errorf("invalid UTF-8 at line %d", line+1)
			}
			if r < ' ' && r != '\t' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff {
				return fmt.Errorf("control characters are not allowed at line %d", line+1)
			}
			text = text[n:]
		}
	}
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

type yamlLoader struct {
	anchors map[string]value
}

func (l *yamlLoader) node(n ast.Node, depth int) (value, error) {
	if depth > maxYAMLDepth {
		return value{}, fmt.Errorf("nesting is deeper than %d", maxYAMLDepth)
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return scalar("")
	case *ast.StringNode:
		if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
			return text(n.Value), nil
		}
		return scalar(n.Value)
	case *ast.LiteralNode:
		return text(n.Value.Value), nil
	case *ast.MappingNode:
		return l.mapping(n.Values, depth)
	case *ast.MappingValueNode:
		return l.mapping([]*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		return l.sequence(n.Values, depth)
	case *ast.MappingKeyNode:
		return l.node(n.Value, depth+1)
	case *ast.AnchorNode:
		v, err := l.node(n.Value, depth+1)
		l.anchors[n.Name.GetToken().Value] = v
		return v, err
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		v, ok := l.anchors[name]
		if !ok {
			return value{}, fmt.Errorf("Unknown alias: %s", name) //nolint:staticcheck // Psych's words
		}
		return v, nil
	case *ast.TagNode:
		return l.tagged(n, depth)
	}
	return scalar(n.GetToken().Value) // numbers, booleans, infinities: Psych reads them in its own way
}

func (l *yamlLoader) sequence(items []ast.Node, depth int) (value, error) {
	out := []byte{'['}
	for i, item := range items {
		v, err := l.node(item, depth+1)
		if err != nil {
			return value{}, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		if out = append(out, v.json...); len(out) > maxYAMLBytes {
			return value{}, errYAMLTooLarge
		}
	}
	return value{json: append(out, ']'), kind: "Array"}, nil
}

func (l *yamlLoader) mapping(items []*ast.MappingValueNode, depth int) (value, error) {
	p := &pairs{values: map[string][]byte{}}
	for _, item := range items {
		v, err := l.node(item.Value, depth+1)
		if err != nil {
			return value{}, err
		}
		if item.Key.IsMergeKey() {
			if err := l.merge(p, item.Value, v, depth); err != nil {
				return value{}, err
			}
			continue
		}
		k, err := l.node(item.Key, depth+1)
		if err != nil {
			return value{}, err
		}
		p.set(k, v.json, true)
	}
	out := []byte{'{'}
	for i, k := range p.keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, quote(k)...), ':'), p.values[k]...)
		if len(out) > maxYAMLBytes {
			return value{}, errYAMLTooLarge
		}
	}
	return value{json: append(out, '}'), pairs: p, kind: "Hash"}, nil
}

// merge takes the pairs of one mapping, or of a list of them, that p has not yet.
func (l *yamlLoader) merge(p *pairs, n ast.Node, v value, depth int) error {
	from := []value{v}
	if list, ok := n.(*ast.SequenceNode); ok {
		from = nil
		for _, item := range list.Values {
			v, err := l.node(item, depth+1)
			if err != nil {
				return err
			}
			from = append(from, v)
		}
		// Psych lets the last of a list win, so it is asked first.
		slices.Reverse(from)
	}
	for _, f := range from {
		if f.pairs == nil {
			return errors.New("a merge key needs a mapping")
		}
		for i, k := range f.pairs.keys {
			p.set(value{text: k, kind: f.pairs.kinds[i]}, f.pairs.values[k], false)
		}
	}
	return nil
}

// tagged reads a node with an explicit type. Ruby objects are refused, as
// safe_load refuses them.
func (l *yamlLoader) tagged(n *ast.TagNode, depth int) (value, error) {
	tag := strings.TrimPrefix(n.Start.Value, "!")
	tag = strings.TrimPrefix(strings.TrimPrefix(tag, "!"), "<tag:yaml.org,2002:")
	tag = strings.TrimSuffix(tag, ">")
	kind, class, _ := strings.Cut(tag, ":")

	raw, isScalar := plainText(n.Value)
	switch {
	case kind == "ruby/sym" || kind == "ruby/symbol":
		return symbol(raw), nil
	case strings.HasPrefix(kind, "ruby/") && kind != "ruby/string" && kind != "ruby/hash" && kind != "ruby/array" && kind != "ruby/":
		if class == "" {
			name := strings.TrimPrefix(kind, "ruby/")
			class = strings.ToUpper(name[:1]) + name[1:]
		}
		return value{}, disallowed(class)
	case !isScalar:
		return l.node(n.Value, depth+1)
	case kind == "str" || kind == "ruby/string":
		return text(raw), nil
	case kind == "binary":
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(raw), ""))
		return text(string(b)), err
	}
	return scalar(raw)
}

// plainText returns the characters of a scalar node.
func plainText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case nil:
		return "", true
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case ast.ScalarNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// disallowed is Psych's refusal to make an object of another class.
func disallowed(class string) error {
	return fmt.Errorf("Tried to load unspecified class: %s", class) //nolint:staticcheck // Psych's words
}

func text(s string) value {
	return value{json: quote(s), text: s, kind: "String"}
}

func symbol(s string) value {
	return value{json: quote(s), text: s, kind: "Symbol"}
}

// quote returns s as a JSON string. A string is always valid.
func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}
