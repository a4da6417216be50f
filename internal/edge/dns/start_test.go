package dns

import (
	"net"
	"sync"
	"testing"

	wire "github.com/miekg/dns"
)

// TestAListenerThatCannotBeginIsAnError: a server that fails before it has begun never says that it has.
func TestAListenerThatCannotBeginIsAnError(t *testing.T) {
	var sockets []net.PacketConn
	var servers []*wire.Server
	for range 2 {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, p)
		servers = append(servers, &wire.Server{PacketConn: p, Handler: wire.NewServeMux()})
	}
	if err := sockets[0].Close(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	running, err := start(t.Context(), servers, &wg, make(chan error, len(servers)))
	if running || err == nil {
		t.Errorf("running %v, %v", running, err)
	}
	wg.Wait()
	if _, err := sockets[1].WriteTo([]byte{0}, sockets[1].LocalAddr()); err == nil {
		t.Error("the socket of a server that never began is open")
	}
}
