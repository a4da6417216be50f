package server

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A line that is cut while a request is under way is not found by keep-alive: TCP sends the request again for a quarter of an hour.
func TestConnectionsOfMembersEndSoonWhenNothingIsAcknowledged(t *testing.T) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: limitUnheard}
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := net.Dialer{Control: limitUnheard}
	asks, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer asks.Close()
	answers, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	for name, conn := range map[string]net.Conn{"who asks": asks, "who answers": answers} {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		var gerr error
		if err := raw.Control(func(fd uintptr) { got, gerr = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil || gerr != nil {
			t.Fatal(err, gerr)
		}
		if want := int(unheardMost.Milliseconds()); got != want {
			t.Errorf("%s: TCP_USER_TIMEOUT is %d ms, want %d", name, got, want)
		}
	}
}
