//go:build bench

package bench

// This file lets two thousand agents come at once.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// TestHerd measures what the server can do in a steady state, and then lets every node come at the same moment. Half
// of them are of generations that die of Retry-After or cannot be relied on to obey it.
func TestHerd(t *testing.T) {
	prefer(t)
	nodes, role, steady := count(t, "NODES", 2000), "web", time.Minute
	if testing.Short() {
		nodes, role, steady = count(t, "NODES", 300), "tiny", 15*time.Second
	}
	s := startSite(t, nodes, role, "", fakeagent.Puppet5, fakeagent.Puppet8, fakeagent.Puppet7, fakeagent.Puppet8)

	s.run(t, "warm-up", fakeagent.Fleet{Agents: s.agents, Duration: steady / 3})
	calm := s.run(t, "steady state", fakeagent.Fleet{Agents: s.agents, Duration: steady})
	herd := s.run(t, "herd", fakeagent.Fleet{Agents: s.agents})

	capacity, goodput := calm.Goodput(), busyGoodput(herd)
	wave, at := highestWave(herd.Seconds)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d agents (a quarter each 5.5 and 7.23, half 8.10), role %s, two workers or as many as CPUs, everything else at its default. ", conditions(t), nodes, role)
	b.WriteString("Capacity: succeeded runs a second with 8 agents running at a time. Goodput: succeeded runs a second of the herd until 99 % of it had succeeded; the whole herd, stragglers included, stands beside it.\n\n| what | figure | target |\n|---|---|---|\n")
	fmt.Fprintf(&b, "| runs that succeeded | %d of %d | all: %s |\n", herd.Succeeded, nodes, verdict(herd.Succeeded == nodes))
	fmt.Fprintf(&b, "| capacity in steady state | %.2f/s (n = %d) | |\n", capacity, calm.Runs)
	fmt.Fprintf(&b, "| goodput of the herd | %.2f/s, %.0f %% | ≥ 90 %%: %s |\n", goodput, 100*goodput/capacity, verdict(goodput >= 0.9*capacity))
	fmt.Fprintf(&b, "| the whole herd | %.2f/s, %.0f %%, %v | |\n", herd.Goodput(), 100*herd.Goodput()/capacity, herd.Took.Round(100*time.Millisecond))
	fmt.Fprintf(&b, "| most requests that came back within ten seconds | %d, from second %d on; %.1f times what it can serve in that time | < 3: %s |\n",
		wave, at, float64(wave)/(10*capacity), verdict(float64(wave) < 30*capacity))
	fmt.Fprintf(&b, "| answers that asked to come back | %d, %.2f for each 8.10 agent | |\n", herd.Refused, 2*float64(herd.Refused)/float64(nodes))
	fmt.Fprintf(&b, "| a run: p50, p99, max | %v, %v, %v | |\n\n", herd.Run.P50.Round(time.Millisecond), herd.Run.P99.Round(time.Millisecond), herd.Run.Max.Round(time.Millisecond))
	b.WriteString(histogram(herd.Seconds))
	record(t, "herd", b.String())

	for problem, n := range herd.Problems {
		t.Errorf("%d runs of the herd: %s", n, problem)
	}
	if herd.Succeeded != nodes || herd.Runs != nodes {
		t.Errorf("%d of %d runs succeeded: %d failed, %d fell back on a cached catalog, %d reports were not taken",
			herd.Succeeded, nodes, herd.Failed, herd.Cached, herd.Unreported)
	}
	if goodput < 0.9*capacity && !testing.Short() {
		t.Errorf("goodput %.2f/s is below 90 %% of the capacity %.2f/s", goodput, capacity)
	}
	if float64(wave) >= 30*capacity && !testing.Short() {
		t.Errorf("%d requests came back within ten seconds, more than three times what the server can do", wave)
	}
}

// busyGoodput leaves out the last hundredth: the last agents sleep while the server has nothing to do.
func busyGoodput(r fakeagent.FleetResult) float64 {
	sum, enough := 0, (r.Succeeded*99+99)/100
	for i, s := range r.Seconds {
		if sum += s.Succeeded; sum >= enough && sum > 0 {
			return float64(sum) / float64(i+1)
		}
	}
	return 0
}

// highestWave finds the ten seconds in which most requests came back.
func highestWave(seconds []fakeagent.Second) (most, from int) {
	for i := range seconds {
		sum := 0
		for _, s := range seconds[i:min(i+10, len(seconds))] {
			sum += s.Returned
		}
		if sum > most {
			most, from = sum, i
		}
	}
	return most, from
}

// histogram draws at most thirty stretches of time.
func histogram(seconds []fakeagent.Second) string {
	length := max((len(seconds)+29)/30, 1)
	var b strings.Builder
	b.WriteString("```\nseconds    begun  succeeded  told to come back  came back\n")
	for i := 0; i < len(seconds); i += length {
		var sum fakeagent.Second
		for _, s := range seconds[i:min(i+length, len(seconds))] {
			sum.Begun += s.Begun
			sum.Succeeded += s.Succeeded
			sum.Refused += s.Refused
			sum.Returned += s.Returned
		}
		fmt.Fprintf(&b, "%4d–%-4d  %6d  %9d  %17d  %9d %s\n", i, i+length, sum.Begun, sum.Succeeded, sum.Refused, sum.Returned,
			strings.Repeat("*", min(sum.Returned*60/max(10, 60*length), 60)))
	}
	return b.String() + "```\n"
}
