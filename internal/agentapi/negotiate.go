package agentapi

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"troupe/internal/puppet"
)

// This file chooses the content type of an answer.

// A format is a content type under the name that Puppet gives it.
type format struct {
	name string
	mime string
	sent string // as the Content-Type header of an answer has it
}

// Puppet's formats in the order of the server's preference: JSON first, because
// preferred_serialization_format says so, then by weight
// (lib/puppet/network/format_support.rb, formats.rb).
var (
	formatRichJSON    = format{"rich_data_json", puppet.TypeRichJSON, puppet.TypeRichJSON + "; charset=utf-8"}
	formatJSON        = format{"json", puppet.TypeJSON, puppet.TypeJSON + ";charset=utf-8"}
	formatRichMsgpack = format{"rich_data_msgpack", puppet.TypeRichMsgpack, puppet.TypeRichMsgpack}
	formatMsgpack     = format{"msgpack", puppet.TypeMsgpack, puppet.TypeMsgpack}
	formatPSON        = format{"pson", puppet.TypePSON, puppet.TypePSON}
	formatBinary      = format{"binary", puppet.TypeBinary, puppet.TypeBinary}

	dataFormats    = []format{formatJSON, formatMsgpack, formatPSON}
	catalogFormats = []format{formatRichJSON, formatJSON, formatRichMsgpack, formatMsgpack, formatPSON}
	binaryFormats  = []format{formatBinary}
)

// rich reports whether the format can hold rich data.
func (f format) rich() bool { return f.name == "rich_data_json" || f.name == "rich_data_msgpack" }

// accepted returns the format of the answer: the first in the Accept header that
// is supported. Quality values are ignored, as Puppet ignores them.
func (q *request) accepted(supported []format) (format, error) {
	header := q.accept()
	if header == "" {
		return format{}, &problem{http.StatusBadRequest, "MISSING_HEADER_FIELD", "Bad Request: Missing required Accept header"}
	}
	return choose(header, supported)
}

// acceptedOrJSON is accepted for requests that save something: without an
// Accept header they get JSON.
func (q *request) acceptedOrJSON(supported []format) (format, error) {
	return choose(cmp.Or(q.accept(), puppet.TypeJSON), supported)
}

func (q *request) accept() string { return strings.Join(q.Header.Values("Accept"), ", ") }

func choose(header string, supported []format) (format, error) {
	for item := range strings.SplitSeq(header, ",") {
		item, _, _ = strings.Cut(strings.TrimSpace(item), ";q=")
		if item == "*/*" {
			return supported[0], nil
		}
		item = strings.ToLower(item)
		i := slices.IndexFunc(supported, func(f format) bool { return item == f.mime || item == f.name })
		if i >= 0 {
			return supported[i], nil
		}
	}
	return format{}, notAcceptable(header)
}

func notAcceptable(header string) error {
	return &problem{
		http.StatusNotAcceptable, "UNSUPPORTED_FORMAT",
		"Not Acceptable: No supported formats are acceptable (Accept: " + header + ")",
	}
}

// encode turns JSON into the format.
func (f format) encode(b []byte) ([]byte, error) {
	if f.name == "msgpack" || f.name == "rich_data_msgpack" {
		return puppet.JSONToMsgpack(b)
	}
	return b, nil // JSON is PSON too
}
