// Package jetty answers where Puppet Server does not answer itself but the web
// server in front of it, Jetty 9.4: paths that no endpoint has.
//
// Scripts and monitoring checks tell a wrong path from a refusal by these pages,
// so a page has the form that the header Accept asks for, as Jetty's has.
package jetty

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// NotFound answers a path that no endpoint has. Methods that change something,
// and those that HTTP does not know, get no page.
func NotFound(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	kind, page := "", ""
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost {
		h.Set("Cache-Control", "must-revalidate,no-cache,no-store")
		kind, page = notFoundPage(r)
	}
	h["Content-Type"] = nil // or net/http would guess one
	if kind != "" {
		h.Set("Content-Type", kind)
	}
	h.Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(http.StatusNotFound)
	// A client that went away needs no answer, and HTML is escaped in notFoundPage.
	w.Write([]byte(page)) //nolint:errcheck // see above
}

// notFoundPage chooses the first media type of the client that there is a page
// in; "" and "" if there is none.
func notFoundPage(r *http.Request) (contentType, page string) {
	const plain = "HTTP ERROR 404 Not Found\nURI: %s\nSTATUS: 404\nMESSAGE: Not Found\nSERVLET: null\n"
	path, _, _ := strings.Cut(r.RequestURI, "?") // as the client sent it
	for _, media := range acceptable(r.Header) {
		switch media {
		case "text/html", "text/*", "*/*":
			return "text/html;charset=iso-8859-1", fmt.Sprintf(htmlPage, html.EscapeString(path))
		case "text/json", "application/json":
			url, err := json.Marshal(path)
			if err != nil {
				panic(err) // a string is always JSON
			}
			return media, "{\n\"message\":\"Not Found\",\n\"url\":" + string(url) + ",\n\"status\":\"404\"\n}"
		case "text/plain":
			return "text/plain;charset=iso-8859-1", fmt.Sprintf(plain, path)
		}
	}
	return "", ""
}

const htmlPage = `<html>
<head>
<meta http-equiv="Content-Type" content="text/html;charset=ISO-8859-1"/>
<title>Error 404 Not Found</title>
</head>
<body><h2>HTTP ERROR 404 Not Found</h2>
<table>
<tr><th>URI:</th><td>%s</td></tr>
<tr><th>STATUS:</th><td>404</td></tr>
<tr><th>MESSAGE:</th><td>Not Found</td></tr>
<tr><th>SERVLET:</th><td>-</td></tr>
</table>

</body>
</html>
`

// acceptable returns the media types of the header Accept, the best first: by
// their weight, then the more specific ones before wildcards. What has weight 0
// is left out. Without the header the client takes HTML.
func acceptable(h http.Header) []string {
	lines, sent := h["Accept"]
	if !sent {
		return []string{"text/html"}
	}
	type choice struct {
		media  string
		weight float64
	}
	var choices []choice
	for item := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		c := choice{weight: 1}
		var kept []string // parameters other than the weight belong to the type
		for i, part := range strings.Split(item, ";") {
			part = strings.ToLower(strings.TrimSpace(part))
			if weight, ok := strings.CutPrefix(part, "q="); ok && i > 0 {
				var err error
				if c.weight, err = strconv.ParseFloat(weight, 64); err != nil {
					c.weight = 1
				}
				continue
			}
			kept = append(kept, part)
		}
		c.media = strings.Join(kept, ";")
		if c.media != "" && c.weight > 0 {
			choices = append(choices, c)
		}
	}
	slices.SortStableFunc(choices, func(a, b choice) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(specific(b.media), specific(a.media)))
	})
	media := make([]string, len(choices))
	for i, c := range choices {
		media[i] = c.media
	}
	return media
}

// specific grades a media type: a wildcard for everything, for a family, or one type.
func specific(media string) int {
	switch {
	case media == "*/*":
		return 0
	case strings.HasSuffix(media, "/*"):
		return 1
	default:
		return 2
	}
}
