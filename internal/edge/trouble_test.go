package edge

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/config"
)

// These stories are of requests and servers that would hurt others.

func TestACatalogThatKillsItsServersIsSetAsideAndOthersGoOn(t *testing.T) {
	th := openTheatre(t, 3, nil)
	var killed atomic.Int64
	for _, s := range th.servers {
		good := echo(s.name)
		s.does(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/catalog/killer.example.com") {
				killed.Add(1)
				dies(w, r)
			}
			good(w, r)
		})
	}
	killer, well := th.agent("killer.example.com"), th.agent("well.example.com")
	catalog := func(c *http.Client, name string) reply {
		return th.must(c, "POST", "/puppet/v3/catalog/"+name+"?environment=production", "facts")
	}
	for turn := range 2 { // chance may have killed all three, once
		if r := catalog(killer, "killer.example.com"); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("turn %d: %d %s", turn, r.status, r.body)
		}
	}
	before := killed.Load()
	if r := catalog(killer, "killer.example.com"); r.status != http.StatusInternalServerError || !strings.Contains(r.body, "set aside until") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if killed.Load() != before || before != 6 {
		t.Errorf("it was sent %d times, and %d times after it was set aside; want 6 and 0", before, killed.Load()-before)
	}
	// What the same node asks otherwise, and what others ask, is answered.
	if r := th.must(killer, "GET", "/puppet/v3/node/killer.example.com", ""); r.status != http.StatusOK {
		t.Errorf("the node of the killer: %d %s", r.status, r.body)
	}
	th.wait("others get their catalogs", func() bool { return catalog(well, "well.example.com").status == http.StatusOK })
}

func TestAServerThatFailsRequestsThoughItsCheckIsWellIsTakenOut(t *testing.T) {
	th := openTheatre(t, 3, func(c *config.Edge) { // a check comes too seldom to notice
		p := c.Pools["workers"]
		p.Balance = "round-robin"
		c.Pools["workers"] = p
	})
	th.servers[1].does(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the code is not mounted here", http.StatusInternalServerError)
	})
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("the liar is taken out", func() bool {
		for i := range 30 {
			agent := th.agent(fmt.Sprintf("web%d.example.com", i))
			th.must(agent, "GET", "/puppet/v3/file_metadata/modules/m/f?environment=production", "")
			agent.CloseIdleConnections()
		}
		s, err := client.Status(t.Context())
		check(t, err)
		for _, b := range s.Pools[0].Servers {
			if b.Name != "p1" && b.State != "up" {
				t.Fatalf("%s is %s: %s", b.Name, b.State, b.Reason)
			}
			if b.Name == "p1" && b.State != "up" {
				t.Logf("%s: %s", b.State, b.Reason)
				return true
			}
		}
		return false
	})
}

func TestBrokenCodeTakesNoServerOut(t *testing.T) {
	th := openTheatre(t, 2, nil)
	for _, s := range th.servers {
		s.does(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "Syntax error", http.StatusInternalServerError)
		})
	}
	agent := th.agent("web1.example.com")
	for range 200 {
		if r := th.must(agent, "POST", "/puppet/v3/catalog/web1.example.com?environment=production", "facts"); r.status != http.StatusInternalServerError {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	s, err := client.Status(t.Context())
	check(t, err)
	if !s.Serving || s.Pools[0].Usable == 0 {
		t.Errorf("%+v", s.Pools)
	}
}

func TestAFloodOfCertificateRequestsLeavesRoomForOthers(t *testing.T) {
	th := openTheatre(t, 1, nil)
	release := make(chan struct{})
	var now, most atomic.Int64
	good := echo("p0")
	th.servers[0].does(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/certificate_request/") {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-release
		}
		good(w, r)
	})
	const flood = 3 * maxNewcomers
	stranger := th.agent("")
	var all sync.WaitGroup
	var sent, taken atomic.Int64
	for i := range flood {
		all.Go(func() {
			r, err := th.ask(stranger, "PUT", fmt.Sprintf("/puppet-ca/v1/certificate_request/new%d.example.com", i), "csr")
			switch {
			case err != nil:
				t.Error(err)
			case r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "":
				sent.Add(1)
			case r.status == http.StatusOK:
				taken.Add(1)
			default:
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	th.wait("who finds no place is sent away", func() bool { return sent.Load() == flood-maxNewcomers })
	if r := th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", ""); r.status != http.StatusOK {
		t.Errorf("a node with a certificate: %d", r.status)
	}
	close(release)
	all.Wait()
	if most.Load() > maxNewcomers || taken.Load() != maxNewcomers {
		t.Errorf("%d at the same time, %d taken; want %d", most.Load(), taken.Load(), maxNewcomers)
	}
}

func TestAStrangerCannotFillTheRoomForBodies(t *testing.T) {
	th := openTheatre(t, 1, nil)
	large := strings.Repeat("x", strangerBody+1)
	if r, err := th.ask(th.agent(""), "PUT", "/puppet-ca/v1/certificate_request/new.example.com", large); err == nil && r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("without a certificate: %d %s", r.status, r.body)
	}
	if r := th.must(th.agent("web1.example.com"), "POST", "/puppet/v3/catalog/web1.example.com", large); r.status != http.StatusOK {
		t.Errorf("with one: %d %s", r.status, r.body)
	}
	if th.servers[0].asked.Load() != 1 {
		t.Error("the server was asked by the stranger")
	}
	th.wait("no body is held", func() bool { return th.room() == 0 })
}

func TestASlowServerIsLeftAloneByWhoIsNew(t *testing.T) {
	th := openTheatre(t, 2, nil) // by default the one with the fewest requests
	release := make(chan struct{})
	var held atomic.Int64
	good := echo("p0")
	th.servers[0].does(func(w http.ResponseWriter, r *http.Request) {
		held.Add(1)
		<-release
		good(w, r)
	})
	done := make(chan error, 200)
	for i := range 20 {
		go func() {
			agent := th.agent(fmt.Sprintf("slow%d.example.com", i))
			for range 10 {
				r, err := th.ask(agent, "GET", "/puppet/v3/file_metadata/modules/m/f?environment=production", "")
				if err == nil && r.status != http.StatusOK {
					err = fmt.Errorf("%d %s", r.status, r.body)
				}
				done <- err
			}
		}()
	}
	for range 100 { // go on although the slow server answers nothing
		check(t, <-done)
	}
	if n := held.Load(); n > 15 {
		t.Errorf("%d of 20 agents hang at the slow server", n)
	}
	close(release)
	for range 100 {
		check(t, <-done)
	}
}

// A server under full load answers checks late. What it has under way is not taken from it for that: the other one would have the load of
// both, and be the next to be late.
func TestAServerThatIsOnlySlowKeepsWhatItHas(t *testing.T) {
	th := openTheatre(t, 2, nil)
	release := make(chan struct{})
	for _, s := range th.servers {
		good := echo(s.name)
		s.does(func(w http.ResponseWriter, r *http.Request) {
			s.silent.Store(true)
			<-release
			s.silent.Store(false)
			good(w, r)
		})
	}
	done := make(chan reply, 1)
	go func() {
		r, err := th.ask(th.agent("web1.example.com"), "POST", "/puppet/v3/catalog/web1.example.com?environment=production", "facts")
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("the slow one gets nothing new", func() bool {
		s, err := client.Status(t.Context())
		check(t, err)
		return s.Pools[0].Usable == 1
	})
	close(release)
	if r := <-done; r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	if n := th.servers[0].asked.Load() + th.servers[1].asked.Load(); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
	th.wait("it is as good as the other again", func() bool {
		s, err := client.Status(t.Context())
		check(t, err)
		return s.Pools[0].Usable == 2
	})
}

func TestARequestIsTakenFromASlowServerOnce(t *testing.T) {
	th := openTheatre(t, 2, func(c *config.Edge) {
		p := c.Pools["workers"]
		p.Check.Timeout = config.Duration(300 * time.Millisecond)
		c.Pools["workers"] = p
	})
	release := make(chan struct{})
	var turn atomic.Int64
	for i, s := range th.servers {
		good, other := echo(s.name), th.servers[1-i]
		s.does(func(w http.ResponseWriter, r *http.Request) {
			s.silent.Store(true)
			other.silent.Store(false)
			turn.Add(1)
			<-release
			good(w, r)
		})
	}
	done := make(chan reply, 1)
	go func() {
		r, err := th.ask(th.agent("web1.example.com"), "POST", "/puppet/v3/catalog/web1.example.com?environment=production", "facts")
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	th.wait("the other one has it", func() bool { return turn.Load() == 2 })
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("that is down, too", func() bool {
		s, err := client.Status(t.Context())
		check(t, err)
		up := 0
		for i, b := range s.Pools[0].Servers {
			if !th.servers[i].silent.Load() && b.State == "up" {
				up++
			} else if b.State == "up" {
				return false
			}
		}
		return up == 1
	})
	close(release)
	if r := <-done; r.status != http.StatusOK || turn.Load() != 2 {
		t.Errorf("%d %s, sent %d times", r.status, r.body, turn.Load())
	}
}

// Jetty refuses a Host that the certificate it shows does not have, whatever agents call the edge.
func TestAForeignServerIsAskedByTheNameThatItsCertificateHas(t *testing.T) {
	th := openTheatre(t, 1, nil)
	var asked atomic.Pointer[string]
	th.servers[0].does(func(_ http.ResponseWriter, r *http.Request) { asked.Store(&r.Host) })
	th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", "")
	_, port, err := net.SplitHostPort(th.servers[0].Listener.Addr().String())
	check(t, err)
	if got, want := *asked.Load(), net.JoinHostPort("localhost", port); got != want {
		t.Errorf("Host is %s, want %s", got, want)
	}
}
