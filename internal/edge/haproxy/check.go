package haproxy

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	"troupe/internal/config"
)

// This file turns checks into those of an edge.

// checkOf is how one server of a proxy is checked.
func (b *builder) checkOf(p *proxy, s *server, puppet bool) config.EdgeCheck {
	c := config.EdgeCheck{}
	s.observe(&c, puppet)
	if !s.is("check") {
		c.Type = "none"
		s.line.note(Mapped, "check: {type: none}: HAProxy does not check it either")
		if option := p.set["check"]; option.there() {
			option.line.note(Mapped, "for servers with check")
		}
		return c
	}
	// HAProxy checks over TLS what it connects to over TLS.
	secure := s.is("check-ssl") || s.is("ssl")
	b.typeOf(p, &c, secure)
	if c.Type == "https" || c.Type == "tls" {
		b.verifyOf(s, &c)
	}
	s.intervals(&c)
	if t := p.set["timeout check"]; t.there() {
		if c.Timeout, _ = duration(t.value()); c.Timeout == 0 {
			t.line.note(Differs, "check.timeout: 0 is no limit in HAProxy; a check of an edge ends after its interval")
		} else {
			t.line.note(Differs, "check.timeout: of one whole check; in HAProxy the connection has its own time before")
		}
	}
	if g := b.global.spread; g.there() {
		n, _ := number(g.value(), 0, 50)
		c.Spread = float64(n) / 100
		g.line.note(Mapped, "check.spread")
	}
	return c
}

// observe is what requests show of a server. HAProxy looks only where it is told to.
func (s *server) observe(c *config.EdgeCheck, puppet bool) {
	v := s.values["observe"]
	if !v.there() {
		if !puppet {
			no := false
			c.Observe = &no
		}
		return
	}
	yes := true
	c.Observe = &yes
	v.line.note(Mapped, "check.observe")
	if !puppet && v.value() == "layer7" {
		v.line.note(Differs, "observe layer7: answers are inside of TLS; connections are observed")
	}
	if e := s.values["error-limit"]; e.there() {
		c.ErrorLimit, _ = number(e.value(), 1, 1<<30)
		e.line.note(Mapped, "check.error_limit")
	}
	if e := s.values["on-error"]; e.there() {
		c.OnError = e.value()
		e.line.note(Mapped, "check.on_error")
	}
}

// intervals writes HAProxy's numbers out, also its defaults.
func (s *server) intervals(c *config.EdgeCheck) {
	c.Interval, c.Rise, c.Fall = config.Duration(2*time.Second), 2, 3
	for i, to := range []*config.Duration{&c.Interval, &c.FastInterval, &c.DownInterval} {
		word := []string{"inter", "fastinter", "downinter"}[i]
		v := s.values[word]
		if !v.there() {
			continue
		}
		*to, _ = duration(v.value())
		if least := config.Duration(10 * time.Millisecond); *to < least {
			*to = least
			v.line.note(Differs, "%s: an edge waits 10ms at least between checks", word)
			continue
		}
		v.line.note(Mapped, "%s", word)
	}
	for i, to := range []*int{&c.Rise, &c.Fall} {
		word := []string{"rise", "fall"}[i]
		if v := s.values[word]; v.there() {
			*to, _ = number(v.value(), 1, 1<<30)
			v.line.note(Mapped, "%s", word)
		}
	}
}

// verifyOf says whether a check looks whose certificate the server has.
func (b *builder) verifyOf(s *server, c *config.EdgeCheck) {
	no := false
	switch {
	case s.verify == "none":
		c.Verify = &no
		s.line.note(Mapped, "check.verify: false")
	case s.verify == "" && !b.global.verify:
		c.Verify = &no
		b.global.verifyLine.note(Mapped, "check.verify: false")
	case s.verify == "" && s.value("ca-file") == "" && !s.is("ssl"):
		c.Verify = &no
		s.line.note(Mapped, "check.verify: false, since no ca-file is named")
	}
}

// typeOf reads the option that says what a check is.
func (b *builder) typeOf(p *proxy, c *config.EdgeCheck, secure bool) {
	plain, over := "tcp", "http"
	if secure {
		plain, over = "tls", "https"
	}
	option := p.set["check"]
	if !option.there() {
		c.Type = plain
		return
	}
	switch l := option.line; option.value() {
	case "httpchk":
		c.Type, c.Method, c.Path = over, "OPTIONS", "/"
		b.httpchk(p, option, c)
		if secure = c.Type == "https"; secure {
			l.note(Mapped, "check: {type: https, method: %s, path: %s}", c.Method, clip(c.Path))
		} else {
			l.note(Mapped, "check: {type: http, method: %s, path: %s}", c.Method, clip(c.Path))
		}
	case "ssl-hello-chk":
		c.Type = "tls"
		l.note(Differs, "check: {type: tls}: a whole handshake, of TLS 1.2 at least; HAProxy sends the hello of SSL 3")
	case "tcp-check":
		c.Type = plain
		b.tcpCheck(p, c)
		l.note(Mapped, "check: {type: %s}", c.Type)
	default:
		c.Type = plain
		l.note(Unmapped, "puppetservers speak no such protocol; the connection is checked")
	}
}

// tcpCheck reads the steps of option tcp-check.
func (b *builder) tcpCheck(p *proxy, c *config.EdgeCheck) {
	for _, s := range p.checks {
		if s.words[0] != "tcp-check" {
			continue
		}
		switch s.words[1] {
		case "connect":
			for _, word := range s.words[2:] {
				if word == "ssl" {
					c.Type = "tls"
				}
			}
			s.line.note(Mapped, "check: {type: %s}", c.Type)
		case "comment":
			s.line.note(Unneeded, "it has no effect")
		default:
			s.line.note(Unmapped, "a check of an edge connects, shakes hands or asks by HTTP; it has no other words")
		}
	}
}

// httpchk reads what is asked and what must be answered, as HAProxy before and since 2.2 writes it.
func (b *builder) httpchk(p *proxy, option setting, c *config.EdgeCheck) {
	words := option.words[1:]
	switch len(words) {
	case 0:
	case 1:
		b.checkPath(option.line, c, words[0])
	default:
		b.checkMethod(option.line, c, words[0])
		b.checkPath(option.line, c, words[1])
		if len(words) > 2 { // headers behind the version, which 2.2 calls deprecated
			_, headers, _ := strings.Cut(strings.Join(words[2:], " "), "\r\n")
			for header := range strings.SplitSeq(headers, "\r\n") {
				name, value, ok := strings.Cut(header, ":")
				if header == "" {
					break // a body follows
				}
				if ok {
					checkHeader(option.line, c, name, strings.TrimSpace(value))
				}
			}
		}
	}
	for _, s := range p.checks {
		if s.words[0] != "http-check" {
			continue
		}
		switch s.words[1] {
		case "send":
			b.checkSend(s, c)
		case "expect":
			b.checkExpect(s, c)
		case "connect":
			for _, word := range s.words[2:] {
				if word == "ssl" {
					c.Type = "https"
				}
			}
			s.line.note(Mapped, "check.type: %s", c.Type)
			if len(s.words) > 3 {
				s.line.note(Unmapped, "a check connects as a request does")
			}
		case "send-state":
			s.line.note(Unneeded, "puppetservers do not read it")
		case "disable-on-404":
			s.line.note(Unmapped, "404 is a failure; to drain a server say troupe edge drain POOL/SERVER")
		case "comment":
			s.line.note(Unneeded, "it has no effect")
		default:
			s.line.note(Unmapped, "there is nothing like this in checks")
		}
	}
}

func (b *builder) checkMethod(l *Line, c *config.EdgeCheck, method string) {
	if oneOf(method, "GET", "HEAD", "OPTIONS", "POST") != nil {
		l.note(Unmapped, "a check asks by GET, HEAD, OPTIONS or POST; here it is GET")
		method = "GET"
	}
	c.Method = method
}

func (b *builder) checkPath(l *Line, c *config.EdgeCheck, path string) {
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		b.fail(l, "httpchk: the path must begin with / and have no blanks")
		return
	}
	c.Path = path
}

// checkHeader takes Host; no other header is sent. Its value may be a password and is not repeated.
func checkHeader(l *Line, c *config.EdgeCheck, name, value string) {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "host":
		if strings.ContainsAny(value, "%$ \r\n\t") {
			l.note(Unmapped, "Host: only a plain name can be sent; it is the server's own")
			return
		}
		c.Host = value
		l.note(Mapped, "check.host: %s", clip(value))
	case "connection":
		l.note(Unneeded, "Connection: each check closes its connection")
	case "accept", "user-agent":
		l.note(Differs, "%s is not sent; puppetservers do not ask for it", clip(strings.TrimSpace(name)))
	default:
		l.note(Unmapped, "the header %s is not sent", clip(strings.TrimSpace(name)))
	}
}

func (b *builder) checkSend(s setting, c *config.EdgeCheck) {
	words := s.words[2:]
	for i := 0; i+1 < len(words); i += 2 {
		value := words[i+1]
		switch words[i] {
		case "meth":
			b.checkMethod(s.line, c, value)
			s.line.note(Mapped, "check.method: %s", c.Method)
		case "uri":
			b.checkPath(s.line, c, value)
			s.line.note(Mapped, "check.path: %s", clip(c.Path))
		case "ver":
			s.line.note(Unneeded, "ver: HTTP/1.1 is spoken")
		case "hdr":
			if i+2 < len(words) {
				checkHeader(s.line, c, value, words[i+2])
			}
			i++
		default:
			s.line.note(Unmapped, "%s: a check has no such part", clip(words[i]))
		}
	}
}

// checkExpect reads what counts as an answer. Where HAProxy looks at the body it does not look at the status.
func (b *builder) checkExpect(s setting, c *config.EdgeCheck) {
	words := s.words[2:]
	negated := false
	for len(words) > 0 {
		switch words[0] {
		case "!":
			negated, words = true, words[1:]
			continue
		case "min-recv", "comment", "ok-status", "error-status", "tout-status", "on-success", "on-error", "status-code":
			s.line.note(Unneeded, "%s: it changes no verdict", words[0])
			words = words[min(2, len(words)):]
			continue
		}
		break
	}
	if len(words) < 2 {
		b.fail(s.line, "http-check expect needs what to look at, and a value")
		return
	}
	value := words[1]
	switch words[0] {
	case "status", "rstatus":
		fits, err := statuses(words[0], value)
		if err != nil {
			s.line.note(Unmapped, "%v; 200 to 399 is expected", err)
			return
		}
		before, err := alsoFits(c.Status)
		status := ranges(func(n int) bool { return fits(n) != negated && before(n) })
		if status == "" || err != nil {
			s.line.note(Unmapped, "no status fits this and what is expected besides: %s", cmp.Or(c.Status, "200-399"))
			return
		}
		c.Status = status
		s.line.note(Mapped, "check.status: %s", c.Status)
	case "string", "rstring":
		pattern := value
		if words[0] == "string" {
			pattern = regexp.QuoteMeta(value)
		}
		if _, err := regexp.Compile(pattern); err != nil || negated {
			s.line.note(Unmapped, "a body is expected to match a regular expression of Go, and not the contrary; the status alone is looked at")
			return
		}
		if c.Body != "" {
			s.line.note(Unmapped, "a check looks for one text in the body; that of the line before counts")
			return
		}
		c.Body = pattern
		if c.Status == "" {
			c.Status = "100-599"
			s.line.note(Mapped, "check.body, with any status that is not asked for, as in HAProxy")
			return
		}
		s.line.note(Mapped, "check.body, and the status, as in HAProxy since 2.2")
	default:
		s.line.note(Unmapped, "a check looks at status and body")
	}
}

// alsoFits are the statuses that an expectation before this one leaves. HAProxy, since 2.2, wants all of them to hold.
func alsoFits(status string) (func(int) bool, error) {
	if status == "" {
		return func(int) bool { return true }, nil
	}
	return statuses("status", status)
}

// statuses reads a list or an expression.
func statuses(kind, text string) (fits func(int) bool, err error) {
	if kind == "status" {
		all, err := config.ParseStatus(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no list of statuses", clip(text))
		}
		return func(n int) bool {
			for _, r := range all {
				if r.From <= n && n <= r.To {
					return true
				}
			}
			return false
		}, nil
	}
	pattern, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no regular expression of Go", clip(text))
	}
	return func(n int) bool { return pattern.MatchString(fmt.Sprint(n)) }, nil
}

// ranges writes the statuses that fit as 200-299,404.
func ranges(fits func(int) bool) string {
	var parts []string
	for n := 100; n <= 599; n++ {
		if !fits(n) {
			continue
		}
		from := n
		for n < 599 && fits(n+1) {
			n++
		}
		if from == n {
			parts = append(parts, fmt.Sprint(n))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", from, n))
		}
	}
	return strings.Join(parts, ",")
}
