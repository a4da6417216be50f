package server

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// This file fills a listener, with connections that exist in memory only.

// pipes is a listener of connections that are always there.
type pipes struct{ closed chan struct{} }

func (p pipes) Accept() (net.Conn, error) {
	select {
	case <-p.closed:
		return nil, net.ErrClosed
	default:
	}
	a, _ := net.Pipe()
	return a, nil
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

func TestACrowdWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := newCrowd(pipes{make(chan struct{})}, 2, slog.New(slog.NewTextHandler(&log, nil)))
		accepted := make(chan net.Conn)
		ended := make(chan error, 1)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				accepted <- conn
			}
		}()
		first, second := <-accepted, <-accepted
		full := func(when string) {
			t.Helper()
			synctest.Wait()
			select {
			case <-accepted:
				t.Fatalf("%s: one more was accepted", when)
			default:
			}
		}
		full("with two of two")

		for range 2 { // net/http closes some connections twice
			if err := first.Close(); err != nil {
				t.Error(err)
			}
		}
		third := <-accepted
		full("after one left and one came")
		time.Sleep(2 * time.Minute)
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		<-accepted
		full("at last")
		if n := strings.Count(log.String(), "all connections are taken"); n != 2 {
			t.Errorf("warned %d times, want once a minute:\n%s", n, log.String())
		}

		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v, want %v", err, net.ErrClosed)
		}
		if err := third.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestConnectionsLeaveTheMemberItsFiles(t *testing.T) {
	if n := connectionLimit(); n < 1 || n > maxConnections {
		t.Errorf("limit = %d, want between 1 and %d", n, maxConnections)
	}
}
