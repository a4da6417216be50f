package haproxy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/config"
)

// This file reads the options of server, server-template and default-server lines.

// A server is what these lines say together.
type server struct {
	line          *Line
	name          string
	host, port    string
	offset        int                // to the listener's port, of an address such as 192.0.2.1:+1
	flags         map[string]bool    // check, check-ssl, ssl, backup, disabled, agent-check, send-proxy, send-proxy-v2
	values        map[string]setting // options with an argument, and the line that said it
	verify        string             // none, required; empty: as global says
	templateCount int
}

func (s *server) is(flag string) bool { return s.flags[flag] }

func (s *server) value(name string) string { return s.values[name].value() }

// valued are the options that have one argument and mean something here.
var valued = []string{
	"inter", "fastinter", "downinter", "rise", "fall", "weight", "maxconn", "maxqueue", "slowstart", "observe", "error-limit", "on-error", "on-marked-down",
	"agent-port", "agent-addr", "agent-inter", "ca-file", "crt", "sni", "check-sni", "verifyhost", "port", "addr",
}

// switches are the options without an argument that mean something here.
var switches = []string{"check", "check-ssl", "ssl", "backup", "disabled", "agent-check", "send-proxy", "send-proxy-v2", "check-send-proxy"}

// Others are options with the number of their arguments and what is said of them.
type others []struct {
	args       int
	why, words string
}

func (o others) find(word string) (args int, why string, known bool) {
	for _, one := range o {
		if slices.Contains(strings.Fields(one.words), word) {
			return one.args, one.why, true
		}
	}
	return 0, "", false
}

// unneededServer are what an edge does anyway.
var unneededServer = others{
	{1, "names are looked up by the system at each new connection", "resolvers init-addr resolve-opts"},
	{1, "all addresses of a name are tried", "resolve-prefer resolve-net"},
	{1, "an edge knows servers by name", "id guid"},
	{0, "it is in use", "enabled"},
	{1, byHTTP, "alpn npn proto check-proto check-alpn ws pool-max-conn pool-purge-delay pool-low-conn max-reuse"},
	{1, "Go's own, with forward secrecy", "ciphers ciphersuites"},
	{1, "Go's own", "curves"},
	{1, "TLS 1.2 at least", "ssl-min-ver ssl-max-ver"},
	{0, "TLS 1.2 at least", "no-sslv3 no-tlsv10 no-tlsv11 force-tlsv12 force-tlsv13"},
	{0, kernel, "no-tls-tickets no-ssl-reuse tfo"},
	{1, kernel, "tcp-ut"},
	{1, ownLog, "log-proto log-bufsize"},
	{1, "what runs at a backup may end there; new runs go back at once", "on-marked-up"},
	{1, "max_connections does not grow with load", "minconn"},
	{1, "edges tell each other all of who sticks to whom", "shard"},
}

// unmappedServer are those that an edge cannot do.
var unmappedServer = others{
	{1, "agents keep no cookies: use stick", "cookie"},
	{1, "no revocation list of servers' certificates but tls.crl", "crl-file"},
	{1, "an agent-check is asked without words", "agent-send"},
	{1, "connections come from an address that the kernel chooses", "source"},
	{1, "connections come from the edge's own address", "usesrc"},
	{1, "connections leave as the kernel routes them", "interface"},
	{1, "agents follow no redirects of an edge", "redir"},
	{1, "an edge stays in its own network namespace", "namespace"},
	{1, "no SOCKS", "socks4"},
	{0, "no SOCKS", "check-via-socks4"},
	{0, "every server takes part in stick", "non-stick"},
	{1, "a PROXY header has addresses alone", "proxy-v2-options set-proxy-v2-tlv-fmt"},
	{0, "a PROXY header has addresses alone", "send-proxy-v2-ssl send-proxy-v2-ssl-cn"},
}

// readOptions reads words into the server; line is where they stand.
func (r *reader) readOptions(s *server, words []string, line *Line) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		if before, ok := strings.CutPrefix(word, "no-"); ok && (slices.Contains(switches, before) || before == "verify" || before == "send-proxy") {
			delete(s.flags, before)
			continue
		}
		args, kind, why := arity(word)
		if i+args >= len(words) {
			r.fail(line, "%s needs a value", clip(word))
			return
		}
		if word == "track" { // its state is another one's, which an edge finds out for itself
			s.flags["check"] = true
			line.note(Differs, "track: each server is checked by itself")
			i += args
			continue
		}
		switch kind {
		case Mapped:
			r.takeOption(s, word, words[i+1:i+1+args], line)
		case "":
			line.note(Unmapped, "%q is not known here, and the rest of the line was not read", clip(word))
			return
		case Unneeded, Unmapped, Differs:
			line.note(kind, "%s: %s", word, why)
		}
		i += args
	}
}

// arity says how many arguments an option has, and whether it means something.
func arity(word string) (args int, kind State, why string) {
	if slices.Contains(switches, word) {
		return 0, Mapped, ""
	}
	if slices.Contains(valued, word) || word == "verify" || word == "track" {
		return 1, Mapped, ""
	}
	if args, why, ok := unneededServer.find(word); ok {
		return args, Unneeded, why
	}
	if args, why, ok := unmappedServer.find(word); ok {
		return args, Unmapped, why
	}
	return 0, "", ""
}

func (r *reader) takeOption(s *server, word string, args []string, line *Line) {
	if len(args) == 0 {
		s.flags[word] = true
		return
	}
	value := args[0]
	var err error
	switch word {
	case "verify":
		if value != "none" && value != "required" {
			r.fail(line, "verify: %q is neither none nor required", clip(value))
		}
		s.verify = value
		return
	case "inter", "fastinter", "downinter", "agent-inter":
		_, err = duration(value)
	case "slowstart":
		_, err = duration(value)
	case "weight":
		_, err = number(value, 0, 256)
	case "rise", "fall", "error-limit":
		_, err = number(value, 1, 1<<30)
	case "maxconn", "maxqueue":
		_, err = number(value, 0, 1<<30)
	case "agent-port", "port":
		_, err = number(value, 1, 65535)
	case "observe":
		err = oneOf(value, "layer4", "layer7")
	case "on-error":
		err = oneOf(value, "fastinter", "fail-check", "sudden-death", "mark-down")
	case "on-marked-down":
		err = oneOf(value, "shutdown-sessions")
	}
	if err != nil {
		r.fail(line, "%s: %v", word, err)
		return
	}
	s.values[word] = setting{args, line}
}

// newServer reads one line, with what default-server lines before it say. ok is false for one that cannot be a server of an edge.
func (r *reader) newServer(sl serverLine) (s *server, ok bool) {
	l := sl.line
	s = &server{line: l, name: sl.words[0], flags: map[string]bool{}, values: map[string]setting{}}
	rest := sl.words[1:]
	if sl.template {
		count := rest[0]
		if _, to, ranged := strings.Cut(count, "-"); ranged {
			count = to
		}
		n, err := number(count, 1, 10_000)
		if err != nil {
			r.fail(l, "server-template: %v", err)
			return nil, false
		}
		s.templateCount, rest = n, rest[1:]
	}
	host, port, err := address(rest[0])
	switch {
	case err == errNoNetwork || err == errVariable: //nolint:errorlint // they are never wrapped
		l.note(Unmapped, "the server is left out: %v", err)
		return nil, false
	case err != nil || host == "":
		if err == nil {
			r.fail(l, "the address has no host")
		} else {
			r.fail(l, "%v", err)
		}
		return nil, false
	}
	if port != "" && strings.ContainsAny(port[:1], "+-") {
		s.offset, _ = strconv.Atoi(port) // address has read it
		port = ""
	}
	s.host, s.port = host, port
	for _, d := range sl.defaults {
		r.readOptions(s, d.words, d.line)
	}
	r.readOptions(s, rest[1:], l)
	return s, true
}

// config is the server as an edge has it. port is that of the listener, for a server without one.
func (s *server) config(port string, weighted bool) config.EdgeServer {
	l := s.line
	c := config.EdgeServer{Name: s.name, Backup: s.is("backup")}
	if s.offset != 0 {
		s.port = shifted(port, s.offset)
		l.note(Differs, "port %+d: HAProxy counts from the one that the client came to; here it is %s", s.offset, s.port)
	}
	if s.port == "" {
		s.port = port
		l.note(Differs, "no port: HAProxy takes the one that the client came to; here it is %s", port)
	}
	c.Address = join(s.host, s.port)
	l.note(Mapped, "server %s at %s", c.Name, c.Address)
	if weighted {
		w := 1 // HAProxy's default; an edge's is 100
		if v := s.values["weight"]; v.there() {
			w, _ = number(v.value(), 0, 256) // it was read before
			v.line.note(Mapped, "weight")
		} else {
			l.note(Mapped, "weight: 1, HAProxy's default")
		}
		c.Weight = &w
		if w == 0 {
			l.note(Differs, "weight 0 takes nothing new; HAProxy still sends there what sticks to it, an edge only what belongs to a run that began")
		}
	}
	if v := s.values["maxconn"]; v.there() {
		c.MaxConnections, _ = number(v.value(), 0, 1<<30)
		v.line.note(Mapped, "max_connections")
	}
	if c.Backup {
		l.note(Mapped, "backup")
	}
	if s.is("disabled") {
		l.note(Unmapped, "disabled: an edge begins with all servers; say troupe edge maint POOL/%s once, which it remembers", s.name)
	}
	s.agentCheck(&c)
	for _, word := range []string{"addr", "port"} {
		if v := s.values[word]; v.there() && v.value() != s.port && v.value() != s.host {
			v.line.note(Unmapped, "%s: checks go to the server's own address and port", word)
		} else if v.there() {
			v.line.note(Mapped, "%s: the server's own", word)
		}
	}
	return c
}

// shifted is a port so many further on, within what there is.
func shifted(port string, by int) string {
	n, err := strconv.Atoi(port)
	if err != nil {
		return port
	}
	return strconv.Itoa(min(max(n+by, 1), 65535))
}

// agentCheck is the port where a server states its own weight.
func (s *server) agentCheck(c *config.EdgeServer) {
	if !s.is("agent-check") {
		return
	}
	port := s.values["agent-port"]
	if !port.there() {
		s.line.note(Unmapped, "agent-check needs agent-port")
		return
	}
	host := s.host
	if v := s.values["agent-addr"]; v.there() {
		host = strings.Trim(v.value(), "[]")
		if _, _, err := address(join(host, port.value())); err != nil || host == "" {
			v.line.note(Unmapped, "agent-addr: it is no address; the server's own is taken")
			host = s.host
		} else {
			v.line.note(Mapped, "agent-addr")
		}
	}
	c.AgentCheck = join(host, port.value())
	port.line.note(Mapped, "agent_check: %s", c.AgentCheck)
	if v := s.values["agent-inter"]; v.there() {
		if d, _ := duration(v.value()); time.Duration(d) != 2*time.Second {
			v.line.note(Differs, "agent-inter: an agent is asked every 2s")
		} else {
			v.line.note(Mapped, "agent-inter: 2s")
		}
	}
}
