package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// This file reads ACLs and the conditions made of them, as far as an edge has rules for them.

// The kinds of terms.
const (
	bySource      = "source"
	byName        = "sni"
	byPath        = "path"
	byEnvironment = "environment"
	byCertname    = "certname"
	byQueue       = "queue" // of a pool
)

// A term is one test: of its values one must fit.
type term struct {
	kind   string
	source []netip.Prefix
	values []string
	pool   string  // of byQueue
	above  float64 // waiting for each server
	line   *Line
}

// A choice is terms that must all fit.
type choice []term

// maxChoices bounds what a condition is taken apart to.
const maxChoices = 64

// condition reads what stands behind use_backend NAME: the choices of which one must fit. What cannot be said in rules is noted, and
// left out.
func (r *reader) condition(p *proxy, l *Line, words []string) []choice {
	if words[0] == "unless" {
		l.note(Unmapped, "rules say what fits, never what does not: unless is lost")
		return nil
	}
	words = words[1:]
	var all []choice
	current, good := []choice{{}}, true
	end := func() {
		if good {
			all = append(all, current...)
		}
		current, good = []choice{{}}, true
	}
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "or" || word == "||" {
			end()
			continue
		}
		name, negated := strings.CutPrefix(word, "!")
		if name == "" && negated && i+1 < len(words) {
			i++
			name = words[i]
		}
		var tests []setting
		if name == "{" {
			n := slices.Index(words[i:], "}")
			if n < 2 {
				r.fail(l, "the condition in { } is not closed, or empty")
				return nil
			}
			tests = []setting{{words[i+1 : i+n], l}}
			i += n
		} else if tests = p.acls[name]; tests == nil {
			fits, known := predefined[name]
			switch {
			case !known:
				r.fail(l, "there is no acl %q in %s", clip(name), p.title())
				return nil
			case name == "LOCALHOST":
				tests = []setting{{[]string{"src", "127.0.0.0/8"}, l}}
			case fits == depends:
				l.note(Unmapped, "rules do not look at %s", name)
				good = false
				continue
			case (fits == always) == negated:
				l.note(Unneeded, "a condition with %s that never fits", word)
				good = false
				continue
			default:
				continue
			}
		}
		if negated {
			l.note(Unmapped, "rules say what fits, never what does not: a condition with ! is lost")
			good = false
			continue
		}
		if current = r.both(l, current, r.terms(tests)); len(current) == 0 {
			good = false
			current = []choice{{}}
		}
	}
	end()
	return all
}

// How HAProxy's own ACLs fit what an edge sees.
const (
	depends = iota // on what no rule looks at
	always
	never
)

// predefined are they. One of the file's own with the same name comes before.
var predefined = map[string]int{
	"TRUE": always, "FALSE": never, "HTTP": always, "HTTP_1.1": always, "REQ_CONTENT": always, "WAIT_END": always, "LOCALHOST": depends,
	"HTTP_1.0": depends, "HTTP_2.0": depends, "HTTP_CONTENT": depends, "HTTP_URL_ABS": depends, "HTTP_URL_SLASH": depends, "HTTP_URL_STAR": depends,
	"METH_CONNECT": depends, "METH_DELETE": depends, "METH_GET": depends, "METH_HEAD": depends, "METH_OPTIONS": depends, "METH_POST": depends,
	"METH_PUT": depends, "METH_TRACE": depends, "RDP_COOKIE": depends,
}

// both are the choices with one more of the terms each.
func (r *reader) both(l *Line, choices []choice, terms []term) (all []choice) {
	if len(choices)*len(terms) > maxChoices {
		l.note(Unmapped, "the condition has more than %d parts", maxChoices)
		return nil
	}
	for _, c := range choices {
		for _, t := range terms {
			if slices.ContainsFunc(c, func(o term) bool { return o.kind == t.kind }) {
				l.note(Unmapped, "two conditions on %s at once cannot be said", t.kind)
				continue
			}
			all = append(all, append(slices.Clone(c), t))
		}
	}
	return all
}

// terms reads the lines of one ACL: one of them must fit.
func (r *reader) terms(tests []setting) (all []term) {
	for _, s := range tests {
		t, err := r.term(s)
		if err != nil {
			s.line.note(Unmapped, "%v", err)
			continue
		}
		t.line = s.line
		all = append(all, t)
	}
	return all
}

// A criterion is an ACL's test taken apart.
type criterion struct {
	name, argument string
	method         string // of -m
	cased          bool   // letters are made small or large before they are compared
	values         []string
}

func (r *reader) criterion(s setting) (c criterion, err error) {
	var converters []string
	c.name, c.argument, converters = fetch(s.words[0])
	for _, converter := range converters {
		if converter != "lower" && converter != "upper" {
			return c, fmt.Errorf("rules compare what is there, not what %s makes of it", clip(converter))
		}
		c.cased = true
	}
	words := s.words[1:]
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		flag := words[0]
		words = words[1:]
		switch flag {
		case "-i", "-n", "-M":
		case "--":
			c.values = append(c.values, words...)
			return c, nil
		case "-m", "-f", "-u":
			if len(words) == 0 {
				return c, fmt.Errorf("%s needs a value", flag)
			}
			switch flag {
			case "-m":
				c.method = words[0]
			case "-f":
				more, err := r.valuesOf(words[0])
				if err != nil {
					return c, err
				}
				c.values = append(c.values, more...)
			}
			words = words[1:]
		default:
			return c, fmt.Errorf("the flag %s is not known here", clip(flag))
		}
	}
	c.values = append(c.values, words...)
	return c, nil
}

// fetch takes a sample apart: what is looked at, with an argument in brackets, and the converters behind it.
func fetch(text string) (name, argument string, converters []string) {
	depth, begin := 0, 0
	var parts []string
	for i, r := range text {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth <= 0:
			parts, begin = append(parts, text[begin:i]), i+1
		}
	}
	parts = append(parts, text[begin:])
	name, argument, _ = strings.Cut(parts[0], "(")
	return name, strings.TrimSuffix(argument, ")"), parts[1:]
}

// What a file of values may hold.
const (
	maxFile   = 1 << 20
	maxValues = 20_000
)

// valuesOf reads a file of values, one a line. It never repeats what is in it.
func (r *reader) valuesOf(path string) (all []string, err error) {
	if r.options.ReadFile == nil {
		return nil, fmt.Errorf("the file %s was not read: write its values into the rule", clip(path))
	}
	text, err := r.options.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the file of values cannot be read: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("the file %s is larger than %d MiB", clip(path), maxFile>>20)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if all = append(all, line); len(all) > maxValues {
			return nil, fmt.Errorf("the file %s has more than %d values", clip(path), maxValues)
		}
	}
	return all, nil
}

func (r *reader) term(s setting) (t term, err error) {
	c, err := r.criterion(s)
	if err != nil {
		return t, err
	}
	switch c.name {
	case "src", "path", "path_beg", "urlp", "url_param":
		if c.cased {
			return t, fmt.Errorf("rules compare %s as it is written", c.name)
		}
	}
	switch c.name {
	case "src":
		t.kind = bySource
		for i, v := range c.values {
			n, err := network(v)
			if err != nil {
				return t, fmt.Errorf("value %d of src is neither an address nor a network", i+1)
			}
			t.source = append(t.source, n)
		}
	case "avg_queue", "nbsrv":
		return queueTerm(c)
	case "req.ssl_sni", "req_ssl_sni", "ssl_fc_sni", "hdr", "req.hdr", "req.fhdr", "hdr_end", "ssl_fc_sni_end":
		t.kind = byName
		if strings.Contains(c.name, "hdr") && !strings.EqualFold(c.argument, "host") {
			return t, fmt.Errorf("rules do not look at the header %s", clip(c.argument))
		}
		t.values, err = names(c)
	case "path_beg", "path":
		t.kind = byPath
		if c.name == "path" && c.method != "beg" {
			return t, fmt.Errorf("rules know the beginnings of paths: path_beg")
		}
		t.values = c.values
	case "urlp", "url_param":
		t.kind = byEnvironment
		if c.argument != "environment" || c.method != "" && c.method != "str" {
			return t, fmt.Errorf("rules know the parameter environment alone, whole")
		}
		t.values = c.values
	case "ssl_c_s_dn":
		t.kind = byCertname
		if !strings.EqualFold(c.argument, "cn") {
			return t, fmt.Errorf("rules know the CN of a certificate: ssl_c_s_dn(cn)")
		}
		t.values, err = patterns(c)
	default:
		return t, fmt.Errorf("rules do not look at %s", clip(c.name))
	}
	if err == nil && len(t.source)+len(t.values) == 0 {
		err = fmt.Errorf("%s has no value", c.name)
	}
	return t, err
}

// names are the values as an edge has names: whole, or *.example.com.
func names(c criterion) (all []string, err error) {
	ends := c.method == "end" || strings.HasSuffix(c.name, "_end")
	switch {
	case ends, c.method == "", c.method == "str":
	default:
		return nil, fmt.Errorf("names are compared whole or by their end, not by -m %s", clip(c.method))
	}
	for _, v := range c.values {
		v = strings.ToLower(strings.TrimSuffix(v, "."))
		if ends {
			if !strings.HasPrefix(v, ".") {
				return nil, fmt.Errorf("names end at a dot: -m end .example.com")
			}
			v = "*" + v
		}
		all = append(all, v)
	}
	return all, nil
}

// patterns are the values as an edge has certnames: with * and ?.
func patterns(c criterion) (all []string, err error) {
	for _, v := range c.values {
		if strings.ContainsAny(v, `*?[]\`) {
			return nil, fmt.Errorf("%q is no certname", clip(v))
		}
		v = strings.ToLower(v)
		switch c.method {
		case "", "str":
		case "beg":
			v += "*"
		case "end":
			v = "*" + v
		case "sub":
			v = "*" + v + "*"
		default:
			return nil, fmt.Errorf("certnames are compared by patterns, not by -m %s", clip(c.method))
		}
		all = append(all, v)
	}
	return all, nil
}

// queueTerm reads avg_queue(pool) and nbsrv(pool). HAProxy rounds the average up, so "gt 1" is true from just above 1.
func queueTerm(c criterion) (t term, err error) {
	t = term{kind: byQueue, pool: c.argument}
	if t.pool == "" {
		return t, fmt.Errorf("%s needs a backend", c.name)
	}
	op, text := "eq", ""
	switch len(c.values) {
	case 1:
		text = c.values[0]
		if least, more := strings.CutSuffix(text, ":"); more {
			op, text = "ge", least
		}
	case 2:
		op, text = c.values[0], c.values[1]
	}
	n, err := number(text, 0, 1<<20)
	if err != nil {
		return t, fmt.Errorf("%s is compared with one number", c.name)
	}
	if c.name == "nbsrv" {
		if op == "lt" && n >= 1 || op == "le" || op == "eq" && n == 0 {
			t.above = endless
			if op == "lt" && n > 1 || op == "le" && n > 0 {
				t.values = []string{"late"}
			}
			return t, nil
		}
		return t, fmt.Errorf("another pool takes over when a pool has no server left: nbsrv lt 1")
	}
	switch {
	case op == "gt":
		t.above = float64(n)
	case op == "ge" && n > 0:
		t.above = float64(n) - 1
		if n == 1 {
			t.above = 0
		}
	default:
		return t, fmt.Errorf("another pool takes over above a number: avg_queue gt N")
	}
	return t, nil
}

// endless is a queue that no pool has: there another pool takes over only when no server is left.
const endless = 100_000
