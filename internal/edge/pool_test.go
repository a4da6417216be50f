package edge

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/balance"
)

// TestAPoolThatIsHalfDeadServesNobodyIfToldSo: its site gives way to another one as a whole.
func TestAPoolThatIsHalfDeadServesNobodyIfToldSo(t *testing.T) {
	th := openTheatre(t, 2, func(c *config.Edge) {
		workers := c.Pools["workers"]
		workers.Panic, workers.InPanic = 0.6, "none"
		c.Pools["workers"] = workers
	})
	th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", "")
	th.servers[0].Listener.Close()
	th.servers[0].CloseClientConnections()
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	th.wait("the edge serves nobody", func() bool {
		s, err := client.Status(t.Context())
		return err == nil && !s.Serving && s.Pools[0].Usable == 0
	})
	if r := th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", ""); r.status != http.StatusServiceUnavailable {
		t.Errorf("half a pool answered %d", r.status)
	}
}

// TestWordsOfThePoolReachBalancing: what edge.yaml says of sharing work is what a pool does.
func TestWordsOfThePoolReachBalancing(t *testing.T) {
	conf, err := config.ParseEdge("edge.yaml", []byte(`
listeners: [{listen: "127.0.0.1:0", mode: passthrough}]
pools:
  workers:
    balance: hash
    hash_bound: 2
    overprovision: 1.1
    spill: 3
    servers: [{address: "192.0.2.1:8140", check: {type: none}}, {address: "192.0.2.2:8140", check: {type: none}}, {address: "192.0.2.3:8140", tier: 1, max_connections: 1, check: {type: none}}]
`))
	check(t, err)
	conf.Data = t.TempDir()
	e, err := open(t.Context(), conf, Options{})
	check(t, err)
	p := e.pools["workers"]
	// With the bound 2 one of two servers may have twice the average, which is all.
	first := ""
	for range 10 {
		l, err := p.Acquire(t.Context(), balance.Ask{Key: "web1.example.com"})
		check(t, err)
		if first == "" {
			first = l.Server().Name
		}
		if l.Server().Name != first {
			t.Errorf("with twice the average allowed the key went to %s, not to %s", l.Server().Name, first)
		}
	}
}

// TestChecksSendThePoolsProxyHeader: a server that insists on version 2 hears it from checks, too.
func TestChecksSendThePoolsProxyHeader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	heard := make(chan string, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			text, err := io.ReadAll(io.LimitReader(conn, 1<<10))
			if err == nil {
				select {
				case heard <- string(text):
				default:
				}
			}
			_ = conn.Close()
		}
	}()
	defer l.Close()
	for version, begins := range map[string]string{"v1": "PROXY TCP4 127.0.0.1 127.0.0.1 ", "v2": "\r\n\r\n\x00\r\nQUIT\n\x20"} {
		th := openTheatre(t, 0, func(c *config.Edge) {
			c.Listeners[0].Mode = config.ModePassthrough
			c.Pools["workers"] = config.EdgePool{
				SendProxy: version, Servers: []config.EdgeServer{{Name: "p0", Address: l.Addr().String()}},
				Check: config.EdgeCheck{Type: "tcp", Interval: config.Duration(50 * time.Millisecond), Timeout: config.Duration(20 * time.Second)},
			}
		})
		select { // one from the turn before may still be there
		case <-heard:
		default:
		}
		<-heard
		if text := <-heard; !strings.HasPrefix(text, begins) {
			t.Errorf("%s: the check began with %q", version, text)
		}
		th.stop()
		th.stop = nil
	}
}
