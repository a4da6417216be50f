package puppet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// This file reads PSON, the JSON of Puppet 3 to 7, whose strings may hold raw
// bytes, whose text may hold comments, and whose documents may be wrapped in an
// envelope.

var errTooDeep = fmt.Errorf("nesting is deeper than %d", maxDepth)

// PSONToJSON converts one PSON value to JSON. A byte that is not UTF-8 becomes
// U+FFFD. An envelope ({"document_type":…, "data":…}) is taken off, as
// lib/puppet/network/formats.rb does.
func PSONToJSON(b []byte) ([]byte, error) {
	out := make([]byte, 0, len(b)+len(b)/16)
	for i := 0; i < len(b); {
		switch c := b[i]; c {
		case '"':
			var n int
			var err error
			if out, n, err = psonString(out, b[i:]); err != nil {
				return nil, err
			}
			i += n
		case '/':
			n, err := psonComment(b[i:])
			if err != nil {
				return nil, err
			}
			out = append(out, ' ')
			i += n
		default:
			out = append(out, c)
			i++
		}
	}
	if err := checkJSON(out); err != nil {
		return nil, err
	}
	return unwrapPSON(out), nil
}

// psonString appends the string literal at the start of b as JSON and returns
// how many bytes of b it took.
func psonString(out, b []byte) ([]byte, int, error) {
	out = append(out, '"')
	for i := 1; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			return append(out, '"'), i + 1, nil
		case c == '\\' && i+1 < len(b):
			// A backslash before any other character stands for that character.
			if bytes.IndexByte([]byte(`"\/bfnrtu`), b[i+1]) >= 0 {
				out = append(out, c, b[i+1])
				i += 2
			} else {
				i++
			}
		case c < ' ':
			out = fmt.Appendf(out, `\u%04x`, c)
			i++
		case c < utf8.RuneSelf:
			out = append(out, c)
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			out = utf8.AppendRune(out, r)
			i += n
		}
	}
	return nil, 0, errors.New("a string has no end")
}

// psonComment returns the length of the comment at the start of b.
func psonComment(b []byte) (int, error) {
	switch {
	case bytes.HasPrefix(b, []byte("//")):
		if n := bytes.IndexAny(b, "\r\n"); n >= 0 {
			return n, nil
		}
		return len(b), nil
	case bytes.HasPrefix(b, []byte("/*")):
		if n := bytes.Index(b[2:], []byte("*/")); n >= 0 {
			return n + 4, nil
		}
		return 0, errors.New("a comment has no end")
	}
	return 0, errors.New("unexpected '/'")
}

// unwrapPSON returns the data of an envelope, or b itself.
func unwrapPSON(b []byte) []byte {
	var envelope struct {
		Type *string         `json:"document_type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(b, &envelope); err != nil || envelope.Type == nil || len(envelope.Data) == 0 {
		return b
	}
	return envelope.Data
}
