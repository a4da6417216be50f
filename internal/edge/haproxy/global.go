package haproxy

import (
	"strings"

	"troupe/internal/config"
)

// This file reads the section global.

type global struct {
	verify          bool // servers' certificates, unless a server says otherwise
	verifyLine      *Line
	maxconn         setting
	caBase, crtBase string
	spread          setting
	minTLS          string
	stop            config.Duration // hard-stop-after
}

func (r *reader) readGlobal(l *Line) {
	g, key, rest := r.global, l.words[0], l.words[1:]
	value := ""
	if len(rest) > 0 {
		value = rest[0]
	}
	switch key {
	case "maxconn":
		if _, err := number(value, 0, 1<<30); err != nil {
			r.fail(l, "maxconn: %v", err)
			return
		}
		g.maxconn = setting{rest, l}
	case "spread-checks":
		if _, err := number(value, 0, 50); err != nil {
			r.fail(l, "spread-checks: %v", err)
			return
		}
		g.spread = setting{rest, l}
	case "ssl-server-verify":
		g.verify, g.verifyLine = value != "none", l
	case "ca-base":
		g.caBase = value
		l.note(Mapped, "paths of CA files begin with it")
	case "crt-base":
		g.crtBase = value
		l.note(Mapped, "paths of certificates begin with it")
	case "ssl-default-bind-options":
		g.minTLS = leastTLS(l, rest, g.minTLS)
	case "hard-stop-after":
		d, err := duration(value)
		if err != nil {
			r.fail(l, "hard-stop-after: %v", err)
			return
		}
		g.stop = d
		l.note(Mapped, "runs.drain")
	case "setenv", "default-path":
		l.note(Unmapped, "variables and folders of HAProxy's own are not known here")
	case "lua-load", "lua-load-per-thread", "lua-prepend-path", "ssl-engine", "ssl-provider", "module-load", "51degrees-data-file", "deviceatlas-json-file", "wurfl-data-file":
		l.note(Unmapped, "an edge has no programs of others in it")
	default:
		if why, known := unneededGlobals.find(strings.TrimPrefix(key, "no-")); known {
			l.note(Unneeded, "%s", why)
		} else if strings.HasPrefix(key, "tune.") {
			l.note(Unneeded, "%s", kernel)
		} else {
			l.note(Unmapped, "it is not known here")
		}
	}
}

// leastTLS reads which versions of TLS are spoken with agents.
func leastTLS(l *Line, words []string, before string) (least string) {
	least = before
	for i, word := range words {
		switch {
		case word == "ssl-min-ver" && i+1 < len(words):
			if least = "1.2"; words[i+1] == "TLSv1.3" {
				least = "1.3"
			}
			l.note(Mapped, "tls.min: %q", least)
			if words[i+1] != "TLSv1.2" && words[i+1] != "TLSv1.3" {
				l.note(Differs, "an edge speaks TLS 1.2 and 1.3: agents older than Puppet 4 on an old OpenSSL cannot connect")
			}
		case word == "force-tlsv13" || word == "no-tlsv12":
			least = "1.3"
			l.note(Mapped, "tls.min: %q", least)
		}
	}
	if len(l.Became) == 0 {
		l.note(Unneeded, "an edge speaks TLS 1.2 and 1.3")
	}
	return least
}

// under puts a path below a folder, unless it is absolute.
func under(base, path string) string {
	if base == "" || strings.HasPrefix(path, "/") {
		return path
	}
	return strings.TrimSuffix(base, "/") + "/" + path
}
