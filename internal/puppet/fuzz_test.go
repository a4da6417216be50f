package puppet

import (
	"strings"
	"testing"
)

// This file fuzzes the names that become file names, keys and subjects.

func FuzzNames(f *testing.F) {
	for _, s := range []string{"agent1.example.com", "a/../b", "..", "-x", "Ä", "production", "a\x00", "%48", strings.Repeat("a", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := ParseCertname(s); err == nil {
			if string(c) != s || s != strings.ToLower(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '/' }) || s == "." || s == ".." || len(s) > 255 {
				t.Errorf("%q is a certname", s)
			}
			if joined := c.Hostname() + "." + c.Domain(); strings.TrimSuffix(joined, ".") != strings.TrimSuffix(s, ".") {
				t.Errorf("%q is host %q in domain %q", s, c.Hostname(), c.Domain())
			}
		}
		if e, err := ParseEnvironment(s); err == nil && (string(e) != s || strings.ContainsAny(s, "/.\\-\x00 ") || s == "") {
			t.Errorf("%q is an environment", s)
		}
		ObeysRetryAfter(s)
	})
}
