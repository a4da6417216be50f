package parity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file brings into one form what two answers may write differently. README.md names each of these forms, and
// docs/compat.md says why they are no difference.

// number is a string, which stays as it is but for its escapes, or a number with a fraction or exponent.
var number = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)|-?\d+\.\d+`)

var escape = regexp.MustCompile(`\\u00[01][0-9A-F]`)

// javaClass is what the real v4 puts before Puppet's words when a catalog does not compile.
var javaClass = regexp.MustCompile(`\Aorg\.jruby\.exceptions\.\w+: \(\w+\) `)

// InOneSpelling writes floats as Go does and escapes in lower case. Java writes 1.0E-10 and \u001F, Ruby 1.0e-10 and \u001f.
// An error loses the name of its Java class.
func InOneSpelling(answer []byte) []byte {
	const failed = "Internal Server Error: "
	if message, ok := bytes.CutPrefix(answer, []byte(failed)); ok {
		return slices.Concat([]byte(failed), javaClass.ReplaceAll(message, nil))
	}
	return number.ReplaceAllFunc(answer, func(token []byte) []byte {
		if token[0] == '"' {
			return escape.ReplaceAllFunc(token, bytes.ToLower)
		}
		value, err := strconv.ParseFloat(string(token), 64)
		if err != nil {
			return token
		}
		return strconv.AppendFloat(nil, value, 'e', -1, 64)
	})
}

// SameTokens reports whether two JSON texts say the same in the same order, however they spell strings and floats. It is for
// what was MessagePack, which has no spelling. Integers are the same only as they are written.
func SameTokens(a, b []byte) bool {
	x, y := json.NewDecoder(bytes.NewReader(a)), json.NewDecoder(bytes.NewReader(b))
	x.UseNumber()
	y.UseNumber()
	for {
		s, errX := x.Token()
		t, errY := y.Token()
		if errX != nil || errY != nil {
			return errX == io.EOF && errY == io.EOF
		}
		if s != t && !sameFloat(s, t) {
			return false
		}
	}
}

func sameFloat(a, b json.Token) bool {
	x, isX := a.(json.Number)
	y, isY := b.(json.Number)
	if !isX || !isY || !strings.ContainsAny(x.String(), ".eE") || !strings.ContainsAny(y.String(), ".eE") {
		return false
	}
	f, errX := x.Float64()
	g, errY := y.Float64()
	return errX == nil && errY == nil && f == g
}

// A reference is what tells a resource in a catalog, or the target of an edge.
type reference struct {
	Type, Title, Target string
}

// CollectedInOneOrder sorts the resources, and the edges to them, for which collected is true, among the places that they
// have. All others stay where they are. What is no catalog stays as it is.
func CollectedInOneOrder(answer []byte, collected func(reference string) bool) []byte {
	out := answer
	for _, list := range []string{`"resources":`, `"edges":`} {
		out = sortedAmong(out, list, collected)
	}
	return out
}

// sortedAmong sorts within the first list of that key. PuppetDB is asked without an order, so the real order is that in which
// PostgreSQL comes upon the rows.
func sortedAmong(text []byte, key string, collected func(reference string) bool) []byte {
	before, after, found := bytes.Cut(text, []byte(key))
	if !found {
		return text
	}
	var elements []json.RawMessage
	d := json.NewDecoder(bytes.NewReader(after))
	if err := d.Decode(&elements); err != nil {
		return text
	}
	var places []int
	var moved []json.RawMessage
	for i, e := range elements {
		if collected(referenceOf(e)) {
			places, moved = append(places, i), append(moved, e)
		}
	}
	slices.SortStableFunc(moved, func(a, b json.RawMessage) int {
		return cmp.Or(cmp.Compare(referenceOf(a), referenceOf(b)), bytes.Compare(a, b))
	})
	for i, place := range places {
		elements[place] = moved[i]
	}
	list := [][]byte{}
	for _, e := range elements {
		list = append(list, e)
	}
	return slices.Concat(before, []byte(key+"["), bytes.Join(list, []byte(",")), []byte("]"), after[d.InputOffset():])
}

// referenceOf is Type[title] of a resource, or the target of an edge.
func referenceOf(element []byte) string {
	var r reference
	if err := json.Unmarshal(element, &r); err != nil || r.Target != "" {
		return strings.TrimSpace(r.Target)
	}
	return r.Type + "[" + r.Title + "]"
}

// PlaceOnce takes a place that an error message names twice in a row once: "(file: F, line: 1) (file: F, line: 1)". What Puppet
// Server 8.7.0 says of a parameter that a type does not have is such; the library under MRI names it once.
func PlaceOnce(body []byte) []byte {
	const begin = "(file: "
	var out []byte
	for {
		i := bytes.Index(body, []byte(begin))
		if i < 0 {
			return append(out, body...)
		}
		n := bytes.IndexByte(body[i:], ')')
		if n < 0 {
			return append(out, body...)
		}
		place := body[i : i+n+1]
		out = append(out, body[:i+n+1]...)
		body = body[i+n+1:]
		if rest, again := bytes.CutPrefix(body, append([]byte(" "), place...)); again {
			body = rest
		}
	}
}
