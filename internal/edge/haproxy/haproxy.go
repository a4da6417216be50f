// Package haproxy reads the configuration of a HAProxy in front of puppetservers and writes that of an edge in its place.
//
// [Import] reads a file and returns an edge.yaml, and for each line of the input what it became: a setting, a setting that does
// something a little different, nothing because an edge needs none, or nothing because it has no equivalent. It guesses nothing: what
// is not known here is said to be not known. It reads the syntax of HAProxy 2.6; what older and newer ones write differently in the
// parts that puppetservers need is read, too.
//
// HAProxy's defaults are written out where those of an edge are others. No text of the input is repeated but names and values that
// become settings: the rest may hold passwords.
package haproxy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"troupe/internal/config"
)

// A State says what became of a line.
type State string

// The states, from the best to the worst.
const (
	Mapped   State = "mapped"   // it became settings that do the same
	Unneeded State = "unneeded" // an edge does so anyway, or has nothing to set
	Differs  State = "differs"  // it became settings that do something a little different
	Unmapped State = "unmapped" // an edge has nothing like it: what it did is lost
)

func rank(s State) int {
	switch s {
	case Mapped:
		return 1
	case Unneeded:
		return 0
	case Differs:
		return 2
	case Unmapped:
	}
	return 3
}

// A Line is one line of the input with what became of it.
type Line struct {
	Number  int    `json:"line"`
	Section string `json:"section"`
	What    string `json:"what"`  // its first words; never what could be a password
	State   State  `json:"state"` // the worst of Became
	Became  []Note `json:"became"`

	words []string
}

// A Note is what became of one thing that a line says.
type Note struct {
	State State  `json:"state"`
	Text  string `json:"text"`
}

// note adds what a line became. The worst that was said of it is its state. What was said already, of another proxy that has the line
// from the same defaults, is not repeated.
func (l *Line) note(s State, format string, args ...any) {
	if l == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	if slices.ContainsFunc(l.Became, func(n Note) bool { return n.Text == text }) {
		return
	}
	if l.State == "" || rank(s) > rank(l.State) {
		l.State = s
	}
	if len(l.Became) < maxNotes {
		l.Became = append(l.Became, Note{s, text})
	}
}

// maxNotes is more than a line of sense has.
const maxNotes = 40

// A Result is what Import returns.
type Result struct {
	Edge    *config.Edge `json:"-"`
	YAML    string       `json:"edge_yaml"`
	Lines   []*Line      `json:"lines"`
	General []string     `json:"general"` // differences that no single line says
}

// Count returns how many lines are in a state.
func (r *Result) Count(s State) (n int) {
	for _, l := range r.Lines {
		if l.State == s {
			n++
		}
	}
	return n
}

// Options say what Import may look at beside the text.
type Options struct {
	// ReadFile reads a file that the configuration names: addresses of an ACL. Nil: none is read.
	ReadFile func(path string) ([]byte, error)
}

// What is read at most.
const (
	maxText   = 4 << 20
	maxErrors = 50
)

// A SyntaxError is one line that is no configuration of HAProxy.
type SyntaxError struct {
	File string
	Line int
	Why  string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Why) }

// Import reads a haproxy.cfg. name is for its errors, which name all lines that are wrong.
func Import(name string, text []byte, o Options) (*Result, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%s is larger than %d MiB: is it the right file?", name, maxText>>20)
	}
	r := &reader{file: name, options: o, defaults: map[string]*proxy{}, proxies: map[string]*proxy{}, userlists: map[string]bool{}}
	r.read(string(text))
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	b := &builder{reader: r, edge: &config.Edge{Pools: map[string]config.EdgePool{}}, made: map[string]*proxy{}}
	if err := b.build(); err != nil {
		return nil, err
	}
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return b.result(name)
}

// result writes the configuration, and reads it again as the edge will.
func (b *builder) result(name string) (*Result, error) {
	text, err := yaml.MarshalWithOptions(b.edge, yaml.IndentSequence(true))
	if err != nil {
		return nil, err
	}
	checked, err := config.ParseEdge("edge.yaml", text)
	if err != nil {
		return nil, fmt.Errorf("%s becomes a configuration that an edge refuses: %w; this is a mistake of the import: please report it, without secrets", name, err)
	}
	for _, l := range b.lines {
		if l.State != "" && l.State != Unneeded && slices.ContainsFunc(l.words, variable.MatchString) {
			l.note(Unmapped, "%v", errVariable)
		}
		switch {
		case len(l.Became) > 0:
		case l.words[0] == "mode":
			l.note(Unneeded, "the listener says it")
		default:
			l.note(Unneeded, "nothing uses it")
		}
		slices.SortStableFunc(l.Became, func(a, b Note) int { return rank(b.State) - rank(a.State) }) // the worst comes first
	}
	return &Result{Edge: checked, YAML: strings.TrimRight(string(text), "\n") + "\n", Lines: b.lines, General: b.general}, nil
}

// variable is one of HAProxy's environment: an edge reads none.
var variable = regexp.MustCompile(`\$(\{|[A-Za-z_])`)

// plural is for numbers in words.
func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// quoted is a list of names in words, cut where it is long.
func quoted(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
