package hocon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// This file tests the package against what typesafe-config was seen to do.

func TestTextsMeanWhatTypesafeConfigMakesOfThem(t *testing.T) {
	// Cases in which we differ on purpose.
	differs := map[string]string{
		"mix":  "typesafe-config 1.3.1 drops a text beside a list; its specification and we refuse it",
		"mix2": "the same beside an object",
		"ctrl": "a tab inside a quoted string does no harm",
	}
	for _, c := range readCorpus(t) {
		if _, ok := differs[c.name]; ok {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			v, err := Parse(c.name, []byte(c.text))
			want := strings.TrimSpace(c.json)
			if want == "refused" {
				if err == nil {
					t.Errorf("accepted, typesafe-config refuses it")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decode(t, []byte(want)), decode(t, marshal(t, v))); diff != "" {
				t.Errorf("(-typesafe-config +ours):\n%s", diff)
			}
		})
	}
}

type corpusCase struct{ name, text, json string }

// readCorpus reads testdata/typesafe.txtar: after a comment, pairs of a text and
// what it means, each below a line with its name.
func readCorpus(tb testing.TB) []corpusCase {
	tb.Helper()
	raw, err := os.ReadFile("testdata/typesafe.txtar")
	if err != nil {
		tb.Fatal(err)
	}
	var cases []corpusCase
	var into *string
	for line := range strings.Lines(string(raw)) {
		name, isHead := strings.CutPrefix(strings.TrimSuffix(line, " --\n"), "-- ")
		switch conf, isText := strings.CutSuffix(name, ".conf"); {
		case isHead && isText:
			cases = append(cases, corpusCase{name: conf})
			into = &cases[len(cases)-1].text
		case isHead:
			into = &cases[len(cases)-1].json
		case into != nil:
			*into += strings.NewReplacer("<CR>", "\r", "<BOM>", "\ufeff").Replace(line)
		}
	}
	if len(cases) < 70 {
		tb.Fatalf("the corpus has %d cases only", len(cases))
	}
	return cases
}

func decode(t *testing.T, src []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(src, &v); err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return v
}

func marshal(t *testing.T, v Value) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestErrorsNameTheirPlace(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a = 1\nb = \"x\n", "f:2:5: the string that begins here has no closing quote on its line"},
		{"a {\n  b = 1\n", "f:1:3: the object that begins here is not closed"},
		{"a = [1,\n 2\n", "f:1:5: the list that begins here is not closed"},
		{"a = 1\n}", "f:2:1: unexpected '}' after the end of the configuration"},
		{"a = 1\nb = ${a.c}", "f:2:5: ${a.c} is not defined"},
		{"a = b c: d", "f:1:8: unexpected ':'; a comma or a new line is missing, or the text needs quotes"},
		{"a b", "f:1:4: after the key \"a b\" comes a colon"},
		{"a = *", "f:1:5: a value is missing before '*' at line 1"},
		{"include \"x\"", "f:1:1: include \"x\": an include needs a file on disk"},
		{"a = [1] x", "f:1:9: an array and a string cannot be joined"},
		{strings.Repeat("a {", 200), "more than 100 levels of nesting"},
		{strings.Repeat("a.", 200) + "b = 1", "more than 100 levels of nesting"},
		{"a = " + strings.Repeat("[", 200), "more than 100 levels of nesting"},
	} {
		_, err := Parse("f", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.30q: got %v, want %q", c.text, err, c.want)
		}
	}
}

func TestTextsThatExplodeAreStopped(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0 = xxxxxxxxxxxxxxxx\n")
	for i := 1; i < 40; i++ {
		prev := "${a" + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10)) + "}"
		if i == 1 {
			prev = "${a0}"
		}
		b.WriteString("a" + string(rune('0'+i/10)) + string(rune('0'+i%10)) + " = " + prev + prev + "\n")
	}
	if _, err := Parse("f", []byte(b.String())); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("f", make([]byte, maxSize+1)); err == nil || !strings.Contains(err.Error(), "bytes, more than") {
		t.Errorf("got %v", err)
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestIncludedFilesJoinWhereTheyAreNamed(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "main.conf", `
before = 1
include "more.conf"
section {
  include file("sub/inner")
  own = ${section.value}
}
include "missing.conf"
`)
	write(t, dir, "more.conf", "before = 2\nmore = ${before}\n")
	write(t, dir, "sub/inner.conf", "value = 3\nself = ${value}\nouter = ${more}\n")
	v, err := ParseFile(main, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"before":2,"more":2,"section":{"value":3,"self":3,"outer":2,"own":3}}`
	if got := string(marshal(t, v)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	inner, _ := v.Get("section", "value")
	if got := inner.Position().String(); got != filepath.Join(dir, "sub/inner.conf")+":1:9" {
		t.Errorf("the included value is placed at %s", got)
	}
}

func TestIncludesThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"missing but required", `include required(file("nope.conf"))`, "file does not exist"},
		{"a file that includes itself", `include "main.conf"`, "files include each other"},
		{"URL", `include url("http://example.com/x")`, "only include"},
		{"error inside", `include "bad.conf"`, "bad.conf:1:5: a value is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "bad.conf", "a = ")
			_, err := ParseFile(write(t, dir, "main.conf", c.text), Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTheEnvironmentAnswersWhatTheFileDoesNot(t *testing.T) {
	path := write(t, t.TempDir(), "f.conf", "a = ${HOME}/x\nb = ${USER}\nUSER = file\nc = ${?NONE}\n")
	v, err := ParseFile(path, Options{Env: func(name string) (string, bool) { return "env-" + name, name != "NONE" }})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(marshal(t, v)), `{"a":"env-HOME/x","b":"file","USER":"file"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range readCorpus(f) {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		v, err := Parse("fuzz", src)
		if err != nil {
			return
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%q cannot be written as JSON: %v", src, err)
		}
		if _, err := Parse("again", out); err != nil {
			t.Errorf("%q became %s, which cannot be read: %v", src, out, err)
		}
	})
}
