package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"troupe/internal/telemetry"
)

func TestEventCollectsFromManyGoroutines(t *testing.T) {
	ctx, event := telemetry.WithEvent(t.Context())
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { telemetry.Note(ctx, slog.Int("n", i), slog.String(telemetry.KeyCertname, "web1")) })
	}
	wg.Wait()
	if n := len(event.Attrs()); n != 100 {
		t.Errorf("%d attributes, want 100", n)
	}
}

func TestNoteWithoutAnEventDoesNothing(t *testing.T) {
	telemetry.Note(t.Context(), slog.Int("n", 1))
}

func TestAttrsAreACopy(t *testing.T) {
	ctx, event := telemetry.WithEvent(t.Context())
	telemetry.Note(ctx, slog.Int("n", 1))
	event.Attrs()[0] = slog.Int("n", 2)
	if got := event.Attrs()[0].Value.Int64(); got != 1 {
		t.Errorf("n = %d, want 1", got)
	}
}

func TestLoggerFollowsItsLevelAndFormat(t *testing.T) {
	var out bytes.Buffer
	var level slog.LevelVar
	log := telemetry.NewLogger(&out, &level, true)
	log.Debug("quiet")
	level.Set(slog.LevelDebug)
	log.Debug("loud", telemetry.KeySystem, "ca")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "loud" || line["system"] != "ca" {
		t.Errorf("%q (%v), want one JSON line", out.String(), err)
	}

	out.Reset()
	telemetry.NewLogger(&out, slog.LevelInfo, false).Info("two\nlines", "key", "a b")
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `msg="two\nlines" key="a b"`) {
		t.Errorf("%q, want one line of text", got)
	}
}

func TestDiscardKeepsALoggerAndReplacesNone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if telemetry.Discard(log) != log {
		t.Error("a logger was replaced")
	}
	telemetry.Discard(nil).Info("nobody hears this")
}
