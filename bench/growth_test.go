//go:build bench

package bench

// This file shows how cost grows with the number of nodes.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// TestGrowth lets 100, 1,000 and 10,000 nodes of a small role run. At each step every node has run once, so that the
// member knows facts, catalog and report of all of them, before the same number of runs at a time is measured.
func TestGrowth(t *testing.T) {
	prefer(t)
	steps, slice := []int{100, 1000, 10000}, 45*time.Second
	if testing.Short() {
		steps, slice = []int{20, 60, 200}, 5*time.Second
	}
	s := startSite(t, steps[len(steps)-1], "tiny", "", fakeagent.Puppet8)

	var b strings.Builder
	fmt.Fprintf(&b, "%s\nOne member with defaults, role tiny (10 resources), 8 agents of generation 8.10 running at a time, generator on the same CPUs. Memory is the proportional set size of the whole tree of processes after the runs.\n\n", conditions(t))
	b.WriteString("| nodes | runs/s | CPU ms of the server for a run | p50 of a run | memory, PSS MiB | data folder MiB | n |\n|---|---|---|---|---|---|---|\n")
	var nodes, rate, cost, memory []float64
	known := 0
	for _, n := range steps {
		first := s.run(t, fmt.Sprintf("first runs up to %d nodes", n), fakeagent.Fleet{Agents: s.agents[known:n], AtOnce: 8})
		known = n
		before := cpu(t, s.Data)
		r := s.run(t, fmt.Sprintf("%d nodes", n), fakeagent.Fleet{Agents: s.agents[:n], AtOnce: 8, Duration: slice})
		used := cpu(t, s.Data) - before
		if r.Succeeded != r.Runs || first.Succeeded != first.Runs {
			t.Errorf("%d nodes: %d of %d runs did not succeed: %v %v", n, r.Runs-r.Succeeded+first.Runs-first.Succeeded, r.Runs+first.Runs, first.Problems, r.Problems)
		}
		mib, _ := pss(t, s.Data)
		nodes, rate = append(nodes, float64(n)), append(rate, r.Goodput())
		cost, memory = append(cost, used.Seconds()*1000/float64(max(r.Runs, 1))), append(memory, mib)
		fmt.Fprintf(&b, "| %d | %s | %s | %v | %s | %s | %d |\n", n, number(r.Goodput()), number(cost[len(cost)-1]),
			r.Run.P50.Round(time.Millisecond), number(mib), number(folderSize(t, s.Data)), r.Runs)
	}
	picture{
		title: "troupe: cost by number of nodes", axis: "nodes", logarithmic: true,
		panels: []panel{
			{"runs each second", nodes, rate, true},
			{"CPU of the server for a run, ms", nodes, cost, true},
			{"memory of the server, PSS, MiB", nodes, memory, true},
		},
	}.write(t, "growth.svg")
	record(t, "growth", b.String()+"\n![cost by number of nodes](growth.svg)\n")
}
