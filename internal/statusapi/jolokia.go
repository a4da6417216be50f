package statusapi

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"troupe/internal/fault"
)

// This file answers the read-only requests of Jolokia 1.7 that collectors send to
// Puppet Server: version, list, read and search. Every answer is HTTP 200 with
// the real status inside, as Jolokia does.

// jolokiaRequest is Jolokia's request, also echoed in the answer.
type jolokiaRequest struct {
	Type      string `json:"type"`
	MBean     string `json:"mbean,omitempty"`
	Attribute any    `json:"attribute,omitempty"` // a string or a list of them
	Path      string `json:"path,omitempty"`
}

// jolokiaAnswer has either a value or an error; Status is an HTTP status.
type jolokiaAnswer struct {
	Request   *jolokiaRequest `json:"request,omitempty"`
	Value     any             `json:"value,omitempty"`
	Timestamp int64           `json:"timestamp,omitempty"`
	Status    int             `json:"status"`
	ErrorType string          `json:"error_type,omitempty"`
	Error     string          `json:"error,omitempty"`
}

func (a *API) jolokiaGet(w http.ResponseWriter, r *http.Request) error {
	return writeJolokia(w, jolokia(a.beans(), parseJolokiaPath(r.URL.EscapedPath())))
}

// writeJolokia answers with status 200; what failed is told in the body.
func writeJolokia(w http.ResponseWriter, v any) error {
	w.Header().Set("Cache-Control", "no-cache")
	return writeJSON(w, http.StatusOK, v)
}

// jolokiaOther answers methods other than GET and POST as Jolokia's servlet does.
func (a *API) jolokiaOther(w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case http.MethodOptions:
		w.WriteHeader(http.StatusOK)
	case http.MethodPut, http.MethodDelete, http.MethodTrace:
		w.WriteHeader(http.StatusMethodNotAllowed)
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
	return nil
}

// Limits of a POST: collectors of Puppet Server ask for some dozens of names.
const (
	maxJolokiaBody = 1 << 20
	maxJolokiaBulk = 500
)

func (a *API) jolokiaPost(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJolokiaBody))
	if err != nil {
		return fault.Wrap(fault.TooLarge, err, "request body is larger than 1 MiB or was cut")
	}
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		return a.jolokiaBulk(w, body)
	}
	var q *jolokiaRequest
	if err := json.Unmarshal(body, &q); err != nil || q == nil {
		return writeJolokia(w, badJolokia("Invalid JSON request"))
	}
	return writeJolokia(w, jolokia(a.beans(), *q))
}

// jolokiaBulk answers all requests from one look at the beans.
func (a *API) jolokiaBulk(w http.ResponseWriter, body []byte) error {
	var list []jolokiaRequest
	if err := json.Unmarshal(body, &list); err != nil {
		return writeJolokia(w, badJolokia("Invalid JSON request"))
	}
	if len(list) > maxJolokiaBulk {
		return writeJolokia(w, badJolokia("more than 500 requests in one body"))
	}
	beans := a.beans()
	out := make([]jolokiaAnswer, len(list))
	for i, q := range list {
		out[i] = jolokia(beans, q)
	}
	return writeJolokia(w, out)
}

func (a *API) beans() map[string]Bean {
	if a.o.Beans == nil {
		return nil
	}
	return a.o.Beans()
}

// parseJolokiaPath splits /metrics/v2/read/MBEAN/ATTRIBUTE/PATH; parts are
// percent-encoded one by one, and a slash inside of one is written !/.
func parseJolokiaPath(escaped string) jolokiaRequest {
	const slash = "\x00"
	escaped = strings.ReplaceAll(strings.TrimPrefix(escaped, "/metrics/v2"), "!/", slash)
	var parts []string
	for p := range strings.SplitSeq(escaped, "/") {
		if p == "" {
			continue
		}
		plain, err := url.PathUnescape(p)
		if err != nil {
			plain = p
		}
		parts = append(parts, strings.ReplaceAll(plain, slash, "/"))
	}
	parts = append(parts, make([]string, max(0, 3-len(parts)))...)
	q := jolokiaRequest{Type: parts[0]}
	if q.Type == "" {
		q.Type = "version"
	}
	if q.Type == "list" { // what follows is a path into the tree
		q.Path = strings.TrimRight(strings.Join(parts[1:], "/"), "/")
		return q
	}
	q.MBean, q.Path = parts[1], strings.Join(parts[3:], "/")
	if names := strings.Split(parts[2], ","); len(names) > 1 {
		list := make([]any, len(names))
		for i, n := range names {
			list[i] = n
		}
		q.Attribute = list
	} else if parts[2] != "" {
		q.Attribute = parts[2]
	}
	return q
}

func jolokia(beans map[string]Bean, q jolokiaRequest) jolokiaAnswer {
	switch q.Type {
	case "version":
		return jolokiaOK(q, map[string]any{"agent": "1.7.1", "protocol": "7.2", "config": map[string]any{}, "info": map[string]any{"product": "troupe"}})
	case "list":
		return within(q, listBeans(beans))
	case "search":
		return jolokiaOK(q, matching(beans, q.MBean))
	case "read":
		return read(beans, q)
	}
	return jolokiaError(q, http.StatusForbidden, "java.lang.Exception", "Reject: only version, list, search and read are allowed")
}

// matching returns the names that an object name pattern covers, such as
// puppetserver:* or *:type=Memory,* (JMX, class ObjectName).
func matching(beans map[string]Bean, pattern string) []string {
	names := []string{}
	for name := range beans {
		if covers(pattern, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func covers(pattern, name string) bool {
	// Brackets mean nothing in an object name; path.Match must not read them as a class.
	pattern = strings.NewReplacer(`\`, `\\`, `[`, `\[`).Replace(pattern)
	if start, more := strings.CutSuffix(pattern, ",*"); more && covers(start, name) {
		return true
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

func read(beans map[string]Bean, q jolokiaRequest) jolokiaAnswer {
	if !strings.ContainsAny(q.MBean, "*?") {
		bean, ok := beans[q.MBean]
		if !ok {
			return jolokiaError(q, http.StatusNotFound, "javax.management.InstanceNotFoundException", q.MBean)
		}
		return readBean(bean, q)
	}
	out := map[string]any{}
	for _, name := range matching(beans, q.MBean) {
		if got := readBean(beans[name], q); got.Status == http.StatusOK {
			out[name] = got.Value
		}
	}
	if len(out) == 0 {
		return jolokiaError(q, http.StatusNotFound, "javax.management.InstanceNotFoundException", "No MBean with pattern "+q.MBean+" found for reading attributes")
	}
	return jolokiaOK(q, out)
}

func readBean(bean Bean, q jolokiaRequest) jolokiaAnswer {
	noAttribute := func(name string) jolokiaAnswer {
		return jolokiaError(q, http.StatusNotFound, "javax.management.AttributeNotFoundException", "No such attribute: "+name)
	}
	switch attr := q.Attribute.(type) {
	case nil:
		return jolokiaOK(q, bean)
	case string:
		v, ok := bean[attr]
		if !ok {
			return noAttribute(attr)
		}
		return within(q, v)
	case []any:
		out := map[string]any{}
		for _, name := range attr {
			s, _ := name.(string) // anything else is no attribute either
			v, ok := bean[s]
			if !ok {
				return noAttribute(s)
			}
			out[s] = v
		}
		return jolokiaOK(q, out)
	}
	return jolokiaError(q, http.StatusBadRequest, "java.lang.IllegalArgumentException", "attribute must be a string or a list")
}

// within follows the request's path into a value.
func within(q jolokiaRequest, v any) jolokiaAnswer {
	for p := range strings.SplitSeq(q.Path, "/") {
		if p == "" {
			continue
		}
		m, _ := v.(map[string]any) // a plain value has nothing inside
		inner, ok := m[p]
		if !ok {
			return jolokiaError(q, http.StatusNotFound, "java.lang.IllegalArgumentException", "No such path: "+q.Path)
		}
		v = inner
	}
	return jolokiaOK(q, v)
}

// listBeans is Jolokia's tree: domain, then the rest of the name, then attributes.
func listBeans(beans map[string]Bean) map[string]any {
	out := map[string]any{}
	for name, bean := range beans {
		domain, rest, _ := strings.Cut(name, ":")
		attrs := map[string]any{}
		for a := range bean {
			attrs[a] = map[string]any{"rw": false, "type": "java.lang.Object", "desc": a}
		}
		m, ok := out[domain].(map[string]any)
		if !ok {
			m = map[string]any{}
			out[domain] = m
		}
		m[rest] = map[string]any{"attr": attrs, "desc": ""}
	}
	return out
}

func jolokiaOK(q jolokiaRequest, v any) jolokiaAnswer {
	return jolokiaAnswer{Request: &q, Value: v, Timestamp: time.Now().Unix(), Status: http.StatusOK}
}

func jolokiaError(q jolokiaRequest, code int, class, text string) jolokiaAnswer {
	return jolokiaAnswer{Request: &q, ErrorType: class, Error: class + " : " + text, Status: code}
}

// badJolokia is the answer to what is no request at all.
func badJolokia(text string) jolokiaAnswer {
	const class = "java.lang.IllegalArgumentException"
	return jolokiaAnswer{ErrorType: class, Error: class + " : " + text, Status: http.StatusBadRequest}
}
