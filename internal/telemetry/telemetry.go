// Package telemetry sets up what a member says about itself: structured logs,
// attribute keys and metrics.
//
// Packages get a *slog.Logger and a prometheus.Registerer through their Options;
// nothing here is global. Begin with [NewLogger]; per-request facts travel in an
// [Event].
package telemetry

import (
	"io"
	"log/slog"
)

// Attribute keys that more than one package writes.
const (
	KeySystem      = "system" // the subsystem: ca, code, engine, …
	KeyErr         = "err"
	KeyCertname    = "certname"
	KeyEnvironment = "environment"
	KeyCodeID      = "code_id"
	KeyTransaction = "transaction_uuid"
	KeySerial      = "serial"
	KeyDuration    = "duration"
)

// NewLogger returns a logger that writes one record a line: JSON when json is
// set, logfmt-like text otherwise.
func NewLogger(w io.Writer, level slog.Leveler, json bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Discard returns l, or a logger that drops everything when l is nil.
func Discard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
