package classifier

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// This file decides what an unquoted YAML scalar means, by the rules of YAML 1.1
// as Psych's scalar_scanner.rb has them.

var (
	wordScalar    = regexp.MustCompile(`^[^\d.:\-]?[\p{L}\p{M}_\s!@#$%^&*(){}<>|/\\~;=]+`)
	timeScalar    = regexp.MustCompile(`^-?\d{4}-\d{1,2}-\d{1,2}(?:[Tt]|\s+)\d{1,2}:\d\d:\d\d(?:\.\d*)?(?:\s*(?:Z|[-+]\d{1,2}:?(?:\d\d)?))?$`)
	dateScalar    = regexp.MustCompile(`^\d{4}-(?:1[012]|0\d|\d)-(?:[12]\d|3[01]|0\d|\d)$`)
	base60Scalar  = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(:[0-5]?[0-9]){1,2}(\.[0-9_]*)?$`)
	floatScalar   = regexp.MustCompile(`^[-+]?([0-9][0-9_,]*)?\.[0-9]*([eE][+-][0-9]+)?$`)
	integerScalar = regexp.MustCompile(`^(?:[-+]?0b[0-1_,]+|[-+]?0[0-7_,]+|[-+]?(?:0|[1-9](?:[0-9]|,[0-9]|_[0-9])*)|[-+]?0x[0-9a-fA-F_,]+)$`)
	trailingDot   = regexp.MustCompile(`[,_]|\.([Ee]|$)`)
)

// scalar returns the value of an unquoted scalar.
func scalar(s string) (value, error) {
	lower := strings.ToLower(s)
	switch {
	case s == "":
		return literal("null", "NilClass", ""), nil
	case wordScalar.MatchString(s) || strings.Contains(s, "\n"):
		return word(s, lower), nil
	case timeScalar.MatchString(s):
		return value{}, disallowed("Time")
	case dateScalar.MatchString(s):
		return value{}, disallowed("Date")
	case lower == ".inf", lower == "+.inf", lower == "-.inf", lower == ".nan":
		return value{}, fmt.Errorf("the number %s cannot be sent as JSON", s)
	case len(s) > 1 && s[0] == ':':
		return symbol(symbolName(s)), nil
	case base60Scalar.MatchString(s):
		return base60(s)
	case floatScalar.MatchString(s):
		return float(s)
	case integerScalar.MatchString(s):
		return integer(s)
	}
	return text(s), nil
}

func literal(json, kind, text string) value {
	return value{json: []byte(json), kind: kind, text: text}
}

// word reads what begins like a word: null, a boolean, or a string.
func word(s, lower string) value {
	switch lower {
	case "~", "null":
		return literal("null", "NilClass", "")
	case "yes", "true", "on":
		return literal("true", "TrueClass", "true")
	case "no", "false", "off":
		return literal("false", "FalseClass", "false")
	}
	return text(s)
}

// symbolName takes the colon, and quotes if there are any, off a symbol.
func symbolName(s string) string {
	s = s[1:]
	if n := len(s); n > 1 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		s = strings.TrimPrefix(s[1:n-1], ":")
	}
	return s
}

// base60 reads 12:30:45. As in Psych, 12:30 counts its parts as hours and minutes.
func base60(s string) (value, error) {
	sum := 0.0
	for i, part := range strings.Split(strings.ReplaceAll(s, "_", ""), ":") {
		n, err := strconv.ParseFloat(strings.TrimSuffix(part, "."), 64)
		if err != nil {
			return value{}, fmt.Errorf("number %s: %w", s, err)
		}
		sum += n * math.Pow(60, float64(2-i))
	}
	if strings.Contains(s, ".") {
		return floatValue(sum)
	}
	return literal(strconv.FormatFloat(sum, 'f', 0, 64), "Integer", strconv.FormatFloat(sum, 'f', 0, 64)), nil
}

func float(s string) (value, error) {
	if strings.Trim(s, "+-") == "." {
		return text(s), nil
	}
	f, err := strconv.ParseFloat(trailingDot.ReplaceAllString(s, "$1"), 64)
	if err != nil {
		return value{}, fmt.Errorf("number %s: %w", s, err)
	}
	return floatValue(f)
}

func floatValue(f float64) (value, error) {
	if math.IsInf(f, 0) {
		return value{}, errors.New("a number is too large")
	}
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return literal(s, "Float", s), nil
}

// integer reads decimal, 0x, 0b and octal with a leading 0.
func integer(s string) (value, error) {
	n, ok := new(big.Int).SetString(strings.NewReplacer(",", "", "_", "").Replace(s), 0)
	if !ok {
		return value{}, fmt.Errorf("invalid value for Integer(): %q", s)
	}
	return literal(n.String(), "Integer", n.String()), nil
}
