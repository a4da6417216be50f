package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/config"
)

// This file makes listeners of frontends.

// A builder writes an edge's configuration from what was read.
type builder struct {
	*reader

	edge    *config.Edge
	made    map[string]*proxy // pools that are written
	general []string
	tls     *Line // the bind whose files are in tls
}

// say notes a difference that no single line says.
func (b *builder) say(text string) {
	if !slices.Contains(b.general, text) {
		b.general = append(b.general, text)
	}
}

func (b *builder) build() error {
	for _, p := range b.order {
		if p.is("frontend", "listen") && !p.disabled {
			b.frontend(p)
		}
	}
	if b.global.stop != 0 {
		b.edge.Runs.Drain = b.global.stop
	}
	if len(b.edge.Listeners) == 0 && len(b.errs) == 0 {
		return fmt.Errorf("%s has nothing that an edge could do: it needs a frontend or listen section with bind, in mode tcp or with TLS (bind … ssl), and servers", b.file)
	}
	for _, p := range b.order {
		b.leftOver(p)
	}
	return nil
}

// leftOver says of sections that were not used why.
func (b *builder) leftOver(p *proxy) {
	if p.disabled {
		p.line.note(Mapped, "left out: it is disabled")
		return
	}
	if p.is("backend") && b.made[p.name] == nil {
		p.line.note(Unneeded, "left out: no frontend that an edge can have leads there")
	}
}

// A bound is a bind line taken apart.
type bound struct {
	listen []string
	port   string
	ssl    bool
	line   *Line
	accept bool // PROXY headers
	most   int
}

// frontend writes the listeners of one section.
func (b *builder) frontend(p *proxy) {
	var bounds []bound
	for _, s := range p.binds {
		if one, ok := b.bind(s); ok {
			bounds = append(bounds, one)
		}
	}
	if len(bounds) == 0 {
		p.line.note(Unmapped, "left out: it has no bind that an edge could have")
		return
	}
	mode := p.set["mode"]
	for _, one := range bounds {
		if !one.ssl && mode.value() == "http" {
			b.plain(p, one, mode)
			continue
		}
		b.listener(p, one, mode)
	}
}

// plain is HTTP without TLS.
func (b *builder) plain(p *proxy, one bound, mode setting) {
	if len(p.servers) == 0 && !p.set["default_backend"].there() && len(p.uses) == 0 {
		p.line.note(Unneeded, "left out: it has no servers; troupe edge status and metrics show what an edge does")
		one.line.note(Unneeded, "see the section's first line")
		return
	}
	p.line.note(Unmapped, "left out: HTTP without TLS. Agents speak TLS, and an edge carries it or ends it")
	one.line.note(Unmapped, "left out: HTTP without TLS")
	mode.line.note(Unmapped, "without TLS there is no mode http")
}

// listener writes one listener.
func (b *builder) listener(p *proxy, one bound, mode setting) {
	puppet := one.ssl
	l := config.EdgeListener{Mode: config.ModePassthrough}
	if puppet {
		l.Mode = config.ModePuppet
	}
	main, ok := b.mainPool(p, puppet, one.port)
	if !ok {
		p.line.note(Unmapped, "left out: no backend with servers is behind it")
		return
	}
	l.Pool = main
	b.rules(p, &l, puppet, one.port)
	b.clients(p, &l, one)
	if one.accept {
		l.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	for _, s := range p.expects {
		t, err := b.term(setting{inner(s.words), s.line})
		if err != nil || t.kind != bySource {
			s.line.note(Unmapped, "PROXY headers are expected by source: if { src NETWORK }")
			continue
		}
		l.ProxyProtocol = append(l.ProxyProtocol, t.source...)
		s.line.note(Mapped, "proxy_protocol")
	}
	for _, listen := range one.listen {
		l.Listen = listen
		if slices.ContainsFunc(b.edge.Listeners, func(o config.EdgeListener) bool { return o.Listen == listen }) {
			one.line.note(Unmapped, "%s is bound twice; the first one counts", listen)
			continue
		}
		b.edge.Listeners = append(b.edge.Listeners, l)
		one.line.note(Mapped, "listener %s in mode %s", listen, l.Mode)
	}
	p.line.note(Mapped, "listener %s", quoted(one.listen))
	b.modeNote(mode, puppet)
}

func (b *builder) modeNote(mode setting, puppet bool) {
	if !puppet {
		mode.line.note(Mapped, "mode: passthrough")
		b.say("Mode passthrough carries bytes as HAProxy's mode tcp does: a server that dies cuts the runs that it had. In mode puppet an edge sends " +
			"their requests to another server; docs/edge.md has the way there.")
		b.say("check.observe: false and cut_when_down: false are HAProxy's defaults, written out. An edge's own are true: refused connections count " +
			"against a server, and connections of a server that went down are ended at once.")
		return
	}
	if mode.value() == "http" {
		mode.line.note(Mapped, "mode: puppet")
	} else {
		mode.line.note(Differs, "mode: puppet, since bind ends TLS: requests are understood, where HAProxy carries bytes")
	}
	b.say("Mode puppet speaks TLS with servers and tells them who asks in X-Client-Verify, X-Client-DN and X-Client-Cert: they need " +
		"allow-header-cert-info: true and must be reachable from the edge alone (docs/edge.md).")
	b.say("In mode puppet what requests show counts for the judge (check.observe), and what is under way at a server that goes down is sent to another one.")
}

// inner are the words of "if { … }".
func inner(words []string) []string {
	if len(words) > 3 && words[0] == "if" && words[1] == "{" && words[len(words)-1] == "}" {
		return words[2 : len(words)-1]
	}
	return []string{"?"}
}

// clients bounds connections.
func (b *builder) clients(p *proxy, l *config.EdgeListener, one bound) {
	most := p.set["maxconn"]
	if !most.there() {
		most = b.global.maxconn
		if most.there() {
			most.line.note(Differs, "max_clients of each listener: HAProxy counts all of them together")
		}
	} else {
		most.line.note(Mapped, "max_clients")
	}
	if most.there() {
		n, err := number(most.value(), 0, 1<<30)
		if err != nil {
			b.fail(most.line, "maxconn: %v", err)
			return
		}
		l.MaxClients = n
	}
	if one.most > 0 && (l.MaxClients == 0 || one.most < l.MaxClients) {
		l.MaxClients = one.most
	}
	if t := p.set["timeout client"]; t.there() && l.Mode == config.ModePuppet {
		t.line.note(Unneeded, "an agent has 10m for a whole request; a connection without one is kept for 60s")
	}
}

// bind reads one bind line.
func (b *builder) bind(s setting) (one bound, ok bool) {
	one.line = s.line
	for _, text := range b.ports(s) {
		host, port, err := address(text)
		switch {
		case err == errNoNetwork || err == errVariable: //nolint:errorlint // they are never wrapped
			s.line.note(Unmapped, "%v", err)
			continue
		case err != nil:
			b.fail(s.line, "%v", err)
			return one, false
		case port == "" || strings.ContainsAny(port[:1], "+-"):
			b.fail(s.line, "bind needs a port")
			return one, false
		}
		if host == "" || host == "::" || host == "0.0.0.0" {
			if !slices.Contains(s.words, "v4v6") {
				s.line.note(Differs, "an edge listens on IPv4 and IPv6, where this is one of them")
			}
			host = ""
		}
		one.listen, one.port = append(one.listen, join(host, port)), cmp.Or(one.port, port) // the first, for servers without one
	}
	b.bindOptions(&one, s)
	return one, len(one.listen) > 0
}

// maxPorts is how many listeners one bind may become.
const maxPorts = 64

// ports are the addresses of a bind line; a range of ports such as :8140-8142 are several.
func (b *builder) ports(s setting) (all []string) {
	for text := range strings.SplitSeq(s.words[0], ",") {
		host, last, ranged := "", "", false
		if i := strings.LastIndexByte(text, ':'); i >= 0 {
			host = text[:i+1]
			text, last, ranged = strings.Cut(text[i+1:], "-")
		}
		if !ranged || text == "" {
			all = append(all, strings.TrimSuffix(host+text+"-"+last, "-"))
			continue
		}
		from, ferr := number(text, 1, 65535)
		to, terr := number(last, 1, 65535)
		if ferr != nil || terr != nil || from > to {
			b.fail(s.line, "%q is no range of ports", clip(text+"-"+last))
			continue
		}
		if to-from >= maxPorts {
			s.line.note(Unmapped, "a range of more than %d ports: the first %d are taken", maxPorts, maxPorts)
			to = from + maxPorts - 1
		}
		for n := from; n <= to; n++ {
			all = append(all, host+strconv.Itoa(n))
		}
	}
	return all
}

// bindValues are options of bind with an argument, apart from those that are looked at.
var bindValues = strings.Fields(`
	name id process thread backlog nice maxconn alpn npn proto ciphers ciphersuites curves ecdhe ssl-max-ver
	ssl-min-ver ca-ignore-err crt-ignore-err interface namespace mss tcp-ut user group uid gid mode level
	severity-output crt crt-list ca-file ca-verify-file crl-file verify ca-sign-file ca-sign-pass tls-ticket-keys
	shards guid-prefix ocsp-update quic-cc-algo client-sigalgs sigalgs ca-sign-use-chain idle-ping ktls
`)

func (b *builder) bindOptions(one *bound, s setting) {
	l := s.line
	values := map[string]string{}
	for i := 1; i < len(s.words); i++ {
		word := s.words[i]
		if slices.Contains(bindValues, word) {
			if i+1 == len(s.words) {
				b.fail(l, "%s needs a value", word)
				return
			}
			i++
			values[word] = s.words[i]
			continue
		}
		switch word {
		case "ssl":
			one.ssl = true
		case "accept-proxy":
			one.accept = true
			l.note(Differs, "proxy_protocol: everybody must send a PROXY header, as in HAProxy, and so everybody can name any source; "+
				"write the balancer's networks in the place of 0.0.0.0/0 and ::/0")
		case "transparent", "accept-netscaler-cip", "expose-fd":
			l.note(Unmapped, "%s: there is nothing like it", word)
		case "v4v6", "v6only", "defer-accept", "tfo", "strict-sni", "no-sslv3", "no-tlsv10", "no-tlsv11",
			"no-tlsv12", "no-tlsv13", "no-tls-tickets", "prefer-client-ciphers", "allow-0rtt", "force-sslv3", "force-tlsv10", "force-tlsv11",
			"force-tlsv12", "force-tlsv13", "generate-certificates", "no-ca-names", "no-alpn", "quic-force-retry":
		default:
			l.note(Unmapped, "%q is not known here, and the rest of the line was not read", clip(word))
			i = len(s.words)
		}
	}
	if text := values["maxconn"]; text != "" {
		n, err := number(text, 0, 1<<30)
		if err != nil {
			b.fail(l, "maxconn: %v", err)
		}
		one.most = n
	}
	for _, word := range []string{"interface", "namespace"} {
		if values[word] != "" {
			l.note(Unmapped, "%s: an edge listens on addresses", word)
		}
	}
	if one.ssl {
		b.bindTLS(l, s.words, values)
	}
}

// bindTLS writes the files with which TLS is ended. An edge has one set of them.
func (b *builder) bindTLS(l *Line, words []string, values map[string]string) {
	crt, ca := under(b.global.crtBase, values["crt"]), under(b.global.caBase, values["ca-file"])
	t := config.EdgeTLS{Min: leastTLS(&Line{}, words, b.global.minTLS)}
	if values["ssl-min-ver"] != "" {
		t.Min = leastTLS(l, words, t.Min)
	}
	switch {
	case crt == "" || values["crt-list"] != "":
		l.note(Unmapped, "no crt: name the certificate and its key in tls, or make this an edge of a troupe")
	case ca == "":
		l.note(Unmapped, "no ca-file: an edge asks agents for certificates and needs the CA bundle in tls.ca")
	default:
		t.Certificate, t.Key, t.CA = crt, crt, ca
		if crl := values["crl-file"]; crl != "" {
			t.CRL = under(b.global.caBase, crl)
		} else {
			l.note(Differs, "no crl-file: who is revoked is let in, as in HAProxy; name puppetserver's ca_crl.pem in tls.crl")
		}
		l.note(Differs, "tls.key is the file of crt: if the key is in a file of its own, name that; it must have mode 0600")
	}
	switch values["verify"] {
	case "optional":
	case "required":
		l.note(Differs, "verify required: an edge also takes agents without a certificate, since they must ask for one; the server's auth.conf decides")
	default:
		l.note(Differs, "verify none: an edge asks each agent for its certificate, and believes nothing else")
	}
	if b.tls == nil {
		b.tls, b.edge.TLS = l, t
	} else if b.edge.TLS != t {
		l.note(Unmapped, "an edge has one certificate and CA for all listeners: those of line %d", b.tls.Number)
	}
}

// agentTime is how long agents wait for an answer.
const agentTime = 10 * time.Minute
