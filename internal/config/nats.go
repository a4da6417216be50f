package config

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"time"

	"troupe/internal/secretfile"
)

// This file checks the settings of an operator's own NATS.

// natsPrefix is what subjects may begin with: their parts are cut at dots, and * and > stand for any.
var natsPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

const (
	maxNATSServers  = 100
	maxNATSPrefix   = 100
	leastNATSAge    = 10 * time.Minute
	leastNATSBytes  = 16 << 20
	maxNATSReplicas = 5
)

// files are those that are named, for whoever makes them absolute.
func (n *NATS) files() []*string {
	return []*string{&n.Credentials, &n.PasswordFile, &n.TokenFile, &n.CA, &n.Certificate, &n.Key}
}

func (n *NATS) check(bad func(key, format string, args ...any)) {
	if len(n.Servers) == 0 {
		if n.Credentials != "" || n.User != "" || n.TokenFile != "" || n.CA != "" || n.Certificate != "" {
			bad("cluster.nats.servers", "says not where NATS is, and other settings of it are given: name all its servers, such as tls://nats1.example.com:4222")
		}
		return
	}
	if len(n.Servers) > maxNATSServers {
		bad("cluster.nats.servers", "has %d servers, more than %d", len(n.Servers), maxNATSServers)
	}
	secure := 0
	for _, text := range n.Servers {
		if n.checkServer(text, bad) {
			secure++
		}
	}
	if secure > 0 && secure < len(n.Servers) {
		bad("cluster.nats.servers", "some are tls:// and some are not: a connection goes to any of them")
	}
	if (n.CA != "" || n.Certificate != "" || n.Key != "") && secure == 0 {
		bad("cluster.nats.tls.ca", "TLS has no effect on servers that are not tls://")
	}
	if (n.Certificate == "") != (n.Key == "") {
		bad("cluster.nats.tls.certificate", "a certificate and its key go together")
	}
	n.checkIdentity(bad)
	for key, path := range map[string]string{"ca": n.CA, "certificate": n.Certificate} {
		if path != "" && !exists(path) {
			bad("cluster.nats.tls."+key, "%s does not exist", path)
		}
	}
	if !natsPrefix.MatchString(n.Prefix) || len(n.Prefix) > maxNATSPrefix {
		bad("cluster.nats.prefix", "%q is not a subject such as troupe or infra.troupe, of letters, digits, - and _", n.Prefix)
	}
	if n.Replicas > maxNATSReplicas {
		bad("cluster.nats.replicas", "must be 1 to %d, or 0 for what the servers can", maxNATSReplicas)
	}
	if n.MaxAge != 0 && n.MaxAge < leastNATSAge {
		bad("cluster.nats.max_age", "must be %s or longer: a member that was away for so long gets the rest over HTTPS", FormatDuration(leastNATSAge))
	}
	if n.MaxBytes != 0 && n.MaxBytes < leastNATSBytes {
		bad("cluster.nats.max_bytes", "must be %s or more", sizeValue{new(int64(leastNATSBytes))})
	}
}

// checkServer reports whether the connection to a server is encrypted.
func (n *NATS) checkServer(text string, bad func(key, format string, args ...any)) bool {
	const key = "cluster.nats.servers"
	u, err := url.Parse(text)
	switch {
	case err != nil || !slices.Contains([]string{"tls", "nats"}, u.Scheme) || u.Hostname() == "" || u.Path != "" || u.RawQuery != "":
		bad(key, "%q is not a server such as tls://nats1.example.com:4222", withoutUser(u, text))
		return false
	case u.User != nil:
		bad(key, "%q has credentials in it: they belong into a file, see credentials, password_file and token_file", withoutUser(u, text))
	case u.Scheme == "nats" && !n.AllowPlaintext && !isLoopback(u.Hostname()):
		bad(key, "%s would carry facts and catalogs in the clear: write tls://, or set cluster.nats.allow_plaintext to true", text)
	}
	return u.Scheme == "tls"
}

// withoutUser keeps what may be a password out of logs.
func withoutUser(u *url.URL, text string) string {
	if u == nil {
		return "…"
	}
	if u.User == nil {
		return text
	}
	shown := *u
	shown.User = url.User("…")
	return shown.Redacted()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkIdentity looks at who the member is to NATS. Secrets are in files that only their owner may read.
func (n *NATS) checkIdentity(bad func(key, format string, args ...any)) {
	given := 0
	for _, one := range []string{n.Credentials, n.User, n.TokenFile} {
		if one != "" {
			given++
		}
	}
	if given > 1 {
		bad("cluster.nats.credentials", "credentials, user and token_file are three ways to say who this is: choose one")
	}
	if (n.User == "") != (n.PasswordFile == "") {
		bad("cluster.nats.user", "a user and password_file go together")
	}
	for key, path := range map[string]string{
		"credentials": n.Credentials, "password_file": n.PasswordFile, "token_file": n.TokenFile, "tls.key": n.Key,
	} {
		if path == "" {
			continue
		}
		if err := secretfile.Check(path); err != nil {
			bad("cluster.nats."+key, "%v", err)
		}
	}
}
