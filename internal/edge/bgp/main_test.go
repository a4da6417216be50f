package bgp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// This file runs a speaker as a process of its own: this test binary once more, in a namespace, so that a test can kill it.

// helperEnv has the options of the speaker to run, as JSON.
const helperEnv = "TROUPE_BGP_SPEAKER"

// inheritEnv has it go on with what another speaker announces.
const inheritEnv = "TROUPE_BGP_INHERIT"

func TestMain(m *testing.M) {
	if text := os.Getenv(helperEnv); text != "" {
		os.Exit(speakerMain(text))
	}
	os.Exit(m.Run())
}

// speakerMain reads one command a line: serve, fail WHY, drain, ready, abandon, status, metrics. SIGTERM ends it gracefully.
func speakerMain(text string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var o Options
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		log.Error("options", "err", err)
		return 2
	}
	site := &site{why: "not yet", changed: make(chan struct{})}
	registry := prometheus.NewRegistry()
	o.Serving, o.Changed, o.Log, o.Registerer = site.Serving, site.Changed, log, registry
	s, err := New(o)
	if err != nil {
		log.Error("options", "err", err)
		return 2
	}
	if os.Getenv(inheritEnv) != "" {
		s.Inherit()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			command, rest, _ := strings.Cut(lines.Text(), " ")
			switch command {
			case "serve", "fail":
				site.set(command == "serve", rest)
			case "drain", "ready":
				s.Drain(command == "drain")
			case "abandon": // and end, in this order
				s.Abandon()
				stop()
			case "status":
				answer, err := json.Marshal(s.Status())
				if err != nil {
					log.Error("status", "err", err)
				}
				fmt.Println(string(answer))
			case "metrics":
				fmt.Println(metricsText(registry))
			}
		}
	}()
	if err := s.Run(ctx); err != nil {
		log.Error("run", "err", err)
		return 1
	}
	return 0
}

// metricsText is all values on one line.
func metricsText(r *prometheus.Registry) string {
	families, err := r.Gather()
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "," + l.GetName() + "=" + l.GetValue()
			}
			all = append(all, fmt.Sprintf("%s %v", name, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	return strings.Join(all, "; ")
}
