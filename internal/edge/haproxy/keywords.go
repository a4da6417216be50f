package haproxy

// This file says what stands for itself: what an edge does anyway or has no use for, and what it cannot do.

const (
	ownLog  = "an edge writes one line for each run or connection to its log, which systemd keeps"
	process = "an edge is one process that uses all processors"
	kernel  = "nothing to set: the kernel's and Go's own ways are used"
	byHTTP  = "an edge keeps connections as agents and puppetservers want them"
)

var unneededKeywords = map[string]string{
	"log": ownLog, "log-tag": ownLog, "log-format": ownLog, "log-format-sd": ownLog, "error-log-format": ownLog, "unique-id-format": ownLog, "unique-id-header": ownLog, "capture": ownLog,
	"id": "an edge knows servers by name", "description": "it has no effect", "guid": "an edge knows servers by name",
	"bind-process": process, "backlog": kernel, "grace": "an edge drains by itself: runs.drain and runs.linger", "persist": byHTTP,
	"load-server-state-from-file": "an edge keeps what operators said of servers, and checks anew", "server-state-file-name": "an edge keeps what operators said of servers, and checks anew",
	"max-keep-alive-queue": byHTTP, "declare": ownLog, "errorfile": "agents read only the status of an error", "errorloc": "agents read only the status of an error",
	"errorloc302": "agents read only the status of an error", "errorloc303": "agents read only the status of an error", "errorfiles": "agents read only the status of an error",
	"http-reuse": byHTTP,
}

var unmappedKeywords = map[string]string{
	"cookie": "agents keep no cookies: use stick", "appsession": "agents keep no cookies: use stick", "dynamic-cookie-key": "agents keep no cookies: use stick",
	"compression": "an edge passes bodies on as they are", "filter": "an edge has no filters", "fullconn": "a server's max_connections does not grow with load",
	"rate-limit": "an edge counts no rates; a listener's per_source bounds the connections of one address", "monitor-uri": "ask /status/v1/simple of a listener in mode puppet, or its metrics",
	"monitor": "ask troupe edge status", "monitor-net": "ask /status/v1/simple of a listener in mode puppet, or its metrics", "redirect": "agents follow no redirects of an edge", "dispatch": "name the servers one by one",
	"transparent": "an edge connects to named servers", "source": "connections to servers come from an address that the kernel chooses", "use-server": "say a rule with a pool for these clients",
	"use-fcgi-app": "an edge speaks to puppetservers", "email-alert": "watch the metrics", "force-persist": "a client whose server is down goes to another one", "ignore-persist": "see stick",
	"http-send-name-header": "no such header is added", "external-check": "an edge starts no programs", "http-error": "agents read only the status of an error", "block": "an edge refuses no request by rule",
	"reqadd": "removed from HAProxy in 2.1", "rspadd": "removed from HAProxy in 2.1",
}

var unneededOptions = map[string]string{
	"tcplog": ownLog, "httplog": ownLog, "httpslog": ownLog, "dontlognull": ownLog, "dontlog-normal": ownLog, "logasap": ownLog, "log-separate-errors": ownLog, "log-health-checks": ownLog, "contstats": ownLog, "socket-stats": ownLog,
	"tcpka": "both sides of a connection are always asked whether they still live", "clitcpka": "agents' connections are always asked whether they still live", "srvtcpka": "servers' connections are always asked whether they still live",
	"splice-auto": kernel, "splice-request": kernel, "splice-response": kernel, "tcp-smart-accept": kernel, "tcp-smart-connect": kernel, "nolinger": kernel,
	"http-server-close": byHTTP, "httpclose": byHTTP, "forceclose": byHTTP, "http-keep-alive": byHTTP, "http-tunnel": byHTTP, "prefer-last-server": byHTTP, "http-pretend-keepalive": byHTTP, "http-no-delay": byHTTP,
	"http-buffer-request": "an edge holds a request whole before a server gets it", "http-use-htx": byHTTP, "http-ignore-probes": ownLog, "idle-close-on-response": byHTTP, "disable-h2-upgrade": byHTTP,
	"abortonclose": "a request whose agent has gone away leaves the queue", "accept-invalid-http-request": "agents speak proper HTTP", "accept-invalid-http-response": "puppetservers speak proper HTTP",
	"h1-case-adjust-bogus-client": byHTTP, "h1-case-adjust-bogus-server": byHTTP, "independent-streams": "a connection is idle when nothing comes from either side", "checkcache": "agents keep no cookies",
	"persist": "a client whose server is down goes to another one", "http-restrict-req-hdr-names": byHTTP, "forwardfor": "puppetserver reads no X-Forwarded-For", "originalto": "puppetserver reads no X-Original-To",
}

var unmappedOptions = map[string]string{
	"transparent": "an edge connects to named servers", "http_proxy": "an edge is no forward proxy", "forwarded": "no such header is added",
}

// unneededGlobals are the words of the section global that say how a process runs.
var unneededGlobals = map[string]string{ //nolint:gosec // names of settings, no credentials
	"daemon": "systemd starts an edge", "master-worker": "systemd starts an edge", "pidfile": "systemd starts an edge", "user": "the unit says as whom an edge runs", "group": "the unit says as whom an edge runs", "uid": "the unit says as whom an edge runs", "gid": "the unit says as whom an edge runs",
	"chroot": "the unit keeps an edge away from other files", "nbproc": process, "nbthread": process, "cpu-map": process, "thread-groups": process, "thread-group": process, "numa-cpu-mapping": process, "noepoll": kernel, "nopoll": kernel, "nosplice": kernel, "nokqueue": kernel,
	"nogetaddrinfo": kernel, "noreuseport": kernel, "ulimit-n": "the unit says LimitNOFILE", "maxpipes": kernel, "node": ownLog, "description": ownLog, "log": ownLog, "log-tag": ownLog, "log-send-hostname": ownLog,
	"quiet": ownLog, "debug": "log.level: debug", "zero-warning": ownLog, "set-dumpable": "the unit decides about core files", "insecure-setuid-wanted": "the unit says as whom an edge runs", "insecure-fork-wanted": "an edge starts no programs",
	"stats": "an edge is asked by troupe edge, through a socket in its data folder, and by Prometheus", "localpeer": "edges have no table in common", "server-state-base": "an edge keeps what operators said of servers, and checks anew", "server-state-file": "an edge keeps what operators said of servers, and checks anew",
	"ssl-default-server-ciphers": "Go's own, with forward secrecy", "ssl-default-server-ciphersuites": "Go's own, with forward secrecy", "ssl-default-bind-ciphers": "Go's own, with forward secrecy", "ssl-default-bind-ciphersuites": "Go's own, with forward secrecy", "ssl-default-bind-curves": "Go's own",
	"ssl-default-server-options": "TLS 1.2 at least", "ssl-dh-param-file": "no key exchange by finite fields", "ssl-engine": kernel, "ssl-mode-async": kernel, "ssl-load-extra-files": "name the key in tls.key", "max-spread-checks": "checks are spread by themselves",
	"busy-polling": kernel, "profiling.tasks": kernel, "maxsslconn": "max_clients of a listener", "maxsslrate": "see max_clients", "maxconnrate": "see max_clients", "maxsessrate": "see max_clients", "maxcompcpuusage": kernel, "maxcomprate": kernel, "maxzlibmem": kernel, "expose-experimental-directives": kernel,
	"external-check": "an edge starts no programs", "grace": "runs.linger", "presetenv": "variables are not read", "resetenv": "variables are not read", "unsetenv": "variables are not read", "set-var": "variables are not read", "h1-case-adjust": byHTTP, "h1-case-adjust-file": byHTTP, "mworker-max-reloads": "systemd starts an edge",
	"strict-limits": "the unit says LimitNOFILE", "no-memory-trimming": kernel, "issuers-chain-path": "tls.certificate holds the intermediates", "unix-bind": "an edge listens on IP only", "cluster-secret": "edges share no secret", "prealloc-fd": kernel, "h2-workaround-bogus-websocket-clients": byHTTP,
}
