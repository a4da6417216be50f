package classifier

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestYAMLIsReadAsPsychReadsIt has the answers of Psych 4.0.3, put into JSON.
func TestYAMLIsReadAsPsychReadsIt(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"booleans of YAML 1.1", "[yes, No, TRUE, off, 'yes', y]", `[true,false,true,false,"yes","y"]`},
		{"null in all forms", "[~, null, NULL, '', \"null\"]", `[null,null,null,"","null"]`},
		{"a key without a value", "{a: }\n", `{"a":null}`},
		{"octal", "[017, 0o17, 08, 0]", `[15,"0o17","08",0]`},
		{"hexadecimal and binary", "[0x1F, -0x1f, 0b101]", `[31,-31,5]`},
		{"separators", "[1_000, '1,000', 1_0_0, 1__0]", `[1000,"1,000",100,"1__0"]`},
		{"signs", "[+1, -1]", `[1,-1]`},
		{"a number beyond 64 bits", "123456789012345678901234567890", `123456789012345678901234567890`},
		{"floats", "[1.5, .5, 1., 1.5e+3, 1e3, '.']", `[1.5,0.5,1.0,1500.0,"1e3","."]`},
		{"base 60", "[1:30, '1:30', 1:30:15, 1:2.5]", `[5400,"1:30",5415,3750.0]`},
		{"symbols", "- :a\n- :\"b c\"\n- ':d'\n- a:b\n", `["a","b c",":d","a:b"]`},
		{"versions stay strings", "[1.2.3, v1, 7.23.0-1]", `["1.2.3","v1","7.23.0-1"]`},
		{"the order of keys", "b: 1\na: 2\n", `{"b":1,"a":2}`},
		{"the last of two equal keys", "a: 1\nb: 2\na: 3\n", `{"a":3,"b":2}`},
		{"anchors", "a: &x [1]\nb: *x\n", `{"a":[1],"b":[1]}`},
		{"merge keys", "a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  l: 3\n", `{"a":{"k":1,"l":2},"b":{"k":1,"l":3}}`},
		{"block texts", "a: |\n  yes\n  no\nb: >\n  one\n  two\n", `{"a":"yes\nno\n","b":"one two\n"}`},
		{"text over lines", "a: one\n  two\n", `{"a":"one two"}`},
		{"tags", "[!!str 5, !str yes, !ruby/symbol x, !!int '7']", `["5","yes","x",7]`},
		{"keys that are no strings", "1: a\nyes: b\n:c: d\n", `{"1":"a","true":"b","c":"d"}`},
		{"only the first document", "--- {a: 1}\n--- {b: 2}\n", `{"a":1}`},
		{"comments", "# x\na: 1 # y\n", `{"a":1}`},
		{"nothing, which Puppet calls false", "---\n", `false`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadYAML([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got.json) != tt.want {
				t.Errorf("got  %s\nwant %s", got.json, tt.want)
			}
		})
	}
}

func TestYAMLThatPsychRefusesIsRefused(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"a date", "a: 2026-11-20", "Tried to load unspecified class: Date"},
		{"a time", "a: 2026-11-20 08:00:00 Z", "Tried to load unspecified class: Time"},
		{"a Ruby object", "--- !ruby/object:Gem::Installer\ni: x\n", "Tried to load unspecified class: Gem::Installer"},
		{"a regular expression", "a: !ruby/regexp /x/", "Tried to load unspecified class: Regexp"},
		{"an alias of nothing", "a: *nobody", ""},
		{"infinity", "a: .inf", "the number .inf cannot be sent as JSON"},
		{"brackets that stay open", "a: [1", ""},
		{"bytes that are no UTF-8", "a: 1\n\xff: 2\n", "invalid UTF-8 at line 2"},
		{"control characters", "a: b\x07", "control characters are not allowed at line 1"},
		{"bombs", bomb(), errYAMLTooLarge.Error()},
		{"nesting without end", strings.Repeat("[", 200) + strings.Repeat("]", 200), "nesting is deeper than 100"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadYAML([]byte(tt.in))
			if err == nil || tt.want != "" && err.Error() != tt.want {
				t.Errorf("got %.100s, error %v, want %q", got.json, err, tt.want)
			}
		})
	}
}

// bomb has nine levels of aliases, each ten of the one before: 10 GB when followed.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [xxxxxxxxxx]\n")
	for i := range 9 {
		from, to := string(rune('0'+i)), string(rune('1'+i))
		b.WriteString("a" + to + ": &a" + to + " [" + strings.Repeat("*a"+from+",", 10) + "]\n")
	}
	return b.String()
}

func FuzzLoadYAML(f *testing.F) {
	f.Add([]byte("classes:\n  site:\n    a: yes\nparameters: {p: 017}\nenvironment: :staging\n"))
	f.Add([]byte("a: &x {k: 1}\nb: {<<: *x}\n"))
	f.Add([]byte("- !ruby/sym x\n- 1:30\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := loadYAML(b)
		if err == nil && !json.Valid(v.json) {
			t.Fatalf("%q became %q, which is no JSON", b, v.json)
		}
	})
}
