package haproxy

import (
	"slices"
	"strings"
)

// This file says what stands for itself: what an edge does anyway or has no use for, and what it cannot do.

const (
	ownLog  = "an edge writes one line for each run or connection to its log, which systemd keeps"
	process = "an edge is one process that uses all processors"
	kernel  = "nothing to set: the kernel's and Go's own ways are used"
	byHTTP  = "an edge keeps connections as agents and puppetservers want them"
)

// Keywords are words of HAProxy with what is said of them: a reason, and the words that it holds for.
type keywords []struct{ why, words string }

// find returns the reason for a word.
func (k keywords) find(word string) (why string, known bool) {
	i := slices.IndexFunc(k, func(one struct{ why, words string }) bool { return slices.Contains(strings.Fields(one.words), word) })
	if i < 0 {
		return "", false
	}
	return k[i].why, true
}

// unneededKeywords are of proxies, as those below.
var unneededKeywords = keywords{
	{ownLog, "" +
		"log log-tag log-format log-format-sd error-log-format unique-id-format unique-id-header capture " +
		"declare"},
	{"an edge knows servers by name", "id guid"},
	{"it has no effect", "description"},
	{process, "bind-process"},
	{kernel, "backlog"},
	{"an edge drains by itself: runs.drain and runs.linger", "grace"},
	{byHTTP, "persist max-keep-alive-queue http-reuse"},
	{"an edge keeps what operators said of servers, and checks anew", "load-server-state-from-file server-state-file-name"},
	{"agents read only the status of an error", "errorfile errorloc errorloc302 errorloc303 errorfiles"},
}

var unmappedKeywords = keywords{
	{"agents keep no cookies: use stick", "cookie appsession dynamic-cookie-key"},
	{"an edge passes bodies on as they are", "compression"},
	{"an edge has no filters", "filter"},
	{"a server's max_connections does not grow with load", "fullconn"},
	{"an edge counts no rates; a listener's per_source bounds the connections of one address", "rate-limit"},
	{"ask /status/v1/simple of a listener in mode puppet, or its metrics", "monitor-uri monitor-net"},
	{"ask troupe edge status", "monitor"},
	{"agents follow no redirects of an edge", "redirect"},
	{"name the servers one by one", "dispatch"},
	{"an edge connects to named servers", "transparent"},
	{"connections to servers come from an address that the kernel chooses", "source"},
	{"say a rule with a pool for these clients", "use-server"},
	{"an edge speaks to puppetservers", "use-fcgi-app"},
	{"watch the metrics", "email-alert"},
	{"a client whose server is down goes to another one", "force-persist"},
	{"see stick", "ignore-persist"},
	{"no such header is added", "http-send-name-header"},
	{"an edge starts no programs", "external-check"},
	{"agents read only the status of an error", "http-error"},
	{"an edge refuses no request by rule", "block"},
	{"removed from HAProxy in 2.1", "reqadd rspadd"},
}

var unneededOptions = keywords{
	{ownLog, "" +
		"tcplog httplog httpslog dontlognull dontlog-normal logasap log-separate-errors log-health-checks " +
		"contstats socket-stats http-ignore-probes"},
	{"both sides of a connection are always asked whether they still live", "tcpka"},
	{"agents' connections are always asked whether they still live", "clitcpka"},
	{"servers' connections are always asked whether they still live", "srvtcpka"},
	{kernel, "splice-auto splice-request splice-response tcp-smart-accept tcp-smart-connect nolinger"},
	{byHTTP, "" +
		"http-server-close httpclose forceclose http-keep-alive http-tunnel prefer-last-server " +
		"http-pretend-keepalive http-no-delay http-use-htx idle-close-on-response disable-h2-upgrade " +
		"h1-case-adjust-bogus-client h1-case-adjust-bogus-server http-restrict-req-hdr-names"},
	{"an edge holds a request whole before a server gets it", "http-buffer-request"},
	{"a request whose agent has gone away leaves the queue", "abortonclose"},
	{"agents speak proper HTTP", "accept-invalid-http-request"},
	{"puppetservers speak proper HTTP", "accept-invalid-http-response"},
	{"a connection is idle when nothing comes from either side", "independent-streams"},
	{"agents keep no cookies", "checkcache"},
	{"a client whose server is down goes to another one", "persist"},
	{"puppetserver reads no X-Forwarded-For", "forwardfor"},
	{"puppetserver reads no X-Original-To", "originalto"},
}

var unmappedOptions = keywords{
	{"an edge connects to named servers", "transparent"},
	{"an edge is no forward proxy", "http_proxy"},
	{"no such header is added", "forwarded"},
}

// unneededGlobals are the words of the section global that say how a process runs.
var unneededGlobals = keywords{
	{"systemd starts an edge", "daemon master-worker pidfile mworker-max-reloads"},
	{"the unit says as whom an edge runs", "user group uid gid insecure-setuid-wanted"},
	{"the unit keeps an edge away from other files", "chroot"},
	{process, "nbproc nbthread cpu-map thread-groups thread-group numa-cpu-mapping"},
	{kernel, "" +
		"noepoll nopoll nosplice nokqueue nogetaddrinfo noreuseport maxpipes ssl-engine ssl-mode-async " +
		"busy-polling profiling.tasks maxcompcpuusage maxcomprate maxzlibmem expose-experimental-directives " +
		"no-memory-trimming prealloc-fd"},
	{"the unit says LimitNOFILE", "ulimit-n strict-limits"},
	{ownLog, "node description log log-tag log-send-hostname quiet zero-warning"},
	{"log.level: debug", "debug"},
	{"the unit decides about core files", "set-dumpable"},
	{"an edge starts no programs", "insecure-fork-wanted external-check"},
	{"an edge is asked by troupe edge, through a socket in its data folder, and by Prometheus", "stats"},
	{"an edge is known to others by its certificate", "localpeer"},
	{"an edge keeps what operators said of servers, and checks anew", "server-state-base server-state-file"},
	{"Go's own, with forward secrecy", "" +
		"ssl-default-server-ciphers ssl-default-server-ciphersuites ssl-default-bind-ciphers " +
		"ssl-default-bind-ciphersuites"},
	{"Go's own", "ssl-default-bind-curves"},
	{"TLS 1.2 at least", "ssl-default-server-options"},
	{"no key exchange by finite fields", "ssl-dh-param-file"},
	{"name the key in tls.key", "ssl-load-extra-files"},
	{"checks are spread by themselves", "max-spread-checks"},
	{"max_clients of a listener", "maxsslconn"},
	{"see max_clients", "maxsslrate maxconnrate maxsessrate"},
	{"runs.linger", "grace"},
	{"variables are not read", "presetenv resetenv unsetenv set-var"},
	{byHTTP, "h1-case-adjust h1-case-adjust-file h2-workaround-bogus-websocket-clients"},
	{"tls.certificate holds the intermediates", "issuers-chain-path"},
	{"an edge listens on IP only", "unix-bind"},
	{"edges share no secret", "cluster-secret"},
}
