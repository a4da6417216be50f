package agentroute

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file knows how versions differ in times and habits, and what goes wrong with them.

// traits are the times and habits that decide how a failure feels.
func (s *settings) traits() []Trait {
	v := s.version
	fixed := func(name, value string) Trait { return Trait{name, value, "agent " + v.String()} }
	setting := func(name, fallback string) Trait {
		text, origin, _ := s.get(name, fallback)
		return Trait{name, text, origin}
	}
	all := []Trait{
		setting("http_connect_timeout", "2m"),
		// Unlimited until 5.5 (seen in 5.5.22), 10 minutes since 6.0.
		setting("http_read_timeout", either(v.since(6, 0, 0), "10m", "unlimited")),
		setting("http_keepalive_timeout", "4s"),
		setting("runinterval", "30m"),
		setting("runtimeout", either(v.since(6, 0, 0), "1h", "0 (none)")),
		setting("splay", "false"),
		setting("usecacheonfailure", "true"),
		setting("ignore_plugin_errors", either(v.since(7, 0, 0), "false", "true")),
		setting("certificate_revocation", "chain"),
	}
	if v.since(6, 5, 0) {
		all = append(all, setting("crl_refresh_interval", either(v.since(8, 0, 0), "1d", "never")))
	} else {
		all = append(all, fixed("crl_refresh_interval", "never: the CRL is fetched once"))
	}
	if v.since(8, 1, 0) {
		all = append(all, setting("ca_refresh_interval", "1d"))
	} else {
		all = append(all, fixed("ca_refresh_interval", "never: the CA bundle is fetched once"))
	}
	if v.since(8, 2, 0) {
		all = append(all, setting("hostcert_renewal_interval", "30d"))
	} else {
		all = append(all, fixed("hostcert_renewal_interval", "never: the certificate is not renewed"))
	}
	return append(all,
		setting("waitforcert", "2m"),
		setting("digest_algorithm", either(v.since(7, 0, 0), "sha256", "md5")),
		fixed("retry_after", s.retryAfter()),
		fixed("resends", either(v.since(6, 5, 0), "never: a connection that is cut fails its request",
			"GET, HEAD, PUT and DELETE once more when a connection is cut (PUP-3905)")),
	)
}

func (s *settings) retryAfter() string {
	switch v := s.version; {
	case v.diesOfRetryAfter():
		return "503 and 429: sleeps as told, and then fails (PUP-11853)"
	case v.since(5, 3, 0):
		return "503 and 429: sleeps as told, at most runinterval, up to 100 times for one request"
	}
	return "not obeyed: a 503 is an error"
}

// breaks says what goes wrong.
func (s *settings) breaks(list listed) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if s.conf.Broken != nil {
		say("%v: an agent that cannot read one line reads nothing of its puppet.conf, prints an error and goes on with its defaults, to the server named puppet", s.conf.Broken)
	}
	for _, unread := range s.unread() {
		say("%s is not read by an agent: it reads [agent] and [main]", unread)
	}
	srv := s.boolean("use_srv_records", false)
	s.breaksOfSRV(srv, say)
	s.breaksOfList(list, srv, say)
	server, _, set := s.get("server", "puppet")
	switch {
	case !set && s.version.refusesDefault():
		say("server is not set: OpenVox 9 run by root goes nowhere without it, not even by SRV records or server_list")
	case len(list.targets) == 0:
		say("%s is the only name%s: an address of it that swallows packets costs the whole http_connect_timeout each time that a connection is made, and "+
			"with most versions of Ruby (2.7 and 3.3, not 3.1) its other addresses are then not tried", server, either(set, "", " (a default)"))
	}
	s.breaksOfVersion(say)
	return out
}

// unread are settings about servers that stand where an agent does not look.
func (s *settings) unread() []string {
	ours := []string{"server", "server_list", "ca_server", "report_server", "use_srv_records", "srv_domain", "masterport", "serverport", "ca_port", "report_port"}
	return slices.DeleteFunc(slices.Clone(s.conf.Unread), func(place string) bool {
		return !slices.Contains(ours, place[strings.LastIndexByte(place, ' ')+1:])
	})
}

func (s *settings) breaksOfSRV(srv bool, say func(string, ...any)) {
	if !srv {
		return
	}
	connect, _, _ := s.get("http_connect_timeout", "2m")
	if domain, _, set := s.get("srv_domain", s.options.Domain); domain == "" {
		say("use_srv_records is set, but srv_domain is not and the machine's domain is not known here: an agent without a domain skips SRV records without a word")
	} else if !set {
		say("srv_domain is not set: it is the agent's domain fact, taken here as %s", domain)
	}
	if s.version.sessions() {
		total := "four times that"
		if d, ok := duration(connect); ok {
			total = (4 * d).String()
		}
		say("a first SRV target that swallows packets costs %s for each of the four services, %s in a run, before the next one is tried", connect, total)
		say("a target whose certificate does not fit ends the search: only connections that fail lead to the next one")
	} else {
		say("a first SRV target that swallows packets, or whose name does not resolve, fails the request (after %s): the next target is tried "+
			"only when a connection is refused or unreachable", connect)
	}
}

func (s *settings) breaksOfList(list listed, srv bool, say func(string, ...any)) {
	for _, entry := range list.odd {
		say("%s: %q in server_list is cut at its colons; an IPv6 address cannot stand there, use a name", list.origin, entry)
	}
	if len(list.targets) == 0 {
		return
	}
	v := s.version
	if server, at, set := s.get("server", ""); set {
		say("%s: server = %s is not used to find servers while server_list is set, not even when none of that list answers", at, server)
	}
	switch {
	case v.since(6, 19, 0):
		say("when none of server_list answers, the run goes on with the cached catalog and without pluginsync, if usecacheonfailure is true")
	default:
		say("when none of server_list answers, the run fails")
	}
	if !v.sessions() {
		if srv {
			say("server_list is asked before the run even though SRV records are used: if none of it answers, the run fails")
		}
		if _, _, set := s.get("ca_server", ""); !set {
			say("certificates come from the first of server_list alone: while that is down, no new node gets one")
		}
		return
	}
	for _, service := range []string{"ca", "report"} {
		if host, at, set := s.get(service+"_server", ""); set {
			say("%s: %s_server takes this service out of server_list: %s is its only server", at, service, host)
		}
	}
}

func (s *settings) breaksOfVersion(say func(string, ...any)) {
	v := s.version
	if !v.since(6, 0, 0) {
		say("of a CA bundle or CRL that it downloads, only the first certificate and list are kept: an intermediate CA needs a ca.pem that is put there before, and " +
			"certificate_revocation = leaf")
		if _, _, set := s.get("http_read_timeout", ""); !set {
			say("a server that accepts and then says nothing holds a run for ever: http_read_timeout is unlimited")
		}
	}
	if v.since(6, 0, 0) && !v.sessions() {
		say("agents from 6.0 to 6.13 lie between two designs, and no real one was compared: taken here as 5.5")
	}
	if !v.since(6, 5, 0) {
		say("a report whose connection is cut is sent twice: the store must recognise it")
	}
	switch {
	case v.diesOfRetryAfter():
		say("a 503 with Retry-After fails its request after the sleep: a front end must hold requests instead")
	case !v.since(5, 3, 1):
		say("Retry-After is not dependable: a front end must hold requests instead of answering 503")
	}
	if _, _, set := s.get("crl_refresh_interval", ""); !set && !v.since(8, 0, 0) {
		say("the CRL is fetched once and never again: a revoked server is trusted, and the day its CRL expires every connection fails" +
			either(v.since(6, 5, 0), "; set crl_refresh_interval", ""))
	}
	if s.boolean("usecacheonfailure", true) {
		say("a failed catalog is replaced by the cached one without failing the run: count runs with a cached catalog as failures")
	}
}

var durationForm = regexp.MustCompile(`^(\d{1,9})\s*([smhdy]?)$`)

// duration reads a time as Puppet writes it.
func duration(text string) (time.Duration, bool) {
	m := durationForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	unit := map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "y": 365 * 24 * time.Hour}[m[2]]
	n, err := strconv.Atoi(m[1])
	if err != nil || n > int(100*365*24*time.Hour/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
