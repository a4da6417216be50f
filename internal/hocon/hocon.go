// Package hocon reads the part of HOCON that people write into puppetserver's
// conf.d: objects, arrays, the three kinds of strings, substitutions, includes,
// comments, dotted keys, and the merging of objects that are named twice.
//
// Begin with [ParseFile], or with [Parse] for text without includes. Both give
// the root object as a [Value], resolved, with its keys in the order of the
// file and the place of each value for messages. Durations and sizes stay the
// strings that they are; who reads a setting knows its unit.
//
// What a value is, and what joins or replaces what, follows the HOCON
// specification as typesafe-config 1.3.1 (the reader inside puppetserver)
// implements it. Includes of URLs and class paths are refused.
package hocon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// A Kind tells the six sorts of values apart.
type Kind uint8

// The kinds. The zero Value is Null.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// A Position is a place in a file; lines and columns count from 1, columns in bytes.
type Position struct {
	File         string
	Line, Column int
}

func (p Position) String() string {
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// An Error is a problem at a place.
type Error struct {
	Position Position
	Msg      string
}

func (e *Error) Error() string { return e.Position.String() + ": " + e.Msg }

// A Value is one resolved value. Values are immutable and may share parts.
type Value struct {
	kind   Kind
	text   string // of a string, number or boolean, as written
	items  []Value
	fields []Field
	pos    Position
}

// A Field is one member of an object.
type Field struct {
	Key   string
	Value Value
}

// Kind returns what sort of value v is.
func (v Value) Kind() Kind { return v.kind }

// Position returns where v was written.
func (v Value) Position() Position { return v.pos }

// Text returns a string, number or boolean as it was written; "" for the rest.
func (v Value) Text() string { return v.text }

// Items returns the elements of an array. The caller must not change them.
func (v Value) Items() []Value { return v.items }

// Fields returns the members of an object in the order of the file. The caller
// must not change them.
func (v Value) Fields() []Field { return v.fields }

// Get follows keys down through objects. It reports false when one is missing.
func (v Value) Get(keys ...string) (Value, bool) {
	for _, key := range keys {
		i := v.find(key)
		if i < 0 {
			return Value{}, false
		}
		v = v.fields[i].Value
	}
	return v, true
}

func (v Value) find(key string) int {
	for i := range v.fields {
		if v.fields[i].Key == key {
			return i
		}
	}
	return -1
}

// Bool returns a boolean, also one written as the string "true", "yes", "on",
// "false", "no" or "off", as typesafe-config's getBoolean does.
func (v Value) Bool() (b, ok bool) {
	if v.kind != Bool && v.kind != String {
		return false, false
	}
	switch v.text {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

// Int returns a whole number, also one written as a string.
func (v Value) Int() (int, bool) {
	if v.kind != Number && v.kind != String {
		return 0, false
	}
	n, err := strconv.Atoi(v.text)
	return n, err == nil
}

// Errorf returns an Error at v's place.
func (v Value) Errorf(format string, args ...any) *Error {
	return &Error{v.pos, fmt.Sprintf(format, args...)}
}

// MarshalJSON writes v with its keys in order.
func (v Value) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := v.writeJSON(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (v Value) writeJSON(b *bytes.Buffer) error {
	switch v.kind {
	case Null:
		b.WriteString("null")
	case Bool:
		b.WriteString(v.text)
	case Number:
		return writeNumber(b, v.text)
	case String:
		return writeString(b, v.text)
	case Array:
		b.WriteByte('[')
		for i, item := range v.items {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := item.writeJSON(b); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case Object:
		b.WriteByte('{')
		for i, f := range v.fields {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeString(b, f.Key); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := f.Value.writeJSON(b); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	}
	return nil
}

// writeNumber writes a number that JSON may not allow as it was written ("007").
func writeNumber(b *bytes.Buffer, text string) error {
	if json.Valid([]byte(text)) {
		b.WriteString(text)
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("writing a HOCON number as JSON: %w", err)
	}
	b.WriteString(strconv.FormatFloat(f, 'g', -1, 64))
	return nil
}

func writeString(b *bytes.Buffer, s string) error {
	enc, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing a HOCON string as JSON: %w", err)
	}
	b.Write(enc)
	return nil
}

// merge lays over on top of under: objects join key by key, anything else of
// over replaces what lies below.
func merge(under, over Value) Value {
	if under.kind != Object || over.kind != Object {
		return over
	}
	out := Value{kind: Object, pos: over.pos, fields: append([]Field(nil), under.fields...)}
	for _, f := range over.fields {
		if i := out.find(f.Key); i >= 0 {
			out.fields[i].Value = merge(out.fields[i].Value, f.Value)
		} else {
			out.fields = append(out.fields, f)
		}
	}
	return out
}
