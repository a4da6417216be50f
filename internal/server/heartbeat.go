package server

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"troupe/internal/adminapi"
	"troupe/internal/carrier"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file has members tell each other how they do. Nobody votes, and nobody is declared dead: what was heard last stays, with
// the time at which it was heard.

const (
	heartbeatEvery = 2 * time.Second
	heartbeatMost  = 2 * time.Second // for one answer
	maxHeartbeat   = 4 << 10         // its bytes
)

// A pulse is what was heard of the others.
type pulse struct {
	mu    sync.Mutex
	heard map[journal.Origin]adminapi.Heartbeat
}

// heartbeat is how this member does now.
func (m *member) heartbeat(ctx context.Context) adminapi.Heartbeat {
	s := m.engine.Stats()
	h := adminapi.Heartbeat{State: string(*m.phase.Load()), Workers: s.Workers, Busy: s.Busy, Waiting: s.Waiting, Time: time.Now().UTC()}
	if err := m.healthy(ctx); err != nil {
		h.Problem = err.Error()
	}
	return h
}

func (m *member) answerHeartbeat(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(m.heartbeat(r.Context())); err != nil {
		m.log.DebugContext(r.Context(), "member went away", telemetry.KeyErr, err)
	}
}

// runHeartbeats asks every other member again and again, until ctx ends.
func (m *member) runHeartbeats(ctx context.Context) error {
	asking := map[carrier.Peer]context.CancelFunc{}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); all.Wait() }()
	for {
		peers, changed := m.peers()
		now := map[carrier.Peer]bool{}
		for _, p := range peers {
			now[p] = true
			if asking[p] != nil {
				continue
			}
			pctx, stop := context.WithCancel(ctx)
			asking[p] = stop
			all.Go(func() { m.askHeartbeats(pctx, p) })
		}
		for p, stop := range asking {
			if !now[p] {
				stop()
				delete(asking, p)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (m *member) askHeartbeats(ctx context.Context, p carrier.Peer) {
	ask := m.dialPeer(p)
	defer ask.HTTP.CloseIdleConnections()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		begin := time.Now()
		var h adminapi.Heartbeat
		err := ask.Do(ctx, http.MethodGet, "/heartbeat/v1", nil, heartbeatMost, func(r io.Reader) error {
			return json.NewDecoder(io.LimitReader(r, maxHeartbeat)).Decode(&h)
		})
		if err == nil { // the carrier tells who cannot be reached
			h.Heard, h.RoundTrip = time.Now().UTC(), time.Since(begin)
			h.Ahead = h.Time.Sub(begin.Add(h.RoundTrip / 2))
			m.pulse.mu.Lock()
			m.pulse.heard[p.Origin] = h
			m.pulse.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// heartbeats are how all members did when they were heard last, this one included.
func (m *member) heartbeats(ctx context.Context) map[journal.Origin]adminapi.Heartbeat {
	own := m.heartbeat(ctx)
	own.Heard = own.Time
	m.pulse.mu.Lock()
	defer m.pulse.mu.Unlock()
	all := map[journal.Origin]adminapi.Heartbeat{m.journal.Origin(): own}
	maps.Copy(all, m.pulse.heard)
	return all
}
