//go:build long

package troupetest

// This file has a hundred thousand connections that say nothing, or as many as the machine allows a process.

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnEdgeHoldsAsManySilentConnectionsAsTheMachineAllows(t *testing.T) {
	const sources = 20
	var limit unix.Rlimit // of this process and of the edge; Go raises what is in force to it
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	silent := min(100_000, int(limit.Max)-1500)
	_, port := MemberPort(t)
	m := afflict(t, ServerOptions{Config: port})
	m.MustCLI("init", "--site", "east")
	b := &besieged{afflicted: m, metrics: freePort(t)}
	b.edge = StartEdge(t, EdgeOptions{Troupe: m.Server, Site: "east", Config: "listeners:\n  - listen: %LISTEN%\n    max_clients: 120000\nmetrics: " + b.metrics + "\n"})
	b.edge.AwaitUp("members", 1)
	b.through = m.Client(m.pair)
	b.serves(t)
	before := b.count(t, "process_resident_memory_bytes")

	var opening sync.WaitGroup
	for s := range sources {
		opening.Go(func() {
			d := net.Dialer{Timeout: Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("127.0.1.%d", s+1))}}
			for range silent / sources {
				conn, err := d.Dial("tcp", b.edge.Addr)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { _ = conn.Close() })
			}
		})
	}
	opening.Wait()
	held, with := b.count(t, "process_open_fds"), b.count(t, "process_resident_memory_bytes")
	t.Logf("%.0f descriptors at the end of %d silent connections: %.0f MiB more, %.1f KiB each", held, silent, (with-before)/(1<<20), (with-before)/held/(1<<10))
	if held < float64(silent)/2 {
		t.Errorf("the edge holds %.0f: they were not there at the same time", held)
	}
	if with-before > float64(silent*32<<10) {
		t.Errorf("they cost %.0f MiB", (with-before)/(1<<20))
	}
	b.serves(t)
	Eventually(t, Patience, "who says nothing is let go", func() bool { return b.count(t, "process_open_fds") < float64(silent)/10 })
	b.serves(t)
}
