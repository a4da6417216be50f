package edge

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/health"
	"troupe/internal/telemetry"
)

// said tells whether an edge goes by the words of speakTo.
func said(t *testing.T, e *Client) bool {
	t.Helper()
	s, err := e.Status(t.Context())
	if err != nil || !s.Drained {
		return false
	}
	p0, p1 := s.Pools[0].Servers[0], s.Pools[0].Servers[1]
	return p0.State == health.Drain && p1.State == health.Up && p1.Weight == 50
}

func speakTo(t *testing.T, e *Client) {
	t.Helper()
	weight := 50
	check(t, e.Change(t.Context(), "workers", "p0", Change{Mode: "drain"}))
	check(t, e.Change(t.Context(), "workers", "p1", Change{Weight: &weight}))
	check(t, e.ChangeEdge(t.Context(), "drain"))
}

func (th *theatre) reread(change func(*config.Edge)) *config.Edge {
	th.t.Helper()
	text, err := os.ReadFile(filepath.Join(th.dir, "edge.yaml"))
	check(th.t, err)
	conf, err := config.ParseEdge("edge.yaml", text)
	check(th.t, err)
	if change != nil {
		change(conf)
	}
	return conf
}

// TestWordsOfAnOperatorSurvive a restart and a takeover, also those that the old process hears while the new one begins.
func TestWordsOfAnOperatorSurvive(t *testing.T) {
	th := openTheatre(t, 2, func(c *config.Edge) { c.Listeners[0].Listen = freeAddress(t) })
	client, err := Dial(t.Context(), th.dir)
	check(t, err)

	second, err := open(t.Context(), th.reread(nil), Options{Log: telemetry.NewLogger(t.Output(), nil, false), Takeover: true})
	check(t, err)
	speakTo(t, client)
	if second.drained.Load() {
		t.Fatal("the second process has heard what it cannot have")
	}
	all, _, err := second.bind(t.Context())
	check(t, err)
	for _, l := range all {
		check(t, l.Close())
	}
	check(t, second.recallWords())
	if v := second.judge.Verdict("workers/p0"); !second.drained.Load() || second.pools["workers"].Stats().Servers[1].Server.Weight != 50 || second.judge.All()[0].Admin != "drain" {
		t.Errorf("what was said to the process before is forgotten: %+v", v)
	}
	// From the moment that the new one has read them until it is decided who goes on, there is nobody to tell.
	if err := client.ChangeEdge(t.Context(), "ready"); err == nil || !strings.Contains(err.Error(), "taking this edge over") {
		t.Errorf("a word within a takeover: %v", err)
	}
	if err := client.Change(t.Context(), "workers", "p0", Change{Mode: "ready"}); err == nil {
		t.Error("a word within a takeover was heard")
	}
	check(t, second.predecessor.Close())
	th.wait("the first process listens to its operator again", func() bool { return client.Change(t.Context(), "workers", "p0", Change{Mode: "drain"}) == nil })

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, th.reread(nil), Options{Log: telemetry.NewLogger(t.Output(), nil, false), Version: "third", Takeover: true})
	}()
	th.wait("the next process goes by what was said", func() bool {
		if client, err = Dial(t.Context(), th.dir); err != nil {
			return false
		}
		s, err := client.Status(t.Context())
		return err == nil && s.Version == "third" && said(t, client)
	})
	th.stop() // has ended by itself
	th.stop = nil
	cancel()
	check(t, <-ended)

	ctx, cancel = context.WithCancel(context.Background())
	go func() {
		ended <- Run(ctx, th.reread(nil), Options{Log: telemetry.NewLogger(t.Output(), nil, false), Version: "fourth"})
	}()
	th.wait("after a restart it is the same", func() bool {
		client, err = Dial(t.Context(), th.dir)
		return err == nil && said(t, client)
	})
	weight := 100 // what the configuration says: nothing is left to remember
	check(t, client.Change(t.Context(), "workers", "p1", Change{Weight: &weight}))
	check(t, client.ChangeEdge(t.Context(), "ready"))
	text, err := os.ReadFile(filepath.Join(th.dir, wordsFile))
	check(t, err)
	if strings.Contains(string(text), "workers/p1") || strings.Contains(string(text), "true") {
		t.Errorf("what was taken back is remembered: %s", text)
	}
	cancel()
	check(t, <-ended)
}

func TestAWeightHoldsUntilTheConfigurationSaysAnother(t *testing.T) {
	w := &words{path: filepath.Join(t.TempDir(), wordsFile)}
	check(t, w.load())
	check(t, w.setWeight("workers/p1", 50, 100))
	check(t, w.load())
	if got := w.weight("workers/p1", 100); got != 50 {
		t.Errorf("the weight is %d", got)
	}
	if got := w.weight("workers/p1", 80); got != 80 {
		t.Errorf("with another one in the configuration it is %d", got)
	}
	check(t, os.WriteFile(w.path, []byte("{"), 0o600))
	if err := w.load(); err == nil || !strings.Contains(err.Error(), "mend the file") {
		t.Errorf("a broken file: %v", err)
	}
}

// TestAWholeEdgeIsDrainedOrReady: what a server can be told and an edge cannot is refused, not forgotten.
func TestAWholeEdgeIsDrainedOrReady(t *testing.T) {
	th := openTheatre(t, 1, nil)
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	weight := 5
	for _, c := range []Change{{Mode: "drain", Cut: true}, {Mode: "drain", Weight: &weight}, {Mode: "maint"}, {}} {
		if err := client.do(t.Context(), http.MethodPost, "/v1/edge", c, &struct{}{}); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if s, err := client.Status(t.Context()); err != nil || s.Drained {
		t.Errorf("a change that was refused was done: %v", err)
	}
}

// TestAProcessThatServesNobodyTakesNothingOver: a slip in its configuration is not to end the one that serves.
func TestAProcessThatServesNobodyTakesNothingOver(t *testing.T) {
	th := openTheatre(t, 1, func(c *config.Edge) { c.Listeners[0].Listen = freeAddress(t) })
	wrong := th.reread(func(c *config.Edge) { c.Pools["workers"].Servers[0].Address = freeAddress(t) })
	err := Run(t.Context(), wrong, Options{Log: telemetry.NewLogger(t.Output(), nil, false), Takeover: true, replaceMost: 500 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "Nothing was taken over") {
		t.Fatalf("it ended with %v", err)
	}
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	if s, err := client.Status(t.Context()); err != nil || s.Version != "test" || !s.Serving {
		t.Errorf("the first edge: %+v, %v", s, err)
	}
	if r := th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", ""); r.status != http.StatusOK {
		t.Errorf("at the first edge: %d %s", r.status, r.body)
	}
	check(t, client.ChangeEdge(t.Context(), "ready"))
}
