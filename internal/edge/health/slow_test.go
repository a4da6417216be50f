package health

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// far is a network with servers that take their time; each connection takes a while, too.
type far struct {
	house
	way time.Duration
}

func (f *far) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	time.Sleep(f.way)
	return f.house.Dial(ctx, network, address)
}

// slowPool watches servers that take so long for an answer, in milliseconds.
func slowPool(t *testing.T, way time.Duration, o Outlier, takes ...*atomic.Int64) *Monitor {
	t.Helper()
	f := &far{way: way}
	var targets []Target
	for i, ms := range takes {
		name := string(rune('a' + i))
		f.open(name+":8140", func(c net.Conn) {
			time.Sleep(time.Duration(ms.Load()) * time.Millisecond)
			answer(200, "running")(c)
		})
		targets = append(targets, Target{ID: "pool/" + name, Address: name + ":8140", Check: Check{Type: TypeHTTP, Interval: 500 * time.Millisecond, Timeout: 2 * time.Second, Observe: true, Outlier: &o}})
	}
	m := New(Options{Dial: f.Dial, Rand: func() float64 { return 0.5 }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	m.Watch(targets)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second) // so that the servers have answered
	})
	return m
}

func takes(ms int64) *atomic.Int64 {
	n := &atomic.Int64{}
	n.Store(ms)
	return n
}

func ups(m *Monitor) (names string) {
	for _, s := range m.All() {
		if s.State == Up {
			names += strings.TrimPrefix(s.ID, "pool/")
		}
	}
	return names
}

func TestWhoAnswersMuchSlowerThanTheOthersIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sick := takes(20)
		m := slowPool(t, 0, Outlier{Slow: 5}, takes(20), takes(30), sick)
		time.Sleep(30 * time.Second)
		if got := ups(m); got != "abc" {
			t.Fatalf("up are %s", got)
		}
		sick.Store(700)
		time.Sleep(30 * time.Second)
		if v := m.Verdict("pool/c"); v.State != Down || !strings.Contains(v.Reason, "its checks take 700ms, those of others 30ms") {
			t.Fatalf("the slow one is %s: %s", v.State, v.Reason)
		}
		if got := ups(m); got != "ab" {
			t.Errorf("up are %s", got)
		}
		time.Sleep(2 * time.Minute) // it comes back, is slow still, and is away for longer
		if s := m.All()[2]; s.Ejections < 2 || s.Ejections > 3 {
			t.Errorf("ejected %d times", s.Ejections)
		}
		sick.Store(20)
		time.Sleep(5 * time.Minute)
		if got := ups(m); got != "abc" {
			t.Errorf("when all are quick again, up are %s", got)
		}
	})
}

func TestWhoIsNotEjectedForBeingSlow(t *testing.T) {
	for name, c := range map[string]struct {
		way   time.Duration
		slow  float64
		takes []int64
	}{
		"all are slow":                    {0, 5, []int64{700, 800, 900}},
		"so is most of the pool":          {0, 5, []int64{20, 900, 900, 900}},
		"by too little to matter":         {0, 5, []int64{5, 5, 250}},
		"it was not asked for":            {0, 0, []int64{5, 5, 900}},
		"there is no other one":           {0, 5, []int64{900}},
		"the network takes most of it":    {300 * time.Millisecond, 5, []int64{1, 1, 500}},
		"many times slower, but not five": {0, 5, []int64{150, 150, 700}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var servers []*atomic.Int64
				for _, ms := range c.takes {
					servers = append(servers, takes(ms))
				}
				m := slowPool(t, c.way, Outlier{Slow: c.slow}, servers...)
				time.Sleep(2 * time.Minute)
				if got := ups(m); len(got) != len(c.takes) {
					t.Errorf("up are %s of %d: %s", got, len(c.takes), m.All()[len(c.takes)-1].Reason)
				}
			})
		})
	}
}

func TestOneSlowServerIsEjectedAtATimeAndNeverTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := takes(10), takes(10)
		m := slowPool(t, 0, Outlier{Slow: 5}, first, second)
		time.Sleep(20 * time.Second)
		second.Store(800)
		time.Sleep(40 * time.Second)
		if got := ups(m); got != "a" {
			t.Fatalf("up are %q", got)
		}
		first.Store(1500)
		for range 300 {
			time.Sleep(time.Second)
			if ups(m) == "" {
				t.Fatal("the last one was ejected")
			}
		}
	})
}
