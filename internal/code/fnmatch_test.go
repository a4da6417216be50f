package code

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

// This file compares patterns with Ruby's.

func TestPatternsMatchAsRubysDo(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/": ""})
	patterns := []string{
		"", "*", "**", "?", ".*", "*.orig", ".svn", "[a-c]", "[^a]", "[!a]", "[]a]", "[a", "[a-", "[a-]", "[-a]", `\*`, `\`, `a\`, `[\]]`, `[\`,
		"*?*", "a*b*c", "{a,b}", "**/a", "[.]a", "?a", "*a*a*a*b", "ä?", "[ä-ö]", "[c-a]", "a[b]c", "[[]", "[]", "[!]", "[^]a]", ".[a]", "*.*",
	}
	names := []string{"", "a", "b", ".a", ".svn", "a.orig", ".orig", "abc", "aXbYc", "*", `\`, `a\`, "]", "[", "[a", "-", "ä", "äö", "ö", "{a,b}", "aaaaaaaa", "a[b]c", "abc.orig", "..", "!", "^", "b]"}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		patterns = append(patterns, randomText(rng, `ab.*?[]^!-\`))
		names = append(names, randomText(rng, `ab.[]-\`))
	}

	var queries []query
	for _, p := range patterns {
		queries = append(queries, query{"fnmatch", "production", p, map[string]any{"names": names}})
	}
	for i, answer := range s.ask(t, queries) {
		var want []bool
		if err := json.Unmarshal([]byte(answer), &want); err != nil {
			t.Fatalf("Ruby on pattern %q: %s", patterns[i], answer)
		}
		for j, name := range names {
			if got := fnmatch(patterns[i], name); got != want[j] {
				t.Errorf("fnmatch(%q, %q) = %v, Ruby says %v", patterns[i], name, got, want[j])
			}
		}
	}
}

func randomText(rng *rand.Rand, alphabet string) string {
	var b strings.Builder
	for range rng.IntN(6) {
		b.WriteByte(alphabet[rng.IntN(len(alphabet))])
	}
	return b.String()
}
