package cli

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"troupe/internal/fakeagent"
)

// This file prints what a load met.

// loadResult is the JSON of a load; its field names are stable.
type loadResult struct {
	Runs       int                    `json:"runs"`
	Succeeded  int                    `json:"succeeded"`
	Failed     int                    `json:"failed"`
	Cached     int                    `json:"cached_catalog"`
	Unreported int                    `json:"unreported"`
	Missed     int                    `json:"missed"`
	Refused    int                    `json:"refused"`
	Seconds    float64                `json:"seconds"`
	Goodput    float64                `json:"goodput"`
	Run        loadLatency            `json:"run"`
	Requests   map[string]loadLatency `json:"requests"`
	Problems   map[string]int         `json:"problems"`
	Waves      []loadWave             `json:"waves"`
}

type loadLatency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// loadWave is what happened in a stretch of time.
type loadWave struct {
	From      int `json:"from_second"`
	Seconds   int `json:"seconds"`
	Begun     int `json:"begun"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Refused   int `json:"refused"`
	Returned  int `json:"returned"`
}

// loadProgress writes a line to stderr every five seconds.
func (c *common) loadProgress() func(fakeagent.FleetResult) {
	seconds, runs := 0, 0
	return func(r fakeagent.FleetResult) {
		if seconds++; seconds%5 != 0 {
			return
		}
		fmt.Fprintf(c.env.Stderr, "%v: %d runs (%.1f/s), %d running, %d did not succeed, %d told to come back; run p50 %v, catalog p50 %v\n",
			r.Took.Round(time.Second), r.Runs, float64(r.Runs-runs)/5, r.Running, r.Runs-r.Succeeded, r.Refused,
			r.Run.P50.Round(time.Millisecond), r.Kinds["catalog"].P50.Round(time.Millisecond))
		runs = r.Runs
	}
}

func (c *common) printLoad(r fakeagent.FleetResult) error {
	out := loadResult{
		Runs: r.Runs, Succeeded: r.Succeeded, Failed: r.Failed, Cached: r.Cached, Unreported: r.Unreported, Missed: r.Missed,
		Refused: r.Refused, Seconds: r.Took.Seconds(), Goodput: r.Goodput(), Run: inMilliseconds(r.Run),
		Requests: map[string]loadLatency{}, Problems: r.Problems, Waves: waves(r.Seconds, 20),
	}
	for kind, l := range r.Kinds {
		out.Requests[kind] = inMilliseconds(l)
	}
	return c.print(out, func(w *tabwriter.Writer) { loadTable(w, out) })
}

func inMilliseconds(l fakeagent.Latency) loadLatency {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return loadLatency{Count: l.Count, P50: ms(l.P50), P90: ms(l.P90), P99: ms(l.P99), Max: ms(l.Max)}
}

// waves sums seconds up to at most so many stretches.
func waves(seconds []fakeagent.Second, most int) []loadWave {
	length := max((len(seconds)+most-1)/most, 1)
	var list []loadWave
	for part := range slices.Chunk(seconds, length) {
		wave := loadWave{From: len(list) * length, Seconds: len(part)}
		for _, s := range part {
			wave.Begun += s.Begun
			wave.Succeeded += s.Succeeded
			wave.Failed += s.Failed
			wave.Refused += s.Refused
			wave.Returned += s.Returned
		}
		list = append(list, wave)
	}
	return list
}

func loadTable(w *tabwriter.Writer, r loadResult) {
	fmt.Fprintf(w, "runs\t%d in %.1f s\nsucceeded\t%d, goodput %.2f/s\n", r.Runs, r.Seconds, r.Succeeded, r.Goodput)
	fmt.Fprintf(w, "failed\t%d\ncached catalog\t%d\nreport not taken\t%d\n", r.Failed, r.Cached, r.Unreported)
	fmt.Fprintf(w, "told to come back\t%d\n", r.Refused)
	if r.Missed > 0 {
		fmt.Fprintf(w, "missed\t%d, because the agent still ran\n", r.Missed)
	}
	for _, problem := range slices.Sorted(maps.Keys(r.Problems)) {
		fmt.Fprintf(w, "problem\t%d× %s\n", r.Problems[problem], problem)
	}

	fmt.Fprintln(w, "\nKIND\tCOUNT\tP50 MS\tP90 MS\tP99 MS\tMAX MS")
	line := func(kind string, l loadLatency) {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\n", kind, l.Count, l.P50, l.P90, l.P99, l.Max)
	}
	line("run", r.Run)
	for _, kind := range slices.Sorted(maps.Keys(r.Requests)) {
		line(kind, r.Requests[kind])
	}

	fmt.Fprintln(w, "\nSECONDS\tBEGUN\tSUCCEEDED\tFAILED\tTOLD TO COME BACK\tCAME BACK")
	for _, s := range r.Waves {
		fmt.Fprintf(w, "%d–%d\t%d\t%d\t%d\t%d\t%d\n", s.From, s.From+s.Seconds, s.Begun, s.Succeeded, s.Failed, s.Refused, s.Returned)
	}
}
