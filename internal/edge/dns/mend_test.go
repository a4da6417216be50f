package dns_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/edge/dns"
	"troupe/internal/troupetest"
)

// journal collects what a zone logs.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *journal) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *journal) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// TestANameWithAddressesPassesOverEdgesWithoutAny: the nearest site has a target in another zone, whose address we do not know.
func TestANameWithAddressesPassesOverEdgesWithoutAny(t *testing.T) {
	s := twoSites()
	for _, name := range []string{"a1", "a2"} {
		s.edge(name, func(e *dns.Edge) { e.Target, e.Addresses = name+".elsewhere.net", nil })
	}
	z := newZone(t, options(s))
	wantData(t, z.Answer(question("puppet.example.com", wire.TypeA), fromA), "192.0.2.11")
	said := z.Explain("puppet.example.com", wire.TypeA, fromA).String()
	if !strings.Contains(said, "has no address") {
		t.Errorf("explained as\n%s", said)
	}
	// Nor is who has none what was good last.
	s.edge("b1", kill)
	wantData(t, z.Answer(question("puppet.example.com", wire.TypeA), fromA), "192.0.2.11")
}

// secondaryThat answers each message with a code, and returns where.
func secondaryThat(t *testing.T, rcode int) netip.AddrPort {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &wire.Server{
		PacketConn: p, MsgAcceptFunc: func(wire.Header) wire.MsgAcceptAction { return wire.MsgAccept },
		Handler: wire.HandlerFunc(func(w wire.ResponseWriter, r *wire.Msg) { _ = w.WriteMsg(new(wire.Msg).SetRcode(r, rcode)) }),
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = p.Close(); <-ended })
	return p.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestANotifyThatIsRefusedHasFailed(t *testing.T) {
	registry, said := prometheus.NewRegistry(), &journal{}
	o := options(twoSites())
	o.Registerer, o.Log = registry, slog.New(slog.NewTextHandler(said, nil))
	o.Secondaries = []dns.Secondary{{Addr: secondaryThat(t, wire.RcodeRefused)}}
	serveZone(t, o)
	until(t, "the refusal is said", func() bool {
		return strings.Contains(said.String(), "does not take NOTIFY") && strings.Contains(said.String(), "REFUSED")
	})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "troupe_dns_notifies_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() != "failed" {
				t.Errorf("counted %v", m)
			}
		}
	}
}

// until waits for something that other goroutines do.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// TestForgedTransfersFillNoLog: over UDP anybody can be named as the sender, so who is refused there is said only to who looks for it.
func TestForgedTransfersFillNoLog(t *testing.T) {
	said := &journal{}
	o := options(twoSites())
	o.Log = slog.New(slog.NewTextHandler(said, nil))
	address := serveZone(t, o)
	for range 3 {
		if m := exchange(t, "udp", address, new(wire.Msg).SetAxfr("example.com.")); m.Rcode != wire.RcodeRefused {
			t.Fatalf("answered %v", m)
		}
	}
	if strings.Contains(said.String(), "transfer") {
		t.Errorf("logged:\n%s", said)
	}
	if _, err := copyZone(t, address, new(wire.Msg).SetAxfr("example.com.")); err == nil || !strings.Contains(said.String(), "transfer is not given") {
		t.Errorf("over TCP: %v; logged:\n%s", err, said)
	}
}
