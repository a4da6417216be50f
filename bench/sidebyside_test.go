//go:build bench

package bench

// This file is the comparison: phases in which the two servers take turns.

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

var only = flag.String("only", "", "the one server to measure: troupe or puppetserver")

func TestMain(m *testing.M) { os.Exit(troupetest.Main(m)) }

const (
	starts = 3 // cold starts; the first makes the CA
	warmUp = 6 // times ten compiles of each role: JRuby's compiler needs many, CRuby none
)

// bench is one run of the comparison.
type bench struct {
	t      *testing.T
	rounds int           // of every phase but the starts
	slice  time.Duration // of a round of small requests
	peers  []*peer
	rows   []string
}

func TestSideBySide(t *testing.T) {
	b := &bench{t: t, rounds: 3, slice: 4 * time.Second}
	if testing.Short() { // tries every phase out
		b.rounds, b.slice = 1, time.Second
	}
	catalogs := map[string]request{}
	for _, role := range roles {
		catalogs[role] = catalog(facts(t, role), role)
	}
	code := environments(t)

	b.coldStarts(code, catalogs["web"])
	b.memory("memory after start and one catalog")
	b.warmUp(catalogs)

	b.alternate("catalog tiny, c=1", "tiny", load{workers: 1, n: 34}, catalogs["tiny"])
	b.alternate("catalog web, c=1", "web", load{workers: 1, n: 34}, catalogs["web"])
	b.alternate("catalog large, c=1", "large", load{workers: 1, n: 10}, catalogs["large"])
	b.alternate("catalog web, c=4", "web", load{workers: 4, n: 20}, catalogs["web"])

	four := load{workers: 4, d: b.slice}
	b.alternate("file_metadata, c=4", "web", four, metadata())
	b.alternate("file_content 25 B, c=4", "web", four, content("issue"))
	b.alternate("file_content 200 kB, c=4", "web", four, content("archive"))
	b.alternate("file_metadatas plugins, c=4", "web", four, plugins())
	b.alternate("report of 1 MB, c=1", "web", load{workers: 1, d: b.slice}, report(t, "web"))
	b.alternate("report of 1 MB, c=4", "web", four, report(t, "web"))
	b.alternate("TLS handshake and status, c=4", "web", load{workers: 4, d: b.slice, fresh: true}, status())
	b.memory("memory after all")

	t.Logf("\n| what | %s | ratio | n |\n|---|---|---|---|---|\n%s", strings.Join(b.names(), " | "), strings.Join(b.rows, "\n"))
}

func (b *bench) names() (names []string) {
	for _, p := range b.peers {
		names = append(names, p.name)
	}
	return names
}

// coldStarts starts each server alone, several times, and asks for one catalog. The last start is left running.
func (b *bench) coldStarts(code string, first request) {
	makers := []func(*testing.T, string) *peer{startTroupe, startPuppetServer}
	if i := slices.Index([]string{"troupe", "puppetserver"}, *only); i >= 0 {
		makers = makers[i : i+1]
	}
	var ready, readyCPU, compiled, whole [][]float64
	for _, start := range makers {
		var r, c, f, w []float64
		var p *peer
		for n := range starts {
			if p != nil {
				p.stop()
			}
			at := time.Now()
			if p == nil {
				p = start(b.t, code)
			} else {
				p.restart()
			}
			p.awaitReady(b.t)
			took, used := time.Since(at), cpu(b.t, p.folder)
			if n == 0 {
				p.enroll(b.t)
			}
			one := p.measure(b.t, "web", load{workers: 1, n: 1}, first)
			b.t.Logf("%s: start %d: ready after %v (cpu %v), first catalog after another %v (cpu %v)", p.name, n+1, took, used, one.wall, one.cpu)
			if n > 0 {
				r, c = append(r, took.Seconds()), append(c, used.Seconds())
				f, w = append(f, one.wall.Seconds()), append(w, (took+one.wall).Seconds())
			}
		}
		ready, readyCPU, compiled, whole = append(ready, r), append(readyCPU, c), append(compiled, f), append(whole, w)
		b.peers = append(b.peers, p)
	}
	n := fmt.Sprintf("%d starts on an existing CA", starts-1)
	b.row("start to 200 on /status/v1/simple/server, s", n, false, ready)
	b.row("the same, CPU s", n, false, readyCPU)
	b.row("first catalog after it (web), s", n, false, compiled)
	b.row("start to first catalog, s", n, false, whole)
}

// warmUp compiles until the JIT compilers have seen every role often enough.
func (b *bench) warmUp(catalogs map[string]request) {
	for _, p := range b.peers {
		if testing.Short() {
			return
		}
		for n := range warmUp {
			for _, role := range roles {
				r := p.measure(b.t, role, load{workers: 1, n: 10}, catalogs[role])
				b.t.Logf("%s: warm-up %d, %s: %v", p.name, n+1, role, r)
			}
		}
	}
}

// alternate lets the servers take turns at one kind of request.
func (b *bench) alternate(what, role string, l load, r request) {
	b.turns(what, func(p *peer) result { return p.measure(b.t, role, l, r) })
}

func (b *bench) turns(what string, measure func(*peer) result) {
	rate, cost, p50 := make([][]float64, len(b.peers)), make([][]float64, len(b.peers)), make([][]float64, len(b.peers))
	var counts []string
	for range b.rounds {
		for i, p := range b.peers {
			r := measure(p)
			b.t.Logf("%s: %s: %v", what, p.name, r)
			rate[i] = append(rate[i], r.rate())
			cost[i] = append(cost[i], r.cost())
			p50[i] = append(p50[i], r.p50.Seconds()*1000)
			counts = append(counts, fmt.Sprint(r.n))
		}
	}
	n := strings.Join(counts, ", ")
	b.row(what+": CPU ms each", n, false, cost)
	b.row(what+": rate /s", n, true, rate)
	b.row(what+": p50 ms", n, false, p50)
}

func (b *bench) memory(what string) {
	var all [][]float64
	var notes []string
	for _, p := range b.peers {
		mib, processes := pss(b.t, p.folder)
		all, notes = append(all, []float64{mib}), append(notes, fmt.Sprintf("%d processes", processes))
	}
	b.row(what+", PSS MiB", strings.Join(notes, " / "), false, all)
}

// row adds a line: the median of the rounds and their spread on each side, and how many times better the first is.
func (b *bench) row(what, n string, more bool, sides [][]float64) {
	cells, medians := []string{what}, []float64{}
	for _, values := range sides {
		slices.Sort(values)
		median := values[len(values)/2]
		if len(values)%2 == 0 {
			median = (values[len(values)/2-1] + median) / 2
		}
		medians = append(medians, median)
		cell := number(median)
		if len(values) > 1 {
			cell += " (" + number(values[0]) + "–" + number(values[len(values)-1]) + ")"
		}
		cells = append(cells, cell)
	}
	ratio := "–"
	if len(medians) == 2 {
		times := medians[1] / medians[0]
		if more {
			times = 1 / times
		}
		ratio = fmt.Sprintf("%.1f×", times)
	}
	line := "| " + strings.Join(append(cells, ratio, n), " | ") + " |"
	b.t.Log(line)
	b.rows = append(b.rows, line)
}

func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}
