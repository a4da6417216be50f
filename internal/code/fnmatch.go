package code

import (
	"strings"
	"unicode/utf8"
)

// This file matches names against patterns as Ruby's File.fnmatch does without
// flags, which is what the ignore parameter means.

// fnmatch reports whether the whole name matches. "*" and "?" do not match a
// leading period; "\" takes the next character literally; "[a-c]", "[^a]" and
// "[!a]" are sets; braces and "**" mean nothing special. No name has a slash.
func fnmatch(pattern, name string) bool {
	if name != "" && name[0] == '.' && pattern != "" && (pattern[0] == '*' || pattern[0] == '?' || pattern[0] == '[') {
		return false
	}
	if (len(pattern)-len(strings.TrimRight(pattern, `\`)))%2 == 1 {
		pattern = pattern[:len(pattern)-1] // it escapes nothing
	}

	// Backtracking to the last star alone is enough: an earlier star could only
	// take what the later one can take too.
	var starPattern, starName string
	starred := false
	for {
		switch {
		case pattern != "" && pattern[0] == '*':
			for pattern != "" && pattern[0] == '*' {
				pattern = pattern[1:]
			}
			if pattern == "" {
				return true
			}
			starred, starPattern, starName = true, pattern, name
			continue
		case name == "" && pattern == "":
			return true
		case name != "" && pattern != "":
			if restPattern, restName, ok := matchOne(pattern, name); ok {
				pattern, name = restPattern, restName
				continue
			}
		}
		if !starred || starName == "" {
			return false
		}
		_, size := utf8.DecodeRuneInString(starName)
		starName = starName[size:]
		pattern, name = starPattern, starName
	}
}

// matchOne matches the first character of name.
func matchOne(pattern, name string) (restPattern, restName string, ok bool) {
	c, size := utf8.DecodeRuneInString(name)
	switch pattern[0] {
	case '?':
		return pattern[1:], name[size:], true
	case '[':
		rest, ok := matchSet(pattern[1:], c)
		return rest, name[size:], ok
	case '\\':
		pattern = pattern[1:]
	}
	p, psize := utf8.DecodeRuneInString(pattern)
	if p != c || p == utf8.RuneError && pattern[:psize] != name[:size] {
		return "", "", false
	}
	return pattern[psize:], name[size:], true
}

// matchSet matches c against the set whose "[" was taken. A set without end
// matches nothing. "]" directly after "[" ends the set: an empty one matches
// nothing, too.
func matchSet(set string, c rune) (rest string, ok bool) {
	negated := set != "" && (set[0] == '!' || set[0] == '^')
	if negated {
		set = set[1:]
	}
	matched := false
	for set != "" && set[0] != ']' {
		var low, high rune
		if low, set, ok = setChar(set); !ok {
			return "", false
		}
		high = low
		if len(set) > 1 && set[0] == '-' && set[1] != ']' {
			if high, set, ok = setChar(set[1:]); !ok {
				return "", false
			}
		}
		matched = matched || low <= c && c <= high || c == low || c == high // so in Ruby even if low > high
	}
	if set == "" {
		return "", false
	}
	return set[1:], matched != negated
}

func setChar(set string) (c rune, rest string, ok bool) {
	if set[0] == '\\' {
		set = set[1:]
	}
	if set == "" {
		return 0, "", false
	}
	c, size := utf8.DecodeRuneInString(set)
	return c, set[size:], true
}
