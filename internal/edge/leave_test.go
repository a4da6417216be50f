package edge

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/config"
)

// These stories are of agents that leave, and of agents that cannot be sent away.

func TestAnAgentThatLeavesWithinAnAnswerLeavesNoRunBehind(t *testing.T) {
	th := openTheatre(t, 1, nil)
	th.servers[0].does(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.Repeat("x", 16<<20)))
	})
	agent := th.agent("web1.example.com")
	response, err := agent.Get("https://" + th.address + "/puppet/v3/file_content/modules/m/f?environment=production")
	check(t, err)
	_, err = response.Body.Read(make([]byte, 1))
	check(t, err)
	check(t, response.Body.Close()) // with most of it unread, which ends the connection
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("nothing of the run is under way", func() bool {
		runs, err := client.Runs(t.Context())
		check(t, err)
		return len(runs) == 1 && runs[0].Active == 0 && th.room() == 0
	})
}

func TestAnAgentThatWouldDieOfRetryAfterWaitsForAServer(t *testing.T) {
	for _, version := range []string{"5.2.0", "7.23.0"} {
		t.Run(version, func(t *testing.T) {
			th := openTheatre(t, 1, nil)
			var refusals atomic.Int64
			good := echo("p0")
			th.servers[0].does(func(w http.ResponseWriter, r *http.Request) {
				if refusals.Add(1) <= 4 { // more often than a request may be replayed
					http.Error(w, "the queue is full", http.StatusServiceUnavailable)
					return
				}
				good(w, r)
			})
			r := th.must(th.agent("web1.example.com"), "POST", "/puppet/v3/catalog/web1.example.com?environment=production", "facts", "X-Puppet-Version", version)
			if r.status != http.StatusOK {
				t.Errorf("%d %v %s", r.status, r.header, r.body)
			}
		})
	}
}

func TestAConnectionIsKeptWhileItsOnlyServerStartsAnew(t *testing.T) {
	th := openTheatre(t, 1, func(c *config.Edge) { c.Listeners[0].Mode = config.ModePassthrough })
	address := th.servers[0].Listener.Addr().String()
	th.servers[0].Listener.Close()
	th.servers[0].CloseClientConnections()
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("no server is left", func() bool {
		s, err := client.Status(t.Context())
		check(t, err)
		return s.Pools[0].Usable == 0
	})

	agent := th.agent("web1.example.com")
	there := make(chan struct{})
	transport, ok := agent.Transport.(*http.Transport)
	if !ok {
		t.Fatal("no transport")
	}
	transport.TLSClientConfig.ServerName = "localhost"
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		defer close(there)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	got := make(chan error, 1)
	go func() {
		_, err := th.ask(agent, "GET", "/puppet/v3/node/web1.example.com", "")
		got <- err
	}()
	<-there
	l, err := listen(t.Context(), address)
	check(t, err)
	again := &http.Server{Handler: th.servers[0], ReadHeaderTimeout: time.Minute, TLSConfig: th.servers[0].TLS}
	served := make(chan error, 1)
	go func() { served <- again.ServeTLS(l, "", "") }()
	if err := <-got; err != nil {
		t.Error(err)
	}
	check(t, again.Close())
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestReplaysAreEarnedByRequests(t *testing.T) {
	th := openTheatre(t, 2, nil)
	var asked atomic.Int64
	for _, s := range th.servers {
		good := echo(s.name)
		s.does(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1)%2 == 1 { // every request once
				http.Error(w, "the queue is full", http.StatusServiceUnavailable)
				return
			}
			good(w, r)
		})
	}
	agent := th.agent("web1.example.com")
	served := 0
	for i := range 2 * budgetMost {
		asked.Store(0)
		r := th.must(agent, "GET", "/puppet/v3/node/web1.example.com", "")
		if i >= 2*budgetMost-100 && r.status == http.StatusOK { // what there was at first is spent
			served++
		}
	}
	if served == 0 || served > 20 {
		t.Errorf("of the last 100 requests that needed a replay %d got one, want a tenth", served)
	}
}
