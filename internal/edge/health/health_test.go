package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A house is where the servers of a test live. Connections are pipes: so time passes only when everybody waits.
type house struct {
	mu    sync.Mutex
	doors map[string]func(net.Conn) // absent: the connection is refused
}

func (h *house) open(address string, serve func(net.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doors == nil {
		h.doors = map[string]func(net.Conn){}
	}
	h.doors[address] = serve
}

func (h *house) Dial(_ context.Context, _, address string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	serve := h.doors[address]
	if serve == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go serve(theirs)
	return ours, nil
}

// accept accepts and never answers, until the other side hangs up.
func accept(c net.Conn) {
	_, _ = io.Copy(io.Discard, c)
	_ = c.Close()
}

// answer serves HTTP with one status.
func answer(status int, body string) func(net.Conn) {
	return func(c net.Conn) {
		defer func() { _ = c.Close() }()
		_, err := c.Read(make([]byte, 4096))
		if err == nil {
			_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), len(body), body)
		}
	}
}

// watch runs a monitor over one target in a bubble.
func watch(t *testing.T, h *house, c Check, also ...Target) *Monitor {
	t.Helper()
	m := New(Options{Dial: h.Dial, Rand: func() float64 { return 0.5 }})
	m.Watch(append([]Target{{ID: "pool/a", Address: "a:8140", Check: c}}, also...))
	run(t, m)
	return m
}

func run(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	synctest.Wait()
}

func wantState(t *testing.T, m *Monitor, id string, want State) {
	t.Helper()
	synctest.Wait()
	if v := m.Verdict(id); v.State != want {
		t.Errorf("%s is %s (%s), want %s", id, v.State, v.Reason, want)
	}
}

func TestTheFirstCheckDecidesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		m := watch(t, h, Check{Type: TypeTCP}, Target{ID: "pool/b", Address: "b:8140", Check: Check{Type: TypeTCP}})
		wantState(t, m, "pool/a", Up)
		wantState(t, m, "pool/b", Down)
		if v := m.Verdict("pool/b"); v.Reason != "L4CON: connection refused" {
			t.Errorf("reason %q, want what the check has shown", v.Reason)
		}
		wantState(t, m, "pool/c", Down) // nobody watches it
	})
}

func TestRiseAndFallCountChecksInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", answer(200, "running"))
		m := watch(t, h, Check{Type: TypeHTTP, Interval: 10 * time.Second, FastInterval: time.Second, DownInterval: 5 * time.Second, Rise: 2, Fall: 3})
		wantState(t, m, "pool/a", Up)

		h.open("a:8140", answer(503, "starting"))
		time.Sleep(10 * time.Second) // the first failure
		wantState(t, m, "pool/a", Up)
		time.Sleep(time.Second) // the second one comes fast
		wantState(t, m, "pool/a", Up)
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Down)
		if s := m.All()[0]; s.Reason != "L7STS/503" || s.Check != "L7STS/503" || s.Downs != 1 || s.Failed != 3 || s.Checks != 4 {
			t.Errorf("%+v, want three of four checks failed with 503", s)
		}

		h.open("a:8140", answer(200, "running"))
		time.Sleep(5 * time.Second) // while it is down it is asked less often
		wantState(t, m, "pool/a", Down)
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Up)
	})
}

func TestOneSuccessForgetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		passes := answer(200, "")
		h.open("a:8140", passes)
		m := watch(t, h, Check{Type: TypeHTTP, Interval: time.Second, Fall: 3})
		for _, ok := range []bool{false, false, true, false, false, true, false, false} {
			if ok {
				h.open("a:8140", passes)
			} else {
				h.open("a:8140", answer(500, ""))
			}
			time.Sleep(time.Second)
			wantState(t, m, "pool/a", Up)
		}
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Down)
	})
}

func TestInitialSaysWhatCountsBeforeTheFirstCheck(t *testing.T) {
	for _, c := range []struct {
		initial string
		passes  bool
		before  State
		after   []State // after each of the first checks
	}{
		{"", true, Down, []State{Up}},
		{"", false, Down, []State{Down}},
		{InitialUp, true, Up, []State{Up}},
		{InitialUp, false, Up, []State{Down}},
		{InitialDown, true, Down, []State{Up}},
		{InitialDown, false, Down, []State{Down}},
		{InitialFullyUp, true, Up, []State{Up}},
		{InitialFullyUp, false, Up, []State{Up, Up, Down}},
		{InitialFullyDown, true, Down, []State{Down, Up}},
		{InitialFullyDown, false, Down, []State{Down}},
	} {
		t.Run(fmt.Sprintf("%q passes=%v", c.initial, c.passes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{}
				if c.passes {
					h.open("a:8140", accept)
				}
				m := New(Options{Dial: h.Dial})
				m.Watch([]Target{{ID: "pool/a", Address: "a:8140", Check: Check{Type: TypeTCP, Interval: time.Second, Initial: c.initial}}})
				wantState(t, m, "pool/a", c.before)
				run(t, m)
				for _, want := range c.after {
					wantState(t, m, "pool/a", want)
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestFirstChecksAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		first := map[string]time.Duration{}
		m := New(Options{Rand: func() float64 { return 0.5 }, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if _, again := first[address]; !again {
				first[address] = time.Since(start)
			}
			return nil, errors.New("no")
		}})
		var targets []Target
		for i := range 10 {
			targets = append(targets, Target{ID: fmt.Sprintf("pool/%d", i), Address: fmt.Sprint(i), Check: Check{Type: TypeTCP, Interval: 10 * time.Second, Spread: 0.5}})
		}
		m.Watch(targets)
		run(t, m)
		time.Sleep(8 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		for i := range 10 {
			if got, want := first[fmt.Sprint(i)], time.Duration(i)*500*time.Millisecond; got != want {
				t.Errorf("target %d was checked first after %v, want %v", i, got, want)
			}
		}
	})
}

func TestWatchKeepsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		c := Check{Type: TypeTCP, Interval: 10 * time.Second}
		m := watch(t, h, c)
		wantState(t, m, "pool/a", Up)
		since := m.Verdict("pool/a").Since
		time.Sleep(3 * time.Second)

		// The same again, as a configuration that was read anew: nothing is checked before its time.
		news := m.Changed()
		m.Watch([]Target{{ID: "pool/a", Address: "a:8140", Check: c}})
		synctest.Wait()
		if s := m.All()[0]; s.Checks != 1 || s.Since != since {
			t.Errorf("%d checks, up since %v, want 1 and %v", s.Checks, s.Since, since)
		}
		select {
		case <-news:
			t.Error("the same targets are news")
		default:
		}

		// Another check judges from now on, in its own time.
		c.Fall, c.Interval = 1, time.Minute
		m.Watch([]Target{{ID: "pool/a", Address: "a:8140", Check: c}})
		wantState(t, m, "pool/a", Up)
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if s := m.All()[0]; s.Checks != 2 {
			t.Errorf("%d checks after ten seconds, want 2", s.Checks)
		}

		// Another address is another server.
		m.Watch([]Target{{ID: "pool/a", Address: "b:8140", Check: c}, {ID: "pool/a", Address: "a:8140", Check: c}})
		wantState(t, m, "pool/a", Down)
		m.Watch(nil)
		if len(m.All()) != 0 {
			t.Errorf("%+v, want nothing", m.All())
		}
	})
}

func TestChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		m := watch(t, h, Check{Type: TypeTCP, Interval: time.Second})
		told := 0
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for {
				select {
				case <-m.Changed():
					told++
				case <-ctx.Done():
					return
				}
			}
		}()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if told != 0 {
			t.Errorf("%d changes were told, though nothing changed", told)
		}
		if err := m.Admin("pool/a", "drain"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if told != 1 {
			t.Errorf("%d changes were told, want 1", told)
		}
	})
}

func TestSuspicionIsCheckedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		m := watch(t, h, Check{Type: TypeTCP, Interval: time.Hour})
		m.Suspect("pool/a")
		m.Suspect("pool/nobody")
		synctest.Wait()
		if s := m.All()[0]; s.Checks != 2 {
			t.Errorf("%d checks, want a second one at once", s.Checks)
		}
	})
}

func TestAServerThatHangsIsSeenBySuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", answer(200, ""))
		h.open("b:8140", answer(200, ""))
		c := Check{Type: TypeHTTP, Interval: time.Minute, FastInterval: time.Second, DownInterval: 10 * time.Second, Timeout: 20 * time.Second, Suspicion: 500 * time.Millisecond}
		m := watch(t, h, c, Target{ID: "pool/b", Address: "b:8140", Check: c}, Target{ID: "alone/a", Address: "a:8140", Check: c})
		for range 10 { // a long compile: it answers checks all the while
			m.Suspect("pool/a")
			time.Sleep(100 * time.Millisecond)
		}
		if s := m.All()[0]; s.State != Up || s.Checks != 1 || s.Hidden != 0 {
			t.Errorf("%+v, want no trace of checks that passed", s)
		}

		h.open("a:8140", accept) // it hangs, in the middle of its usual check or not
		time.Sleep(time.Minute)
		wantState(t, m, "pool/a", Up)
		m.Suspect("pool/a")
		m.Suspect("alone/a")
		time.Sleep(499 * time.Millisecond)
		wantState(t, m, "pool/a", Up)
		time.Sleep(time.Millisecond)
		wantState(t, m, "pool/a", Down)
		wantState(t, m, "alone/a", Up) // nobody else could do its work
		if r := m.Verdict("pool/a").Reason; r != "L7TOUT" {
			t.Errorf("reason %q", r)
		}
		// The usual check that hangs too ends after 20 s; the next one was brought forward meanwhile, and comes at once.
		h.open("a:8140", answer(200, ""))
		time.Sleep(20 * time.Second)
		wantState(t, m, "pool/a", Up)
	})
}

func TestASuspicionAloneIsADoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", answer(200, ""))
		h.open("b:8140", answer(200, ""))
		c := Check{Type: TypeHTTP, Interval: 10 * time.Second, FastInterval: time.Second, Timeout: time.Second, Rise: 2, Fall: 3, Suspicion: 500 * time.Millisecond}
		m := watch(t, h, c, Target{ID: "pool/b", Address: "b:8140", Check: c})
		want := func(state State, doubted bool) {
			t.Helper()
			if v := m.Verdict("pool/a"); v.State != state || v.Doubted != doubted {
				t.Errorf("%+v, want %s and doubted %v", v, state, doubted)
			}
		}
		hang := func() {
			h.open("a:8140", accept)
			m.Suspect("pool/a")
			time.Sleep(501 * time.Millisecond)
			want(Down, true)
		}

		hang()
		h.open("a:8140", answer(200, "")) // it was only slow
		time.Sleep(1200 * time.Millisecond)
		want(Down, true) // it has passed one check of two
		time.Sleep(10 * time.Second)
		want(Up, false)

		hang()
		news := m.Changed()
		time.Sleep(2 * time.Second)
		want(Down, true) // a first of its usual checks has failed
		time.Sleep(22 * time.Second)
		want(Down, false) // and a second one: with the suspicion three
		select {
		case <-news:
		default:
			t.Error("nobody was told that it is certain now")
		}
		h.open("a:8140", answer(200, ""))
		time.Sleep(30 * time.Second)
		want(Up, false)
	})
}

func TestACheckHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept) // as a stopped process does
		m := watch(t, h, Check{Type: TypeHTTP, Timeout: 300 * time.Millisecond})
		time.Sleep(300 * time.Millisecond)
		wantState(t, m, "pool/a", Down)
		if s := m.All()[0]; s.Check != "L7TOUT in 300ms" {
			t.Errorf("check %q, want a time-out", s.Check)
		}
	})
}

func TestDrainOn404(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", answer(200, ""))
		m := watch(t, h, Check{Type: TypeHTTP, Interval: time.Second, DrainOn404: true})
		wantState(t, m, "pool/a", Up)
		h.open("a:8140", answer(404, ""))
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Drain)
		h.open("a:8140", answer(200, ""))
		time.Sleep(time.Second)
		wantState(t, m, "pool/a", Up)
	})
}
