package fakeagent

// This file says how the four generations differ on the wire.

import (
	"slices"
	"strings"
	"time"
)

// Generation names an agent by its version.
type Generation string

// The generations whose runs are recorded in testdata.
const (
	Puppet5  Generation = "5.5"
	Puppet7  Generation = "7.23"
	Puppet8  Generation = "8.10"
	OpenVox9 Generation = "openvox9"
)

// dialect is how one generation writes its requests.
type dialect struct {
	version       string
	userAgent     string
	acceptData    string // node, metadata, report
	acceptCatalog string
	digest        string
	checksumTypes string

	legacy           bool // 5.x: its own order, query strings, headers and retries
	refreshes        bool // refreshes CA bundle and CRL by itself
	skipUnchanged    bool // leaves unchanged resources out of reports
	ignorePluginErrs bool
	diesOfRetryAfter bool // sleeps as told, and then fails (PUP-11853: 6.14.0 until 7.26.0 and 8.2.0)
	renewWithin      time.Duration
}

func dialectOf(g Generation) (dialect, bool) {
	const (
		json, pson = "application/json", "application/json, text/pson"
		rich       = "application/vnd.puppet.rich+json, "
		modernSums = "sha256.sha384.sha512.sha224.md5"
		platform   = " (x86_64-linux-gnu)"
	)
	modern := func(version, ruby string) dialect {
		return dialect{
			version: version, userAgent: "Puppet/" + version + " Ruby/" + ruby + platform,
			acceptData: json, acceptCatalog: rich + json, digest: "sha256", checksumTypes: modernSums,
			refreshes: true, skipUnchanged: true, renewWithin: 30 * 24 * time.Hour,
		}
	}
	switch g {
	case Puppet5:
		return dialect{
			version: "5.5.22", userAgent: "Puppet/5.5.22 Ruby/2.7.4-p191" + platform,
			acceptData: pson, acceptCatalog: pson, digest: "md5", checksumTypes: "md5.sha256.sha384.sha512.sha224",
			legacy: true, ignorePluginErrs: true,
		}, true
	case Puppet7:
		return dialect{
			version: "7.23.0", userAgent: "Puppet/7.23.0 Ruby/3.1.2-p20" + platform,
			acceptData: pson, acceptCatalog: rich + pson, digest: "sha256", checksumTypes: modernSums,
			diesOfRetryAfter: true,
		}, true
	case Puppet8:
		return modern("8.10.0", "3.3.8-p144"), true
	case OpenVox9:
		return modern("9.0.0-rc1", "3.3.8-p144"), true
	default:
		return dialect{}, false
	}
}

const acceptEncoding = "gzip;q=1.0,deflate;q=0.6,identity;q=0.3"

// field is one header line; agents send them in a fixed order.
type field struct{ name, value string }

// request is one request as it is written; target is escaped.
type request struct {
	kind    string // for statistics: catalog, report, …
	method  string
	target  string
	accept  string
	content string // Content-Type of body
	body    []byte

	ifModifiedSince time.Time
	retries         int  // answers with Retry-After that it has had
	closes          bool // 5.x closes each connection to the CA
	bare            bool // 5.x fetches file content with Ruby's own headers only
}

// headers returns the header lines in the order of the generation, but for Host, which depends on the connection.
func (d dialect) headers(r request, host, length string) []field {
	var h []field
	switch {
	case r.bare:
		h = []field{{"Accept", r.accept}, {"Accept-Encoding", acceptEncoding}, {"User-Agent", "Ruby"}, {"Host", host}}
	case d.legacy:
		h = []field{{"Accept", r.accept}, {"X-Puppet-Version", d.version}, {"Accept-Encoding", acceptEncoding}}
		if r.method == "PUT" {
			h = append(h, field{"Content-Type", r.content})
		}
		h = append(h, field{"User-Agent", d.userAgent})
		if r.closes {
			h = append(h, field{"Connection", "close"})
		}
		h = append(h, field{"Host", host})
	default:
		h = []field{{"X-Puppet-Version", d.version}, {"User-Agent", d.userAgent}, {"Accept", r.accept}}
		if !r.ifModifiedSince.IsZero() {
			h = append(h, field{"If-Modified-Since", r.ifModifiedSince.UTC().Format(httpDate)})
		}
		if r.content != "" {
			h = append(h, field{"Content-Type", r.content})
		}
		h = append(h, field{"Accept-Encoding", acceptEncoding}, field{"Host", host})
	}
	if r.method == "PUT" || r.method == "POST" {
		h = append(h, field{"Content-Length", length})
	}
	if d.legacy && r.method == "POST" {
		h = append(h, field{"Content-Type", r.content})
	}
	return h
}

const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// pair is one parameter of a query or form; an array of values is a repeated key.
type pair struct{ key, value string }

// encodePairs escapes values as Puppet::Util.uri_query_encode does; nothing in the keys needs it.
func encodePairs(pairs []pair) string {
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.key)
		b.WriteByte('=')
		b.WriteString(escapeQuery(p.value))
	}
	return b.String()
}

// target joins a path and its query. 5.x puts the environment first, and leaves a trailing & where nothing follows.
func (d dialect) target(path, environment string, pairs ...pair) string {
	path = escapePath(path)
	if !d.legacy {
		if environment != "" {
			pairs = append(pairs, pair{"environment", environment})
		}
		if len(pairs) == 0 {
			return path
		}
		return path + "?" + encodePairs(pairs)
	}
	return path + "?environment=" + escapeQuery(environment) + "&" + encodePairs(slices.Clone(pairs))
}
