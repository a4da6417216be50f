package agentapi

import "testing"

func TestEscapesAreUndoneAsRubyDoes(t *testing.T) {
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"%7B%22a%22%7d": `{"a"}`,
		"a+b%2Bc":       "a b+c",
		"100%":          "100%",
		"%zz%4":         "%zz%4",
		"%C3%A9":        "é",
		"%25%32%35":     "%25",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}
