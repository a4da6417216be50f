package haproxy

import (
	"maps"
	"slices"
	"strings"
)

// This file reads the sections of proxies: what is to be looked at together is kept with its line, what stands for itself is answered at once.

// A setting is a line's arguments with the line.
type setting struct {
	words []string
	line  *Line
}

func (s setting) there() bool { return s.line != nil }

// value is the first argument.
func (s setting) value() string {
	if len(s.words) == 0 {
		return ""
	}
	return s.words[0]
}

// A proxy is one section defaults, frontend, backend or listen, with what it has from the defaults before it.
type proxy struct {
	kind, name string
	line       *Line
	disabled   bool
	set        map[string]setting // by keyword; "timeout check", "option httpchk"
	checks     []setting          // http-check and tcp-check
	sticks     []setting
	acls       map[string][]setting // own lines only: HAProxy's defaults have none
	uses       []setting            // use_backend
	expects    []setting            // tcp-request connection expect-proxy
	binds      []setting
	servers    []serverLine
	server     []setting // default-server lines that count for the next server
}

// A serverLine is a server or server-template with the default-server lines that stood before it.
type serverLine struct {
	setting

	template bool
	defaults []setting
}

func (p *proxy) is(kinds ...string) bool { return slices.Contains(kinds, p.kind) }

// title is how errors and notes call it.
func (p *proxy) title() string { return p.kind + " " + p.name }

// beginProxy makes a proxy from the line that begins it.
func (r *reader) beginProxy(l *Line) func(*Line) {
	kind, words := l.words[0], l.words[1:]
	p := &proxy{kind: kind, line: l}
	if len(words) > 0 && words[0] != "from" {
		p.name, words = words[0], words[1:]
	}
	from := r.last
	if len(words) >= 1 && words[0] == "from" {
		if len(words) < 2 || r.defaults[words[1]] == nil {
			r.fail(l, "from: there is no section defaults of that name before this line")
		} else {
			from = r.defaults[words[1]]
		}
		words = words[min(2, len(words)):]
	} else if kind == "defaults" {
		from = nil
	}
	if kind != "defaults" && p.name == "" {
		r.fail(l, "%s needs a name", kind)
	}
	if len(words) > 0 && kind == "listen" { // listen name address, as before 1.5
		p.binds = append(p.binds, setting{words, l})
	}
	p.inherit(from)
	if kind == "defaults" {
		r.defaults[p.name] = p
		r.last = p
		l.note(Unneeded, "its settings are written where they are used")
	} else {
		for _, use := range []string{"frontend", "backend"} {
			if p.is(use, "listen") {
				if before := r.proxies[use+" "+p.name]; before != nil {
					r.fail(l, "%s has the name of the one in line %d", p.title(), before.line.Number)
				}
				r.proxies[use+" "+p.name] = p
			}
		}
		r.order = append(r.order, p)
	}
	return func(l *Line) { r.readProxy(p, l) }
}

func (p *proxy) inherit(from *proxy) {
	p.set, p.acls = map[string]setting{}, map[string][]setting{}
	if from == nil {
		return
	}
	p.set, p.disabled = maps.Clone(from.set), from.disabled
	p.checks, p.server = slices.Clone(from.checks), slices.Clone(from.server)
	p.expects = slices.Clone(from.expects)
}

// readProxy reads one line of a proxy.
func (r *reader) readProxy(p *proxy, l *Line) {
	words := l.words
	negated := false
	if words[0] == "no" && len(words) > 1 {
		negated, words = true, words[1:]
	}
	key, rest := words[0], words[1:]
	switch key {
	case "timeout", "clitimeout", "srvtimeout", "contimeout":
		r.readTimeout(p, l, key, rest)
		return
	case "option":
		r.readOption(p, l, rest, negated)
		return
	case "mode", "balance", "maxconn", "retries", "retry-on", "default_backend", "hash-type", "hash-balance-factor", "stick-table":
		if len(rest) == 0 {
			r.fail(l, "%s needs a value", key)
			return
		}
		p.set[key] = setting{rest, l}
		return
	}
	if r.collect(p, l, key, rest) {
		return
	}
	switch key {
	case "disabled":
		p.disabled = true
		l.note(Mapped, "what it holds for is left out, since it is disabled")
	case "enabled":
		p.disabled = false
		l.note(Unneeded, "what is written is in use")
	case "stats":
		l.note(Unneeded, "an edge shows what it does by troupe edge status and, with metrics: ADDRESS, to Prometheus")
	case "tcp-request", "tcp-response":
		tcpRequest(p, l, rest)
	case "http-request", "http-response", "http-after-response":
		httpRequest(l, rest)
	default:
		if why, known := unneededKeywords.find(key); known {
			l.note(Unneeded, "%s", why)
		} else if why, known := unmappedKeywords.find(key); known {
			l.note(Unmapped, "%s", why)
		} else {
			l.note(Unmapped, "it is not known here")
		}
	}
}

// collect keeps lines that are looked at when all are read.
func (r *reader) collect(p *proxy, l *Line, key string, rest []string) bool {
	s := setting{rest, l}
	need := func(n int, what string) bool {
		if len(rest) < n {
			r.fail(l, "%s needs %s", key, what)
		}
		return len(rest) >= n
	}
	switch key {
	case "bind":
		if need(1, "an address") {
			p.binds = append(p.binds, s)
		}
	case "server", "server-template":
		least, want := 2, "a name and an address"
		if key == "server-template" {
			least, want = 3, "a prefix, a number and an address"
		}
		if need(least, want) {
			p.servers = append(p.servers, serverLine{s, key == "server-template", slices.Clone(p.server)})
		}
	case "default-server":
		p.server = append(p.server, s)
	case "http-check", "tcp-check":
		if need(1, "an action") {
			p.checks = append(p.checks, setting{l.words, l})
		}
	case "stick":
		if need(2, "an action and what to stick on") {
			p.sticks = append(p.sticks, s)
		}
	case "acl":
		if need(2, "a name and a criterion") {
			p.acls[rest[0]] = append(p.acls[rest[0]], setting{rest[1:], l})
		}
	case "use_backend":
		if need(1, "a backend") {
			p.uses = append(p.uses, s)
		}
	default:
		return false
	}
	return true
}

func (r *reader) readTimeout(p *proxy, l *Line, key string, rest []string) {
	if old := map[string]string{"clitimeout": "client", "srvtimeout": "server", "contimeout": "connect"}[key]; old != "" {
		rest = append([]string{old}, rest...)
	}
	if len(rest) < 2 {
		r.fail(l, "timeout needs a name and a time")
		return
	}
	switch rest[0] {
	case "connect", "server", "client", "queue", "check", "tunnel":
		if _, err := duration(rest[1]); err != nil {
			r.fail(l, "timeout %s: %v", rest[0], err)
			return
		}
		p.set["timeout "+rest[0]] = setting{rest[1:], l}
	case "http-request":
		l.note(Unneeded, "an agent has 30s for the header of a request")
	case "http-keep-alive":
		l.note(Unneeded, "a connection without a request is kept for 60s; agents let go after 4s")
	case "client-fin", "server-fin", "tarpit", "client-hs":
		l.note(Unneeded, "a connection that is closed on one side ends with idle_timeout at the latest")
	default:
		l.note(Unmapped, "there is no timeout of this name here")
	}
}

func (r *reader) readOption(p *proxy, l *Line, rest []string, negated bool) {
	if len(rest) == 0 {
		r.fail(l, "option needs a name")
		return
	}
	name := rest[0]
	switch name {
	case "httpchk", "tcp-check", "ssl-hello-chk", "ldap-check", "mysql-check", "pgsql-check", "redis-check", "smtpchk", "spop-check", "external-check":
		delete(p.set, "check") // the last one counts
		if !negated {
			p.set["check"] = setting{rest, l}
		} else {
			l.note(Mapped, "no check of this kind")
		}
	case "allbackups", "redispatch":
		if negated {
			delete(p.set, "option "+name)
			l.note(Unneeded, "it is off")
			if name == "redispatch" {
				l.note(Differs, "a request or a connection whose server fails always goes to another one")
			}
			return
		}
		p.set["option "+name] = setting{rest, l}
	default:
		if why, known := unneededOptions.find(name); known {
			l.note(Unneeded, "%s", why)
		} else if why, known := unmappedOptions.find(name); known && !negated {
			l.note(Unmapped, "%s", why)
		} else if negated {
			l.note(Unneeded, "an edge does not do that")
		} else {
			l.note(Unmapped, "there is no option of this name here")
		}
	}
}

// tcpRequest answers rules about connections; one of them says who sends PROXY headers.
func tcpRequest(p *proxy, l *Line, rest []string) {
	text := strings.Join(rest, " ")
	switch {
	case strings.HasPrefix(text, "connection expect-proxy layer4"):
		p.expects = append(p.expects, setting{rest[3:], l})
	case strings.HasPrefix(text, "inspect-delay"):
		l.note(Unneeded, "where names are told apart, an edge waits up to 10s for a client's first words")
	case strings.HasPrefix(text, "content accept") && (strings.Contains(text, "req_ssl_hello_type 1") || strings.Contains(text, "req.ssl_hello_type 1")):
		l.note(Unneeded, "where names are told apart, an edge takes a connection whose first words are TLS, and no other")
	case strings.Contains(text, "track-sc"):
		l.note(Unmapped, "an edge counts no rates for each source; a listener's per_source bounds its connections at one time")
	case strings.Contains(text, "reject"):
		l.note(Unmapped, "an edge refuses no source: do it in the firewall")
	default:
		l.note(Unmapped, "there are no such rules here")
	}
}

// httpRequest answers rules about requests. Those that tell a puppetserver who asks are an edge's own work.
func httpRequest(l *Line, rest []string) {
	if len(rest) == 0 {
		l.note(Unmapped, "there are no such rules here")
		return
	}
	name := ""
	if len(rest) > 1 {
		name = strings.ToLower(rest[1])
	}
	identity := slices.Contains([]string{"x-client-verify", "x-client-dn", "x-client-cert"}, name)
	switch {
	case identity && strings.HasPrefix(rest[0], "del-header"):
		l.note(Unneeded, "in mode puppet an edge removes what a client says there")
	case identity:
		l.note(Unneeded, "in mode puppet an edge says who asks: X-Client-Verify, X-Client-DN (CN=name) and X-Client-Cert, from the verified certificate alone")
	case strings.HasPrefix(name, "x-ssl-") || strings.HasPrefix(name, "x-forwarded-") || name == "forwarded" || name == "x-real-ip":
		l.note(Unmapped, "no such header is added: puppetserver reads X-Client-Verify, X-Client-DN and X-Client-Cert")
	case rest[0] == "deny" || rest[0] == "reject" || rest[0] == "silent-drop" || rest[0] == "tarpit":
		l.note(Unmapped, "an edge refuses no request by rule: auth.conf of the server does")
	default:
		l.note(Unmapped, "there are no such rules here")
	}
}
