package puppet

import (
	"encoding/json"
	"strings"
	"testing"

	"troupe/internal/fault"
)

func TestCertnamesFollowPuppetsRule(t *testing.T) {
	tests := []struct {
		name, in string
		ok       bool
	}{
		{"a host", "web1.example.test", true},
		{"one label", "web1", true},
		{"spaces and signs are printable", "a b_c-d@e", true},
		{"empty", "", false},
		{"upper case", "Web1", false},
		{"a slash", "a/b", false},
		{"the folder itself", ".", false},
		{"the folder above", "..", false},
		{"a line break", "a\nb", false},
		{"a trailing line break", "a\n", false},
		{"not ASCII", "wéb", false},
		{"NUL", "a\x00", false},
		{"longest", strings.Repeat("a", 255), true},
		{"too long", strings.Repeat("a", 256), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCertname(tt.in)
			if ok := err == nil; ok != tt.ok {
				t.Fatalf("ParseCertname(%q) error = %v, want ok = %t", tt.in, err, tt.ok)
			}
			if err == nil && string(got) != tt.in {
				t.Errorf("ParseCertname(%q) = %q", tt.in, got)
			}
			if err != nil && fault.KindOf(err) != fault.Invalid {
				t.Errorf("kind of %v = %v, want Invalid", err, fault.KindOf(err))
			}
		})
	}
}

func TestCertnameIsSplitAtItsFirstDot(t *testing.T) {
	for name, want := range map[Certname][2]string{
		"web1.example.test": {"web1", "example.test"},
		"web1":              {"web1", ""},
	} {
		if got := [2]string{name.Hostname(), name.Domain()}; got != want {
			t.Errorf("%s is split into %v, want %v", name, got, want)
		}
	}
}

func TestEnvironmentsAreWordsOnly(t *testing.T) {
	for in, ok := range map[string]bool{
		"production": true, "feature_1": true, "A": true, "": false, "a-b": false, "a/b": false, "..": false, "a\n": false, "é": false,
	} {
		if _, err := ParseEnvironment(in); (err == nil) != ok {
			t.Errorf("ParseEnvironment(%q) error = %v, want ok = %t", in, err, ok)
		}
	}
}

func TestOIDsAreNamedBothWays(t *testing.T) {
	for _, o := range puppetOIDs() {
		name, ok := OIDName(o.oid)
		oid, ok2 := OIDByName(o.short)
		if !ok || !ok2 || name != o.short || oid != o.oid {
			t.Errorf("%s and %s do not name each other: %q, %q", o.oid, o.short, name, oid)
		}
	}
	if name, ok := OIDName("1.3.6.1.4.1.34380.1.2.1"); ok {
		t.Errorf("a private extension has the name %q", name)
	}
}

func TestTrustedHasTheFormThatManifestsSee(t *testing.T) {
	tests := []struct {
		name string
		in   Trusted
		want string
	}{
		{
			"a remote node",
			Trusted{Authenticated: "remote", Certname: "a.b", Extensions: map[string]string{"pp_role": "web"}, Hostname: "a", Domain: "b"},
			`{"authenticated":"remote","certname":"a.b","extensions":{"pp_role":"web"},"hostname":"a","domain":"b","external":{}}`,
		},
		{
			"nobody",
			Trusted{},
			`{"authenticated":false,"certname":null,"extensions":{},"hostname":null,"domain":null,"external":{}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}
