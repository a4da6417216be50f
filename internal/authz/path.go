package authz

import (
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file keeps the path that is judged and the path that is served the same.

// checkPath refuses what could mean one thing to the rules and another to a
// handler: relative segments (as puppetserver, normalized_uri_helpers.clj), and
// line ends and other control characters, on which the regex dialects of Java
// and Go differ.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fault.New(fault.Invalid, "Invalid path: it must begin with a slash")
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return fault.New(fault.Invalid, "Invalid relative path (.. or .) in: %s", path)
		}
	}
	for _, c := range path {
		if c < ' ' || c >= 0x7f && c <= 0x9f || c == '\u2028' || c == '\u2029' {
			return fault.New(fault.Invalid, "Invalid control character in the path %q", path)
		}
	}
	return nil
}

// Normalize serves next with the path that puppetserver would use: repeated
// slashes count as one, what follows a bare semicolon in a segment is dropped,
// and a relative segment is a 400. Handlers and rules behind it see the result.
func Normalize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, err := normalPath(r.URL)
		if err != nil {
			telemetry.Note(r.Context(), slog.String(telemetry.KeyErr, err.Error()))
			w.Header()["Content-Type"] = nil // the real server's refusals have none, and net/http would guess one
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, fault.Message(err)) // a client that went away needs no answer
			return
		}
		if path != r.URL.Path {
			u := *r.URL
			u.Path, u.RawPath = path, ""
			r2 := *r
			r2.URL = &u
			r = &r2
		}
		next.ServeHTTP(w, r)
	})
}

// normalPath decodes, drops path parameters, checks, and joins slashes, in the
// order of normalize-uri-path.
func normalPath(u *url.URL) (string, error) {
	path := u.Path
	if escaped := u.EscapedPath(); strings.Contains(escaped, ";") {
		segments := strings.Split(escaped, "/")
		for i, s := range segments {
			segments[i], _, _ = strings.Cut(s, ";")
		}
		var err error
		if path, err = url.PathUnescape(strings.Join(segments, "/")); err != nil {
			return "", fault.Wrap(fault.Invalid, err, "Invalid path: %v", err)
		}
	}
	if err := checkPath(path); err != nil {
		return "", err
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path, nil
}
