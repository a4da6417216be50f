package jetty_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"troupe/internal/jetty"
)

func TestAPathWithoutAnEndpointIsAnsweredInTheFormThatTheClientAccepts(t *testing.T) {
	const html, plain, none = "text/html;charset=iso-8859-1", "text/plain;charset=iso-8859-1", ""
	for accept, want := range map[string]string{
		"*/*": html, "text/*": html, "text/html": html, "text/plain": plain, "application/json": "application/json", "APPLICATION/JSON": "application/json",
		"text/plain;q=0.1, application/json;q=0.9": "application/json", "*/*, text/plain": plain, "text/nosuch, text/plain;q=0.5": plain,
		"application/json;q=0": none, "application/*": none, "text/pson": none, "application/json;version=1": none, "s": none, ",": none,
	} {
		r := httptest.NewRequest(http.MethodGet, "/nosuch", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		jetty.NotFound(w, r)
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusNotFound || got != want || (w.Body.Len() == 0) != (want == none) {
			t.Errorf("Accept: %s: %d, type %q with %d bytes, want 404 and type %q", accept, w.Code, got, w.Body.Len(), want)
		}
	}
}

func TestAPageForAPathDoesNotCarryItsMarkup(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/a%3Cscript%3E'b", nil)
	w := httptest.NewRecorder()
	jetty.NotFound(w, r)
	if body := w.Body.String(); strings.Contains(body, "<script>") || !strings.Contains(body, "script") {
		t.Errorf("the page has the path as it came: %s", body)
	}
}

func TestMethodsThatChangeSomethingGetNoPage(t *testing.T) {
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "BREW"} {
		w := httptest.NewRecorder()
		jetty.NotFound(w, httptest.NewRequest(method, "/nosuch", nil))
		if w.Code != http.StatusNotFound || w.Body.Len() != 0 || w.Header().Get("Cache-Control") != "" {
			t.Errorf("%s: %d, %q, want a bare 404", method, w.Code, w.Body)
		}
	}
}
