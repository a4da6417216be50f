package haproxy

import (
	"fmt"
	"slices"
	"strings"

	"troupe/internal/config"
)

// This file makes rules of use_backend: rules of sources and paths, names, and pools that take over when others have too much.

// mainPool is the pool of a frontend that no rule turns to another one.
func (b *builder) mainPool(p *proxy, puppet bool, port string) (name string, ok bool) {
	for _, s := range p.uses {
		if len(s.words) == 1 {
			s.line.note(Mapped, "pool: without a condition it is the default, and what follows is not reached")
			return s.words[0], b.pool(s.words[0], s.line, puppet, port)
		}
	}
	if d := p.set["default_backend"]; d.there() {
		if b.pool(d.value(), d.line, puppet, port) {
			d.line.note(Mapped, "pool: %s", d.value())
			return d.value(), true
		}
		return "", false
	}
	if p.is("listen") && len(p.servers) > 0 {
		return p.name, b.pool(p.name, p.line, puppet, port)
	}
	for _, s := range p.uses {
		if b.pool(s.words[0], s.line, puppet, port) {
			p.line.note(Differs, "there is no default_backend: HAProxy refuses who fits no rule, an edge gives them pool %s", s.words[0])
			return s.words[0], true
		}
	}
	return "", false
}

// rules writes what use_backend lines say. In HAProxy the first line that fits decides; in an edge names come first, then rules, and
// last the pool that was found gives way when it has too much.
func (b *builder) rules(p *proxy, l *config.EdgeListener, puppet bool, port string) {
	var queues []func() // when all pools are there
	defer func() {
		for _, overflow := range queues {
			overflow()
		}
	}()
	for _, s := range p.uses {
		if len(s.words) == 1 {
			return // nothing behind it is reached
		}
		target := s.words[0]
		if strings.Contains(target, "%[") {
			s.line.note(Unmapped, "a pool is named, not computed: write a rule for each")
			continue
		}
		if s.words[1] != "if" && s.words[1] != "unless" || len(s.words) < 3 {
			b.fail(s.line, "use_backend: behind the name stands if or unless with a condition")
			continue
		}
		for _, c := range b.condition(p, s.line, s.words[1:]) {
			if !b.sayable(s.line, c, puppet) {
				continue
			}
			if !b.pool(target, s.line, puppet, port) {
				s.line.note(Unmapped, "the backend has no servers that an edge could have")
				continue
			}
			if c[0].kind == byQueue {
				queues = append(queues, func() { b.overflow(s.line, c[0], target) })
				continue
			}
			if len(queues) > 0 {
				s.line.note(Differs, "this rule wins over the queues of the lines before it: an edge first chooses the pool, then looks whether that one has too much")
			}
			b.rule(s.line, l, target, c)
		}
	}
}

// sayable tells whether an edge has a rule for a choice; if not, it is noted why.
func (b *builder) sayable(at *Line, c choice, puppet bool) bool {
	if len(c) == 0 {
		at.note(Unmapped, "a condition that always fits: name the pool in default_backend")
		return false
	}
	for _, t := range c {
		var why string
		switch {
		case (t.kind == byQueue || t.kind == byName) && len(c) > 1:
			why = fmt.Sprintf("a condition on %s stands alone; with others it cannot be said", t.kind)
		case !puppet && slices.Contains([]string{byPath, byEnvironment, byCertname}, t.kind):
			why = t.kind + " is inside of TLS, which mode passthrough does not open"
		default:
			continue
		}
		at.note(Unmapped, "%s", why)
		t.line.note(Unmapped, "%s", why)
		return false
	}
	return true
}

// rule writes one choice.
func (b *builder) rule(at *Line, l *config.EdgeListener, target string, c choice) {
	rule := config.EdgeRule{Pool: target}
	for _, t := range c {
		switch t.kind {
		case byName:
			b.name(at, l, t, target)
			return
		case bySource:
			rule.Source = t.source
			t.line.note(Mapped, "rules.source: %s", plural(len(t.source), "network", "networks"))
			continue
		case byPath:
			rule.Path = t.values
		case byEnvironment:
			rule.Environment = t.values
		case byCertname:
			rule.Certname = t.values
		}
		t.line.note(Mapped, "rules.%s: %s", t.kind, plural(len(t.values), "value", "values"))
	}
	at.note(Mapped, "rule: pool %s", target)
	if n := len(l.Rules) - 1; n >= 0 && alike(l.Rules[n], rule) {
		l.Rules[n].Source = append(slices.Clone(l.Rules[n].Source), rule.Source...)
		return
	}
	l.Rules = append(l.Rules, rule)
}

// alike are rules of sources alone for one pool: they are one rule.
func alike(a, b config.EdgeRule) bool {
	bare := func(r config.EdgeRule) bool {
		return r.Path == nil && r.Environment == nil && r.Certname == nil && r.Source != nil
	}
	return a.Pool == b.Pool && bare(a) && bare(b)
}

func (b *builder) name(at *Line, l *config.EdgeListener, t term, target string) {
	l.Names = append(l.Names, config.EdgeName{SNI: t.values, Mode: l.Mode, Pool: target})
	t.line.note(Mapped, "names.sni: %s", clip(quoted(t.values)))
	at.note(Mapped, "names: pool %s", target)
	if slices.ContainsFunc(t.values, func(v string) bool { return strings.HasPrefix(v, "*") }) {
		t.line.note(Differs, "*.example.com stands for one label, where -m end takes any number")
	}
	if strings.Contains(strings.Join(t.line.words, " "), "hdr") {
		t.line.note(Differs, "the name in the TLS hello (SNI) counts, where HAProxy looks at the header Host; agents send the same name in both")
	}
	if len(l.Rules) == 0 {
		return
	}
	at.note(Differs, "rules of sources win over names, wherever they stand")
}

// overflow has a pool give way to another one.
func (b *builder) overflow(at *Line, t term, target string) {
	pool, ok := b.edge.Pools[t.pool]
	switch {
	case !ok:
		at.note(Unmapped, "the queue of %s counts only where that is a pool of a listener", clip(t.pool))
		t.line.note(Unmapped, "%s is no pool that an edge has", clip(t.pool))
		return
	case pool.Overflow.Pool != "" && pool.Overflow.Pool != target:
		at.note(Unmapped, "a pool gives way to one other pool: %s to %s", t.pool, pool.Overflow.Pool)
		return
	case t.pool == target || b.leads(target, t.pool):
		at.note(Unmapped, "pools that give way to each other would go around in a circle")
		return
	}
	before := pool.Overflow
	pool.Overflow = config.EdgeOverflow{Pool: target, Above: t.above}
	if before.Pool != "" {
		pool.Overflow.Above = min(before.Above, t.above)
	}
	b.edge.Pools[t.pool] = pool
	if t.above == endless {
		t.line.note(Mapped, "pool %s, overflow: when no server is left", t.pool)
	} else {
		t.line.note(Mapped, "pool %s, overflow.above: %g waiting for each server", t.pool, t.above)
	}
	if t.values != nil {
		t.line.note(Differs, "an edge changes over when no server is left, HAProxy sooner")
	}
	at.note(Mapped, "pool %s, overflow.pool: %s", t.pool, target)
	b.say("overflow counts wherever the pool is used, and a pool without any server that serves gives way, too.")
}

// leads tells whether a pool gives way, over others, to another one.
func (b *builder) leads(from, to string) bool {
	for range len(b.edge.Pools) {
		if from = b.edge.Pools[from].Overflow.Pool; from == to {
			return true
		}
	}
	return false
}
