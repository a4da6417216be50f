package ruby

import (
	"bytes"
	"encoding/json"
)

// This file puts the operator's own paths back where Puppet saw a snapshot.

// A restorer replaces paths of a snapshot by the paths they were copied from.
type restorer struct{ pairs []replacement }

type replacement struct{ from, to []byte }

// newRestorer takes pairs of snapshot path and original path, longest first.
func newRestorer(paths [][2]string) *restorer {
	r := &restorer{}
	for _, p := range paths {
		r.pairs = append(r.pairs, replacement{quoted(p[0]), quoted(p[1])})
	}
	return r
}

// quoted escapes a path as JSON does, since that is what paths are replaced in.
func quoted(path string) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false) // Ruby does not either
	if err := e.Encode(path); err != nil {
		return []byte(path)
	}
	return bytes.TrimSuffix(bytes.TrimPrefix(bytes.TrimSpace(out.Bytes()), []byte(`"`)), []byte(`"`))
}

// bytes replaces in a JSON text. A path is replaced only where it ends or goes
// on with a slash: /a/production is no part of /a/production_eu.
func (r *restorer) bytes(text []byte) []byte {
	for _, p := range r.pairs {
		if bytes.Contains(text, p.from) {
			text = p.replaceIn(text)
		}
	}
	return text
}

// text replaces in plain text.
func (r *restorer) text(s string) string { return string(r.bytes([]byte(s))) }

func (p replacement) replaceIn(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for {
		before, after, found := bytes.Cut(text, p.from)
		out = append(out, before...)
		if !found {
			return out
		}
		if len(after) > 0 && isWord(after[0]) {
			out = append(out, p.from...)
		} else {
			out = append(out, p.to...)
		}
		text = after
	}
}

func isWord(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
