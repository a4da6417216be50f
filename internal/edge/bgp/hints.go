package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// This file reads GoBGP's log. Some of what an operator needs is said only there, and only for debugging: why no connection comes
// about, and what a neighbour said when it ended the session. Warnings and errors go on to our own log, the rest does not. If GoBGP
// changes its words, statuses lose these hints and nothing else.

// hints is a slog.Handler that remembers the last trouble with each neighbour.
type hints struct {
	out  slog.Handler
	with []slog.Attr
	*trouble
}

type trouble struct {
	mu   sync.Mutex
	text map[netip.Addr]string
}

func newHints(log *slog.Logger) *hints {
	return &hints{out: log.Handler(), trouble: &trouble{text: map[netip.Addr]string{}}}
}

func (t *trouble) last(n netip.Addr) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text[n]
}

func (t *trouble) note(n netip.Addr, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text[n] = text
}

func (t *trouble) forget(n netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.text, func(a netip.Addr, _ string) bool { return a == n })
}

// Enabled lets everything come, since hints are on the lowest level.
func (h *hints) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs keeps them for the neighbour's address.
func (h *hints) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &hints{out: h.out.WithAttrs(attrs), with: append(slices.Clip(h.with), attrs...), trouble: h.trouble}
}

// WithGroup is not used by GoBGP.
func (h *hints) WithGroup(name string) slog.Handler {
	return &hints{out: h.out.WithGroup(name), with: h.with, trouble: h.trouble}
}

// said are attributes that hints are made of.
type said struct {
	neighbor      netip.Addr
	err, reason   string
	code, subcode int64
}

func (s *said) take(a slog.Attr) bool {
	switch a.Key {
	case "Key", "Peer":
		s.neighbor, _ = netip.ParseAddr(a.Value.String()) // stays invalid
	case "Error", "Err":
		s.err = a.Value.String()
	case "Communicated-Reason":
		s.reason = a.Value.String()
	case "Code":
		s.code = number(a.Value)
	case "Subcode":
		s.subcode = number(a.Value)
	}
	return true
}

// number is 0 for what is none: attributes may change with a version of GoBGP.
func number(v slog.Value) int64 {
	if v.Kind() != slog.KindInt64 {
		return 0
	}
	return v.Int64()
}

// Handle remembers, and passes on what is serious.
func (h *hints) Handle(ctx context.Context, r slog.Record) error {
	var s said
	for _, a := range h.with {
		s.take(a)
	}
	r.Attrs(s.take)
	switch r.Message {
	case "failed to connect":
		h.note(s.neighbor, s.err)
	case "received notification":
		h.note(s.neighbor, "the neighbor ended the session: "+s.notification())
	case "sent notification":
		h.note(s.neighbor, "this edge ended the session: "+s.notification())
	case "hold timer expired":
		h.note(s.neighbor, "nothing was heard from it within the hold time")
	case "Closed an accepted connection":
		return nil // happens whenever both sides connect
	}
	if r.Level < slog.LevelWarn || !h.out.Enabled(ctx, r.Level) {
		return nil
	}
	out := slog.NewRecord(r.Time, r.Level, "gobgp: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool { out.AddAttrs(a); return true })
	return h.out.Handle(ctx, out)
}

func (s *said) notification() string {
	text := wire.NewNotificationErrorCode(uint8(s.code), uint8(s.subcode)).String()
	if s.reason != "" {
		text += fmt.Sprintf(" (%q)", s.reason)
	}
	return text
}
