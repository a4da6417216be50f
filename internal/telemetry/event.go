package telemetry

import (
	"context"
	"log/slog"
	"sync"
)

// This file carries facts about one request from the code that learns them to
// the one log line that the outermost layer writes.

type eventKey struct{}

// An Event collects attributes of one request. It is safe for concurrent use.
type Event struct {
	mu    sync.Mutex
	attrs []slog.Attr
	level slog.Level
}

// WithEvent returns a context that carries a new Event, and the Event.
func WithEvent(ctx context.Context) (context.Context, *Event) {
	e := &Event{}
	return context.WithValue(ctx, eventKey{}, e), e
}

// Note adds attributes to the request's log line. Without an Event in ctx it does nothing.
func Note(ctx context.Context, attrs ...slog.Attr) {
	e, ok := ctx.Value(eventKey{}).(*Event)
	if !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attrs = append(e.attrs, attrs...)
}

// Escalate raises the level of the request's log line, so that what went wrong need
// not be told on a second one. Without an Event in ctx it does nothing.
func Escalate(ctx context.Context, level slog.Level) {
	e, ok := ctx.Value(eventKey{}).(*Event)
	if !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.level = max(e.level, level)
}

// Level returns the highest level that was asked for; info if none was.
func (e *Event) Level() slog.Level {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.level
}

// Attrs returns what was noted so far.
func (e *Event) Attrs() []slog.Attr {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]slog.Attr(nil), e.attrs...)
}
