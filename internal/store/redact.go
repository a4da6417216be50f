package store

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"troupe/internal/atomicfile"
)

// This file takes the values of sensitive parameters out of a catalog before it is
// stored. PuppetDB's terminus does not store them either.

const (
	keyName = "redact.key"
	keySize = 32
)

// redacted is what stands for a value. It differs when the value differs, so that a
// changed password is still seen as a change, but without the key nobody can try
// passwords against it.
const redacted = "[redacted hmac-sha256:%s]"

// loadKey reads the key of a store's folder, or makes it. It is durable before it is
// used: with another key every sensitive parameter would seem to have changed.
func loadKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, keyName)
	key, err := os.ReadFile(path)
	if err == nil && len(key) != keySize {
		return nil, fmt.Errorf("%s has %d bytes, not %d: put it back from a backup, or remove it to get a new one (all sensitive parameters then seem to have changed once)", path, len(key), keySize)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, keySize)
	rand.Read(key) // never fails
	if err := atomicfile.Write(path, key, 0o600); err != nil {
		return nil, fmt.Errorf("write key for sensitive parameters: %w", err)
	}
	return key, nil
}

// Key returns the key of what stands for sensitive parameters, for another member: with the same key, the same secret stands for
// itself in the catalogs of all members.
func (db *DB) Key() []byte { return db.key }

// TakeKey gives a store that is not open yet the key of another member's.
func TakeKey(dir string, key []byte) error {
	if len(key) != keySize {
		return fmt.Errorf("the key for sensitive parameters has %d bytes, not %d", len(key), keySize)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, keyName), key, 0o600)
}

// Redact replaces in a catalog the value of each parameter that its resource lists
// in sensitive_parameters, and what rich data marks as Sensitive further down. Every
// other byte stays as it is, and what is redacted already stays so. SaveCatalog does
// it by itself; whoever compares a fresh catalog with a stored one needs it too.
func (db *DB) Redact(body []byte) ([]byte, error) {
	if !bytes.Contains(body, []byte(`"sensitive_parameters"`)) && !bytes.Contains(body, []byte(`"Sensitive"`)) {
		return body, nil
	}
	r := redaction{body: body, d: json.NewDecoder(bytes.NewReader(body))}
	if _, err := r.value(); err != nil {
		return nil, err
	}
	if _, err := r.d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.Join(errors.New("more than one JSON value"), err)
	}
	return r.rewrite(db.key)
}

// A redaction reads a document once and collects the values that must go.
type redaction struct {
	body  []byte
	d     *json.Decoder
	spans []span
	depth int
}

// maxNesting is far beyond what Puppet itself can serialise.
const maxNesting = 1000

// A span is where a value stands in the document.
type span struct{ from, to int }

// An element is a value that has been read.
type element struct {
	span
	token  json.Token
	fields []field  // of an object
	items  []string // the strings of an array
}

type field struct {
	name  string
	value element
}

func (r *redaction) value() (element, error) {
	from := int(r.d.InputOffset())
	t, err := r.d.Token()
	if err != nil {
		return element{}, err
	}
	from += bytes.IndexFunc(r.body[from:], func(c rune) bool { return c > ' ' && c != ':' && c != ',' })
	e := element{token: t}
	if r.depth++; r.depth > maxNesting {
		return e, fmt.Errorf("nesting is deeper than %d", maxNesting)
	}
	switch t {
	case json.Delim('{'):
		err = r.object(&e)
	case json.Delim('['):
		err = r.array(&e)
	}
	r.depth--
	e.span = span{from, int(r.d.InputOffset())}
	return e, err
}

func (r *redaction) object(e *element) error {
	for r.d.More() {
		name, err := r.d.Token()
		if err != nil {
			return err
		}
		v, err := r.value()
		if err != nil {
			return err
		}
		if name != "parameters" {
			v.fields = nil // what lies deeper has been looked at
		}
		e.fields = append(e.fields, field{name.(string), v}) // a key is always a string
	}
	r.mark(e.fields)
	_, err := r.d.Token()
	return err
}

func (r *redaction) array(e *element) error {
	for r.d.More() {
		v, err := r.value()
		if err != nil {
			return err
		}
		if s, ok := v.token.(string); ok {
			e.items = append(e.items, s)
		}
	}
	_, err := r.d.Token()
	return err
}

// mark notes the values that must go from an object: a resource, or a Sensitive of
// rich data (lib/puppet/pops/serialization/to_data_converter.rb).
func (r *redaction) mark(fields []field) {
	var sensitive []string
	wrapped := false
	for _, f := range fields {
		if f.name == "sensitive_parameters" {
			sensitive = append(sensitive, f.value.items...)
		}
		wrapped = wrapped || f.name == "__ptype" && f.value.token == "Sensitive"
	}
	for _, f := range fields {
		if wrapped && f.name == "__pvalue" {
			r.spans = append(r.spans, f.value.span)
		}
		if f.name != "parameters" || sensitive == nil {
			continue
		}
		for _, p := range f.value.fields {
			if slices.Contains(sensitive, p.name) {
				r.spans = append(r.spans, p.value.span)
			}
		}
	}
}

// rewrite copies the document with the marked values replaced; of those that stand
// in one another the outermost.
func (r *redaction) rewrite(key []byte) ([]byte, error) {
	slices.SortFunc(r.spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to)) })
	out := make([]byte, 0, len(r.body))
	done := 0
	for _, s := range r.spans {
		if s.from < done {
			continue
		}
		text, err := replacement(key, r.body[s.from:s.to])
		if err != nil {
			return nil, err
		}
		out = append(append(out, r.body[done:s.from]...), text...)
		done = s.to
	}
	return append(out, r.body[done:]...), nil
}

var isRedacted = regexp.MustCompile(`^"\[redacted hmac-sha256:[0-9a-f]{32}\]"$`)

// replacement is the same for values that differ only in how they are written: JSON
// and PSON escape differently.
func replacement(key, raw []byte) ([]byte, error) {
	if isRedacted.Match(raw) {
		return raw, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key)
	h.Write(plain)
	return fmt.Appendf(nil, "%q", fmt.Sprintf(redacted, hex.EncodeToString(h.Sum(nil)[:16]))), nil
}
