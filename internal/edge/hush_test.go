package edge

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// TestASilentListenerLosesWhoComesAndKeepsWhoIsThere is what a service address that several edges have needs: neither refused nor cut.
func TestASilentListenerLosesWhoComesAndKeepsWhoIsThere(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := listen(t.Context(), address)
		check(t, err)
		defer l.Close()
		before, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		defer before.Close()
		there, err := l.Accept()
		check(t, err)
		defer there.Close()

		check(t, hush(l))
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		conn, err := d.Dial("tcp", l.Addr().String())
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			t.Errorf("%s: somebody who came after was answered: %v, %v", address, conn, err)
		}
		if _, err := before.Write([]byte("request")); err != nil {
			t.Error(err)
		}
		text := make([]byte, 7)
		if _, err := io.ReadFull(there, text); err != nil || string(text) != "request" {
			t.Errorf("%s: who was there is not heard any more: %q, %v", address, text, err)
		}
	}
}
