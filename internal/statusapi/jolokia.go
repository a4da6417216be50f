package statusapi

import (
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

func (a *API) jolokiaGet(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, a.jolokia(parseJolokiaPath(r.URL.EscapedPath())))
}

func (a *API) jolokiaPost(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "request body is larger than 1 MiB or was cut")
	}
	var many []jolokiaRequest
	if json.Unmarshal(body, &many) == nil {
		out := make([]any, len(many))
		for i, q := range many {
			out[i] = a.jolokia(q)
		}
		return writeJSON(w, http.StatusOK, out)
	}
	var one jolokiaRequest
	if err := json.Unmarshal(body, &one); err != nil {
		return fault.Wrap(fault.Invalid, err, "Invalid JSON request")
	}
	return writeJSON(w, http.StatusOK, a.jolokia(one))
}

// parseJolokiaPath splits /metrics/v2/read/MBEAN/ATTRIBUTE/PATH; parts are
// percent-encoded one by one.
func parseJolokiaPath(escaped string) jolokiaRequest {
	var parts []string
	for p := range strings.SplitSeq(strings.TrimPrefix(escaped, "/metrics/v2"), "/") {
		if p == "" {
			continue
		}
		plain, err := url.PathUnescape(p)
		if err != nil {
			plain = p
		}
		parts = append(parts, plain)
	}
	q := jolokiaRequest{Type: "version"}
	if len(parts) > 0 {
		q.Type = parts[0]
	}
	if len(parts) > 1 {
		q.MBean = parts[1]
	}
	if len(parts) > 2 {
		q.Attribute = parts[2]
	}
	if len(parts) > 3 {
		q.Path = strings.Join(parts[3:], "/")
	}
	return q
}

func (a *API) jolokia(q jolokiaRequest) map[string]any {
	beans := map[string]Bean{}
	if a.o.Beans != nil {
		beans = a.o.Beans()
	}
	switch q.Type {
	case "version":
		return jolokiaOK(q, map[string]any{"agent": "1.7.1", "protocol": "7.2", "config": map[string]any{}, "info": map[string]any{"product": "troupe"}})
	case "list":
		return jolokiaOK(q, listBeans(beans))
	case "search":
		var names []string
		for name := range beans {
			if ok, err := path.Match(q.MBean, name); err == nil && ok {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return jolokiaOK(q, names)
	case "read":
		return readBean(beans, q)
	}
	return jolokiaError(q, http.StatusForbidden, "java.lang.Exception", "Reject: only version, list, search and read are allowed")
}

func readBean(beans map[string]Bean, q jolokiaRequest) map[string]any {
	bean, ok := beans[q.MBean]
	if !ok {
		return jolokiaError(q, http.StatusNotFound, "javax.management.InstanceNotFoundException", q.MBean)
	}
	switch attr := q.Attribute.(type) {
	case nil:
		return jolokiaOK(q, bean)
	case string:
		v, ok := bean[attr]
		if !ok {
			return jolokiaError(q, http.StatusNotFound, "javax.management.AttributeNotFoundException", "No such attribute: "+attr)
		}
		if inner, isMap := v.(map[string]any); isMap && q.Path != "" {
			v = inner[q.Path]
		}
		return jolokiaOK(q, v)
	case []any:
		out := map[string]any{}
		for _, name := range attr {
			if s, isString := name.(string); isString {
				out[s] = bean[s]
			}
		}
		return jolokiaOK(q, out)
	}
	return jolokiaError(q, http.StatusBadRequest, "java.lang.IllegalArgumentException", "attribute must be a string or a list")
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

func jolokiaOK(q jolokiaRequest, v any) map[string]any {
	return map[string]any{"request": q, "value": v, "timestamp": time.Now().Unix(), "status": http.StatusOK}
}

func jolokiaError(q jolokiaRequest, code int, class, text string) map[string]any {
	return map[string]any{"request": q, "error_type": class, "error": class + " : " + text, "status": code}
}
