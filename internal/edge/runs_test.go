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
		facts   = "/puppet/v3/file_metadatas/pluginfacts?environment=production"
		plugins = "/puppet/v3/file_metadatas/plugins?environment=production"
		catalog = "/puppet/v3/catalog/web1?environment=production"
		file    = "/puppet/v3/file_metadata/modules/m/f?environment=production"
		report  = "/puppet/v3/report/web1?environment=production"
	)
	for i, step := range []struct {
		pause                        time.Duration
		method, target, want, answer string // code versions: asked for, answered
	}{
		{0, http.MethodGet, facts, "", "one"},
		{time.Second, http.MethodGet, plugins, "one", "one"},
		{20 * time.Second, http.MethodPost, catalog, "one", "two"}, // deployed meanwhile
		{time.Second, http.MethodGet, file, "two", "three"},        // the server did not have it any more
		{time.Second, http.MethodGet, file, "two", "two"},
		{time.Second, http.MethodPut, report, "two", ""},
		{time.Minute, http.MethodGet, facts, "", "four"},
		{2 * time.Minute, http.MethodGet, facts, "", "five"}, // it was stopped, and began again
		{time.Second, http.MethodGet, plugins, "five", "five"},
		{time.Second, http.MethodGet, facts, "", "six"}, // likewise, at once
		{time.Second, http.MethodGet, plugins, "six", "six"},
		{time.Second, http.MethodPost, catalog, "six", "six"},
	} {
		now = now.Add(step.pause)
		r := httptest.NewRequestWithContext(t.Context(), step.method, step.target, nil)
		v := verbOf(r)
		one, _ := a.enter("web1", true, v, r)
		if _, got := a.pin(one, "members", "production"); got != step.want {
			t.Errorf("step %d: %s is asked for of version %q, want %q", i+1, step.target, got, step.want)
		}
		got := &answer{codeID: step.answer}
		if v.name == "catalog" {
			got.compiled = time.Second
		}
		a.learn(one, "production", got)
		a.leave(one, outcome{status: http.StatusOK, ends: v.ends})
	}
}

func TestARunGoesOnAtAnotherProcessAsItBegan(t *testing.T) {
	discard := func(*run) {}
	before, after := newRuns(10*time.Minute, slog.New(slog.DiscardHandler), discard), newRuns(10*time.Minute, slog.New(slog.DiscardHandler), discard)
	request := func(path string) (*http.Request, verb) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		return r, verbOf(r)
	}
	r, v := request("/puppet/v3/file_metadata/modules/m/f?environment=production")
	if _, ok := before.passOn("web1", v); ok {
		t.Error("a run that there is not was passed on")
	}
	one, _ := before.enter("web1", true, v, r)
	before.learn(one, "production", &answer{codeID: "one", compiled: time.Second})
	before.leave(one, outcome{pool: "members", server: "p0", status: http.StatusOK})

	p, ok := before.passOn("web1", v)
	if !ok {
		t.Fatal("the run is not passed on")
	}
	same, _ := after.enter("web1", true, v, r)
	after.adopt(same, p)
	if server, id := after.pin(same, "members", "production"); server != "p0" || id != "one" {
		t.Errorf("it goes on at %q with code %q", server, id)
	}
	_, v = request("/puppet/v3/node/web1?environment=production")
	if _, ok := before.passOn("web1", v); ok {
		t.Error("a request that begins another run got the one before")
	}
}
