package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/telemetry"
)

// This file leaves a service address that other edges have too. Agents come until the routers send them elsewhere, and when the routers
// do, what is under way breaks: its packets arrive at an edge that does not know the connection. So nobody may be under way then, and
// nobody may be refused before.
//
// The way out is not to answer at all. An agent whose SYN is lost sends it again after a second; by then the routers know another edge.

// settleMost is how long routers may take to forget an address that was withdrawn; until then nobody who comes is refused.
const settleMost = time.Second

// hushPoll is how often is looked whether everybody has left.
const hushPoll = 5 * time.Millisecond

// noSYN is a filter of the kernel's (classic BPF) for packets to a listening socket, which begin with the TCP header there: what only
// opens a connection is dropped, all else passes.
var noSYN = []unix.SockFilter{ //nolint:gochecknoglobals // a constant that Go has no word for
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},           // flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},        // SYN and ACK
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jf: 1}, // SYN alone
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},                          // dropped
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},                     // passes
}

// hush has the kernel lose, without a word, whatever opens a connection to a listener. Who is connected already notices nothing.
func hush(l net.Listener) error {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("a %T cannot be made silent", l)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(noSYN)), Filter: &noSYN[0]})
	})
	return errors.Join(err, set)
}

// clear makes sure that no connection is there when the address is withdrawn: nobody new gets in, requests under way end, and idle
// connections have as long as agents keep one. What takes longer than runs.drain breaks.
func (e *Edge) clear(ctx context.Context) {
	for _, l := range e.listeners {
		if err := hush(l.Listener); err != nil {
			e.log.Warn("agents that connect while the service address is withdrawn may fail", telemetry.KeyErr, err)
		}
	}
	begin := time.Now()
	tick := time.NewTicker(hushPoll)
	defer tick.Stop()
	for {
		connections, busy := 0, int(e.busy.Load())+e.sessions.count()
		for _, l := range e.listeners {
			connections += l.count()
		}
		waited := time.Since(begin)
		if connections == 0 || waited > e.runConf.drain || busy == 0 && waited > e.runConf.linger {
			e.log.Info("the service address can be withdrawn", "after", waited.Round(time.Millisecond), "connections", connections, "busy", busy)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settleRoutes keeps silent listeners open for a moment after the withdrawal: a closed one refuses.
func (e *Edge) settleRoutes(ctx context.Context) error {
	<-ctx.Done()
	if !e.hushed.Load() {
		return nil
	}
	timer := time.NewTimer(settleMost)
	defer timer.Stop()
	<-timer.C
	return nil
}
