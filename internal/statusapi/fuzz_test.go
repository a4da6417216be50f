package statusapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// This file fuzzes what collectors ask of Jolokia.

func FuzzJolokia(f *testing.F) {
	f.Add("/read/java.lang:type=Memory/HeapMemoryUsage/used", "")
	f.Add("/search/puppetserver:*", "")
	f.Add("/read/a!/b:type=!!x", "")
	f.Add("", `{"type":"read","mbean":"java.lang:type=Memory","attribute":["Verbose"],"path":"a"}`)
	f.Add("", `[{"type":"list"},{"type":"exec"},null]`)
	h := jolokiaHandler(f)
	f.Fuzz(func(t *testing.T, path, body string) {
		method := http.MethodGet
		if body != "" {
			method, path = http.MethodPost, "/"
		}
		target := "/metrics/v2" + path
		if _, err := url.ParseRequestURI(target); err != nil || strings.ContainsAny(target, " \t\r\n") {
			return // net/http refuses such a line
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
		if w.Code == http.StatusNotFound || w.Code == http.StatusBadRequest || w.Code == http.StatusMovedPermanently || w.Code == http.StatusTemporaryRedirect {
			return // no route
		}
		if w.Code != http.StatusOK {
			t.Fatalf("%s %s %q: status %d %s", method, target, body, w.Code, w.Body)
		}
		var answers []answer
		if err := json.Unmarshal(w.Body.Bytes(), &answers); err != nil {
			answers = make([]answer, 1)
			if err := json.Unmarshal(w.Body.Bytes(), &answers[0]); err != nil {
				t.Fatalf("%s %q: %v in %s", target, body, err, w.Body)
			}
		}
		for _, a := range answers {
			if (a.Status == http.StatusOK) != (a.Error == "") {
				t.Errorf("%s %q: status %d with error %q", target, body, a.Status, a.Error)
			}
		}
	})
}
