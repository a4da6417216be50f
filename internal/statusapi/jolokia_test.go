package statusapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/authz"
	"troupe/internal/statusapi"
)

// This file asks what collectors of Puppet Server ask of Jolokia.

const openToAll = `authorization: { version: 1, rules: [
	{ match-request: { path: "/metrics", type: path }, allow-unauthenticated: true, sort-order: 1, name: "open" }
] }`

const jruby = "puppetserver:name=puppetlabs.puppet.example.test.jruby."

func jolokiaHandler(t testing.TB) http.Handler {
	t.Helper()
	rules, err := authz.Parse("auth.conf", []byte(openToAll))
	if err != nil {
		t.Fatal(err)
	}
	beans := map[string]statusapi.Bean{
		"java.lang:type=Memory":   {"HeapMemoryUsage": map[string]any{"used": 5, "max": -1}, "Verbose": false},
		"java.lang:type=Runtime":  {"Uptime": 0},
		jruby + "num-jrubies":     {"Value": 4},
		jruby + "queue-limit-max": {"Value": 0},
	}
	return statusapi.New(authz.NewGuard(authz.GuardOptions{Rules: rules}), nil, statusapi.Options{
		Beans: func() map[string]statusapi.Bean { return beans },
	}).Handler()
}

type answer struct {
	Request map[string]any
	Value   any
	Status  int
	Error   string
	Type    string `json:"error_type"`
}

func TestJolokiaGet(t *testing.T) {
	h := jolokiaHandler(t)
	heap := map[string]any{"used": 5.0, "max": -1.0}
	for target, want := range map[string]answer{
		"/":     {Status: 200, Value: map[string]any{"agent": "1.7.1", "protocol": "7.2", "config": map[string]any{}, "info": map[string]any{"product": "troupe"}}},
		"/read": {Status: 404, Type: "javax.management.InstanceNotFoundException", Error: "javax.management.InstanceNotFoundException : "},

		"/read/java.lang:type=Memory/HeapMemoryUsage":              {Status: 200, Value: heap},
		"/read/java.lang:type=Memory/HeapMemoryUsage,Verbose":      {Status: 200, Value: map[string]any{"HeapMemoryUsage": heap, "Verbose": false}},
		"/read/java.lang:type=Memory/HeapMemoryUsage/used":         {Status: 200, Value: 5.0},
		"/read/java.lang:type=Runtime/Uptime":                      {Status: 200, Value: 0.0},
		"/read/java.lang:type=Runtime":                             {Status: 200, Value: map[string]any{"Uptime": 0.0}},
		"/read/java.lang:type=Memory/HeapMemoryUsage/none":         {Status: 404, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : No such path: none"},
		"/read/java.lang:type=Memory/Nothing":                      {Status: 404, Type: "javax.management.AttributeNotFoundException", Error: "javax.management.AttributeNotFoundException : No such attribute: Nothing"},
		"/read/java.lang:type=Nothing":                             {Status: 404, Type: "javax.management.InstanceNotFoundException", Error: "javax.management.InstanceNotFoundException : java.lang:type=Nothing"},
		"/read/puppetserver:name=*/Value":                          {Status: 200, Value: map[string]any{jruby + "num-jrubies": 4.0, jruby + "queue-limit-max": 0.0}},
		"/search/*:*":                                              {Status: 200, Value: []any{"java.lang:type=Memory", "java.lang:type=Runtime", jruby + "num-jrubies", jruby + "queue-limit-max"}},
		"/search/*:type=Memory,*":                                  {Status: 200, Value: []any{"java.lang:type=Memory"}},
		"/search/puppetserver%3Aname%3Dpuppetlabs.*.num-jrubies":   {Status: 200, Value: []any{jruby + "num-jrubies"}},
		"/search/nothing:*":                                        {Status: 200, Value: []any{}},
		"/search/[a-z]*:*":                                         {Status: 200, Value: []any{}},
		"/list/java.lang/type=Runtime/attr/Uptime/rw":              {Status: 200, Value: false},
		"/exec/java.lang:type=Memory/gc":                           {Status: 403, Type: "java.lang.Exception", Error: "java.lang.Exception : Reject: only version, list, search and read are allowed"},
		"/write/java.lang:type=Memory/Verbose/true":                {Status: 403, Type: "java.lang.Exception", Error: "java.lang.Exception : Reject: only version, list, search and read are allowed"},
		"/read/java.lang:type=Memory/Verbose/deeper/than/a/number": {Status: 404, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : No such path: deeper/than/a/number"},
	} {
		t.Run(target, func(t *testing.T) {
			resp, body := ask(t, h, "GET", "/metrics/v2"+target, "")
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json;charset=utf-8" {
				t.Errorf("%d %s, want 200 and JSON whatever the answer", resp.StatusCode, resp.Header.Get("Content-Type"))
			}
			var got answer
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			got.Request = nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestJolokiaPost(t *testing.T) {
	h := jolokiaHandler(t)
	for name, c := range map[string]struct {
		body string
		want []answer
		bulk bool
	}{
		"one request": {
			body: `{"type":"read","mbean":"java.lang:type=Memory","attribute":"HeapMemoryUsage","path":"used"}`,
			want: []answer{{Status: 200, Value: 5.0}},
		},
		"many requests": {
			body: ` [{"type":"read","mbean":"java.lang:type=Runtime","attribute":["Uptime"]},{"type":"read","mbean":"none:a=b"}]`,
			want: []answer{
				{Status: 200, Value: map[string]any{"Uptime": 0.0}},
				{Status: 404, Type: "javax.management.InstanceNotFoundException", Error: "javax.management.InstanceNotFoundException : none:a=b"},
			}, bulk: true,
		},
		"no requests": {body: `[]`, want: []answer{}, bulk: true},
		"an attribute that is no name": {
			body: `{"type":"read","mbean":"java.lang:type=Runtime","attribute":7}`,
			want: []answer{{Status: 400, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : attribute must be a string or a list"}},
		},
		"no JSON": {body: `{`, want: []answer{{Status: 400, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : Invalid JSON request"}}},
		"null":    {body: `null`, want: []answer{{Status: 400, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : Invalid JSON request"}}},
		"a list of something else": {body: `[1,2]`, want: []answer{{
			Status: 400, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : Invalid JSON request",
		}}},
		"more than a collector asks": {body: "[" + strings.Repeat("{},", 500) + "{}]", want: []answer{{
			Status: 400, Type: "java.lang.IllegalArgumentException", Error: "java.lang.IllegalArgumentException : more than 500 requests in one body",
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, body := ask(t, h, "POST", "/metrics/v2/", c.body)
			got := []answer{{}}
			into := any(&got[0])
			if c.bulk {
				into = &got
			}
			if err := json.Unmarshal([]byte(body), into); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			for i := range got {
				got[i].Request = nil
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestJolokiaRefusesALargeBody(t *testing.T) {
	resp, body := ask(t, jolokiaHandler(t), "POST", "/metrics/v2/", strings.Repeat(" ", 1<<20+1))
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s, want 413", resp.StatusCode, body)
	}
}

func TestJolokiaEchoesTheRequest(t *testing.T) {
	_, body := ask(t, jolokiaHandler(t), "GET", "/metrics/v2/read/java.lang:type=Memory/HeapMemoryUsage/used", "")
	var got answer
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"type": "read", "mbean": "java.lang:type=Memory", "attribute": "HeapMemoryUsage", "path": "used"}
	if diff := cmp.Diff(want, got.Request); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJolokiaHasNoOtherMethods(t *testing.T) {
	for method, want := range map[string]int{"OPTIONS": 200, "PUT": 405, "DELETE": 405, "PATCH": 501, "BREW": 501} {
		if resp, body := ask(t, jolokiaHandler(t), method, "/metrics/v2/version", ""); resp.StatusCode != want || body != "" {
			t.Errorf("%s: %d %q, want %d and nothing", method, resp.StatusCode, body, want)
		}
	}
}

func TestJolokiaStaysClosedByDefault(t *testing.T) {
	h := statusapi.New(guard(), nil, statusapi.Options{}).Handler()
	for _, target := range []string{"/metrics/v2/", "/metrics/v2/read/java.lang:type=Memory"} {
		r := withCertificate(httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody))
		if resp, _ := send(t, h, r); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", target, resp.StatusCode)
		}
	}
}
