package health

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// fails hands in n requests that failed.
func fails(m *Monitor, id string, n int) {
	for range n {
		m.Observe(id, Outcome{Layer: 7, Err: "no answer within 300ms"})
	}
}

func TestErrorsOfRequestsCountAsTheCheckSays(t *testing.T) {
	for _, c := range []struct {
		mode       string
		at         State // when the limit is reached
		afterCheck State // after one failed check more
	}{
		{OnErrorFastInter, Up, Up},
		{OnErrorFailCheck, Up, Up},
		{OnErrorSuddenDeath, Up, Down},
		{OnErrorMarkDown, Down, Down},
	} {
		t.Run(c.mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{}
				h.open("a:8140", accept)
				m := watch(t, h, Check{
					Type: TypeTCP, Interval: time.Hour, FastInterval: 100 * time.Millisecond, DownInterval: time.Minute, Fall: 4,
					Observe: true, ErrorLimit: 3, OnError: c.mode,
				})
				wantState(t, m, "pool/a", Up)
				fails(m, "pool/a", 2)
				m.Observe("pool/a", Outcome{OK: true, Layer: 7}) // not in a row
				fails(m, "pool/a", 2)
				time.Sleep(time.Second)
				if s := m.All()[0]; s.State != Up || s.Checks != 1 {
					t.Fatalf("%+v, want no consequence before the limit", s)
				}
				h.mu.Lock()
				delete(h.doors, "a:8140")
				h.mu.Unlock()
				fails(m, "pool/a", 1)
				wantState(t, m, "pool/a", c.at)
				time.Sleep(100 * time.Millisecond)
				wantState(t, m, "pool/a", c.afterCheck)
				if s := m.All()[0]; s.Checks != 2 || s.Hidden != 1 {
					t.Errorf("%+v, want a check as soon as the fast interval", s)
				}
			})
		})
	}
}

func TestAServerThatRequestsMarkedDownComesBackByItsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		m := watch(t, h, Check{Type: TypeTCP, Interval: time.Hour, FastInterval: 100 * time.Millisecond, DownInterval: time.Second, Observe: true, ErrorLimit: 1, OnError: OnErrorMarkDown})
		fails(m, "pool/a", 1)
		wantState(t, m, "pool/a", Down)
		if r := m.Verdict("pool/a").Reason; r != "HANA: 1 requests in a row failed, the last with: no answer within 300ms" {
			t.Errorf("reason %q", r)
		}
		time.Sleep(100 * time.Millisecond) // the first of two
		wantState(t, m, "pool/a", Down)
		time.Sleep(100 * time.Millisecond)
		wantState(t, m, "pool/a", Up)
	})
}

func TestLayer4SeesConnectionsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		c := Check{Type: TypeTCP, Interval: time.Hour, Observe: true, Layer: 4, ErrorLimit: 2, OnError: OnErrorMarkDown}
		m := watch(t, h, c)
		fails(m, "pool/a", 5)
		wantState(t, m, "pool/a", Up)
		m.Observe("pool/a", Outcome{Layer: 4, Err: "connection refused"})
		m.Observe("pool/a", Outcome{OK: true, Layer: 4})
		m.Observe("pool/a", Outcome{Layer: 4, Err: "connection refused"})
		wantState(t, m, "pool/a", Up)
		m.Observe("pool/a", Outcome{Layer: 4, Err: "connection refused"})
		wantState(t, m, "pool/a", Down)

		// Where answers count, an accepted connection proves nothing.
		c.Layer = 7
		m7 := watch(t, h, c)
		m7.Observe("pool/a", Outcome{Layer: 7, Err: "500"})
		m7.Observe("pool/a", Outcome{OK: true, Layer: 4})
		m7.Observe("pool/a", Outcome{Layer: 7, Err: "500"})
		wantState(t, m7, "pool/a", Down)
	})
}

// A server without active checks is taken out for a time: nothing would find out that it is well again.
func TestAServerWithoutChecksIsEjectedForATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Check{Type: TypeNone, Interval: time.Hour, Observe: true, ErrorLimit: 2, OnError: OnErrorMarkDown}
		m := watch(t, &house{}, c, Target{ID: "pool/b", Check: c}, Target{ID: "alone/a", Check: c})
		fails(m, "alone/a", 10)
		wantState(t, m, "alone/a", Up) // nobody could stand in

		fails(m, "pool/a", 2)
		wantState(t, m, "pool/a", Down)
		fails(m, "pool/b", 2)
		wantState(t, m, "pool/b", Up) // the last one
		time.Sleep(5 * time.Second)
		wantState(t, m, "pool/a", Up)

		fails(m, "pool/a", 2) // the second time is longer
		time.Sleep(9999 * time.Millisecond)
		wantState(t, m, "pool/a", Down)
		time.Sleep(time.Millisecond)
		wantState(t, m, "pool/a", Up)

		time.Sleep(time.Minute) // was well for long
		fails(m, "pool/a", 2)
		time.Sleep(5 * time.Second)
		wantState(t, m, "pool/a", Up)
	})
}

func TestWhoIsEjectedComesBackWhenTheOthersAreTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Check{Observe: true, ErrorLimit: 1, OnError: OnErrorMarkDown}
		m := watch(t, &house{}, c, Target{ID: "pool/b", Check: c})
		fails(m, "pool/a", 1)
		wantState(t, m, "pool/a", Down)
		m.Watch([]Target{{ID: "pool/a", Address: "a:8140", Check: c}})
		wantState(t, m, "pool/a", Up)
	})
}

// pool watches n servers that are compared with each other.
func pool(t *testing.T, n int, o Outlier) *Monitor {
	t.Helper()
	m := New(Options{})
	var targets []Target
	for i := range n {
		targets = append(targets, Target{ID: fmt.Sprintf("pool/%d", i), Check: Check{Outlier: &o}})
	}
	m.Watch(targets)
	run(t, m)
	return m
}

func TestConsecutiveFailuresEject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pool(t, 30, Outlier{Consecutive: 5})
		for i := range 5 {
			fails(m, fmt.Sprintf("pool/%d", i), 5)
		}
		out := 0
		for _, s := range m.All() {
			if s.State == Down {
				out++
			}
		}
		if out != 3 {
			t.Errorf("%d of 30 servers are ejected, want a tenth", out)
		}
		if r := m.Verdict("pool/0").Reason; r != "ejected until 00:00:30: 5 requests in a row failed, the last with: no answer within 300ms" {
			t.Errorf("reason %q", r)
		}
		time.Sleep(30 * time.Second)
		wantState(t, m, "pool/0", Up)
	})
}

func TestWhoIsWorseThanTheOthersIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pool(t, 3, Outlier{Consecutive: 1000, Interval: 10 * time.Second})
		requests := func(id string, n, bad int) {
			for i := range n {
				m.Observe(id, Outcome{OK: i >= bad, Layer: 7})
			}
		}
		// All are equally bad: that is not the servers' fault.
		for _, id := range []string{"pool/0", "pool/1", "pool/2"} {
			requests(id, 100, 60)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, s := range m.All() {
			if s.State != Up {
				t.Errorf("%s is %s: %s", s.ID, s.State, s.Reason)
			}
		}
		requests("pool/0", 100, 40)
		requests("pool/1", 100, 2)
		requests("pool/2", 100, 2)
		time.Sleep(10 * time.Second)
		wantState(t, m, "pool/0", Down)
		wantState(t, m, "pool/1", Up)
		if r := m.Verdict("pool/0").Reason; r != "ejected until 00:00:50: 60 % of 100 requests succeeded, 98 % of those to the others" {
			t.Errorf("reason %q", r)
		}
		requests("pool/1", 5, 5) // too few to tell
		requests("pool/2", 100, 0)
		time.Sleep(10 * time.Second)
		wantState(t, m, "pool/1", Up)
	})
}

// What one client asks for may be what breaks: three requests of a stranger must not take a server from all others.
func TestOneClientAloneOnlyBringsACheckForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		m := watch(t, h, Check{Type: TypeTCP, Interval: time.Hour, FastInterval: 100 * time.Millisecond, Observe: true, ErrorLimit: 3, OnError: OnErrorMarkDown})
		fail := func(client string) {
			m.Observe("pool/a", Outcome{Layer: 7, Err: "EOF", Client: client})
		}
		for range 3 {
			fail("stranger")
		}
		wantState(t, m, "pool/a", Up)
		time.Sleep(150 * time.Millisecond)
		if s := m.All()[0]; s.Checks != 2 || s.Hidden != 0 {
			t.Errorf("%+v, want one check more", s)
		}
		fail("stranger")
		fail("stranger")
		fail("web1.example.com")
		wantState(t, m, "pool/a", Down)
	})
}
