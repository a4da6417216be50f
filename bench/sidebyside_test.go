//go:build bench

package bench

// This file is the comparison: phases in which the two servers take turns.

import (
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

var only = flag.String("only", "", "the one server to measure: troupe or puppetserver")

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" { // a process of another test
		os.Exit(play(role))
	}
	os.Exit(troupetest.Main(m))
}

const (
	starts  = 4  // cold starts; the first makes the CA
	warmUps = 14 // rounds of 35 compiles at most: JRuby's compiler needs hundreds, CRuby none
)

// bench is one run of the comparison.
type bench struct {
	t      *testing.T
	rounds int           // of every phase but the starts
	slice  time.Duration // of a round of small requests
	warm   time.Duration // the real server gets of each kind before it is measured
	peers  []*peer
	rows   []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	prefer(t)
	b := &bench{t: t, rounds: 3, slice: 4 * time.Second, warm: 20 * time.Second}
	if testing.Short() { // tries every phase out
		b.rounds, b.slice, b.warm = 1, time.Second, time.Second
	}
	return b
}

func catalogsOf(t *testing.T) map[string]request {
	t.Helper()
	catalogs := map[string]request{}
	for _, role := range roles {
		catalogs[role] = catalog(facts(t, role), role)
	}
	return catalogs
}

func TestSideBySide(t *testing.T) {
	b, catalogs := newBench(t), catalogsOf(t)
	b.coldStarts(environments(t), catalogs["web"])
	b.memory("memory after start and one catalog", 4)
	compiles := b.warmUp(catalogs)
	b.catalogs(catalogs, 34, 34, 10)
	b.alternate("catalog web, c=4", "web", load{workers: 4, n: 20}, none, catalogs["web"])

	four := load{workers: 4, d: b.slice}
	b.alternate("file_metadata, c=4", "web", four, targets{rate: 10}, metadata())
	b.alternate("file_content 25 B, c=4", "web", four, targets{rate: 10}, content("issue"))
	b.alternate("file_content 200 kB, c=4", "web", four, targets{rate: 10}, content("archive"))
	b.alternate("file_metadatas plugins, c=4", "web", four, targets{rate: 20}, plugins())
	b.firstPluginsync()
	b.alternate("report of 1 MB, c=1", "web", load{workers: 1, d: b.slice}, targets{rate: 20}, report(t, "web"))
	b.alternate("report of 1 MB, c=4", "web", four, targets{rate: 20}, report(t, "web"))
	b.alternate("TLS handshake and status, c=4", "web", load{workers: 4, d: b.slice, fresh: true}, targets{cost: 5}, status())
	b.codeChanges(catalogs)
	b.memory("memory after all", 4)
	b.finish("one worker", fmt.Sprintf("One Ruby worker against one JRuby instance (`-Xmx1g`), storeconfigs off, `environment_timeout = unlimited`; Puppet Server had %d compiles and %v of each other kind of request before it was measured.", compiles, b.warm))
	b.stop()
}

func TestExportedResources(t *testing.T) {
	b := newBench(t)
	b.collect()
	b.finish("exported resources", "Collecting the exported resources of 1,000 nodes, native ones (collector) and defines (balancer): troupe beside Puppet Server with PuppetDB and PostgreSQL, whose CPU counts. Both were filled by 1,000 whole runs of simulated agents.")
	b.stop()
}

func TestTwoWorkers(t *testing.T) {
	b := newBench(t)
	b.pairOfWorkers(environments(t), catalogsOf(t))
	b.finish("two workers", "Two Ruby workers against two JRuby instances (`-Xmx1g`), eight requests at a time.")
	b.stop()
}

// targets are how many times better a row has to be; 0 is no target.
type targets struct{ cost, rate float64 }

var none targets

// finish writes the rows so far into the record and begins anew.
func (b *bench) finish(name, words string) {
	record(b.t, name, fmt.Sprintf("%s\n%s\nMedians of %d alternating rounds, in parentheses the lowest and the highest.\n\n| what | %s | times better | target | n |\n|---|---|---|---|---|---|\n%s\n",
		conditions(b.t, "puppetserver"), words, b.rounds, strings.Join(b.names(), " | "), strings.Join(b.rows, "\n")))
	b.rows = nil
}

func (b *bench) stop() {
	for _, p := range b.peers {
		p.stop()
	}
	b.peers = nil
}

func (b *bench) names() (names []string) {
	for _, p := range b.peers {
		names = append(names, p.name)
	}
	return names
}

// makers start the servers that are compared.
func makers() []func(*testing.T, string, int) *peer {
	all := []func(*testing.T, string, int) *peer{startTroupe, startPuppetServer}
	if i := slices.Index([]string{"troupe", "puppetserver"}, *only); i >= 0 {
		all = all[i : i+1]
	}
	return all
}

// coldStarts starts each server alone, several times, and asks for one catalog. The last start is left running.
func (b *bench) coldStarts(code string, first request) {
	var ready, readyCPU, compiled, whole [][]float64
	for _, start := range makers() {
		var r, c, f, w []float64
		var p *peer
		for n := range starts {
			if p != nil {
				p.stop()
			}
			at := time.Now()
			if p == nil {
				p = start(b.t, code, 1)
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
			if n == 0 && p.name == "troupe" {
				troupetest.Eventually(b.t, time.Minute, "the member has compiled the library for its next start", func() bool {
					_, err := os.Stat(filepath.Join(p.folder, "engine", "compiled"))
					return err == nil
				})
			}
			if n > 0 {
				r, c = append(r, took.Seconds()), append(c, used.Seconds())
				f, w = append(f, one.wall.Seconds()), append(w, (took+one.wall).Seconds())
			}
		}
		ready, readyCPU, compiled, whole = append(ready, r), append(readyCPU, c), append(compiled, f), append(whole, w)
		b.peers = append(b.peers, p)
	}
	n := fmt.Sprintf("%d starts on an existing CA", starts-1)
	b.row("start to 200 on /status/v1/simple/server, s", n, 0, false, ready)
	b.row("the same, CPU s", n, 0, false, readyCPU)
	b.row("first catalog after it (web), s", n, 0, false, compiled)
	b.row("start to first catalog, s", n, 20, false, whole)
}

// warmUp compiles until a round of web costs no less than the mean of the two before it. It returns how many compiles
// the real server needed; troupe gets two rounds.
func (b *bench) warmUp(catalogs map[string]request) (compiles int) {
	for _, p := range b.peers {
		rounds := warmUps
		if p.name == "troupe" {
			rounds = 2
		}
		if testing.Short() {
			rounds = 1
		}
		var costs []float64
		compiles = 0
		for n := range rounds {
			for role, times := range map[string]int{"tiny": 20, "web": 10, "large": 5} {
				r := p.measure(b.t, role, load{workers: 1, n: times}, catalogs[role])
				compiles += times
				b.t.Logf("%s: warm-up %d, %s: %v", p.name, n+1, role, r)
				if role == "web" {
					costs = append(costs, r.cost())
				}
			}
			if i := len(costs) - 1; i >= 8 && costs[i] > (costs[i-1]+costs[i-2])/2 {
				break
			}
		}
	}
	return compiles
}

// catalogs measures each role and the geometric mean over them.
func (b *bench) catalogs(catalogs map[string]request, times ...int) {
	cost, rate := 1.0, 1.0
	for i, role := range roles {
		better := b.alternate("catalog "+role+", c=1", role, load{workers: 1, n: times[i]}, none, catalogs[role])
		cost, rate = cost*better.cost, rate*better.rate
	}
	n := 1 / float64(len(roles))
	cost, rate = math.Pow(cost, n), math.Pow(rate, n)
	for _, mean := range []struct {
		what  string
		times float64
	}{{"CPU", cost}, {"rate", rate}} {
		b.add(fmt.Sprintf("| catalogs, geometric mean over %s: %s | – | – | %.2f× | ≥ 1.5×: %s | |", strings.Join(roles, ", "), mean.what, mean.times, verdict(mean.times >= 1.5)))
	}
}

// alternate lets the servers take turns at one kind of request, after the real one has warmed up for it.
func (b *bench) alternate(what, role string, l load, want targets, r request) targets {
	for _, p := range b.peers {
		if p.name != "troupe" && r.method != http.MethodPost { // catalogs have a warm-up of their own
			p.measure(b.t, role, load{workers: l.workers, d: b.warm, fresh: l.fresh}, r)
		}
	}
	return b.turns(what, want, func(p *peer) result { return p.measure(b.t, role, l, r) })
}

func (b *bench) turns(what string, want targets, measure func(*peer) result) targets {
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
	better := targets{
		cost: b.row(what+": CPU ms each", n, want.cost, false, cost), rate: b.row(what+": rate /s", n, want.rate, true, rate),
	}
	b.row(what+": p50 ms", n, 0, false, p50)
	return better
}

func (b *bench) memory(what string, target float64) {
	var all [][]float64
	var notes []string
	for _, p := range b.peers {
		mib, processes := pss(b.t, p.folder)
		all, notes = append(all, []float64{mib}), append(notes, fmt.Sprintf("%d processes", processes))
	}
	b.row(what+", PSS MiB", strings.Join(notes, " / "), target, false, all)
}

// row adds a line: the median of the rounds and their spread on each side, and how many times better the first is.
func (b *bench) row(what, n string, target float64, more bool, sides [][]float64) (times float64) {
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
	ratio, goal := "–", ""
	if len(medians) == 2 {
		times = medians[1] / medians[0]
		if more {
			times = 1 / times
		}
		ratio = fmt.Sprintf("%.1f×", times)
		if target > 0 {
			goal = fmt.Sprintf("≥ %.3g×: %s", target, verdict(times >= target))
		}
	}
	b.add("| " + strings.Join(append(cells, ratio, goal, n), " | ") + " |")
	return times
}

func (b *bench) add(line string) {
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
