package ca

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"troupe/internal/fault"
)

// This file reads csr_attributes.yaml, from which puppetserver takes extensions of
// its own certificate (create-csr-attrs-exts).

const maxCSRAttributes = 1 << 20

// LoadCSRAttributes returns the extension_requests of a csr_attributes.yaml: OID or
// registered short name to value. A file that is not there asks for nothing. The
// custom_attributes are for requests only and never get into a certificate. Like
// lib/puppet/ssl/certificate_request_attributes.rb it refuses every other key.
func LoadCSRAttributes(path string) (map[string]string, error) {
	src, err := readLimited(path, maxCSRAttributes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(src, 0)
	if err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
			return nil, fmt.Errorf("%s:%d: %s", path, e.GetToken().Position.Line, e.GetMessage())
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	y := attributesFile{path}
	out := map[string]string{}
	for _, doc := range file.Docs {
		if err := y.document(doc.Body, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(src)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return src, err
}

type attributesFile struct{ path string }

func (y attributesFile) errorf(n ast.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", y.path, n.GetToken().Position.Line, fmt.Sprintf(format, args...))
}

func (y attributesFile) document(body ast.Node, out map[string]string) error {
	top, err := y.pairs(body, "the file")
	if err != nil {
		return err
	}
	for _, m := range top {
		key := m.Key.GetToken().Value
		if key != "custom_attributes" && key != "extension_requests" {
			return y.errorf(m.Key, "unexpected attribute %q: only custom_attributes and extension_requests can stand here", key)
		}
		entries, err := y.pairs(m.Value, key)
		if err != nil {
			return err
		}
		if key == "custom_attributes" {
			continue
		}
		for _, e := range entries {
			if err := y.extension(e, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// pairs returns the members of a mapping; nothing at all is an empty one.
func (y attributesFile) pairs(n ast.Node, what string) ([]*ast.MappingValueNode, error) {
	switch n := n.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil, nil
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	}
	return nil, y.errorf(n, "%s must hold keys and values", what)
}

func (y attributesFile) extension(m *ast.MappingValueNode, out map[string]string) error {
	key := m.Key.GetToken().Value
	if _, err := grantableOID(key); err != nil {
		return y.errorf(m.Key, "%s", fault.Message(err))
	}
	switch v := m.Value.(type) {
	case *ast.StringNode:
		out[key] = v.Value
	case *ast.LiteralNode:
		out[key] = v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		out[key] = v.GetToken().Value // as the operator wrote it
	default:
		return y.errorf(m.Key, "the value of %s must be a text", key)
	}
	return nil
}
