package haproxy

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"troupe/internal/config"
)

// This file makes pools of backends.

// pool writes the pool of a backend, once. at is the line that wants it; port is the listener's, for servers without one.
func (b *builder) pool(name string, at *Line, puppet bool, port string) bool {
	if b.made[name] != nil {
		return len(b.edge.Pools[name].Servers) > 0 || b.edge.Pools[name].SRV != ""
	}
	p := b.proxies["backend "+name]
	if p == nil {
		if !strings.Contains(name, "%[") {
			b.fail(at, "there is no backend %q", clip(name))
		}
		return false
	}
	if strings.ContainsAny(name, "/ \t") {
		b.fail(p.line, "an edge cannot have a pool of this name: rename it")
		return false
	}
	b.made[name] = p
	if p.disabled {
		return false
	}
	c, ok := b.servers(p, puppet, port)
	if !ok {
		p.line.note(Unmapped, "left out: no server that an edge could have")
		return false
	}
	b.balance(p, &c, puppet)
	b.stick(p, &c, puppet)
	b.times(p, &c, puppet)
	if o := p.set["option allbackups"]; o.there() {
		c.AllBackups = true
		o.line.note(Mapped, "all_backups: true")
	}
	if o := p.set["option redispatch"]; o.there() {
		o.line.note(Unneeded, "a request or a connection whose server fails always goes to another one")
	}
	b.retries(p)
	p.line.note(Mapped, "pool %s", name)
	b.edge.Pools[name] = c
	return true
}

// servers writes the servers and how they are checked and reached.
func (b *builder) servers(p *proxy, puppet bool, port string) (c config.EdgePool, ok bool) {
	var all []*server
	for _, sl := range p.servers {
		s, good := b.newServer(sl)
		switch {
		case !good:
		case s.templateCount > 0 && strings.HasPrefix(s.host, "_") && len(p.servers) == 1:
			b.template(p, s, &c, puppet)
			return c, true
		case s.templateCount > 0 && strings.HasPrefix(s.host, "_"):
			sl.line.note(Unmapped, "left out: a pool has either named servers or those of one SRV name (srv)")
		case s.templateCount > 0:
			sl.line.note(Unmapped, "left out: name the servers one by one, or an SRV name in the pool's srv; an edge does not make servers of the addresses of a name")
		default:
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return c, false
	}
	weighted := slices.ContainsFunc(all, func(s *server) bool { return s.values["weight"].there() })
	checks := make([]config.EdgeCheck, len(all))
	seen := map[string]bool{}
	for i, s := range all {
		if seen[s.name] {
			b.fail(s.line, "two servers of %s are called %q", p.title(), clip(s.name))
			return c, false
		}
		seen[s.name] = true
		c.Servers = append(c.Servers, s.config(port, weighted))
		checks[i] = b.checkOf(p, s, puppet)
	}
	c.Check = usual(checks)
	for i := range checks {
		if !reflect.DeepEqual(checks[i], c.Check) {
			c.Servers[i].Check = &checks[i]
		}
	}
	b.together(all, &c, puppet)
	b.serverTLS(all, &c, puppet)
	return c, true
}

// template writes a pool whose servers are the records of an SRV name.
func (b *builder) template(p *proxy, s *server, c *config.EdgePool, puppet bool) {
	c.SRV = s.host
	c.Check = b.checkOf(p, s, puppet)
	b.together([]*server{s}, c, puppet)
	b.serverTLS([]*server{s}, c, puppet)
	s.line.note(Mapped, "srv: %s", s.host)
	s.line.note(Differs, "srv: all records are servers, looked up every 10s; a priority is a tier, where HAProxy looks at weights alone")
	if s.port != "" || s.offset != 0 {
		s.line.note(Unneeded, "srv: each record says its port")
	}
	for _, word := range []string{"maxconn", "weight", "addr", "port", "agent-port"} {
		if v := s.values[word]; v.there() {
			v.line.note(Unmapped, "%s: servers that are looked up have what their records say", word)
		}
	}
	for _, word := range []string{"backup", "disabled"} {
		if s.is(word) {
			s.line.note(Unmapped, "%s: it cannot be said of servers that are looked up", word)
		}
	}
}

// usual is the check that most servers have.
func usual(checks []config.EdgeCheck) (most config.EdgeCheck) {
	best := 0
	for _, c := range checks {
		n := 0
		for _, o := range checks {
			if reflect.DeepEqual(c, o) {
				n++
			}
		}
		if n > best {
			most, best = c, n
		}
	}
	return most
}

// together writes what servers of HAProxy have each, and those of an edge together.
func (b *builder) together(all []*server, c *config.EdgePool, puppet bool) {
	for _, s := range all {
		if v := s.values["slowstart"]; v.there() {
			d, _ := duration(v.value())
			c.SlowStart = max(c.SlowStart, d)
			v.line.note(Mapped, "slow_start, of the whole pool")
		}
		if v := s.values["maxqueue"]; v.there() {
			n, _ := number(v.value(), 0, 1<<30)
			c.Queue.Length = min(c.Queue.Length+n, 1<<30)
			v.line.note(Differs, "queue.length: a pool has one queue; what its servers may have is added up")
		}
		if s.is("send-proxy") || s.is("send-proxy-v2") || s.is("check-send-proxy") {
			b.sendProxy(s, c, puppet)
		}
	}
	cut := slices.ContainsFunc(all, func(s *server) bool { return s.values["on-marked-down"].there() })
	for _, s := range all {
		if v := s.values["on-marked-down"]; v.there() {
			v.line.note(Mapped, "cut_when_down, of the whole pool")
		}
	}
	if !puppet || cut {
		c.CutDown = &cut
	}
}

func (b *builder) sendProxy(s *server, c *config.EdgePool, puppet bool) {
	version := "v1"
	if s.is("send-proxy-v2") {
		version = "v2"
	}
	switch {
	case puppet:
		s.line.note(Unmapped, "send-proxy: in mode puppet no PROXY header is sent")
	case c.SendProxy != "" && c.SendProxy != version:
		s.line.note(Unmapped, "send-proxy: all servers of a pool get the same one, %s", c.SendProxy)
	default:
		c.SendProxy = version
		s.line.note(Mapped, "send_proxy: %s, of the whole pool", version)
	}
}

// serverTLS writes how servers are spoken to over TLS.
func (b *builder) serverTLS(all []*server, c *config.EdgePool, puppet bool) {
	take := func(s *server, word, value string, to *string) {
		switch l := s.values[word].line; {
		case *to == "":
			*to = value
			l.note(Mapped, "%s: of the whole pool", word)
		case *to != value:
			l.note(Unmapped, "%s: all servers of a pool have the same one, %s", word, clip(*to))
		}
	}
	for _, s := range all {
		if v := s.value("ca-file"); v != "" {
			take(s, "ca-file", under(b.global.caBase, v), &c.TLS.CA)
		}
		if v := s.value("crt"); v != "" {
			take(s, "crt", under(b.global.crtBase, v), &c.TLS.Certificate)
			c.TLS.Key = c.TLS.Certificate
		}
		for _, word := range []string{"sni", "check-sni", "verifyhost"} {
			v := s.values[word]
			if !v.there() {
				continue
			}
			name := v.value()
			if text, ok := strings.CutPrefix(name, "str("); ok {
				name = strings.TrimSuffix(text, ")")
			} else if strings.ContainsAny(name, "(),") || word == "sni" {
				v.line.note(Unmapped, "%s: only a plain name can be said, sni str(NAME)", word)
				continue
			}
			take(s, word, name, &c.TLS.ServerName)
		}
		if !puppet {
			if s.is("ssl") {
				s.line.note(Unmapped, "ssl: mode passthrough carries bytes, it begins no TLS of its own")
			}
			continue
		}
		if !s.is("ssl") {
			s.line.note(Unmapped, "an edge speaks TLS with puppetservers, HAProxy does not here: have the server listen with TLS on this port")
		}
		if s.verify == "none" || s.verify == "" && !b.global.verify {
			s.line.note(Differs, "verify none: in mode puppet an edge always verifies the server's certificate")
		}
	}
}

// methods are the ways to balance that both know.
var methods = map[string]string{"roundrobin": "round-robin", "leastconn": "least-connections", "source": "hash", "random": "random"}

func (b *builder) balance(p *proxy, c *config.EdgePool, puppet bool) {
	s := p.set["balance"]
	if !s.there() {
		c.Balance = "round-robin" // both have this default; here it is seen
	} else {
		method, argument, _ := strings.Cut(s.value(), "(")
		switch {
		case methods[method] != "":
			c.Balance = methods[method]
			s.line.note(Mapped, "balance: %s", c.Balance)
			if method == "source" {
				c.HashBy = "source"
			}
			if method == "random" && argument != "" && argument != "2)" {
				s.line.note(Differs, "random: of two drawn servers the less loaded one is taken")
			}
		case method == "static-rr":
			c.Balance = "round-robin"
			s.line.note(Mapped, "balance: round-robin")
		case method == "url_param" && len(s.words) > 1 && s.words[1] == "environment" && puppet:
			c.Balance, c.HashBy = "hash", "environment"
			s.line.note(Mapped, "balance: hash, hash_by: environment")
		case method == "hash" && len(s.words) > 1 && s.words[1] == "src":
			c.Balance, c.HashBy = "hash", "source"
			s.line.note(Mapped, "balance: hash, hash_by: source")
		default:
			c.Balance = "least-connections"
			s.line.note(Unmapped, "there is no such way to balance; least-connections is taken")
		}
	}
	if h := p.set["hash-type"]; h.there() {
		if h.value() == "consistent" {
			h.line.note(Unneeded, "hash moves only the clients of a server that comes or goes")
		} else {
			h.line.note(Differs, "hash moves only the clients of a server that comes or goes, as hash-type consistent does")
		}
	}
	if h := p.set["hash-balance-factor"]; h.there() {
		if h.value() == "125" {
			h.line.note(Mapped, "hash: a server gets a quarter more than its share at most")
		} else {
			h.line.note(Differs, "hash: a server gets a quarter more than its share at most (125)")
		}
	}
}

// stick writes who stays with his server.
func (b *builder) stick(p *proxy, c *config.EdgePool, puppet bool) {
	for _, s := range p.sticks {
		if s.words[0] != "on" && s.words[0] != "match" && s.words[0] != "store-request" {
			s.line.note(Unmapped, "who asks sticks to a server, not what is answered")
			continue
		}
		key, argument, converters := fetch(s.words[1])
		if slices.ContainsFunc(converters, func(c string) bool { return c != "lower" && c != "upper" }) {
			s.line.note(Unmapped, "clients stick by what they are, not by what a converter makes of it")
			continue
		}
		header := (strings.EqualFold(key, "req.hdr") || key == "hdr") && strings.EqualFold(argument, "x-client-dn")
		if slices.Contains(s.words, "if") || slices.Contains(s.words, "unless") {
			s.line.note(Unmapped, "conditions of stick; all clients stick")
		}
		if i := slices.Index(s.words, "table"); i >= 0 {
			s.line.note(Differs, "each pool has its own table")
		}
		switch {
		case key == "src":
			c.Stick = "source"
			s.line.note(Mapped, "stick: source")
			if puppet {
				s.line.note(Differs, "in mode puppet a client with a certificate sticks by its certname")
			}
		case key == "ssl_c_s_dn" && (argument == "" || strings.EqualFold(argument, "cn")) || header:
			if !puppet {
				s.line.note(Unmapped, "certificates are inside of TLS, which mode passthrough does not open")
				continue
			}
			c.Stick = "certname"
			s.line.note(Mapped, "stick: certname")
		default:
			s.line.note(Unmapped, "clients stick by their address or their certname")
		}
	}
	table := p.set["stick-table"]
	if !table.there() {
		return
	}
	if c.Stick == "" {
		table.line.note(Unmapped, "nothing sticks by it; an edge counts no rates for each source")
		return
	}
	b.table(table, c)
	b.say("Who was sent to a backup server stays there in HAProxy; with an edge it goes back with its next run when a proper server is up.")
}

func (b *builder) table(table setting, c *config.EdgePool) {
	l := table.line
	expires := false
	for i := 0; i+1 < len(table.words); i++ {
		value := table.words[i+1]
		switch table.words[i] {
		case "size":
			n, err := number(value, 1, 1<<31-1)
			if err != nil {
				b.fail(l, "stick-table: size: %v", err)
				return
			}
			c.StickSize = n
			l.note(Mapped, "stick_size: %d", n)
		case "expire":
			d, err := duration(value)
			if err != nil {
				b.fail(l, "stick-table: expire: %v", err)
				return
			}
			c.StickExpire, expires = d, true
			l.note(Mapped, "stick_expire")
		case "peers":
			l.note(Unmapped, "peers: %s", tellPeers)
		case "store":
			l.note(Unmapped, "store: an edge counts no rates for each source")
		case "type", "len":
			if value == "ip" || value == "ipv6" || value == "string" {
				l.note(Unneeded, "type: keys are texts")
			}
		default:
			continue
		}
		i++
	}
	if slices.Contains(table.words, "nopurge") {
		l.note(Differs, "nopurge: a full table forgets who was not seen for longest")
	}
	if !expires {
		l.note(Differs, "no expire: HAProxy forgets nobody while there is room; an edge forgets after 30m without use")
	}
}

// times writes timeouts.
func (b *builder) times(p *proxy, c *config.EdgePool, puppet bool) {
	get := func(name string) (config.Duration, *Line) {
		t := p.set["timeout "+name]
		if !t.there() {
			return 0, nil
		}
		d, _ := duration(t.value()) // it was read before
		return d, t.line
	}
	connect, l := get("connect")
	c.Connect = connect
	limit(connect, l, "connect_timeout", "2s")
	limited := slices.ContainsFunc(c.Servers, func(s config.EdgeServer) bool { return s.MaxConnections > 0 })
	if queue, l := get("queue"); queue != 0 {
		c.Queue.Timeout = queue
		l.note(Mapped, "queue.timeout")
	} else if l != nil {
		limit(queue, l, "queue.timeout", "60s")
	} else if connect != 0 && limited {
		c.Queue.Timeout = connect
		p.set["timeout connect"].line.note(Mapped, "queue.timeout: HAProxy's default is timeout connect")
	}
	server, l := get("server")
	if puppet {
		if server != 0 {
			c.Answer = server
			l.note(Differs, "answer_timeout: until the first byte of an answer; HAProxy also means the time between two bytes")
			if time.Duration(server) > agentTime {
				l.note(Differs, "agents give up after 10m")
			}
		} else {
			limit(server, l, "answer_timeout", "9m")
		}
		return
	}
	b.idle(p, c, server, l)
}

// limit notes a time. 0 is no limit in HAProxy, and in an edge it is what nobody said.
func limit(d config.Duration, l *Line, setting, usual string) {
	if d == 0 {
		l.note(Differs, "%s: 0 is no limit in HAProxy; an edge has one, and its default of %s holds", setting, usual)
		return
	}
	l.note(Mapped, "%s", setting)
}

// idle is how long a connection in mode passthrough may be silent.
func (b *builder) idle(p *proxy, c *config.EdgePool, server config.Duration, l *Line) {
	if t := p.set["timeout tunnel"]; t.there() {
		c.Idle, _ = duration(t.value())
		limit(c.Idle, t.line, "idle_timeout", "20m")
		l.note(Unneeded, "timeout tunnel counts in mode tcp")
		return
	}
	c.Idle = server
	limit(server, l, "idle_timeout", "20m")
	for _, f := range b.order {
		t := f.set["timeout client"]
		if !f.is("frontend", "listen") || f.disabled || !t.there() || f != p && !slices.ContainsFunc(f.uses, func(s setting) bool { return s.words[0] == p.name }) && f.set["default_backend"].value() != p.name {
			continue
		}
		client, _ := duration(t.value())
		switch {
		case client == 0:
			t.line.note(Differs, "idle_timeout: 0 is no limit in HAProxy; an edge has one for both sides")
		case c.Idle == 0 || client < c.Idle:
			c.Idle = client
			t.line.note(Differs, "idle_timeout: of both sides; the shorter one of timeout client and timeout server")
		case client == c.Idle:
			t.line.note(Mapped, "idle_timeout, of both sides")
		default:
			t.line.note(Unneeded, "timeout server is shorter, and a connection that is silent on one side is so on the other")
		}
	}
}

// retries are of the whole edge.
func (b *builder) retries(p *proxy) {
	if s := p.set["retry-on"]; s.there() {
		s.line.note(Differs, "an edge knows which requests of an agent may be sent again, and does so whatever failed; in mode passthrough only a connection that was not made is tried elsewhere")
	}
	s := p.set["retries"]
	if !s.there() {
		return
	}
	n, err := number(s.value(), 0, 1<<20)
	if err != nil {
		b.fail(s.line, "retries: %v", err)
		return
	}
	most := min(n, 5)
	if before := b.edge.Runs.Replays; before != nil {
		most = max(most, *before)
	}
	b.edge.Runs.Replays = &most
	s.line.note(Differs, "runs.replays: %d (5 at most), of the whole edge and each time at another server; HAProxy tries the same one again", most)
}
