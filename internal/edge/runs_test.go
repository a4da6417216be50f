package edge

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestARunHasPluginsOfOneVersionAndFilesOfThatOfItsCatalog(t *testing.T) {
	a := newRuns(10*time.Minute, slog.New(slog.DiscardHandler), func(*run) {})
	now := time.Now()
	a.now = func() time.Time { return now }
	const (
		plugins = "/puppet/v3/file_metadatas/plugins?environment=production"
		catalog = "/puppet/v3/catalog/web1?environment=production"
		file    = "/puppet/v3/file_metadata/modules/m/f?environment=production"
		report  = "/puppet/v3/report/web1?environment=production"
	)
	for i, step := range []struct {
		pause                        time.Duration
		method, target, want, answer string // code versions: asked for, answered
	}{
		{0, http.MethodGet, plugins, "", "one"},
		{time.Second, http.MethodGet, plugins, "one", "one"},
		{20 * time.Second, http.MethodPost, catalog, "one", "two"}, // deployed meanwhile
		{time.Second, http.MethodGet, file, "two", "three"},        // the server did not have it any more
		{time.Second, http.MethodGet, file, "two", "two"},
		{time.Second, http.MethodPut, report, "two", ""},
		{time.Minute, http.MethodGet, plugins, "", "four"},
		{2 * time.Minute, http.MethodGet, plugins, "", "five"}, // it was stopped, and began again
		{time.Second, http.MethodGet, plugins, "five", "five"},
	} {
		now = now.Add(step.pause)
		r := httptest.NewRequestWithContext(t.Context(), step.method, step.target, nil)
		v := verbOf(r)
		one, _ := a.enter("web1", true, v, r)
		if _, got := a.pin(one, "members", "production"); got != step.want {
			t.Errorf("step %d: %s is asked for of version %q, want %q", i+1, step.target, got, step.want)
		}
		o := outcome{codeID: step.answer, environment: "production", status: http.StatusOK, ends: v.ends}
		if v.name == "catalog" {
			o.compiled = time.Second
		}
		a.leave(one, o)
	}
}
