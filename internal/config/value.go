package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file reads and prints the sorts of values that settings have.

// A value is bound to a field. set takes one text, or several where the source
// had a list.
type value interface {
	set(texts []string) error
	String() string
}

func one(texts []string) (string, error) {
	if len(texts) != 1 {
		return "", fmt.Errorf("takes one value, not a list")
	}
	return texts[0], nil
}

type textValue struct {
	p     *string
	oneOf []string
}

func (v textValue) String() string { return *v.p }

func (v textValue) set(texts []string) error {
	text, err := one(texts)
	if err != nil {
		return err
	}
	if v.oneOf != nil && !slices.Contains(v.oneOf, text) {
		return fmt.Errorf("%q is not one of %s", text, strings.Trim(strings.Join(v.oneOf, ", "), ", "))
	}
	*v.p = text
	return nil
}

type boolValue struct{ p *bool }

func (v boolValue) String() string { return strconv.FormatBool(*v.p) }

func (v boolValue) set(texts []string) error {
	text, err := one(texts)
	if err != nil {
		return err
	}
	switch strings.ToLower(text) {
	case "true":
		*v.p = true
	case "false":
		*v.p = false
	default:
		return fmt.Errorf("%q is neither true nor false", text)
	}
	return nil
}

type intValue struct{ p *int }

func (v intValue) String() string {
	if *v.p == 0 {
		return "auto"
	}
	return strconv.Itoa(*v.p)
}

func (v intValue) set(texts []string) error {
	text, err := one(texts)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return fmt.Errorf("%q is not a whole number from 0", text)
	}
	*v.p = n
	return nil
}

type durationValue struct{ p *time.Duration }

func (v durationValue) String() string { return FormatDuration(*v.p) }

func (v durationValue) set(texts []string) error {
	text, err := one(texts)
	if err != nil {
		return err
	}
	d, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*v.p = d
	return nil
}

type durationUnit struct {
	name string
	unit time.Duration
}

// durationUnits are Puppet's (lib/puppet/settings/ttl_setting.rb), and ms.
func durationUnits() []durationUnit {
	return []durationUnit{
		{"ms", time.Millisecond},
		{"y", 365 * 24 * time.Hour},
		{"d", 24 * time.Hour},
		{"h", time.Hour},
		{"m", time.Minute},
		{"s", time.Second},
	}
}

// ParseDuration reads "90s", "20m", "12h", "30d", "5y", "1h30m", or a number of
// seconds, as Puppet's settings are written.
func ParseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a time such as 90s, 20m, 12h, 30d or 5y", text)
	if text == "" {
		return 0, bad
	}
	var total time.Duration
	for rest := text; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil {
			return 0, bad
		}
		u := durationUnit{"", time.Second} // a bare number, which must be all there is
		if rest = rest[digits:]; rest != "" {
			i := slices.IndexFunc(durationUnits(), func(u durationUnit) bool { return strings.HasPrefix(rest, u.name) })
			if i < 0 {
				return 0, bad
			}
			u = durationUnits()[i]
			rest = rest[len(u.name):]
		} else if digits != len(text) {
			return 0, bad
		}
		if n > int64(math.MaxInt64-total)/int64(u.unit) {
			return 0, fmt.Errorf("%q is longer than 292 years", text)
		}
		total += time.Duration(n) * u.unit
	}
	return total, nil
}

// FormatDuration prints d in the largest unit that divides it; 0 is "auto".
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "auto"
	}
	for _, u := range durationUnits()[1:] {
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return d.String()
}

type sizeValue struct{ p *int64 }

func (v sizeValue) String() string {
	if *v.p == 0 {
		return "auto"
	}
	for _, u := range sizeUnits() {
		if *v.p%u.unit == 0 {
			return strconv.FormatInt(*v.p/u.unit, 10) + u.name
		}
	}
	return strconv.FormatInt(*v.p, 10)
}

func (v sizeValue) set(texts []string) error {
	text, err := one(texts)
	if err != nil {
		return err
	}
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	*v.p = n
	return nil
}

type sizeUnit struct {
	name string
	unit int64
}

func sizeUnits() []sizeUnit { return []sizeUnit{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} }

// parseSize reads "512M", "2G", "64 MiB" or a number of bytes. Units count in
// 1024s, as Java's do.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(text), "B"), "i"), " ")
	unit := int64(1)
	for _, u := range sizeUnits() {
		if short, ok := strings.CutSuffix(strings.ToUpper(digits), u.name); ok {
			digits, unit = strings.TrimSpace(short), u.unit
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size such as 64M or 2G", text)
	}
	return n * unit, nil
}

// A listValue takes a YAML list, or one text cut at sep.
type listValue struct {
	p   *[]string
	sep string
}

func (v listValue) String() string { return strings.Join(*v.p, v.sep) }

func (v listValue) set(texts []string) error {
	if len(texts) == 1 {
		texts = strings.Split(texts[0], v.sep)
	}
	list := make([]string, 0, len(texts))
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" && !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	*v.p = list
	return nil
}

// A mapValue takes any keys; they are set one by one (loader.setEntry).
type mapValue struct{ p *map[string]string }

func (v mapValue) String() string { return fmt.Sprint(len(*v.p), " settings") }

func (v mapValue) set([]string) error { return fmt.Errorf("takes keys and values below it") }

func (v mapValue) keys() []string { return slices.Sorted(maps.Keys(*v.p)) }

// setEntry gives one key of a map a value.
func (l *loader) setEntry(key, name, origin, text string) {
	m, ok := l.byKey[key].value.(mapValue)
	if !ok {
		l.problem(fmt.Errorf("%s: %s takes one value", origin, key))
		return
	}
	if *m.p == nil {
		*m.p = map[string]string{}
	}
	(*m.p)[name] = text
	l.config.origins[key+"."+name] = origin
}
