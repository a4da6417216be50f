package adminapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"troupe/internal/fault"
)

// This file fuzzes the bodies that commands send: their senders may be of another version, and another program.

func FuzzBody(f *testing.F) {
	routes := []string{"/v1/compile", "/v1/redact", "/v1/resources/exported", "/v1/certificates/sign", "/v1/certificates/revoke", "/v1/certificates/clean", "/v1/certificates/renew"}
	for i := range routes {
		f.Add(i, `{"certname":"a.example.test","environment":"production","facts":{"a":1}}`)
		f.Add(i, `{"certnames":["a.example.test"],"limit":-1}`)
		f.Add(i, `{"inputs":{"facts":null}} {}`)
	}
	p := serve(f)
	f.Fuzz(func(t *testing.T, route int, body string) {
		path := routes[uint(route)%uint(len(routes))]
		status, text := p.raw(t, http.MethodPost, path, body)
		if status == http.StatusOK {
			return
		}
		var e struct {
			Kind    fault.Kind `json:"kind"`
			Message string     `json:"message"`
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil || e.Kind == fault.Internal || strings.TrimSpace(text) == "" {
			t.Errorf("%s %q: %d %s (%v)", path, body, status, text, err)
		}
	})
}
