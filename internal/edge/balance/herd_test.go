package balance

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/edge/health"
)

// TestAHerdIsServedAtFullSpeed sends ten times as many runs as three servers can serve, for a minute. Each run is four requests; a run that
// may not begin comes back when it was told to. What is done in that minute must be nine tenths of what could be, no run that began may be
// refused anything, all must be done in twice the time that the work takes, and no run may have to ask too often.
func TestAHerdIsServedAtFullSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			places  = 4
			servers = 3
			step    = time.Second // of one request
			steps   = 4
			runs    = 10 * 60 * servers * places / steps
		)
		p, _ := newPool(Options{Method: LeastConnections, QueueTimeout: 5 * time.Minute},
			Server{Name: "a", MaxConns: places}, Server{Name: "b", MaxConns: places}, Server{Name: "c", MaxConns: places})
		var inMinute, refused, longest, most atomic.Int64
		start := time.Now()
		request := func(ask Ask) {
			l, err := p.Acquire(t.Context(), ask)
			if err != nil {
				t.Error(err)
				return
			}
			for now := int64(l.Waited()); now > longest.Load(); {
				longest.Store(now)
			}
			time.Sleep(step)
			l.Done(step, true)
			if time.Since(start) <= time.Minute {
				inMinute.Add(1)
			}
		}
		var wg sync.WaitGroup
		for i := range runs {
			wg.Go(func() {
				time.Sleep(time.Minute * time.Duration(i) / runs)
				key := fmt.Sprintf("web%d", i)
				for asked := int64(0); ; asked++ {
					after, ok := p.Admit(Ask{Key: key, Class: 1}, 15*time.Second)
					if ok {
						break
					}
					refused.Add(1)
					for asked > most.Load() {
						most.Store(asked)
					}
					time.Sleep(after.Round(time.Second))
				}
				request(Ask{Key: key, Class: 1})
				for range steps - 1 {
					request(Ask{Key: key})
				}
			})
		}
		wg.Wait()
		ideal := runs * steps * step / (servers * places)
		took := time.Since(start)
		t.Logf("%d of %d possible requests in the minute; %d runs were sent away %d times, one at most %d times; the longest wait in the queue was %v; all were done in %v of %v",
			inMinute.Load(), 60*servers*places, runs, refused.Load(), most.Load()+1, time.Duration(longest.Load()), took, ideal)
		if n := inMinute.Load(); n < 60*servers*places*9/10 {
			t.Errorf("%d requests in the minute, want nine tenths of %d", n, 60*servers*places)
		}
		if took > 2*ideal {
			t.Errorf("it took %v, want at most twice %v", took, ideal)
		}
		if n := refused.Load(); n > 3*runs {
			t.Errorf("%d runs were sent away %d times, want at most three times each on average", runs, n)
		}
	})
}

// TestManyGoroutinesBalance holds under the race detector that limits are kept and nothing is lost.
func TestManyGoroutinesBalance(t *testing.T) {
	p, j := newPool(Options{Method: LeastWork, Stick: "certname", MaxQueue: 10_000},
		Server{Name: "a", MaxConns: 3}, Server{Name: "b", MaxConns: 3}, Server{Name: "c", MaxConns: 3})
	var current [3]atomic.Int64
	var served atomic.Int64
	var wg sync.WaitGroup
	for g := range 30 {
		wg.Go(func() {
			for i := range 100 {
				l, err := p.Acquire(t.Context(), Ask{Key: fmt.Sprintf("web%d", (g+i)%50), Class: i % 2})
				if err != nil {
					t.Error(err)
					return
				}
				at := &current[l.Server().Name[0]-'a']
				if n := at.Add(1); n > 3 {
					t.Errorf("%s has %d requests", l.Server().Name, n)
				}
				runtime.Gosched()
				at.Add(-1)
				l.Done(time.Millisecond, true)
				served.Add(1)
			}
		})
	}
	for _, s := range []health.State{health.Down, health.Up, health.Drain, health.Up} {
		j.say("b", s)
		p.Refresh()
		p.Stats()
		p.Explain(Ask{Key: "web1"})
		runtime.Gosched()
	}
	wg.Wait()
	if served.Load() != 3000 || p.Queue() != 0 {
		t.Errorf("%d of 3000 were served, %d wait", served.Load(), p.Queue())
	}
}

func TestMetricsTellWhatAPoolDoes(t *testing.T) {
	r := prometheus.NewRegistry()
	newPool(Options{Registerer: r}, three()...) // a configuration that was replaced
	p, j := newPool(Options{Registerer: r, MaxQueue: -1}, Server{Name: "a", MaxConns: 1}, Server{Name: "b"})
	newPool(Options{Registerer: r, Name: "ca"}, Server{Name: "a"})
	j.say("b", health.Down)
	l := acquire(t, p, Ask{})
	_, err := p.Acquire(t.Context(), Ask{})
	if !errors.Is(err, ErrQueueFull) {
		t.Errorf("%v, want %v", err, ErrQueueFull)
	}
	l.Done(time.Second, false)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, label := range m.Label {
				key += " " + label.GetName() + "=" + label.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"troupe_edge_pool_usable_servers pool=compile":                   1,
		"troupe_edge_pool_usable_servers pool=ca":                        1,
		"troupe_edge_pool_queue pool=compile":                            0,
		"troupe_edge_server_limit pool=compile server=a":                 1,
		"troupe_edge_server_requests_total pool=compile server=a":        1,
		"troupe_edge_server_failed_requests_total pool=compile server=a": 1,
		"troupe_edge_server_connections pool=compile server=a":           0,
		"troupe_edge_pool_refused_total pool=compile reason=queue-full":  1,
	}
	for key, value := range want {
		if v, ok := got[key]; !ok || v != value {
			t.Errorf("%s = %v (there: %v), want %v", key, v, ok, value)
		}
	}
}

func BenchmarkAcquire(b *testing.B) {
	for _, method := range []string{RoundRobin, LeastConnections, LeastWork, Hash} {
		b.Run(method, func(b *testing.B) {
			var servers []Server
			for i := range 10 {
				servers = append(servers, Server{Name: fmt.Sprintf("s%d", i), MaxConns: 100})
			}
			p := New(Options{Method: method, Stick: "certname"})
			p.Set(servers)
			for b.Loop() {
				l, err := p.Acquire(b.Context(), Ask{Environment: "production"})
				if err != nil {
					b.Fatal(err)
				}
				l.Done(time.Second, true)
			}
		})
	}
}

// BenchmarkRefresh is what a changed verdict costs while many wait.
func BenchmarkRefresh(b *testing.B) {
	p := New(Options{Stick: "certname", MaxQueue: 10_000, Method: LeastWork})
	var servers []Server
	for i := range 10 {
		servers = append(servers, Server{Name: fmt.Sprintf("s%d", i), MaxConns: 1})
	}
	p.Set(servers)
	for i := range 10_010 {
		if _, _, err := p.enter(Ask{Key: fmt.Sprintf("web%d", i), Class: i % 2}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		p.Refresh()
	}
}

// BenchmarkDone is what giving a place to the next one costs while many wait.
func BenchmarkDone(b *testing.B) {
	p := New(Options{Stick: "certname", MaxQueue: 10_000, Method: LeastWork})
	p.Set([]Server{{Name: "a", MaxConns: 1}, {Name: "b", MaxConns: 1}})
	var last *Lease
	for i := range 10_002 {
		_, l, err := p.enter(Ask{Key: fmt.Sprintf("web%d", i)})
		if err != nil {
			b.Fatal(err)
		}
		if l != nil {
			last = l
		}
	}
	for b.Loop() {
		first := p.queue[0]
		last.Done(time.Second, true)
		last = first.lease
		if _, _, err := p.enter(first.ask); err != nil {
			b.Fatal(err)
		}
	}
}
