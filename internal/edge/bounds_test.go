package edge

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// This file holds what happens at bounds: no room, a full queue, an answer that says nothing, a balancer in front.

func TestWhatFindsNoRoomIsNotLost(t *testing.T) {
	whole := strings.Repeat("a", 100<<10) + "END"
	b := &bodies{dir: t.TempDir(), maxMemory: 1, maxDisk: 1}
	src := strings.NewReader(whole)
	h, err := b.hold(src, 1<<20)
	if !errors.Is(err, errNoRoom) {
		t.Fatalf("err = %v", err)
	}
	got, err := io.ReadAll(io.MultiReader(h.reader(), bytes.NewReader(h.over), src))
	if err != nil || string(got) != whole {
		t.Errorf("%d bytes of %d, %v", len(got), len(whole), err)
	}

	th := openTheatre(t, 1, func(c *config.Edge) { c.Runs.Memory, c.Runs.Disk = 1, 1 })
	answer := bytes.Repeat([]byte("0123456789"), 20_000)
	th.servers[0].does(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // so that it has no length
		_, _ = w.Write(answer)
	})
	if r := th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/file_content/modules/a/b", ""); r.body != string(answer) {
		t.Errorf("%d bytes of %d", len(r.body), len(answer))
	}
}

func TestARunThatWasSentAwayBeginsWhenItIsBack(t *testing.T) {
	a := newRuns(10*time.Minute, telemetry.Discard(nil), func(*run) {})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://puppet/puppet/v3/node/web1?environment=p", nil)
	check(t, err)
	v := verbOf(r)
	for i, c := range []struct {
		refused bool
		fresh   bool
	}{{true, true}, {true, true}, {false, true}, {false, false}} {
		one, fresh := a.enter("web1", true, v, r)
		if fresh != c.fresh {
			t.Errorf("request %d: fresh is %v", i, fresh)
		}
		a.leave(one, outcome{status: http.StatusOK, refused: c.refused})
	}
}

// A gateway that waited in vain does not know what the server behind it has done.
func TestWhatAServerBehindMayHaveDoneIsNotSentAgain(t *testing.T) {
	th := openTheatre(t, 2, nil)
	for _, s := range th.servers {
		s.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGatewayTimeout) })
	}
	agent := th.agent("web1.example.com")
	asked := func() int64 { return th.servers[0].asked.Load() + th.servers[1].asked.Load() }
	if r, err := th.ask(agent, "POST", "/puppet-ca/v1/certificate_renewal", "csr"); err != nil || r.status != http.StatusInternalServerError || asked() != 1 {
		t.Errorf("%d %v, sent %d times, want once", r.status, err, asked())
	}
	if _, err := th.ask(agent, "GET", "/puppet/v3/node/web1.example.com", ""); err != nil || asked() != 3 {
		t.Errorf("what only reads: %v, sent %d times, want both servers asked", err, asked()-1)
	}
}

func TestAFullQueueIsNotAskedAgainAtOnce(t *testing.T) {
	metrics := freeAddress(t)
	th := openTheatre(t, 1, func(c *config.Edge) {
		p := c.Pools["workers"]
		p.Servers[0].MaxConnections, p.Queue.Length = 1, 1
		c.Pools["workers"] = p
		c.Metrics = metrics
	})
	release := make(chan struct{})
	th.servers[0].does(func(w http.ResponseWriter, _ *http.Request) { <-release; fmt.Fprint(w, "ok") })
	var done atomic.Int64
	for i := range 3 {
		go func() {
			if r, err := th.ask(th.agent(fmt.Sprintf("old%d.example.com", i)), "GET", "/puppet/v3/file_metadata/modules/a/b", "", "X-Puppet-Version", "4.10.1"); err == nil && r.status == http.StatusOK {
				done.Add(1)
			}
		}()
	}
	refusals := func() (n float64) {
		r, err := http.Get("http://" + metrics + "/metrics")
		check(t, err)
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		check(t, err)
		for line := range strings.SplitSeq(string(text), "\n") {
			if strings.HasPrefix(line, "troupe_edge_pool_refused_total") {
				var one float64
				_, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &one)
				check(t, err)
				n += one
			}
		}
		return n
	}
	th.wait("the third finds no place more than once", func() bool { return refusals() >= 2 })
	if n := refusals(); n > 1000 {
		t.Errorf("the queue refused %v times", n)
	}
	close(release)
	th.wait("all are served", func() bool { return done.Load() == 3 })
}

// A balancer speaks for many: its connections count for those that it names.
func TestABalancerInFrontHasNoBoundOfItsOwn(t *testing.T) {
	th := openTheatre(t, 1, func(c *config.Edge) {
		c.Listeners[0].ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Listeners[0].PerSource = 2
	})
	roots := x509.NewCertPool()
	roots.AddCert(th.ca.cert)
	connect := func(source string) error {
		conn, err := net.Dial("tcp", th.address)
		check(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "PROXY TCP4 %s 192.0.2.200 4000 8140\r\n", source)
		check(t, err)
		return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "puppet"}).Handshake()
	}
	for i := range 4 {
		if err := connect(fmt.Sprintf("192.0.2.%d", i+1)); err != nil {
			t.Errorf("agent %d: %v", i, err)
		}
	}
	if err := connect("192.0.2.1"); err != nil {
		t.Errorf("its second connection: %v", err)
	}
	if err := connect("192.0.2.1"); err == nil {
		t.Error("the third connection of an agent has a place")
	}
}

func TestExplainKnowsWhereARunIs(t *testing.T) {
	th := openTheatre(t, 3, nil)
	agent := th.agent("web1.example.com")
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	for range 3 {
		at := th.must(agent, "GET", "/puppet/v3/node/web1.example.com", "").body[:2]
		x, err := client.Explain(t.Context(), "web1.example.com", "", "")
		check(t, err)
		for _, r := range x.Servers {
			if r.Taken && r.Server != at {
				t.Errorf("the run is at %s, and explain says %s: %s", at, r.Server, r.Why)
			}
		}
	}
}

// What puppetserver takes for the same path is the same here: rules and bounds hold for it.
func TestAPathIsWhatPuppetserverMakesOfIt(t *testing.T) {
	th := openTheatre(t, 1, nil)
	var path atomic.Pointer[string]
	th.servers[0].does(func(_ http.ResponseWriter, r *http.Request) { p := r.URL.Path; path.Store(&p) })
	agent := th.agent("web1.example.com")
	th.must(agent, "GET", "//puppet//v3/file_metadata;x=1/modules/a//b", "")
	if got := *path.Load(); got != "/puppet/v3/file_metadata/modules/a/b" {
		t.Errorf("the server was asked for %s", got)
	}
	if r, err := th.ask(agent, "GET", "/puppet/v3/file_metadata/modules/../x", ""); err != nil || r.status != http.StatusBadRequest {
		t.Errorf("%d %v", r.status, err)
	}
}
