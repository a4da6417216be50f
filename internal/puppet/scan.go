package puppet

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// This file reads JSON in one pass: what is wanted is taken and all the rest only
// checked. Reports of a megabyte are the reason: encoding/json goes over each byte
// four times before a nested value is understood.

// A scanner stands at a place in a JSON text. Its methods read the value there; an
// error leaves it anywhere. null stands for the zero of every kind, as for
// encoding/json.
type scanner struct {
	text  []byte
	at    int
	depth int
	known map[string]string // strings that come often, each once in memory
}

// errSyntax says that the text is no JSON. json.Unmarshal finds the words.
var errSyntax = errors.New("the text is not JSON")

// scan reads the one value of a text with read.
func scan(text []byte, read func(*scanner) error) error {
	s := &scanner{text: text, known: map[string]string{}}
	err := read(s)
	if err == nil {
		if s.space(); s.at < len(s.text) {
			err = errSyntax
		}
	}
	if !errors.Is(err, errSyntax) {
		return err
	}
	if err := checkDepth(text); err != nil {
		return err
	}
	var v json.RawMessage
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return errSyntax
}

// Members calls each with the name of every member of a JSON object, in its order,
// and the value as it is written. The name holds until each returns.
func Members(object []byte, each func(name []byte, value json.RawMessage) error) error {
	return scan(object, func(s *scanner) error {
		if s.space() != '{' {
			return cmp.Or(s.skip(), error(&kindError{"an object", s.at}))
		}
		return s.members(func(name []byte) error {
			value, err := s.raw()
			if err != nil {
				return err
			}
			return each(name, value)
		})
	})
}

// A kindError says that a value is not of the kind that its place wants.
type kindError struct {
	want string
	at   int
}

func (e *kindError) Error() string {
	return fmt.Sprintf("the value at byte %d is not %s", e.at, e.want)
}

// space steps over white space and returns the byte that follows, or 0.
func (s *scanner) space() byte {
	for ; s.at < len(s.text); s.at++ {
		if c := s.text[s.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
	}
	return 0
}

// members reads an object and calls each with the name of every member, to read its
// value. null has none.
func (s *scanner) members(each func(name []byte) error) error {
	if none, err := s.enter('{', "an object"); none {
		return err
	}
	for first := true; ; first = false {
		if done, err := s.more('}', first); done || err != nil {
			return err
		}
		if s.space() != '"' {
			return errSyntax
		}
		name, err := s.quoted()
		if err != nil {
			return err
		}
		if s.space() != ':' {
			return errSyntax
		}
		s.at++
		if err := each(name); err != nil {
			return err
		}
	}
}

// elements reads an array and calls each to read every element. null has none.
func (s *scanner) elements(each func() error) error {
	if none, err := s.enter('[', "an array"); none {
		return err
	}
	for first := true; ; first = false {
		if done, err := s.more(']', first); done || err != nil {
			return err
		}
		if err := each(); err != nil {
			return err
		}
	}
}

// enter steps into an object or array. none reports that nothing is to be read.
func (s *scanner) enter(open byte, want string) (none bool, err error) {
	if s.space() != open {
		return true, s.null(want)
	}
	s.at++
	if s.depth++; s.depth > maxDepth {
		return true, errTooDeep
	}
	return false, nil
}

// more steps to the next member or element, or out of the last one.
func (s *scanner) more(end byte, first bool) (done bool, err error) {
	switch c := s.space(); {
	case c == end:
		s.at++
		s.depth--
		return true, nil
	case first:
		return false, nil
	case c != ',':
		return false, errSyntax
	}
	s.at++
	return false, nil
}

// null steps over null where something else was wanted. Any other value is an error.
func (s *scanner) null(want string) error {
	if s.space() == 'n' {
		return s.literal("null")
	}
	e := &kindError{want, s.at}
	if err := s.skip(); err != nil {
		return err
	}
	return e
}

func (s *scanner) literal(word string) error {
	if !bytes.HasPrefix(s.text[s.at:], []byte(word)) {
		return errSyntax
	}
	s.at += len(word)
	return nil
}

// skip checks a value.
func (s *scanner) skip() error {
	switch c := s.space(); c {
	case '{':
		return s.members(func([]byte) error { return s.skip() })
	case '[':
		return s.elements(s.skip)
	case '"':
		_, _, err := s.span()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	_, err := s.digits()
	return err
}

// raw returns a value as it is written.
func (s *scanner) raw() (json.RawMessage, error) {
	s.space()
	from := s.at
	err := s.skip()
	return s.text[from:s.at:s.at], err
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// span steps over a string and returns what stands between its quotes. plain
// reports that this is ASCII without escapes.
func (s *scanner) span() (inside []byte, plain bool, err error) {
	i, plain := s.at+1, true
	from := i
	var seen uint64 // all bytes, or-ed
	for {
		// Eight bytes at a time, as long as none is a quote, a backslash or a control character.
		for i+8 <= len(s.text) {
			x := binary.LittleEndian.Uint64(s.text[i:])
			quote, slash := x^(ones*'"'), x^(ones*'\\')
			found := ((quote-ones)&^quote | (slash-ones)&^slash | (x-ones*' ')&^x) & highs
			if found != 0 {
				break
			}
			seen |= x
			i += 8
		}
		for i < len(s.text) && s.text[i] != '"' && s.text[i] != '\\' && s.text[i] >= ' ' {
			seen |= uint64(s.text[i])
			i++
		}
		switch {
		case i >= len(s.text) || s.text[i] < ' ':
			return nil, false, errSyntax
		case s.text[i] == '"':
			s.at = i + 1
			return s.text[from:i], plain && seen&highs == 0, nil
		}
		plain = false
		n := escape(s.text[i:])
		if n == 0 {
			return nil, false, errSyntax
		}
		i += n
	}
}

// escape returns the length of the escape at the start of b, or 0.
func escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) < 6 {
			return 0
		}
		for _, c := range b[2:6] {
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return 0
			}
		}
		return 6
	}
	return 0
}

// quoted reads a string. What it returns may be a part of the text.
func (s *scanner) quoted() ([]byte, error) {
	from := s.at
	inside, plain, err := s.span()
	if err != nil || plain || bytes.IndexByte(inside, '\\') < 0 && utf8.Valid(inside) {
		return inside, err
	}
	var v string
	if err := json.Unmarshal(s.text[from:s.at], &v); err != nil {
		return nil, err
	}
	return []byte(v), nil
}

// str reads a string.
func (s *scanner) str() (string, error) {
	if s.space() != '"' {
		return "", s.null("a string")
	}
	v, err := s.quoted()
	return string(v), err
}

// name reads a string of which the same text has many.
func (s *scanner) name() (string, error) {
	if s.space() != '"' {
		return "", s.null("a string")
	}
	v, err := s.quoted()
	if err != nil {
		return "", err
	}
	if known, ok := s.known[string(v)]; ok {
		return known, nil
	}
	n := string(v)
	s.known[n] = n
	return n, nil
}

// names reads an array of such strings.
func (s *scanner) names() ([]string, error) {
	var all []string
	err := s.elements(func() error {
		n, err := s.name()
		if all == nil {
			all = make([]string, 0, 8)
		}
		all = append(all, n)
		return err
	})
	return all, err
}

// boolean reads true or false.
func (s *scanner) boolean() (bool, error) {
	switch s.space() {
	case 't':
		return true, s.literal("true")
	case 'f':
		return false, s.literal("false")
	}
	return false, s.null("true or false")
}

// digits steps over a number.
func (s *scanner) digits() ([]byte, error) {
	from := s.at
	s.take('-', '-')
	if s.at < len(s.text) && s.text[s.at] == '0' {
		s.at++
	} else if !s.run() {
		return nil, errSyntax
	}
	if s.take('.', '.') && !s.run() {
		return nil, errSyntax
	}
	if s.take('e', 'E') {
		s.take('+', '-')
		if !s.run() {
			return nil, errSyntax
		}
	}
	return s.text[from:s.at], nil
}

// take steps over one of two bytes.
func (s *scanner) take(a, b byte) bool {
	if s.at < len(s.text) && (s.text[s.at] == a || s.text[s.at] == b) {
		s.at++
		return true
	}
	return false
}

// run steps over digits and reports whether there were any.
func (s *scanner) run() bool {
	from := s.at
	for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at > from
}

// numeral returns the digits of the number that is wanted here; nil is null.
func (s *scanner) numeral(want string) ([]byte, error) {
	if c := s.space(); c != '-' && (c < '0' || c > '9') {
		return nil, s.null(want)
	}
	return s.digits()
}

func (s *scanner) integer() (int, error) {
	at := s.at
	n, err := s.numeral("an integer")
	if n == nil || err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(string(n))
	if err != nil {
		return 0, &kindError{"an integer", at}
	}
	return v, nil
}

func (s *scanner) float() (float64, error) {
	at := s.at
	n, err := s.numeral("a number")
	if n == nil || err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return 0, &kindError{"a number of 64 bits", at}
	}
	return v, nil
}
