package puppet

import (
	"encoding/json"
	"strings"

	"troupe/internal/fault"
)

// This file names the content types that Puppet speaks and turns them into JSON.

// Content types. Rich ones may hold data with type tags (__ptype) that plain
// JSON cannot say.
const (
	TypeJSON        = "application/json"
	TypeRichJSON    = "application/vnd.puppet.rich+json"
	TypeMsgpack     = "application/x-msgpack"
	TypeRichMsgpack = "application/vnd.puppet.rich+msgpack"
	TypePSON        = "text/pson"
	TypeBinary      = "application/octet-stream"
)

// maxDepth bounds how deep arrays and objects may nest in anything that comes
// from outside. Ruby's own JSON parser stops at 100.
const maxDepth = 200

// ToJSON turns a body of the given content type (parameters such as charset are
// ignored) into one valid JSON value, keeping the order of keys. Its errors are
// faults: Unsupported for another content type, Invalid for a body that is not
// what the type says.
func ToJSON(contentType string, body []byte) (json.RawMessage, error) {
	b, err := inJSON(contentType, body)
	if err != nil {
		return nil, err
	}
	if err := checkJSON(b); err != nil {
		return nil, notInterned(err)
	}
	return b, nil
}

// inJSON does the same for those who read the value at once: what claims to be JSON
// is not checked.
func inJSON(contentType string, body []byte) ([]byte, error) {
	kind, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case TypeJSON, TypeRichJSON:
		return body, nil
	case TypePSON, "pson":
		b, err := PSONToJSON(body)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "Could not intern from pson: %s", err)
		}
		return b, nil
	case TypeMsgpack, TypeRichMsgpack:
		b, err := MsgpackToJSON(body)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "Could not intern from msgpack: %s", err)
		}
		return b, nil
	}
	return nil, fault.New(fault.Unsupported, "Client sent a mime-type (%s) that doesn't correspond to a format we support", contentType)
}

// notInterned words what is wrong with a body of JSON.
func notInterned(err error) error {
	return fault.Wrap(fault.Invalid, err, "Could not intern from json: %s", err)
}

// checkJSON reports what keeps b from being one JSON value of bounded depth.
func checkJSON(b []byte) error { return scan(b, (*scanner).skip) }

// checkDepth walks over JSON or what claims to be JSON.
func checkDepth(b []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errTooDeep
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}
