//go:build bench

package bench

// This file lets a member work for an hour while everything around it changes.

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// sample is the state of the member at one moment.
type sample struct {
	minutes                            float64
	runs, pss, files, goroutines, data float64
}

// soak is one long load.
type soak struct {
	*site

	t       *testing.T
	length  time.Duration
	age     time.Duration // for which reports are kept
	random  *rand.Rand
	kills   int
	changes int

	mu   sync.Mutex
	sent map[string]time.Time // transactions whose report was taken, and when
	done int
}

// TestSoak measures the capacity for a minute and then puts 80 % of it on the member, with workers that are replaced
// often, a worker killed now and then, and new code every minute.
func TestSoak(t *testing.T) {
	prefer(t)
	nodes, calibration := count(t, "NODES", 10000), time.Minute
	if testing.Short() {
		nodes, calibration = count(t, "NODES", 500), 10*time.Second
	}
	seed := uint64(count(t, "SEED", int(time.Now().Unix())))
	s := &soak{t: t, length: length(t, time.Hour), random: rand.New(rand.NewPCG(seed, 0)), sent: map[string]time.Time{}}
	s.age = max(s.length/6, time.Minute)
	t.Logf("seed %d (SEED=%d repeats the choices); %v of load, reports are kept for %v", seed, seed, s.length, s.age)
	s.site = startSite(t, nodes, "tiny", fmt.Sprintf(
		"engine: { max_requests: 100 }\nstore: { reports: { age: %v }, journal_age: %v, compiles: { count: 3 } }\n",
		s.age, s.age), fakeagent.Puppet8, fakeagent.Puppet7)

	s.run(t, "warm-up", fakeagent.Fleet{Agents: s.agents, Duration: calibration / 3})
	calm := s.run(t, "capacity", fakeagent.Fleet{Agents: s.agents, Duration: calibration})
	rate := 0.8 * calm.Goodput()
	if rate <= 0 {
		t.Fatalf("no run succeeded: %v", calm.Problems)
	}
	interval := time.Duration(float64(nodes) / rate * float64(time.Second))
	t.Logf("capacity %.2f runs/s; 80 %% of it is a run of each of %d nodes every %v", calm.Goodput(), nodes, interval.Round(time.Second))

	var disturb sync.WaitGroup
	stop := make(chan struct{})
	var samples []sample
	disturb.Go(func() { samples = s.watch(stop) })
	disturb.Go(func() { s.disturb(stop) })
	// An interval longer than the load would leave some nodes out, and that is as it should be.
	result := s.run(t, "soak", fakeagent.Fleet{Agents: s.agents, Duration: s.length, Interval: interval, Observe: s.observe})
	close(stop)
	disturb.Wait()
	s.conclude(calm, rate, result, samples)
}

func (s *soak) observe(r fakeagent.RunResult, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	if r.ReportSent {
		s.sent[r.TransactionUUID] = time.Now()
	}
	if len(r.Failures) > 0 {
		s.t.Errorf("run of %s: %s", r.Certname, strings.Join(r.Failures, "; "))
	}
}

// watch takes a sample now and then until it is told to stop.
func (s *soak) watch(stop <-chan struct{}) (samples []sample) {
	every := max(s.length/360, 2*time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	begin, last := time.Now(), 0
	for {
		select {
		case <-stop:
			return samples
		case <-tick.C:
		}
		mib, _ := pss(s.t, s.Data)
		member, _ := s.processes(s.t)
		s.mu.Lock()
		done := s.done
		for id, at := range s.sent { // what is older need not be found any more
			if time.Since(at) > 2*s.age {
				delete(s.sent, id)
			}
		}
		s.mu.Unlock()
		samples = append(samples, sample{
			minutes: time.Since(begin).Minutes(), runs: float64(done-last) / every.Seconds(), pss: mib,
			files: float64(openFiles(s.t, member)), goroutines: s.gauge(s.t, "go_goroutines"), data: folderSize(s.t, s.Data),
		})
		last = done
	}
}

// disturb changes the code every minute and kills a worker every 10 to 30 seconds.
func (s *soak) disturb(stop <-chan struct{}) {
	change := time.NewTicker(time.Minute)
	defer change.Stop()
	for {
		kill := time.NewTimer(10*time.Second + time.Duration(s.random.Int64N(int64(20*time.Second))))
		select {
		case <-stop:
			kill.Stop()
			return
		case <-change.C:
			kill.Stop()
			s.change()
		case <-kill.C:
			s.kill()
		}
	}
}

func (s *soak) kill() {
	_, workers := s.processes(s.t)
	if len(workers) == 0 {
		return
	}
	slices.Sort(workers)
	pid := workers[s.random.IntN(len(workers))]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !gone(err) {
		s.t.Error(err)
		return
	}
	s.kills++
	s.t.Logf("killed worker %d", pid)
}

// change replaces a manifest in one step, as deploy tools do.
func (s *soak) change() {
	s.changes++
	if err := release(s.Environments, s.changes); err != nil {
		s.t.Error(err)
	}
}

// conclude holds what must be true after the load, and writes the record.
func (s *soak) conclude(calm fakeagent.FleetResult, rate float64, r fakeagent.FleetResult, samples []sample) {
	t := s.t
	if r.Succeeded != r.Runs || r.Runs == 0 {
		t.Errorf("%d of %d runs did not succeed: %v", r.Runs-r.Succeeded, r.Runs, r.Problems)
	}
	checked, lost, twice := s.checkReports()
	verified := strings.TrimSpace(s.MustCLI("journal", "verify"))

	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%v of load, %d nodes (half 8.10, half 7.23) of the role tiny, %.2f runs/s begun, which is 80 %% of the capacity of %.2f/s measured before. ",
		conditions(t), s.length, len(s.agents), rate, calm.Goodput())
	fmt.Fprintf(&b, "Workers are replaced after 100 compiles; reports and journal records are kept for %v. %d workers were killed with SIGKILL, %d times new code came.\n\n", s.age, s.kills, s.changes)
	b.WriteString("| what | figure | |\n|---|---|---|\n")
	fmt.Fprintf(&b, "| runs that succeeded | %d of %d (%.2f/s); %d nodes missed a turn | %s |\n", r.Succeeded, r.Runs, r.Goodput(), r.Missed, verdict(r.Succeeded == r.Runs))
	fmt.Fprintf(&b, "| a run: p50, p99, max | %v, %v, %v | |\n", r.Run.P50.Round(time.Millisecond), r.Run.P99.Round(time.Millisecond), r.Run.Max.Round(time.Millisecond))
	fmt.Fprintf(&b, "| reports of the last %v: lost, stored twice | %d, %d of %d | %s |\n", s.age/2, lost, twice, checked, verdict(lost+twice == 0))
	for _, series := range []struct {
		name  string
		value func(sample) float64
		slack float64
	}{
		{"memory of the tree, PSS MiB", func(x sample) float64 { return x.pss }, 32},
		{"open files of the member", func(x sample) float64 { return x.files }, 30},
		{"goroutines", func(x sample) float64 { return x.goroutines }, 40},
		{"data folder, MiB", func(x sample) float64 { return x.data }, 32},
	} {
		early, late := level(samples, series.value)
		grown := late > 1.15*early+series.slack
		fmt.Fprintf(&b, "| %s: second quarter, last quarter (medians) | %s, %s | %s |\n", series.name, number(early), number(late), verdict(!grown))
		if grown && s.length >= 20*time.Minute {
			t.Errorf("%s grew from %s to %s", series.name, number(early), number(late))
		}
	}
	fmt.Fprintf(&b, "| journal | %s | %s |\n", verified, verdict(true))
	s.draw(samples)
	record(t, "soak", b.String()+"\n![an hour at 80 % load](soak.svg)\n")
}

// checkReports looks whether each report that was taken is stored once. Only those are looked for that are too young
// to have been deleted.
func (s *soak) checkReports() (checked, lost, twice int) {
	stored := s.reports(s.t)
	for id, at := range s.sent {
		if time.Since(at) > s.age/2 {
			continue
		}
		checked++
		switch stored[id] {
		case 0:
			lost++
		case 1:
		default:
			twice++
		}
	}
	if checked == 0 || lost+twice > 0 {
		s.t.Errorf("of %d reports %d are lost and %d stored more than once", checked, lost, twice)
	}
	s.t.Logf("%d reports are stored in all", len(stored))
	return checked, lost, twice
}

// level is the median in the second and in the last quarter.
func level(samples []sample, value func(sample) float64) (early, late float64) {
	median := func(part []sample) float64 {
		if len(part) == 0 {
			return 0
		}
		var list []float64
		for _, x := range part {
			list = append(list, value(x))
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	n := len(samples)
	return median(samples[n/4 : n/2]), median(samples[n*3/4:])
}

func (s *soak) draw(samples []sample) {
	p := picture{title: fmt.Sprintf("troupe: %v at 80 %% load", s.length), axis: "minutes"}
	for _, series := range []struct {
		title string
		value func(sample) float64
	}{
		{"runs each second", func(x sample) float64 { return x.runs }},
		{"memory of the tree, PSS, MiB", func(x sample) float64 { return x.pss }},
		{"open files of the member", func(x sample) float64 { return x.files }},
		{"goroutines", func(x sample) float64 { return x.goroutines }},
		{"data folder, MiB", func(x sample) float64 { return x.data }},
	} {
		one := panel{title: series.title}
		for _, x := range samples {
			one.x, one.y = append(one.x, x.minutes), append(one.y, series.value(x))
		}
		p.panels = append(p.panels, one)
	}
	p.write(s.t, "soak.svg")
}
