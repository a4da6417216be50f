package ruby

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file answers the part of puppetdb_query that collects exported resources:
//
//	resources[certname, title] { type = "Haproxy::Backend" and exported = true and tag = "web" }
//	["from", "resources", ["and", ["=", "type", "…"], ["=", "exported", true]]]
//
// Everything else is refused with words that say so.

// puppetdbQuery takes what a manifest passed: a string of PQL or an AST query.
func (p *Pool) puppetdbQuery(ctx context.Context, raw json.RawMessage) ([]map[string]any, error) {
	ast, err := parseQuery(raw)
	if err != nil {
		return nil, err
	}
	fields, condition, err := splitQuery(ast)
	if err != nil {
		return nil, err
	}
	q, err := resourceQuery(condition)
	if err != nil {
		return nil, err
	}
	found, err := p.exported(ctx, q)
	if err != nil {
		return nil, err
	}
	rows := make([]map[string]any, 0, len(found))
	for _, r := range found {
		rows = append(rows, project(row(r), fields))
	}
	return rows, nil
}

func errQuery(format string, args ...any) error {
	return fault.New(fault.Unsupported, "puppetdb_query: %s; this server answers queries of exported resources with a type, "+
		`such as resources[certname, title] { type = "My::Type" and exported = true }`, fmt.Sprintf(format, args...))
}

func parseQuery(raw json.RawMessage) ([]any, error) {
	var query any
	if err := json.Unmarshal(raw, &query); err != nil {
		return nil, errQuery("the query is not JSON")
	}
	switch q := query.(type) {
	case string:
		return parsePQL(q)
	case []any:
		return q, nil
	}
	return nil, errQuery("the query is neither text nor a list")
}

// splitQuery takes ["from", "resources", (["extract", fields, condition] | condition)?] apart.
func splitQuery(ast []any) (fields []string, condition any, err error) {
	if len(ast) < 2 || ast[0] != "from" {
		return nil, nil, errQuery(`the query does not begin with "from"`)
	}
	if ast[1] != "resources" {
		return nil, nil, errQuery("entity %v cannot be asked for", ast[1])
	}
	if len(ast) != 3 {
		return nil, nil, errQuery("only a condition and fields are understood")
	}
	condition = ast[2]
	list, ok := condition.([]any)
	if !ok || len(list) == 0 || list[0] != "extract" {
		return nil, condition, nil
	}
	if len(list) != 3 {
		return nil, nil, errQuery("extract needs fields and a condition")
	}
	switch names := list[1].(type) {
	case string:
		fields = []string{names}
	case []any:
		for _, n := range names {
			name, ok := n.(string)
			if !ok {
				return nil, nil, errQuery("field %v is not a name", n)
			}
			fields = append(fields, name)
		}
	}
	for _, f := range fields {
		if !slices.Contains(resourceFields, f) {
			return nil, nil, errQuery("resources have no field %q", f)
		}
	}
	return fields, list[2], nil
}

var resourceFields = []string{"certname", "type", "title", "tags", "exported", "file", "line", "parameters"} // read only

// resourceQuery takes type and exported out of a conjunction; the store checks
// the rest.
func resourceQuery(condition any) (store.ResourceQuery, error) {
	var q store.ResourceQuery
	var rest []any
	exported := false
	for _, term := range conjunction(condition) {
		switch {
		case isEqual(term, "type"):
			name, ok := term[2].(string)
			if !ok || q.Type != "" {
				return q, errQuery("the condition needs one type")
			}
			q.Type = name
		case isEqual(term, "exported"):
			if term[2] != true {
				return q, errQuery("only exported resources are kept for queries")
			}
			exported = true
		default:
			rest = append(rest, any(term))
		}
	}
	if q.Type == "" || !exported {
		return q, errQuery("the condition needs type = … and exported = true")
	}
	if len(rest) > 0 {
		filter, err := json.Marshal(append([]any{"and"}, rest...))
		if err != nil {
			return q, fmt.Errorf("encoding the rest of a query: %w", err)
		}
		q.Filter = filter
	}
	return q, nil
}

func conjunction(condition any) [][]any {
	list, ok := condition.([]any)
	if !ok || len(list) == 0 {
		return nil
	}
	if list[0] != "and" {
		return [][]any{list}
	}
	var terms [][]any
	for _, term := range list[1:] {
		terms = append(terms, conjunction(term)...)
	}
	return terms
}

func isEqual(term []any, field string) bool {
	return len(term) == 3 && term[0] == "=" && term[1] == field
}

func row(r puppet.Resource) map[string]any {
	parameters := r.Parameters
	if len(parameters) == 0 {
		parameters = json.RawMessage("{}")
	}
	return map[string]any{
		"certname": r.Certname, "type": r.Type, "title": r.Title, "tags": r.Tags, "exported": true,
		"file": r.File, "line": r.Line, "parameters": parameters,
	}
}

func project(row map[string]any, fields []string) map[string]any {
	if len(fields) == 0 {
		return row
	}
	out := map[string]any{}
	for _, f := range fields {
		out[f] = row[f]
	}
	return out
}

// pql matches resources[fields] { conditions joined by and }.
var pql = regexp.MustCompile(`^\s*(\w+)\s*(?:\[([^\]]*)\])?\s*\{(.*)\}\s*$`)

// pqlTerm matches one condition at the beginning of a text.
var pqlTerm = regexp.MustCompile(`^\s*(?:parameters\.)?(\w+)\s*(!?=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|true|false|-?\d+)\s*`)

// pqlEscape matches an escaped character in a string.
var pqlEscape = regexp.MustCompile(`\\(.)`)

// pqlParameter tells parameters from fields.
const pqlParameter = "parameters."

func parsePQL(text string) ([]any, error) {
	m := pql.FindStringSubmatch(strings.ReplaceAll(text, "\n", " "))
	if m == nil {
		return nil, errQuery("the PQL has another form than entity[fields] { conditions }")
	}
	condition := []any{"and"}
	for rest := m[3]; ; {
		t := pqlTerm.FindStringSubmatch(rest)
		if t == nil {
			return nil, errQuery("PQL conditions near %q are more than comparisons joined by and", strings.TrimSpace(rest))
		}
		condition = append(condition, pqlComparison(t, strings.HasPrefix(strings.TrimSpace(rest), pqlParameter)))
		rest = rest[len(t[0]):]
		if rest == "" {
			break
		}
		next, ok := strings.CutPrefix(rest, "and ")
		if !ok {
			return nil, errQuery("PQL conditions near %q are more than comparisons joined by and", rest)
		}
		rest = next
	}
	if strings.TrimSpace(m[2]) == "" {
		return []any{"from", m[1], condition}, nil
	}
	var fields []any
	for f := range strings.SplitSeq(m[2], ",") {
		fields = append(fields, strings.TrimSpace(f))
	}
	return []any{"from", m[1], []any{"extract", fields, condition}}, nil
}

func pqlComparison(t []string, parameter bool) []any {
	var field any = t[1]
	if parameter {
		field = []any{"parameter", t[1]}
	}
	if t[1] == "tags" || t[1] == "tag" {
		field = "tag"
	}
	comparison := []any{"=", field, pqlValue(t[3])}
	if t[2] == "!=" {
		return []any{"not", comparison}
	}
	return comparison
}

func pqlValue(text string) any {
	switch {
	case text == "true":
		return true
	case text == "false":
		return false
	case text[0] == '"' || text[0] == '\'':
		return pqlEscape.ReplaceAllString(text[1:len(text)-1], "$1")
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return text
	}
	return n
}
