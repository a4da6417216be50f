package code

import (
	"strconv"

	"troupe/internal/puppet"
)

// This file has the file_metadata model as agents see it
// (puppet/file_serving/metadata.rb and base.rb).

// FileMetadata describes one file, folder or link of a mount.
type FileMetadata struct {
	Path         string // of the original file, or of the folder a search began at
	RelativePath string // below Path, in searches; "" is null
	Links        string // manage or follow
	Owner        int
	Group        int
	Mode         int
	ChecksumType string
	Checksum     string // "{type}value"; "" is null: a link that leads nowhere
	Type         string // file, directory or link
	Destination  string // of a link; "" is null
	ContentURI   string // of static catalogs; "" leaves it out
	Source       string // of static catalogs; "" leaves it out
}

// MetadataOptions are the parameters of a file_metadata request.
type MetadataOptions struct {
	Links             string          // manage, follow or ignore; "" means manage
	ChecksumType      string          // "" means sha256
	SourcePermissions string          // use, use_when_creating or ignore; "" means ignore
	Node              puppet.Certname // who asks: %h, %H and %d in the path of a custom mount
}

// SearchOptions are the parameters of a file_metadatas request.
type SearchOptions struct {
	MetadataOptions
	Recurse      bool
	RecurseLimit *int     // levels below the folder; nil means all
	MaxFiles     int      // 0 warns above 1000, negative never complains
	Ignore       []string // patterns of names, as Ruby's File.fnmatch takes them
}

// AppendJSON appends the form that Puppet's to_data_hash.to_json has, with its
// order of keys.
func (m FileMetadata) AppendJSON(b []byte) []byte {
	b = appendString(append(b, `{"path":`...), m.Path)
	b = appendStringOrNull(append(b, `,"relative_path":`...), m.RelativePath)
	b = appendString(append(b, `,"links":`...), m.Links)
	b = strconv.AppendInt(append(b, `,"owner":`...), int64(m.Owner), 10)
	b = strconv.AppendInt(append(b, `,"group":`...), int64(m.Group), 10)
	b = strconv.AppendInt(append(b, `,"mode":`...), int64(m.Mode), 10)
	b = appendString(append(b, `,"checksum":{"type":`...), m.ChecksumType)
	b = appendStringOrNull(append(b, `,"value":`...), m.Checksum)
	b = appendString(append(b, `},"type":`...), m.Type)
	b = appendStringOrNull(append(b, `,"destination":`...), m.Destination)
	if m.ContentURI != "" {
		b = appendString(append(b, `,"content_uri":`...), m.ContentURI)
	}
	if m.Source != "" {
		b = appendString(append(b, `,"source":`...), m.Source)
	}
	return append(b, '}')
}

// MarshalJSON is AppendJSON for encoding/json. An encoder that escapes HTML still
// turns <, > and & of file names into \u sequences, which mean the same.
func (m FileMetadata) MarshalJSON() ([]byte, error) {
	return m.AppendJSON(nil), nil
}

// AppendMetadatas appends the answer to a search: an array.
func AppendMetadatas(b []byte, list []FileMetadata) []byte {
	b = append(b, '[')
	for i, m := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = m.AppendJSON(b)
	}
	return append(b, ']')
}

func appendStringOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendString quotes s as Ruby's JSON does: control characters, quote and
// backslash are escaped, all else stays. File names that are not UTF-8 get U+FFFD,
// where Ruby would fail the whole answer.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < ' ':
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, string(c)...)
		}
	}
	return append(b, '"')
}
