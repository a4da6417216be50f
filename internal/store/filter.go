package store

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file understands the filter of a collector, and decides what matches.

// Limits of a filter.
const (
	maxFilterBytes = 1 << 20
	maxFilterDepth = 100
)

// A Filter is a tree of conditions on a resource. The zero Filter matches all.
type Filter struct {
	op    string   // "", "and", "or", "not", "="
	parts []Filter // of and, or, not
	field string   // of "=": title, tag, type, certname, exported, parameter
	name  string   // of a parameter
	value any      // decoded with numbers kept as they are written
}

// ParseFilter reads a filter in either of two forms. The first is the syntax tree
// of PuppetDB's queries, as its terminus sends it (puppet/indirector/resource/puppetdb.rb):
//
//	["and", ["=", "tag", "web"], ["not", ["=", ["parameter", "ensure"], "absent"]]]
//
// The second is what Puppet's collectors hand to a terminus
// (lib/puppet/pops/evaluator/collector_transformer.rb, match_ComparisonExpression):
//
//	[["tag", "==", "web"], "and", ["ensure", "!=", "absent"]]
//
// Values compare as PuppetDB compares them: a parameter that is an array equals
// only an equal array.
func ParseFilter(b json.RawMessage) (Filter, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || bytes.Equal(b, []byte("null")) || bytes.Equal(b, []byte("[]")) {
		return Filter{}, nil
	}
	if len(b) > maxFilterBytes {
		return Filter{}, fault.New(fault.TooLarge, "the filter has %d bytes, more than %d", len(b), maxFilterBytes)
	}
	v, err := decodeValue(b)
	if err != nil {
		return Filter{}, fault.Wrap(fault.Invalid, err, "the filter is not JSON")
	}
	return parseFilter(v, 0)
}

func parseFilter(v any, depth int) (Filter, error) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return Filter{}, fault.New(fault.Invalid, "the filter has %s where an expression should be", show(v))
	}
	if depth > maxFilterDepth {
		return Filter{}, fault.New(fault.Invalid, "the filter is nested deeper than %d", maxFilterDepth)
	}
	if len(list) == 3 {
		switch op, _ := list[1].(string); op {
		case "and", "or":
			return parseJoin(op, []any{list[0], list[2]}, depth)
		case "==", "!=":
			return parseInfix(list[0], op, list[2])
		}
	}
	op, _ := list[0].(string)
	switch {
	case (op == "and" || op == "or") && len(list) > 1:
		return parseJoin(op, list[1:], depth)
	case op == "not" && len(list) == 2:
		return parseJoin(op, list[1:], depth)
	case (op == "=" || op == "!=") && len(list) == 3:
		f, err := parseEquals(list[1], list[2])
		return negateIf(op == "!=", f), err
	}
	return Filter{}, fault.New(fault.Invalid, "the filter has an unknown expression %s; known are =, !=, and, or, not", show(v))
}

func parseJoin(op string, parts []any, depth int) (Filter, error) {
	f := Filter{op: op}
	for _, p := range parts {
		part, err := parseFilter(p, depth+1)
		if err != nil {
			return Filter{}, err
		}
		f.parts = append(f.parts, part)
	}
	return f, nil
}

// parseInfix reads what stands between <<| and |>>: title and tag are fields,
// every other name is a parameter.
func parseInfix(left any, op string, right any) (Filter, error) {
	name, ok := left.(string)
	if !ok {
		return Filter{}, fault.New(fault.Invalid, "the filter compares %s, which is no name", show(left))
	}
	field := any([]any{"parameter", name})
	if name == "title" || name == "tag" {
		field = name
	}
	f, err := parseEquals(field, right)
	return negateIf(op == "!=", f), err
}

func negateIf(negate bool, f Filter) Filter {
	if !negate {
		return f
	}
	return Filter{op: "not", parts: []Filter{f}}
}

func parseEquals(field, value any) (Filter, error) {
	f := Filter{op: "=", value: value}
	if pair, ok := field.([]any); ok && len(pair) == 2 && pair[0] == "parameter" {
		if f.name, ok = pair[1].(string); ok {
			f.field = "parameter"
			return f, nil
		}
	}
	f.field, _ = field.(string)
	text, isText := value.(string)
	switch f.field {
	case "title", "certname":
	case "tag":
		text = strings.ToLower(text)
	case "type":
		text = typeName(text)
	case "exported":
		if _, ok := value.(bool); !ok {
			return Filter{}, fault.New(fault.Invalid, "the filter compares exported with %s, which is not true or false", show(value))
		}
		return f, nil
	default:
		return Filter{}, fault.New(fault.Invalid, "the filter has an unknown field %s; known are title, tag, type, certname, exported and [\"parameter\", name]", show(field))
	}
	if !isText {
		return Filter{}, fault.New(fault.Invalid, "the filter compares %s with %s, which is not a string", f.field, show(value))
	}
	f.value = text
	return f, nil
}

// narrow adds what SQLite can decide to c. It may let through what does not
// match, but never leaves out what does.
func (f Filter) narrow(c *conditions) {
	switch {
	case f.op == "and":
		for _, p := range f.parts {
			p.narrow(c)
		}
	case f.op == "=" && f.field == "title":
		c.add(`title = ?`, f.value)
	case f.op == "=" && f.field == "certname":
		c.add(`certname = ?`, f.value)
	case f.op == "=" && f.field == "tag":
		c.add(`instr(tags, ?) > 0`, joinTags([]string{f.value.(string)})) // parseEquals lets only strings through
	}
}

// A candidate is a resource whose parameters are decoded when they are needed.
type candidate struct {
	*puppet.Resource
	params map[string]json.RawMessage
}

func (c *candidate) parameter(name string) (any, error) {
	if c.params == nil {
		if err := json.Unmarshal(c.Parameters, &c.params); err != nil {
			return nil, err
		}
	}
	b, ok := c.params[name]
	if !ok {
		return nil, nil
	}
	return decodeValue(b)
}

func (f Filter) matches(c *candidate) (bool, error) {
	switch f.op {
	case "and", "or":
		for _, p := range f.parts {
			ok, err := p.matches(c)
			if err != nil || ok == (f.op == "or") {
				return ok, err
			}
		}
		return f.op == "and", nil
	case "not":
		ok, err := f.parts[0].matches(c)
		return !ok, err
	case "=":
		return f.equals(c)
	}
	return true, nil
}

func (f Filter) equals(c *candidate) (bool, error) {
	switch f.field {
	case "title":
		return c.Title == f.value, nil
	case "certname":
		return string(c.Certname) == f.value, nil
	case "type":
		return c.Type == f.value, nil
	case "exported":
		return c.Exported == f.value, nil
	case "tag":
		return slices.Contains(c.Tags, f.value.(string)), nil // parseEquals lets only strings through
	}
	v, err := c.parameter(f.name)
	return err == nil && sameValue(v, f.value), err
}

// decodeValue decodes JSON and keeps numbers as they are written.
func decodeValue(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// sameValue compares decoded JSON; 1 and 1.0 are the same number.
func sameValue(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		n, ok := b.(json.Number)
		return ok && sameNumber(a, n)
	case []any:
		l, ok := b.([]any)
		return ok && slices.EqualFunc(a, l, sameValue)
	case map[string]any:
		m, ok := b.(map[string]any)
		if !ok || len(a) != len(m) {
			return false
		}
		for k, v := range a {
			if w, ok := m[k]; !ok || !sameValue(v, w) {
				return false
			}
		}
		return true
	}
	return a == b // strings, booleans, nil
}

func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	// Long exponents would take for ever to write out.
	if len(a) > 64 || len(b) > 64 || strings.ContainsAny(string(a+b), "eE") {
		x, errX := a.Float64()
		y, errY := b.Float64()
		return errX == nil && errY == nil && x == y
	}
	x, okX := new(big.Rat).SetString(string(a))
	y, okY := new(big.Rat).SetString(string(b))
	return okX && okY && x.Cmp(y) == 0
}

// show writes a part of a filter into an error text, shortened.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil || len(b) > 100 {
		return "an expression that is too long to show"
	}
	return string(b)
}
