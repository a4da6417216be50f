package authz

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"troupe/internal/hocon"
	"troupe/internal/puppet"
)

// This file reads auth.conf: the shape of its rules, and every problem in it at
// once (authorization_core.clj, validate-auth-config!).

// maxRules bounds what one file may hold.
const maxRules = 10_000

// Load reads an auth.conf, with its includes.
func Load(path string) (*Rules, error) {
	root, err := hocon.ParseFile(path, hocon.Options{})
	if err != nil {
		return nil, fmt.Errorf("reading the authorization rules: %w", err)
	}
	return fromHOCON(root)
}

// Parse reads the text of an auth.conf; name stands for it in messages.
//
// It is stricter than the original in three places, where the original accepts
// what can only be a mistake: allow-unauthenticated that is not a boolean, a
// back reference in a rule without groups, and rbac entries, which open-source
// servers accept and never match.
func Parse(name string, src []byte) (*Rules, error) {
	root, err := hocon.Parse(name, src)
	if err != nil {
		return nil, fmt.Errorf("reading the authorization rules: %w", err)
	}
	return fromHOCON(root)
}

// A loader collects the problems of one file.
type loader struct{ problems []error }

func (l *loader) errorf(at hocon.Value, format string, args ...any) {
	l.problems = append(l.problems, at.Errorf(format, args...))
}

func fromHOCON(root hocon.Value) (*Rules, error) {
	l := &loader{}
	r := l.rules(root)
	if len(l.problems) > 0 {
		return nil, fmt.Errorf("reading the authorization rules: %w", errors.Join(l.problems...))
	}
	return r, nil
}

func (l *loader) rules(root hocon.Value) *Rules {
	conf, ok := root.Get("authorization")
	if !ok || conf.Kind() != hocon.Object {
		l.errorf(root, "there is no authorization section: auth.conf begins with authorization: { version: 1, rules: [ … ] }")
		return nil
	}
	out := &Rules{}
	if v, ok := conf.Get("version"); !ok || v.Text() != "1" {
		l.errorf(conf, "authorization.version must be 1")
	}
	if v, ok := conf.Get("allow-header-cert-info"); ok && v.Kind() != hocon.Null {
		out.allowHeaderCert = v.Text() == "true"
		if v.Kind() != hocon.Bool {
			l.errorf(v, "allow-header-cert-info must be true or false, not %s", v.Kind())
		}
	}
	list, ok := conf.Get("rules")
	if !ok || list.Kind() != hocon.Array {
		l.errorf(conf, "authorization.rules must be a list")
		return nil
	}
	if len(list.Items()) > maxRules {
		l.errorf(list, "authorization.rules has %d rules, more than %d", len(list.Items()), maxRules)
		return nil
	}
	seen := map[string]hocon.Position{}
	for _, item := range list.Items() {
		r := l.rule(item)
		if first, dup := seen[r.name]; dup && r.name != "" {
			l.errorf(item, "another rule is already named %q, at %s: names must be unique", r.name, first)
		}
		seen[r.name] = item.Position()
		out.rules = append(out.rules, r)
	}
	slices.SortStableFunc(out.rules, func(a, b rule) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.name, b.name))
	})
	return out
}

func (l *loader) rule(v hocon.Value) rule {
	var r rule
	if v.Kind() != hocon.Object {
		l.errorf(v, "a rule must be an object, not %s", v.Kind())
		return r
	}
	name, _ := v.Get("name")
	if r.name = name.Text(); r.name == "" {
		l.errorf(v, "the rule has no name")
	}
	order, ok := v.Get("sort-order")
	n, isInt := order.Int()
	switch {
	case !ok:
		l.errorf(v, "rule %q has no sort-order", r.name)
	case !isInt || n < 1 || n > 999:
		l.errorf(order, "the sort-order of rule %q must be a number from 1 to 999", r.name)
	}
	r.order = n
	request, ok := v.Get("match-request")
	if !ok || request.Kind() != hocon.Object {
		l.errorf(v, "rule %q has no match-request section", r.name)
	} else {
		l.request(&r, request)
	}
	l.verdict(&r, v)
	return r
}

// request reads which requests a rule is about.
func (l *loader) request(r *rule, v hocon.Value) {
	path, ok := v.Get("path")
	if !ok || path.Kind() != hocon.String {
		l.errorf(v, "the match-request of rule %q needs a path that is a string", r.name)
	}
	kind, _ := v.Get("type")
	switch kind.Text() {
	case "path":
		r.prefix = path.Text()
	case "regex":
		p, err := compileJava(path.Text())
		if err != nil {
			l.errorf(path, "the path of rule %q: %v", r.name, err)
			break
		}
		r.pattern, r.prefix = p, p.prefix
	default:
		l.errorf(v, `the type of rule %q must be "path" or "regex"`, r.name)
	}
	if method, ok := v.Get("method"); ok && method.Kind() != hocon.Null {
		r.methods = l.methods(r, method)
	}
	if params, ok := v.Get("query-params"); ok && params.Kind() != hocon.Null {
		l.queryParams(r, params)
	}
}

func (l *loader) methods(r *rule, v hocon.Value) []string {
	methods := []string{} // not nil: an empty list matches no method
	for _, m := range oneOrMany(v) {
		switch name := strings.ToUpper(m.Text()); name {
		case "GET", "POST", "PUT", "DELETE", "HEAD":
			methods = append(methods, name)
		default:
			l.errorf(m, "rule %q has the method %q; it must be one of delete, get, head, post, put", r.name, m.Text())
		}
	}
	return methods
}

func (l *loader) queryParams(r *rule, v hocon.Value) {
	if v.Kind() != hocon.Object {
		l.errorf(v, "the query-params of rule %q must be an object", r.name)
		return
	}
	for _, f := range v.Fields() {
		r.query = append(r.query, queryParam{f.Key, l.texts(f.Value, "the query parameter "+f.Key+" of rule "+r.name)})
	}
}

// texts reads a string or a list of strings.
func (l *loader) texts(v hocon.Value, what string) []string {
	var out []string
	for _, item := range oneOrMany(v) {
		if item.Kind() == hocon.Array || item.Kind() == hocon.Object || item.Kind() == hocon.Null {
			l.errorf(item, "%s must be a string or a list of strings, not %s", what, item.Kind())
			continue
		}
		out = append(out, item.Text())
	}
	return out
}

func oneOrMany(v hocon.Value) []hocon.Value {
	if v.Kind() == hocon.Array {
		return v.Items()
	}
	return []hocon.Value{v}
}

// verdict reads whom a rule lets in: everybody, or lists of entries. Deny
// entries come first, whatever their place in the file.
func (l *loader) verdict(r *rule, v hocon.Value) {
	deny, hasDeny := v.Get("deny")
	allow, hasAllow := v.Get("allow")
	if open, ok := v.Get("allow-unauthenticated"); ok && open.Kind() != hocon.Null {
		if open.Kind() != hocon.Bool {
			l.errorf(open, "allow-unauthenticated of rule %q must be true or false, not %s", r.name, open.Kind())
		}
		r.unauthenticated = open.Text() == "true"
	}
	switch {
	case r.unauthenticated && (hasDeny || hasAllow):
		l.errorf(v, "rule %q cannot have allow or deny beside allow-unauthenticated: true", r.name)
	case !r.unauthenticated && !hasDeny && !hasAllow:
		l.errorf(v, "rule %q needs allow, deny, or allow-unauthenticated: true", r.name)
	}
	if hasDeny {
		l.entries(r, deny, true)
	}
	if hasAllow {
		l.entries(r, allow, false)
	}
}

func (l *loader) entries(r *rule, v hocon.Value, deny bool) {
	for _, item := range oneOrMany(v) {
		var e entry
		switch item.Kind() {
		case hocon.Object:
			e = l.mapEntry(r, item, deny)
		case hocon.String, hocon.Number:
			e = l.nameEntry(r, item, deny)
		default:
			l.errorf(item, "an entry of rule %q must be a string or an object, not %s", r.name, item.Kind())
			continue
		}
		r.entries = append(r.entries, e)
	}
}

func (l *loader) nameEntry(r *rule, v hocon.Value, deny bool) entry {
	e, err := newEntry(deny, v.Text())
	if err != nil {
		l.errorf(v, "the entry %q of rule %q: %v", v.Text(), r.name, err)
		return e
	}
	if e.kind == backRef {
		l.checkReferences(r, v)
	}
	return e
}

// checkReferences refuses a back reference to a group that the path does not have.
func (l *loader) checkReferences(r *rule, v hocon.Value) {
	groups := 0
	if r.pattern != nil {
		groups = r.pattern.groups
	}
	captures := slices.Repeat([]string{"x"}, groups)
	e := entry{name: v.Text(), text: v.Text()}
	if _, err := e.interpolate(captures); err != nil {
		l.errorf(v, "the entry %q of rule %q refers to a group that its path does not have (%d groups)", v.Text(), r.name, groups)
	}
}

// mapEntry reads {certname: …} or {extensions: {…}}.
func (l *loader) mapEntry(r *rule, v hocon.Value, deny bool) entry {
	name, hasName := v.Get("certname")
	conditions, hasExtensions := v.Get("extensions")
	if rbac, ok := v.Get("rbac"); ok {
		l.errorf(rbac, "rule %q has an rbac entry: RBAC is a service of Puppet Enterprise that does not exist here; "+
			"name certificates or extensions instead", r.name)
		return entry{}
	}
	switch {
	case hasName == hasExtensions:
		l.errorf(v, "an entry of rule %q must have exactly one of certname and extensions", r.name)
	case hasName && name.Kind() != hocon.String && name.Kind() != hocon.Number:
		l.errorf(name, "the certname of an entry of rule %q must be a string, not %s", r.name, name.Kind())
	case hasName:
		return l.nameEntry(r, name, deny)
	case conditions.Kind() != hocon.Object:
		l.errorf(conditions, "the extensions of an entry of rule %q must be an object", r.name)
	default:
		return l.extensionEntry(r, conditions, deny)
	}
	return entry{}
}

func (l *loader) extensionEntry(r *rule, v hocon.Value, deny bool) entry {
	e := entry{deny: deny, kind: extensions, text: "extensions"}
	for _, f := range v.Fields() {
		e.text += " " + f.Key
		x := newExtension(f.Key)
		if f.Key == "subject-alt-name" {
			x.altNames = l.altNames(r, f.Value)
		} else {
			x.values = l.texts(f.Value, fmt.Sprintf("the extension %s of rule %q", f.Key, r.name))
		}
		e.extensions = append(e.extensions, x)
	}
	return e
}

// newExtension completes a short name by its OID and the other way round.
func newExtension(key string) extension {
	x := extension{key: key, name: key}
	if key != "" && strings.Trim(key, "0123456789.") == "" {
		x.name, x.oid = "", key
		x.name, _ = puppet.OIDName(key)
		return x
	}
	x.oid, _ = puppet.OIDByName(key)
	return x
}

func (l *loader) altNames(r *rule, v hocon.Value) *altNames {
	a := &altNames{}
	if v.Kind() != hocon.Object {
		l.errorf(v, "subject-alt-name of rule %q must be an object with dns-name, ip, rfc822-name or uri", r.name)
		return a
	}
	for _, f := range v.Fields() {
		names := l.texts(f.Value, "subject-alt-name of rule "+r.name)
		switch f.Key {
		case "dns-name":
			a.dns = names
		case "ip":
			a.ip = names
		case "rfc822-name":
			a.mail = names
		case "uri":
			a.uri = names
		default:
			l.errorf(f.Value, "subject-alt-name.%s of rule %q is not supported: dns-name, ip, rfc822-name and uri are", f.Key, r.name)
		}
	}
	return a
}

// withCustomOIDs returns rules whose extension conditions know the short names of
// custom_trusted_oid_mapping.yaml.
func (r *Rules) withCustomOIDs(custom map[string]string) *Rules {
	if len(custom) == 0 {
		return r
	}
	byName := make(map[string]string, len(custom))
	for oid, name := range custom {
		byName[name] = oid
	}
	out := &Rules{rules: slices.Clone(r.rules), allowHeaderCert: r.allowHeaderCert}
	for i := range out.rules {
		entries := slices.Clone(out.rules[i].entries)
		for j := range entries {
			entries[j].extensions = slices.Clone(entries[j].extensions)
			for k := range entries[j].extensions {
				x := &entries[j].extensions[k]
				x.name, x.oid = cmp.Or(x.name, custom[x.oid]), cmp.Or(x.oid, byName[x.name])
			}
		}
		out.rules[i].entries = entries
	}
	return out
}
