package authz

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file turns the regular expressions of auth.conf, which are Java's, into
// Go's, and refuses by name what Go's do not have.

// maxPattern bounds a pattern; Go's own limits bound what it compiles to.
const maxPattern = 4096

type javaPattern struct {
	re     *regexp.Regexp
	groups int
	prefix string // every match begins with it at the start of the text; "" when not known
}

// find returns the first match and its groups, or nil. A group that took no part
// is "".
func (p *javaPattern) find(s string) []string { return p.re.FindStringSubmatch(s) }

func compileJava(src string) (*javaPattern, error) {
	if len(src) > maxPattern {
		return nil, fmt.Errorf("the regex is longer than %d bytes", maxPattern)
	}
	translated, err := translateJava(src)
	if err != nil {
		return nil, fmt.Errorf("the regex %q cannot be used: %w", src, err)
	}
	re, err := regexp.Compile(translated)
	if err != nil {
		return nil, fmt.Errorf("the regex %q cannot be used: %w", src, err)
	}
	return &javaPattern{re: re, groups: re.NumSubexp(), prefix: anchoredPrefix(translated)}, nil
}

// anchoredPrefix finds the literal text behind a leading ^, so that most rules
// can be passed over without running their regex.
func anchoredPrefix(src string) string {
	tree, err := syntax.Parse(src, syntax.Perl)
	if err != nil {
		return ""
	}
	tree = tree.Simplify()
	if tree.Op != syntax.OpConcat || len(tree.Sub) < 2 || tree.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	if lit := tree.Sub[1]; lit.Op == syntax.OpLiteral && lit.Flags&syntax.FoldCase == 0 {
		return string(lit.Rune)
	}
	return ""
}

// translateJava rewrites a pattern of java.util.regex for Go.
//
// Two differences need no rewriting because of what is matched: paths and
// certnames never contain line ends (checkPath, puppet.ParseCertname), so "$"
// and "." mean the same in both.
func translateJava(src string) (string, error) {
	t := &translator{src: src}
	for t.off < len(t.src) {
		if err := t.next(); err != nil {
			return "", err
		}
	}
	return t.out.String(), nil
}

type translator struct {
	src string
	off int
	out strings.Builder
}

func (t *translator) next() error {
	switch c := t.src[t.off]; c {
	case '\\':
		return t.escape(false)
	case '[':
		return t.class()
	case '(':
		return t.group()
	case '*', '+', '?', '}':
		return t.quantifier(c)
	default:
		t.out.WriteByte(c)
		t.off++
		return nil
	}
}

// quantifier refuses possessive quantifiers: they forbid backtracking, which
// changes what matches.
func (t *translator) quantifier(c byte) error {
	if strings.HasPrefix(t.src[t.off+1:], "+") {
		return fmt.Errorf("the possessive quantifier %q is not supported; leave out its last '+' if the meaning stays the same", string(c)+"+")
	}
	t.out.WriteByte(c)
	t.off++
	return nil
}

func (t *translator) group() error {
	rest := t.src[t.off:]
	for _, g := range []struct{ open, name string }{
		{"(?=", "a look-ahead"},
		{"(?!", "a negative look-ahead"},
		{"(?<=", "a look-behind"},
		{"(?<!", "a negative look-behind"},
		{"(?>", "an atomic group"},
	} {
		if strings.HasPrefix(rest, g.open) {
			return fmt.Errorf("%s (%s…) is not supported; write what is meant with a deny rule or another rule before this one", g.name, g.open)
		}
	}
	if flags, ok := strings.CutPrefix(rest, "(?"); ok && !strings.HasPrefix(flags, "<") {
		end := strings.IndexAny(flags, ":)")
		if end < 0 {
			return fmt.Errorf("the group %q is not closed", rest)
		}
		if bad := strings.Trim(flags[:end], "ims-"); bad != "" {
			return fmt.Errorf("the regex flag %q is not supported (i, m and s are)", bad)
		}
	}
	t.out.WriteByte('(')
	t.off++
	return nil
}

// class copies a character class. Java's nested classes and intersections have
// no counterpart.
func (t *translator) class() error {
	start := t.off
	t.out.WriteByte('[')
	t.off++
	if strings.HasPrefix(t.src[t.off:], "^") {
		t.out.WriteByte('^')
		t.off++
	}
	for first := true; t.off < len(t.src); first = false {
		switch c := t.src[t.off]; {
		case c == ']' && !first:
			t.out.WriteByte(']')
			t.off++
			return nil
		case c == '[':
			return fmt.Errorf("a class inside a class %q is not supported; write \\[ for the character", t.src[start:])
		case strings.HasPrefix(t.src[t.off:], "&&"):
			return fmt.Errorf("the class intersection && in %q is not supported", t.src[start:])
		case c == '\\':
			if err := t.escape(true); err != nil {
				return err
			}
		default:
			t.out.WriteByte(c)
			t.off++
		}
	}
	return fmt.Errorf("the character class %q is not closed", t.src[start:])
}

// escape translates what follows a backslash.
func (t *translator) escape(inClass bool) error {
	rest := t.src[t.off+1:]
	if rest == "" {
		return fmt.Errorf("it ends in a backslash")
	}
	switch c := rest[0]; {
	case c == 'Q' && !inClass:
		literal, after, _ := strings.Cut(rest[1:], `\E`)
		t.out.WriteString(regexp.QuoteMeta(literal))
		t.off = len(t.src) - len(after)
	case strings.IndexByte("dDsSwWtnrfax", c) >= 0, !inClass && strings.IndexByte("bBAz", c) >= 0:
		t.take(`\`+string(c), 1)
	case c == 'Z' && !inClass:
		t.take(`\z`, 1)
	case c == 'e':
		t.take(`\x1b`, 1)
	case c == 'p' || c == 'P':
		return t.property(rest, inClass)
	case c == 'u':
		return t.codePoint(rest[1:], 4, 16)
	case c == '0':
		digits := len(rest[1:]) - len(strings.TrimLeft(rest[1:], "01234567"))
		return t.codePoint(rest[1:], min(digits, 3), 8)
	case c >= '1' && c <= '9' || c == 'k':
		return fmt.Errorf("the back reference \\%c inside a regex is not supported", c)
	case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		return fmt.Errorf("the escape \\%c is not supported here", c)
	default:
		_, size := utf8.DecodeRuneInString(rest)
		if quoted := rest[:size]; size > 1 || c == ' ' {
			t.take(quoted, size)
		} else {
			t.take(`\`+quoted, size)
		}
	}
	return nil
}

// take writes out and passes over the backslash and n bytes of the source.
func (t *translator) take(out string, n int) {
	t.out.WriteString(out)
	t.off += 1 + n
}

// codePoint translates \uhhhh and \0ooo; digits follow the letter.
func (t *translator) codePoint(rest string, digits, base int) error {
	if digits == 0 || len(rest) < digits {
		return fmt.Errorf("an escape of a code point is cut off")
	}
	n, err := strconv.ParseUint(rest[:digits], base, 16)
	if err != nil {
		return fmt.Errorf("the escape of a code point has bad digits %q", rest[:digits])
	}
	t.take(fmt.Sprintf(`\x{%x}`, n), 1+digits)
	return nil
}

// property translates \p{…}: Java's POSIX names differ from Go's.
func (t *translator) property(rest string, inClass bool) error {
	negated := rest[0] == 'P'
	name, after, ok := strings.Cut(strings.TrimPrefix(rest[1:], "{"), "}")
	if !strings.HasPrefix(rest[1:], "{") || !ok {
		return fmt.Errorf("write a character property with braces, as in \\p{Alpha}")
	}
	classes := map[string]string{
		"Lower": "a-z", "Upper": "A-Z", "ASCII": `\x00-\x7f`, "Alpha": "a-zA-Z", "Digit": "0-9",
		"Alnum": "a-zA-Z0-9", "XDigit": "0-9a-fA-F", "Blank": ` \t`, "Space": ` \t-\r`, "Cntrl": `\x00-\x1f\x7f`,
		"Punct": "!-/:-@\\[-`{-~", "Graph": "!-~", "Print": " -~",
	}
	set, posix := classes[name]
	switch {
	case !posix:
		t.out.WriteString(`\` + rest[:1] + "{" + strings.TrimPrefix(name, "Is") + "}")
	case negated && inClass:
		return fmt.Errorf("\\P{%s} inside a class is not supported", name)
	case negated:
		t.out.WriteString("[^" + set + "]")
	case inClass:
		t.out.WriteString(set)
	default:
		t.out.WriteString("[" + set + "]")
	}
	t.off = len(t.src) - len(after)
	return nil
}
