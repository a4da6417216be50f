//go:build long

package troupetest

// This file is goal G9 of the edge: all agents come at once when an outage ends. make edge-herd repeats it.

import (
	"context"
	"sync"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// A herd is what was seen of an edge while all agents ran.
type herd struct {
	queue, memory, bodies float64
	samples, idle         int // how often was looked, and how often no member had anything to do
}

// look reads the numbers of an edge five times a second, until ctx ends.
func (h *herd) look(ctx context.Context, t *testing.T, metrics string) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := scrape(ctx, metrics)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		h.queue = max(h.queue, now[`troupe_edge_pool_queue{pool="members"}`])
		h.memory = max(h.memory, now["process_resident_memory_bytes"])
		h.bodies = max(h.bodies, now["troupe_edge_bodies_memory_bytes"]+now["troupe_edge_bodies_disk_bytes"])
		busy := 0.0
		for _, name := range []string{"east.example.test", "west.example.test"} {
			busy += now[`troupe_edge_server_connections{pool="members",server="`+name+`"}`]
		}
		h.samples++
		if busy == 0 {
			h.idle++
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func TestAHerdAfterAnOutageIsServedThroughAnEdge(t *testing.T) {
	east, west := troupeOfTwo(t)
	metrics := freeAddress(t)
	edge := StartEdge(t, EdgeOptions{Troupe: east, Site: "east", Config: bothSites + "metrics: " + metrics + "\n"})
	edge.AwaitUp("members", 2)
	nodes := number(t, "NODES", 1000)
	fleet := fleetAt(t, edge.Addr, nodes, "herd")
	if err := (fakeagent.Muster{Plugin: true}).Prepare(t.Context(), fleet.Agents); err != nil {
		t.Fatal(err)
	}
	book := newToll()
	fleet.Observe = book.note

	// What the members can do when nobody has to wait.
	calm := *fleet
	calm.AtOnce = 8
	calm.Duration = time.Duration(number(t, "SECONDS", 30)) * time.Second
	steady := calm.Run(t.Context())
	book.add(t, "before the outage", steady)

	for _, m := range []*Server{east, west} {
		m.Kill()
	}
	Eventually(t, Patience, "the edge knows that nobody serves", func() bool {
		b := edge.Backends("members")
		return b[east.Certname].State == "down" && b[west.Certname].State == "down"
	})
	var h herd
	var watcher sync.WaitGroup
	came := time.Now()
	done := make(chan fakeagent.FleetResult, 1)
	go func() { done <- fleet.Run(t.Context()) }()
	timer := time.NewTimer(15 * time.Second) // an outage, not a restart
	defer timer.Stop()
	select {
	case <-timer.C:
	case got := <-done:
		t.Fatalf("the herd ended while nobody served: %v", got.Problems)
	}
	east.Start()
	west.Start()
	back := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	watcher.Go(func() { h.look(ctx, t, metrics) })
	got := <-done
	took := time.Since(back)
	stop()
	watcher.Wait()
	book.add(t, "the herd", got)

	ideal := time.Duration(float64(nodes) / steady.Goodput() * float64(time.Second))
	most, at := highestReturn(got.Seconds)
	t.Logf("%d agents came while nobody served; all had run %v after the members were back; ideal %v (%.1f runs a second); that is %.2f times as long",
		nodes, took.Round(time.Second), ideal.Round(time.Second), steady.Goodput(), took.Seconds()/ideal.Seconds())
	t.Logf("99 %% had run %v after the members were back", (lastButOne(got.Seconds, nodes) - back.Sub(came)).Round(time.Second))
	t.Logf("%d answers told to come back; at most %d requests came back in one second, in second %d of %d", got.Refused, most, at, len(got.Seconds))
	t.Logf("of the edge at most: queue %.0f, memory %.0f MiB, bodies %.0f KiB; members had nothing to do in %d of %d looks", h.queue, h.memory/(1<<20), h.bodies/(1<<10), h.idle, h.samples)
	t.Logf("%v", book)
	if got.Succeeded != nodes {
		t.Errorf("%d of %d runs succeeded", got.Succeeded, nodes)
	}
	if h.queue > float64(nodes) || h.memory > 512<<20 {
		t.Errorf("the edge's queue was %.0f long and its memory %.0f MiB", h.queue, h.memory/(1<<20))
	}
	for i := 0; i < nodes; i += 20 {
		name := fleet.Agents[i].Certname()
		Eventually(t, Patience, "the reports of "+name+" are at east", func() bool { return len(east.Reports(name)) == len(book.sent[name]) })
	}
}

// highestReturn is the second in which most requests came back that had been told to.
func highestReturn(seconds []fakeagent.Second) (most, at int) {
	for i, s := range seconds {
		if s.Returned > most {
			most, at = s.Returned, i
		}
	}
	return most, at
}

// lastButOne is when 99 of 100 had run: the last ones sleep while members have nothing to do.
func lastButOne(seconds []fakeagent.Second, nodes int) time.Duration {
	sum := 0
	for i, s := range seconds {
		if sum += s.Succeeded; 100*sum >= 99*nodes {
			return time.Duration(i+1) * time.Second
		}
	}
	return time.Duration(len(seconds)) * time.Second
}
