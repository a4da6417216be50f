package authz

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file checks which files and patterns are accepted, beside what the real
// library and Java accept.

func TestRulesAreAcceptedAsTheRealLibraryDoes(t *testing.T) {
	// Rules, by a part of their text, on which we differ, and why.
	differs := map[string]string{
		`allow-unauthenticated: "yes"`:  "the original takes it for a rule that allows nobody",
		`allow: 5`:                      "a name of digits",
		`{extensions: {a: true}}`:       "a value written without quotes",
		`{extensions: {a: 5}}`:          "a value written without quotes",
		`query-params: {a: 5}`:          "a value written without quotes",
		`name: 7`:                       "a name written without quotes",
		`{rbac: {permission: "a:b:c"}}`: "the original accepts it and never matches",
		`type: path}, sort-order: 1, name: n, allow: "$1"`: "the original answers 500 to each request",
		`allow: "/(/"`:   "the original answers 500 to each request",
		`allow: "/a++/"`: "possessive quantifiers do not exist in Go",
	}
	raw, err := os.ReadFile("testdata/rules.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		recorded, rule, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		_, err := Parse("auth.conf", []byte("authorization: {version: 1, rules: [{"+rule+"}]}"))
		if (err == nil) == (recorded == "accepted") {
			continue
		}
		known := false
		for part, why := range differs {
			known = known || why != "" && strings.Contains(rule, part)
		}
		if !known {
			t.Errorf("{%s}: the original %s it, we say %v", rule, recorded, err)
		}
	}
}

func TestPatternsFindWhatJavaFinds(t *testing.T) {
	raw, err := os.ReadFile("testdata/patterns.tsv")
	if err != nil {
		t.Fatal(err)
	}
	refused := []string{ // +, a** by Java too
		`\101`, `[a[bc]]`, `[a&&b]`, `a++`, `a*+`, `(?=a)`, `(?!a)b`, `(?<=a)b`, `(?>a)`, `(a)\1`, `\R`, `\h`,
		`(?x) a`, `(?u)a`, `\cA`, `\G`, `a{1}{2}`, `+`, `a**`,
	}
	var texts []string
	for line := range strings.Lines(string(raw)) {
		cell := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case strings.HasPrefix(line, "#"):
			continue
		case cell[0] == "texts":
			texts = cell[1:]
			continue
		}
		p, err := compileJava(cell[0])
		switch {
		case (err != nil) != slices.Contains(refused, cell[0]):
			t.Errorf("%s: refused: %v", cell[0], err)
		case err == nil && cell[1] != "refused":
			if got := finds(p, texts); got != cell[1] {
				t.Errorf("%s finds %q, in Java %q", cell[0], got, cell[1])
			}
		}
	}
}

func finds(p *javaPattern, texts []string) string {
	var out []string
	for i, text := range texts {
		if groups := p.find(text); groups != nil {
			out = append(out, strings.Join(append([]string{strconv.Itoa(i)}, groups[1:]...), "="))
		}
	}
	return strings.Join(out, " ")
}

func TestAllProblemsOfAFileAreReportedWithTheirPlaces(t *testing.T) {
	_, err := Parse("auth.conf", []byte(`authorization: {
  version: 1
  rules: [
    { name: a, sort-order: 1, match-request: { path: "/a", type: path }, allow: "a b" }
    { name: a, sort-order: 2000, match-request: { path: "(?=a)", type: regex }, allow: {rbac: {permission: "a:b:c"}} }
  ]
}`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"auth.conf:4:81: the entry \"a b\" of rule \"a\"", "auth.conf:5:5: another rule is already named \"a\", at auth.conf:4:5",
		"auth.conf:5:28: the sort-order", "auth.conf:5:57: the path of rule \"a\"", "Puppet Enterprise",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems do not mention %q:\n%v", want, err)
		}
	}
}
