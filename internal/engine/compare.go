package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// This file compares two catalogs and names what differs.

// A Kind says what part of a catalog a Difference is about.
type Kind string

// The kinds, in the order in which Compare reports them.
const (
	TopLevel  Kind = "key"       // a key of the catalog itself: environment, code_id, …
	Missing   Kind = "missing"   // a resource that only the first catalog has
	Extra     Kind = "extra"     // a resource that only the second catalog has
	Parameter Kind = "parameter" // a parameter's value
	Attribute Kind = "attribute" // a resource's file, line, exported, …
	Tag       Kind = "tag"       // a tag, or the order of tags
	Order     Kind = "order"     // the order of resources
	Edge      Kind = "edge"      // an edge, or the order of edges
	Class     Kind = "class"     // a class, or the order of classes
	Metadata  Kind = "metadata"  // inlined metadata of a file
)

// A Difference is one thing in which two catalogs differ. A and B are JSON; one
// of them is "" where that catalog has nothing.
type Difference struct {
	Kind     Kind   `json:"kind"`
	Resource string `json:"resource,omitempty"` // Type[title]
	Name     string `json:"name,omitempty"`     // of the parameter, the key, the tag
	A        string `json:"a,omitempty"`
	B        string `json:"b,omitempty"`
}

func (d Difference) String() string {
	subject := string(d.Kind)
	if d.Resource != "" {
		subject = d.Resource + ": " + subject
	}
	if d.Name != "" {
		subject += " " + d.Name
	}
	switch {
	case d.A == "" && d.B == "":
		return subject
	case d.A == "":
		return subject + ": only in the second: " + d.B
	case d.B == "":
		return subject + ": only in the first: " + d.A
	}
	return subject + ": " + d.A + " became " + d.B
}

// Compare names every difference between two catalogs in JSON. Only the keys
// version and catalog_uuid, which are new in each compile, are left out.
func Compare(a, b []byte) ([]Difference, error) {
	first, err := parseCatalog(a)
	if err != nil {
		return nil, fmt.Errorf("reading the first catalog: %w", err)
	}
	second, err := parseCatalog(b)
	if err != nil {
		return nil, fmt.Errorf("reading the second catalog: %w", err)
	}

	c := &comparison{}
	c.topLevel(first.rest, second.rest)
	c.resources(first, second)
	c.list(Difference{Kind: Edge}, first.edges, second.edges)
	c.list(Difference{Kind: Class}, first.classes, second.classes)
	c.list(Difference{Kind: Tag}, first.tags, second.tags)
	c.keys(Difference{Kind: Metadata}, first.metadata, second.metadata)
	return c.found, nil
}

// perCompile are the keys that differ between any two compiles.
var perCompile = []string{"version", "catalog_uuid"} // read only

type catalog struct {
	order     []string // references in the catalog's order
	resources map[string]map[string]json.RawMessage
	edges     []string
	classes   []string
	tags      []string
	metadata  map[string]json.RawMessage
	rest      map[string]json.RawMessage
}

func parseCatalog(src []byte) (*catalog, error) {
	c := &catalog{resources: map[string]map[string]json.RawMessage{}, metadata: map[string]json.RawMessage{}}
	if err := json.Unmarshal(src, &c.rest); err != nil {
		return nil, err
	}
	for _, key := range perCompile {
		delete(c.rest, key)
	}

	var resources []map[string]json.RawMessage
	if err := c.take("resources", &resources); err != nil {
		return nil, err
	}
	for _, r := range resources {
		ref := reference(r)
		for n := 2; c.resources[ref] != nil; n++ { // a catalog has no duplicates; a broken one must not hide them
			ref = fmt.Sprintf("%s (%d)", reference(r), n)
		}
		c.order = append(c.order, ref)
		c.resources[ref] = r
	}

	var edges []struct{ Source, Target string }
	if err := c.take("edges", &edges); err != nil {
		return nil, err
	}
	for _, e := range edges {
		c.edges = append(c.edges, e.Source+" -> "+e.Target)
	}
	for key, into := range map[string]*[]string{"classes": &c.classes, "tags": &c.tags} {
		if err := c.take(key, into); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"metadata", "recursive_metadata"} {
		var files map[string]json.RawMessage
		if err := c.take(key, &files); err != nil {
			return nil, err
		}
		for title, m := range files {
			c.metadata[key+" of File["+title+"]"] = m
		}
	}
	return c, nil
}

// take moves a key out of rest.
func (c *catalog) take(key string, into any) error {
	raw, ok := c.rest[key]
	if !ok {
		return nil
	}
	delete(c.rest, key)
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	return nil
}

func reference(r map[string]json.RawMessage) string {
	return text(r["type"]) + "[" + text(r["title"]) + "]"
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

type comparison struct{ found []Difference }

func (c *comparison) topLevel(a, b map[string]json.RawMessage) {
	c.keys(Difference{Kind: TopLevel}, a, b)
}

// keys compares two objects; like carries what the differences have in common.
func (c *comparison) keys(like Difference, a, b map[string]json.RawMessage) {
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	for _, name := range sortedKeys(names) {
		d := like
		d.Name, d.A, d.B = name, canonical(a[name]), canonical(b[name])
		if d.A != d.B {
			c.found = append(c.found, d)
		}
	}
}

func (c *comparison) resources(a, b *catalog) {
	var common []string
	for _, ref := range a.order {
		if b.resources[ref] == nil {
			c.found = append(c.found, Difference{Kind: Missing, Resource: ref})
			continue
		}
		common = append(common, ref)
	}
	var inB []string
	for _, ref := range b.order {
		if a.resources[ref] == nil {
			c.found = append(c.found, Difference{Kind: Extra, Resource: ref})
			continue
		}
		inB = append(inB, ref)
	}
	for _, ref := range common {
		c.resource(ref, a.resources[ref], b.resources[ref])
	}
	c.order(Difference{Kind: Order, Name: "of resources"}, common, inB)
}

// resource compares one resource that both catalogs have.
func (c *comparison) resource(ref string, a, b map[string]json.RawMessage) {
	fields := [2]map[string]json.RawMessage{{}, {}}
	parameters := [2]map[string]json.RawMessage{}
	tags := [2][]string{}
	for i, r := range []map[string]json.RawMessage{a, b} {
		for key, value := range r {
			switch key {
			case "parameters":
				if json.Unmarshal(value, &parameters[i]) != nil {
					fields[i][key] = value
				}
			case "tags":
				if json.Unmarshal(value, &tags[i]) != nil {
					fields[i][key] = value
				}
			default:
				fields[i][key] = value
			}
		}
	}
	c.keys(Difference{Kind: Parameter, Resource: ref}, parameters[0], parameters[1])
	c.keys(Difference{Kind: Attribute, Resource: ref}, fields[0], fields[1])
	c.list(Difference{Kind: Tag, Resource: ref}, tags[0], tags[1])
}

// list compares two lists as multisets first and then by order.
func (c *comparison) list(like Difference, a, b []string) {
	count := map[string]int{}
	for _, s := range b {
		count[s]++
	}
	var inA []string
	for _, s := range a {
		if count[s] == 0 {
			d := like
			d.A = s
			c.found = append(c.found, d)
			continue
		}
		count[s]--
		inA = append(inA, s)
	}
	var inB []string
	for _, s := range slices.Backward(b) { // the surplus of an element that is there more than once is its last ones
		if count[s] > 0 {
			count[s]--
			d := like
			d.B = s
			c.found = append(c.found, d)
			continue
		}
		inB = append(inB, s)
	}
	slices.Reverse(inB)
	like.Name = "order"
	c.order(like, inA, inB)
}

// order reports the first place at which two permutations differ.
func (c *comparison) order(like Difference, a, b []string) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			like.Name = strings.TrimSpace(fmt.Sprintf("%s at %d", like.Name, i))
			like.A, like.B = a[i], b[i]
			c.found = append(c.found, like)
			return
		}
	}
}

// canonical gives equal JSON values equal text, except that the order of keys
// counts: Puppet's hashes have one.
func canonical(raw json.RawMessage) string {
	if raw == nil {
		return ""
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return string(raw)
	}
	return out.String()
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
