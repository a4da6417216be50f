package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// This file finds what is wrong with the configuration of an edge, all of it at once, and puts in what an operator left out.

const (
	// ModePuppet ends TLS and understands requests.
	ModePuppet = "puppet"
	// ModePassthrough carries bytes.
	ModePassthrough = "passthrough"
	// DefaultEdgeData is where an edge keeps what it must find again.
	DefaultEdgeData = "/var/lib/troupe-edge"
)

type edgeProblems []error

func (p *edgeProblems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// oneOf is for settings of a few words; "" means the default.
func (p *edgeProblems) oneOf(key, value string, words ...string) {
	if value != "" && !slices.Contains(words, value) {
		p.add("%s: %q is not one of %s", key, value, strings.Join(words, ", "))
	}
}

func (p *edgeProblems) address(key, value string) {
	if _, port, err := net.SplitHostPort(value); err != nil || port == "" {
		p.add("%s: %q is not host:port", key, value)
	}
}

func (e *Edge) check() error {
	var p edgeProblems
	if e.Data == "" {
		e.Data = DefaultEdgeData
	}
	if e.Name == "" {
		e.Name = "edge." + HostName()
	}
	if len(e.Pools) == 0 {
		e.Pools = map[string]EdgePool{"members": {Members: true}}
	}
	if e.Listeners == nil && e.DNS == nil {
		e.Listeners = []EdgeListener{{Listen: ":8140"}}
	}
	for i := range e.Listeners {
		e.checkListener(&p, &e.Listeners[i])
	}
	for _, name := range slices.Sorted(maps.Keys(e.Pools)) {
		pool := e.Pools[name]
		e.checkPool(&p, name, &pool)
		e.Pools[name] = pool
	}
	e.checkOverflow(&p)
	e.checkTLS(&p)
	if d := e.Runs.MaxRetryAfter; time.Duration(d) > 24*time.Hour {
		p.add("runs.max_retry_after: agents wait no longer than their runinterval, 30m by default")
	}
	if b := e.Runs.ReplayBudget; b < 0 || b > 1 {
		p.add("runs.replay_budget is a share between 0 and 1")
	}
	if r := e.Runs.Replays; r != nil && (*r < 0 || *r > 5) {
		p.add("runs.replays is a number from 0 to 5")
	}
	p.oneOf("log.level", e.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", e.Log.Format, "text", "json")
	if e.Metrics != "" {
		p.address("metrics", e.Metrics)
	}
	if e.Peers != nil {
		p.address("peers.listen", e.Peers.Listen)
		for _, one := range e.Peers.Edges {
			p.address("peers.edges", one.Address)
			if one.Name == "" {
				p.add("peers.edges: %s has no name: the common name of its certificate", one.Address)
			}
		}
	}
	if e.AgentCheck != "" {
		p.address("agent_check", e.AgentCheck)
	}
	if e.DNS != nil {
		e.DNS.check(&p, e.Site)
	}
	if e.BGP != nil {
		e.BGP.check(&p)
	}
	return errors.Join(p...)
}

func (e *Edge) checkListener(p *edgeProblems, l *EdgeListener) {
	p.address("listeners", l.Listen)
	p.oneOf("listener "+l.Listen+": mode", l.Mode, ModePuppet, ModePassthrough)
	if l.Mode == "" {
		l.Mode = ModePuppet
	}
	if l.Pool == "" && len(e.Pools) == 1 {
		l.Pool = slices.Collect(maps.Keys(e.Pools))[0]
	}
	e.wantPool(p, "listener "+l.Listen, l.Pool)
	for i := range l.Names {
		n := &l.Names[i]
		key := fmt.Sprintf("listener %s: names[%d]", l.Listen, i)
		p.oneOf(key+": mode", n.Mode, ModePuppet, ModePassthrough)
		if n.Mode == "" {
			n.Mode = l.Mode
		}
		if n.Pool == "" {
			n.Pool = l.Pool
		}
		if len(n.SNI) == 0 {
			p.add("%s: sni names no name", key)
		}
		e.wantPool(p, key, n.Pool)
	}
	for i, r := range l.Rules {
		key := fmt.Sprintf("listener %s: rules[%d]", l.Listen, i)
		e.wantPool(p, key, r.Pool)
		if l.Mode == ModePassthrough && (r.Path != nil || r.Environment != nil || r.Certname != nil) {
			p.add("%s: path, environment and certname are inside of TLS, which mode passthrough does not open; use source, or mode puppet", key)
		}
		for _, pattern := range r.Certname {
			if _, err := path.Match(pattern, ""); err != nil {
				p.add("%s: certname %q is no pattern", key, pattern)
			}
		}
	}
	if l.MaxClients < 0 || l.PerSource < 0 {
		p.add("listener %s: max_clients and per_source are numbers from 0", l.Listen)
	}
}

func (e *Edge) wantPool(p *edgeProblems, key, pool string) {
	if pool == "" {
		p.add("%s: pool is missing; there are %s", key, strings.Join(slices.Sorted(maps.Keys(e.Pools)), ", "))
	} else if _, ok := e.Pools[pool]; !ok {
		p.add("%s: there is no pool %q; there are %s", key, pool, strings.Join(slices.Sorted(maps.Keys(e.Pools)), ", "))
	}
}

func (e *Edge) checkPool(p *edgeProblems, name string, pool *EdgePool) {
	key := "pool " + name
	if strings.ContainsAny(name, "/ \t") || name == "" {
		p.add("%s: a name of a pool has neither slashes nor blanks", key)
	}
	sources := 0
	for _, has := range []bool{pool.Members, len(pool.Servers) > 0, pool.SRV != ""} {
		if has {
			sources++
		}
	}
	if sources != 1 {
		p.add("%s: says one of members: true, servers, and srv", key)
	}
	p.oneOf(key+": balance", pool.Balance, "round-robin", "least-connections", "random", "least-work", "hash", "first")
	p.oneOf(key+": hash_by", pool.HashBy, "environment", "certname", "source")
	p.oneOf(key+": stick", pool.Stick, "certname", "source")
	p.oneOf(key+": send_proxy", pool.SendProxy, "v1", "v2")
	pool.checkShares(p, key)
	if pool.Members && pool.Balance == "" {
		pool.Balance = "least-work" // members are not alike, and catalogs are not
	}
	seen := map[string]bool{}
	for i := range pool.Servers {
		s := &pool.Servers[i]
		p.address(key+": server "+s.Name, s.Address)
		if s.Name == "" {
			s.Name = s.Address
		}
		if seen[s.Name] {
			p.add("%s: two servers are called %s", key, s.Name)
		}
		seen[s.Name] = true
		if s.Weight != nil && (*s.Weight < 0 || *s.Weight > 256) {
			p.add("%s: weight of %s: a number from 0 to 256", key, s.Name)
		}
		if s.MaxConnections < 0 || s.Tier < 0 || s.Tier > 15 {
			p.add("%s: server %s: max_connections is a number from 0, tier one from 0 to 15", key, s.Name)
		}
		if s.AgentCheck != "" {
			p.address(key+": agent_check of "+s.Name, s.AgentCheck)
		}
		if s.Check != nil {
			s.Check.check(p, key+": check of "+s.Name)
		}
	}
	if pool.Overflow.Pool != "" {
		e.wantPool(p, key+": overflow", pool.Overflow.Pool)
		if pool.Overflow.Above < 0 {
			p.add("%s: overflow.above is a number from 0", key)
		}
	}
	pool.Check.check(p, key+": check")
}

// checkShares looks at how work is shared among servers and tiers.
func (pool *EdgePool) checkShares(p *edgeProblems, key string) {
	if pool.Panic < 0 || pool.Panic > 1 {
		p.add("%s: panic is a share between 0 and 1", key)
	}
	p.oneOf(key+": in_panic", pool.InPanic, "all", "none")
	if pool.InPanic != "" && pool.Panic == 0 {
		p.add("%s: in_panic counts with panic, the share of healthy servers below which it begins", key)
	}
	if pool.Spill < 0 {
		p.add("%s: spill is a number from 0: how many wait for each server", key)
	}
	for word, n := range map[string]float64{"overprovision": pool.Overprovide, "hash_bound": pool.HashBound} {
		if n != 0 && (n < 1 || n > 10) {
			p.add("%s: %s is a number from 1 to 10", key, word)
		}
	}
	if pool.HashBound != 0 && pool.Balance != "hash" {
		p.add("%s: hash_bound counts with balance: hash", key)
	}
}

// checkOverflow refuses a circle: a request would go around for ever.
func (e *Edge) checkOverflow(p *edgeProblems) {
	for _, name := range slices.Sorted(maps.Keys(e.Pools)) {
		way := []string{name}
		for next := e.Pools[name].Overflow.Pool; next != ""; next = e.Pools[next].Overflow.Pool {
			if slices.Contains(way, next) {
				if next == name {
					p.add("pool %s: overflow goes in a circle: %s", name, strings.Join(append(way, next), " → "))
				}
				break
			}
			way = append(way, next)
		}
	}
}

func (c *EdgeCheck) check(p *edgeProblems, key string) {
	p.oneOf(key+": type", c.Type, "none", "tcp", "tls", "https", "http")
	p.oneOf(key+": on_error", c.OnError, "fastinter", "fail-check", "sudden-death", "mark-down")
	p.oneOf(key+": method", c.Method, "GET", "HEAD", "OPTIONS", "POST")
	if c.Status != "" {
		if _, err := ParseStatus(c.Status); err != nil {
			p.add("%s: status: %w", key, err)
		}
	}
	if _, err := regexp.Compile(c.Body); err != nil {
		p.add("%s: body: %w", key, err)
	}
	if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
		p.add("%s: path %q does not begin with /", key, c.Path)
	}
	if c.Rise < 0 || c.Fall < 0 || c.Spread < 0 || c.Spread > 0.5 {
		p.add("%s: rise and fall are numbers from 1, spread is a share from 0 to 0.5", key)
	}
	if c.Slow != 0 && c.Slow != -1 && (c.Slow < 2 || c.Slow > 1000) {
		p.add("%s: slow is how many times longer than those of others checks take, from 2, or -1 for never", key)
	}
	for _, d := range []Duration{c.Interval, c.FastInterval, c.DownInterval, c.Timeout} {
		if d != 0 && time.Duration(d) < 10*time.Millisecond {
			p.add("%s: intervals and timeout are at least 10ms", key)
			break
		}
	}
}

// checkTLS: with files of its own an edge needs all of them.
func (e *Edge) checkTLS(p *edgeProblems) {
	p.oneOf("tls.min", e.TLS.Min, "1.2", "1.3")
	if e.TLS.Certificate == "" && e.TLS.Key == "" && e.TLS.CA == "" {
		return
	}
	if e.TLS.Certificate == "" || e.TLS.Key == "" || e.TLS.CA == "" {
		p.add("tls: certificate, key and ca belong together")
	}
}

// OwnTLS tells an edge with files of its own from one that a troupe gives its certificate.
func (e *Edge) OwnTLS() bool { return e.TLS.Certificate != "" }

// Terminates tells whether any listener ends TLS.
func (e *Edge) Terminates() bool {
	return slices.ContainsFunc(e.Listeners, func(l EdgeListener) bool {
		return l.Mode == ModePuppet || slices.ContainsFunc(l.Names, func(n EdgeName) bool { return n.Mode == ModePuppet })
	})
}

func (b *EdgeBGP) check(p *edgeProblems) {
	p.oneOf("bgp.mode", b.Mode, "speak", "address", "file")
	if len(b.Prefixes) == 0 {
		p.add("bgp.prefixes: the service addresses are missing, such as 192.0.2.1/32")
	}
	for _, prefix := range b.Prefixes {
		if prefix.Bits() != prefix.Addr().BitLen() {
			p.add("bgp.prefixes: %s is a network; announce single addresses, /32 or /128", prefix)
		}
	}
	for _, n := range b.Neighbors {
		if n.Restart != 0 && n.BFD != nil {
			p.add("bgp: neighbor %v: graceful_restart and bfd contradict each other: BFD ends with the process, and the router forgets then; use mode address for both", n.Address)
		}
	}
	switch b.Mode {
	case "address":
	case "file":
		if b.File == "" {
			p.add("bgp.file is missing: the file that says up or down")
		}
	default:
		if b.AS == 0 || !b.RouterID.Is4() || len(b.Neighbors) == 0 {
			p.add("bgp: as, router_id and neighbors are needed to speak BGP")
		}
	}
}
