package haproxy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// This file cuts a text into lines, words and sections, with HAProxy's own rules of quoting.

// What HAProxy itself takes.
const (
	maxLine  = 64 << 10
	maxWords = 1024 // HAProxy takes 64
)

// A reader is one file while it is read.
type reader struct {
	file    string
	options Options
	lines   []*Line
	errs    []error

	global    *global
	defaults  map[string]*proxy // by name; those without one under ""
	last      *proxy            // the defaults section that proxies without "from" have
	proxies   map[string]*proxy // by kind of use and name
	order     []*proxy
	userlists map[string]bool
}

// fail notes a line that is wrong.
func (r *reader) fail(l *Line, format string, args ...any) {
	e := &SyntaxError{r.file, l.Number, fmt.Sprintf(format, args...)}
	if len(r.errs) < maxErrors && !slices.ContainsFunc(r.errs, func(before error) bool { return before.Error() == e.Error() }) {
		r.errs = append(r.errs, e)
	}
}

// read goes through the text.
func (r *reader) read(text string) {
	r.global = &global{verify: true}
	section := r.nowhere
	name := ""
	number := 0
	for raw := range strings.SplitSeq(text, "\n") {
		number++
		l := &Line{Number: number}
		if len(raw) > maxLine {
			r.fail(l, "the line is longer than %d bytes", maxLine)
			continue
		}
		words, err := split(strings.TrimSuffix(raw, "\r"))
		if err != nil {
			r.fail(l, "%v", err)
			continue
		}
		if len(words) == 0 {
			continue
		}
		l.words = words
		r.lines = append(r.lines, l)
		if next := r.section(l); next != nil {
			section, name = next, strings.Join(words[:min(2, len(words))], " ")
			l.Section, l.What = name, name
			continue
		}
		l.Section, l.What = name, what(words)
		if strings.HasPrefix(words[0], ".") {
			l.note(Unmapped, "conditions of the file itself are not followed: what stands between them was read")
			continue
		}
		section(l)
	}
}

// tellPeers is said of HAProxy's peers: edges have them, too, and what they need is in no haproxy.cfg.
const tellPeers = "edges tell each other who sticks to whom when each names the others in peers, by the names in their certificates and over TLS " +
	"(docs/edge.md); HAProxy's file does not say these"

// nowhere is for lines before the first section.
func (r *reader) nowhere(l *Line) {
	r.fail(l, "a line before the first section (global, defaults, frontend, backend, listen)")
}

// section begins the section that a line names; nil for another line.
func (r *reader) section(l *Line) func(*Line) {
	kind := l.words[0]
	switch kind {
	case "global":
		l.note(Unneeded, "an edge is one process with one file")
		return r.readGlobal
	case "defaults", "frontend", "backend", "listen":
		return r.beginProxy(l)
	case "peers":
		l.note(Unmapped, "%s", tellPeers)
		return func(l *Line) { l.note(Unmapped, "see the section peers") }
	case "userlist":
		if len(l.words) > 1 {
			r.userlists[l.words[1]] = true
		}
		l.note(Unmapped, "an edge knows agents by their certificates: there are no users and passwords")
		return func(l *Line) { l.note(Unmapped, "see the section userlist; its content is not repeated here") }
	case "resolvers":
		l.note(Unneeded, "names of servers are looked up by the system at each new connection")
		return func(l *Line) { l.note(Unneeded, "see the section resolvers") }
	case "mailers", "program", "http-errors", "ring", "log-forward", "cache", "fcgi-app", "namespace_list", "crt-store", "traces", "log-profile", "acme":
		l.note(Unmapped, "an edge has nothing like a section %s", kind)
		return func(l *Line) { l.note(Unmapped, "see the section %s", kind) }
	}
	return nil
}

// pairs are the first words that say little alone. Their second word is a keyword of HAProxy or a name, never a secret.
var pairs = []string{
	"option", "timeout", "http-check", "tcp-check", "stick", "stick-table", "http-request", "http-response", "tcp-request", "tcp-response", "no",
	"server", "server-template", "acl", "use_backend", "default_backend", "balance", "hash-type", "stats", "peer", "bind", "mode",
}

// what is how the report calls a line.
func what(words []string) string {
	if len(words) > 1 && slices.Contains(pairs, words[0]) {
		second := words[1]
		if words[0] == "no" && len(words) > 2 {
			second += " " + words[2]
		}
		return clip(words[0] + " " + second)
	}
	return clip(words[0])
}

// clip keeps what is quoted short and printable.
func clip(text string) string {
	const most = 80
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// split cuts a line into words: blanks separate them unless they are quoted or have a backslash before them, and # begins a comment.
// Within '…' nothing has a meaning; within "…" a backslash and variables do.
func split(raw string) (words []string, err error) {
	var word strings.Builder
	open := false // a word has begun, maybe an empty one
	end := func() {
		if open {
			words = append(words, word.String())
		}
		word.Reset()
		open = false
	}
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch c {
		case '#':
			end()
			return limited(words)
		case ' ', '\t':
			end()
		case '\'':
			n := strings.IndexByte(raw[i+1:], '\'')
			if n < 0 {
				return nil, errors.New("a ' is not closed")
			}
			word.WriteString(raw[i+1 : i+1+n])
			i += n + 1
			open = true
		case '"':
			n, closed := weak(raw[i+1:], &word)
			if !closed {
				return nil, errors.New(`a " is not closed`)
			}
			i += n
			open = true
		case '\\':
			n, ok := escape(raw[i+1:], &word)
			if !ok {
				return nil, errors.New(`a \ stands at the end, or before what it does not go with`)
			}
			i += n
			open = true
		default:
			word.WriteByte(c)
			open = true
		}
	}
	end()
	return limited(words)
}

func limited(words []string) ([]string, error) {
	if len(words) > maxWords {
		return nil, fmt.Errorf("the line has more than %d words", maxWords)
	}
	return words, nil
}

// weak reads up to the closing quote and returns how much that was.
func weak(rest string, word *strings.Builder) (n int, closed bool) {
	for i := 0; i < len(rest); i++ {
		switch rest[i] {
		case '"':
			return i + 1, true
		case '\\':
			if i+1 < len(rest) && strings.IndexByte(`\"$`, rest[i+1]) >= 0 {
				i++
			} else if n, ok := escape(rest[i+1:], word); ok {
				i += n
				continue
			}
			word.WriteByte(rest[i])
		default:
			word.WriteByte(rest[i])
		}
	}
	return 0, false
}

// escape reads what follows a backslash.
func escape(rest string, word *strings.Builder) (n int, ok bool) {
	if rest == "" {
		return 0, false
	}
	switch rest[0] {
	case ' ', '\\', '#', '"', '\'', '$':
		word.WriteByte(rest[0])
	case 'r':
		word.WriteByte('\r')
	case 'n':
		word.WriteByte('\n')
	case 't':
		word.WriteByte('\t')
	case 'x':
		if len(rest) < 3 {
			return 0, false
		}
		b, err := strconv.ParseUint(rest[1:3], 16, 8)
		if err != nil || b == 0 {
			return 0, false
		}
		word.WriteByte(byte(b))
		return 3, true
	default: // any other backslash stays as it is: regular expressions have them
		word.WriteByte('\\')
		word.WriteByte(rest[0])
	}
	return 1, true
}
