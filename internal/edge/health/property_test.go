package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"troupe/internal/troupetest"
)

// TestRequestsNeverTakeOutTheLastServer drives two pools through random outcomes and words of operators, and holds after each that
//   - the operator's maint is maint, and nothing else than an operator makes it,
//   - of the servers that nobody took out, one is up in each pool, whatever requests have shown,
//   - an ejected server comes back in time.
func TestRequestsNeverTakeOutTheLastServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		m := New(Options{Now: func() time.Time { return now }})
		var ids []string
		var targets []Target
		for _, pool := range []string{"a", "b"} {
			for i := range rapid.IntRange(1, 4).Draw(t, "servers") {
				id := fmt.Sprintf("%s/%d", pool, i)
				c := Check{Interval: time.Hour, Observe: true, ErrorLimit: rapid.IntRange(1, 3).Draw(t, "limit"), OnError: OnErrorMarkDown}
				if rapid.Bool().Draw(t, "compared") {
					c.Outlier = &Outlier{Consecutive: 2, MinRequests: 2, MaxPercent: 100}
				}
				ids, targets = append(ids, id), append(targets, Target{ID: id, Check: c})
			}
		}
		m.Watch(targets)
		id := rapid.SampledFrom(ids)
		words := map[string]string{}
		t.Repeat(map[string]func(*rapid.T){
			"request": func(t *rapid.T) {
				m.Observe(id.Draw(t, "server"), Outcome{OK: rapid.IntRange(0, 3).Draw(t, "ok") == 0, Layer: 7, Err: "no answer"})
			},
			"operator": func(t *rapid.T) {
				server, mode := id.Draw(t, "server"), rapid.SampledFrom([]string{"ready", "ready", "maint"}).Draw(t, "mode")
				if err := m.Admin(server, mode); err != nil {
					t.Fatal(err)
				}
				words[server] = mode
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
				m.mu.Lock()
				m.sweep(now)
				m.mu.Unlock()
			},
			"watch again": func(*rapid.T) { m.Watch(targets) },
			"": func(t *rapid.T) {
				up, could := map[string]int{}, map[string]int{}
				for _, s := range m.All() {
					if (s.State == Maint) != (words[s.ID] == "maint") {
						t.Fatalf("%s is %s, and the operator says %q", s.ID, s.State, words[s.ID])
					}
					if s.State != Maint {
						could[group(s.ID)]++
					}
					if s.State == Up {
						up[group(s.ID)]++
					}
				}
				for pool := range could {
					if up[pool] == 0 {
						t.Fatalf("pool %s has lost its last server: %+v", pool, m.All())
					}
				}
			},
		})
		for range 2 { // the first comparison is still of what was before
			now = now.Add(time.Hour)
			m.mu.Lock()
			m.sweep(now)
			m.mu.Unlock()
		}
		for _, s := range m.All() {
			if s.State == Down {
				t.Fatalf("hours later %s is still down: %s", s.ID, s.Reason)
			}
		}
	})
}

// TestManyAskAndTellAtOnce holds under the race detector that a monitor can be used from everywhere while it runs.
func TestManyAskAndTellAtOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(conn, "50%\n")
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}()
		}
	}()
	c := Check{
		Type: TypeTCP, Interval: time.Millisecond, Timeout: troupetest.Patience, Spread: 0.5, AgentAddress: ln.Addr().String(), AgentInterval: time.Millisecond,
		Suspicion: troupetest.Patience, Observe: true, ErrorLimit: 5, Outlier: &Outlier{},
	}
	m := New(Options{})
	var targets []Target
	for i := range 5 {
		targets = append(targets, Target{ID: fmt.Sprintf("pool/%d", i), Address: ln.Addr().String(), Check: c})
	}
	m.Watch(targets)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- m.Run(ctx) }()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				id := fmt.Sprintf("pool/%d", (g+i)%6)
				m.Observe(id, Outcome{OK: i%3 > 0, Layer: 7, Err: "x"})
				m.Suspect(id)
				m.Verdict(id)
				m.Changed()
				switch i % 20 {
				case 0:
					_ = m.Admin(id, []string{"ready", "drain", "maint"}[g%3])
				case 1:
					m.Watch(targets[:3+g%4])
				case 2:
					m.All()
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	m.Watch(targets)
	for _, target := range targets {
		if err := m.Admin(target.ID, ModeReady); err != nil {
			t.Error(err)
		}
	}
	troupetest.Eventually(t, troupetest.Patience, "every checked server is up with half its weight", func() bool {
		for _, s := range m.All()[:5] {
			if s.Verdict.Share != 0.5 || s.Checks == 0 {
				return false
			}
		}
		return true
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
