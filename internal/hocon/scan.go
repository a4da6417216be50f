package hocon

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file reads characters: positions, white space, comments, and the three
// kinds of strings.

// A scanner walks through one text. It stands before the byte at off.
type scanner struct {
	file      string
	src       string
	off       int
	line      int
	lineStart int
}

func (s *scanner) pos() Position {
	return Position{s.file, s.line, s.off - s.lineStart + 1}
}

// An error of the scanner or parser unwinds by panic and is caught where parsing
// began; it never leaves the package as a panic.
func (s *scanner) fail(at Position, format string, args ...any) {
	panic(&Error{at, fmt.Sprintf(format, args...)})
}

func (s *scanner) end() bool { return s.off >= len(s.src) }

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.end() {
		return 0
	}
	return s.src[s.off]
}

func (s *scanner) has(prefix string) bool { return strings.HasPrefix(s.src[s.off:], prefix) }

func (s *scanner) newline() {
	s.off++
	s.line++
	s.lineStart = s.off
}

// blank passes over white space inside a line and returns it. HOCON counts every
// Unicode space and the byte order mark.
func (s *scanner) blank() string {
	start := s.off
	for !s.end() {
		c := s.src[s.off]
		if c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f' {
			s.off++
			continue
		}
		if c < utf8.RuneSelf {
			break
		}
		r, size := utf8.DecodeRuneInString(s.src[s.off:])
		if r != '\ufeff' && !isSpace(r) {
			break
		}
		s.off += size
	}
	return s.src[start:s.off]
}

func isSpace(r rune) bool {
	return r == '\u00a0' || r == '\u2007' || r == '\u202f' || r == '\u1680' || r >= '\u2000' && r <= '\u200a' ||
		r == '\u2028' || r == '\u2029' || r == '\u205f' || r == '\u3000'
}

// comment passes over a comment up to the end of its line.
func (s *scanner) comment() bool {
	if s.peek() != '#' && !s.has("//") {
		return false
	}
	for !s.end() && s.peek() != '\n' {
		s.off++
	}
	return true
}

// skip passes over white space, comments and line ends. It reports whether a
// line ended.
func (s *scanner) skip() (lines bool) {
	for {
		s.blank()
		switch {
		case s.comment():
		case s.peek() == '\n':
			s.newline()
			lines = true
		default:
			return lines
		}
	}
}

// unquoted reads a run of characters that need no quotes.
func (s *scanner) unquoted() string {
	start := s.off
	for !s.end() {
		c := s.src[s.off]
		switch {
		case c == '/' && s.has("//"):
			return s.src[start:s.off]
		case c == '+' && s.off > start && number(s.src[start:s.off]+"+0"):
			// the exponent of a number, 1e+3
		case c <= ' ' || strings.IndexByte("$\"{}[]:=,+#`^?!@*&\\", c) >= 0:
			return s.src[start:s.off]
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(s.src[s.off:])
			if isSpace(r) || r == '\ufeff' {
				return s.src[start:s.off]
			}
			s.off += size - 1
		}
		s.off++
	}
	return s.src[start:s.off]
}

// quoted reads a string in quotes, simple or triple.
func (s *scanner) quoted() string {
	if s.has(`"""`) {
		return s.triple()
	}
	at := s.pos()
	s.off++
	var b strings.Builder
	for {
		switch c := s.peek(); {
		case s.end() || c == '\n':
			s.fail(at, "the string that begins here has no closing quote on its line")
		case c == '"':
			s.off++
			return b.String()
		case c == '\\':
			s.escape(&b)
		case c < ' ' && c != '\t':
			s.fail(s.pos(), "control character 0x%02x inside a string; write \\u%04x", c, c)
		default:
			b.WriteByte(c)
			s.off++
		}
	}
}

// triple reads a string in triple quotes: nothing is escaped, and quotes before
// the closing three belong to it.
func (s *scanner) triple() string {
	at := s.pos()
	s.off += 3
	start := s.off
	for !s.end() {
		if s.peek() == '\n' {
			s.newline()
			continue
		}
		if s.has(`"""`) {
			for s.has(`""""`) {
				s.off++
			}
			text := s.src[start:s.off]
			s.off += 3
			return text
		}
		s.off++
	}
	s.fail(at, `the string that begins here has no closing """`)
	return ""
}

func (s *scanner) escape(b *strings.Builder) {
	at := s.pos()
	s.off++
	c := s.peek()
	s.off++
	switch c {
	case '"', '\\', '/':
		b.WriteByte(c)
	case 'b':
		b.WriteByte('\b')
	case 'f':
		b.WriteByte('\f')
	case 'n':
		b.WriteByte('\n')
	case 'r':
		b.WriteByte('\r')
	case 't':
		b.WriteByte('\t')
	case 'u':
		r := s.hex(at)
		if r >= 0xd800 && r < 0xdc00 && s.has(`\u`) {
			s.off += 2
			if low := s.hex(at); low >= 0xdc00 && low < 0xe000 {
				r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
			} else {
				s.fail(at, "half a surrogate pair")
			}
		}
		b.WriteRune(r)
	default:
		s.fail(at, "unknown escape \\%c; a backslash itself is written \\\\", c)
	}
}

func (s *scanner) hex(at Position) rune {
	if len(s.src)-s.off < 4 {
		s.fail(at, "an escape \\u needs four hex digits")
	}
	n, err := strconv.ParseInt(s.src[s.off:s.off+4], 16, 32)
	if err != nil || n < 0 {
		s.fail(at, "an escape \\u needs four hex digits, not %q", s.src[s.off:s.off+4])
	}
	s.off += 4
	return rune(n)
}

// number reports whether text is a number. As in Java, a whole number may begin
// with zeros and must fit into 64 bits.
func number(text string) bool {
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || digits[0] < '0' || digits[0] > '9' || strings.Trim(digits, "0123456789.eE+-") != "" {
		return false
	}
	if !strings.ContainsAny(digits, ".eE") {
		_, err := strconv.ParseInt(text, 10, 64)
		return err == nil
	}
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}
