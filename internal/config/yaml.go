package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// This file reads troupe's own YAML file. It walks the syntax tree instead of
// decoding into a struct, so that every value knows its line and every problem
// is named, not only the first.

func (l *loader) yamlFile(path string) {
	src, err := readFile(path)
	if err != nil {
		l.problem(fmt.Errorf("reading the configuration: %w", err))
		return
	}
	l.yaml(path, src)
}

func (l *loader) yaml(name string, src []byte) {
	file, err := parser.ParseBytes(src, 0)
	if err != nil {
		l.problem(syntaxError(name, err))
		return
	}
	if len(file.Docs) > 1 {
		l.problem(fmt.Errorf("%s: more than one YAML document; keep one", name))
		return
	}
	w := &yamlWalk{l: l, name: name}
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			w.section("", doc.Body)
		}
	}
}

func syntaxError(name string, err error) error {
	if e, ok := errors.AsType[yaml.Error](err); ok {
		if t := e.GetToken(); t != nil && t.Position != nil {
			return fmt.Errorf("%s:%d:%d: %s", name, t.Position.Line, t.Position.Column, e.GetMessage())
		}
	}
	return fmt.Errorf("%s: %w", name, err)
}

type yamlWalk struct {
	l    *loader
	name string
}

func (w *yamlWalk) at(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d", w.name, t.Position.Line)
	}
	return w.name
}

func (w *yamlWalk) errorf(n ast.Node, format string, args ...any) {
	w.l.problem(fmt.Errorf("%s: %s", w.at(n), fmt.Sprintf(format, args...)))
}

// section reads the keys below prefix.
func (w *yamlWalk) section(prefix string, n ast.Node) {
	for _, m := range w.members(n, cmp.Or(strings.TrimSuffix(prefix, "."), "the file")) {
		w.member(prefix, m)
	}
}

// members returns what stands below a key: the parser knows a map of one member as the member.
func (w *yamlWalk) members(n ast.Node, key string) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	case *ast.NullNode: // all that stood below it is commented out
	default:
		w.errorf(n, "%s takes keys and values below it", key)
	}
	return nil
}

func (w *yamlWalk) member(prefix string, m *ast.MappingValueNode) {
	if m.Key.IsMergeKey() || m.Key.Type() == ast.AnchorType || m.Value.Type() == ast.AliasType || m.Value.Type() == ast.AnchorType {
		w.errorf(m.Key, "anchors and merge keys are not supported")
		return
	}
	key := prefix + m.Key.GetToken().Value
	s := w.l.byKey[key]
	switch {
	case s == nil && w.isSection(key):
		w.section(key+".", m.Value)
	case s == nil:
		w.errorf(m.Key, "there is no setting %q%s", key, w.l.suggest(key))
	default:
		w.value(s, m)
	}
}

func (w *yamlWalk) isSection(key string) bool {
	return slices.ContainsFunc(w.l.settings, func(s setting) bool { return strings.HasPrefix(s.key, key+".") })
}

func (w *yamlWalk) value(s *setting, m *ast.MappingValueNode) {
	if _, ok := s.value.(mapValue); ok {
		w.entries(s, m.Value)
		return
	}
	switch n := m.Value.(type) {
	case *ast.SequenceNode:
		if _, ok := s.value.(listValue); !ok {
			w.errorf(m.Key, "%s takes one value, not a list", s.key)
			return
		}
		w.sequence(s, m.Key, n)
	case *ast.NullNode:
		w.errorf(m.Key, "%s has no value; remove the line to have the default", s.key)
	default:
		if text, ok := w.scalar(n, s.key); ok {
			w.l.set(s.key, w.at(m.Key), text)
		}
	}
}

func (w *yamlWalk) sequence(s *setting, key ast.Node, n *ast.SequenceNode) {
	texts := []string{}
	for _, item := range n.Values {
		text, ok := w.scalar(item, s.key)
		if !ok {
			return
		}
		texts = append(texts, text)
	}
	if len(texts) == 1 {
		texts = append(texts, "") // a list of one is not cut at separators
	}
	w.l.set(s.key, w.at(key), texts...)
}

// entries reads a map of any keys.
func (w *yamlWalk) entries(s *setting, n ast.Node) {
	for _, m := range w.members(n, s.key) {
		name := m.Key.GetToken().Value
		if text, ok := w.scalar(m.Value, s.key+"."+name); ok {
			w.l.setEntry(s.key, name, w.at(m.Key), text)
		}
	}
}

// scalar returns a value as it was written.
func (w *yamlWalk) scalar(n ast.Node, key string) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	w.errorf(n, "%s takes a text, a number, true or false", key)
	return "", false
}

// suggest finds the setting that a wrong key may have meant.
func (l *loader) suggest(key string) string {
	best, bestDistance := "", len(key)/4+2
	for _, s := range l.settings {
		d := distance(key, s.key)
		if last := s.key[strings.LastIndexByte(s.key, '.')+1:]; key == last || strings.HasSuffix(key, "."+last) {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = s.key, d
		}
	}
	if best == "" {
		return "; troupe config show lists all"
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance counts the edits between two keys (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
