package fakeagent

// This file escapes paths and query values byte for byte as Puppet does.

import (
	"net/url"
	"strings"
)

// escapeQuery is Puppet::Util.uri_query_encode: CGI.escape, with a blank as %20.
func escapeQuery(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// escapePath is Puppet::Util.uri_encode for a path: RFC 2396's reserved and unreserved characters stay, + included.
func escapePath(path string) string {
	const kept = "-_.!~*'();/:@&=+$,[]"
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(kept, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
