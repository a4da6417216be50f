package hocon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// This file reads files, and the files that they include.

// maxIncludes bounds how deep includes nest, and so ends a file that includes itself.
const maxIncludes = 16

// Options tunes ParseFile.
type Options struct {
	// Env answers substitutions that the file does not; nil means that there is
	// no environment. puppetserver uses its process's.
	Env func(name string) (string, bool)
}

// ParseFile reads the file and the files that it includes.
func ParseFile(path string, o Options) (Value, error) {
	src, err := readFile(path)
	if err != nil {
		return Value{}, fmt.Errorf("reading a HOCON file: %w", err)
	}
	n, err := parse(path, src, nil, &includer{dir: filepath.Dir(path)})
	if err != nil {
		return Value{}, err
	}
	return resolve(n, o.Env)
}

// readFile reads at most one byte more than a file may have.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	return src, errors.Join(err, f.Close())
}

type includer struct {
	dir   string
	depth int
}

// includeFollows tells the statement from a key that only begins with the word.
func (p *parser) includeFollows() bool {
	rest := strings.TrimLeft(p.src[p.off+len("include"):], " \t")
	return len(rest) < len(p.src)-p.off-len("include") && strings.HasPrefix(rest, `"`) ||
		strings.HasPrefix(rest, "file(") || strings.HasPrefix(rest, "required(") ||
		strings.HasPrefix(rest, "url(") || strings.HasPrefix(rest, "classpath(")
}

// include reads the statement and lays the file's fields over those of n.
func (p *parser) include(n *node) {
	at := p.pos()
	p.off += len("include")
	required, open := false, 0
	for p.blank(); p.peek() != '"'; p.blank() {
		switch {
		case p.has("required("):
			required = true
			p.off += len("required(")
		case p.has("file("):
			p.off += len("file(")
		default:
			p.fail(at, `only include "name" and include file("name") are supported`)
		}
		open++
	}
	name := p.quoted()
	for ; open > 0; open-- {
		if p.blank(); p.peek() != ')' {
			p.fail(at, "the include is not closed: ) is missing")
		}
		p.off++
	}
	if p.open == nil {
		p.fail(at, "include %q: an include needs a file on disk to be relative to", name)
	}
	included, err := p.open.read(name, p.path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return
	}
	if err != nil {
		if inner, ok := errors.AsType[*Error](err); ok {
			panic(inner)
		}
		p.fail(at, "include %q: %v", name, err)
	}
	for _, f := range included.fields {
		n.set(f.key, f.value)
	}
}

// read parses an included file; without a suffix, .conf and .json are tried.
func (i *includer) read(name string, at []string) (*node, error) {
	if i.depth+1 > maxIncludes {
		return nil, fmt.Errorf("more than %d files include each other", maxIncludes)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(i.dir, name)
	}
	candidates := []string{name}
	if filepath.Ext(name) == "" {
		candidates = []string{name + ".conf", name + ".json"}
	}
	for _, path := range candidates {
		src, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return parse(path, src, append([]string(nil), at...), &includer{filepath.Dir(path), i.depth + 1})
	}
	return nil, fs.ErrNotExist
}
