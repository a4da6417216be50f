package agentapi

import (
	"context"
	"log/slog"
	"strings"

	"troupe/internal/engine"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// This file repeats in the server's log what compiles say, as operators look for
// warnings and the output of notice() there.

// A compile that talks without end must not fill the log; the store has the rest.
const (
	maxMessages = 50
	maxMessage  = 4 << 10 // bytes
)

// logMessages logs the messages of a compile from notice upwards. What the error
// of a failed compile says too is left to the line of its request.
func (a *API) logMessages(ctx context.Context, c store.Compile, logs []engine.Log) {
	log := a.log.With(telemetry.KeyCertname, c.Certname, telemetry.KeyEnvironment, c.Environment)
	shown, left := 0, 0
	for _, l := range logs {
		level, heard := levelOf(l.Level)
		switch {
		case !heard, level == slog.LevelError && strings.Contains(c.Error, l.Message):
			continue
		case shown == maxMessages:
			left++
			continue
		}
		shown++
		attrs := []slog.Attr{slog.String("message", clip(l.Message))}
		if l.File != "" {
			attrs = append(attrs, slog.String("file", l.File), slog.Int("line", l.Line))
		}
		log.LogAttrs(ctx, level, "compile message", attrs...)
	}
	if left > 0 {
		log.WarnContext(ctx, "more compile messages are only in the store", "count", left)
	}
}

// levelOf maps Puppet's levels; what is below notice is not for operators.
func levelOf(level string) (slog.Level, bool) {
	switch level {
	case "notice":
		return slog.LevelInfo, true
	case "warning":
		return slog.LevelWarn, true
	case "err", "alert", "emerg", "crit":
		return slog.LevelError, true
	}
	return 0, false
}

// clip shortens a long message, between two characters.
func clip(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "…"
}
