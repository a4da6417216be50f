package carrier

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"troupe/internal/journal"
)

// This file measures what a mesh of members costs: everybody waits at everybody.

// BenchmarkMesh has members write 60 agent runs a second between them (facts, catalog, compile, report: four records of 20 kB
// that compress to half), for 10 seconds, and brings each record to all others. It reports the CPU time of all members for a
// record that came, and the bound below which 99 % of the records were on another member's disk.
func BenchmarkMesh(b *testing.B) {
	for _, n := range []int{2, 4, 8, 16} {
		b.Run(fmt.Sprint(n, " members"), func(b *testing.B) {
			nodes := make([]*node, n)
			for i := range nodes {
				nodes[i] = newNode(b)
			}
			for i, one := range nodes {
				var others []*node
				for k, other := range nodes {
					if i != k {
						others = append(others, other)
					}
				}
				one.knows(others...)
			}
			for b.Loop() {
				mesh(b, nodes, 10*time.Second)
			}
		})
	}
}

func mesh(b *testing.B, nodes []*node, load time.Duration) {
	b.Helper()
	const perSecond = 60 * 4
	body := append(make([]byte, 10_000), bytes.Clone(noise(10_000))...)
	came, slow := delays(b, nodes)
	cpu := used(b)
	var writing sync.WaitGroup
	for _, one := range nodes {
		writing.Go(func() {
			tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond * float64(len(nodes))))
			defer tick.Stop()
			for begin := time.Now(); time.Since(begin) < load; <-tick.C {
				if _, err := one.j.Append(b.Context(), journal.Draft{Stream: journal.Bulk, Kind: "x", Key: "y", Body: body}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	writing.Wait()
	same(b, nodes...)
	cpu = used(b) - cpu
	nowCame, nowSlow := delays(b, nodes)
	came = nowCame - came
	b.ReportMetric(float64(cpu.Microseconds())/float64(came), "cpu-µs/record")
	for i, bound := range bounds(b, nodes) {
		if float64(nowSlow[i]-slow[i]) >= 0.99*float64(came) {
			b.ReportMetric(bound*1000, "p99-ms")
			break
		}
	}
	b.ReportMetric(float64(came)/load.Seconds(), "records/s")
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(p)
	return p
}

// used is the CPU time of this process.
func used(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const delayName = "troupe_journal_import_delay_seconds"

// delays counts records that came, all of them and those within each bound.
func delays(b *testing.B, nodes []*node) (came uint64, within []uint64) {
	b.Helper()
	for _, n := range nodes {
		families, err := n.metrics.Gather()
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != delayName {
				continue
			}
			h := f.GetMetric()[0].GetHistogram()
			came += h.GetSampleCount()
			if within == nil {
				within = make([]uint64, len(h.GetBucket()))
			}
			for i, bucket := range h.GetBucket() {
				within[i] += bucket.GetCumulativeCount()
			}
		}
	}
	return came, within
}

func bounds(b *testing.B, nodes []*node) (all []float64) {
	b.Helper()
	families, err := nodes[0].metrics.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == delayName {
			for _, bucket := range f.GetMetric()[0].GetHistogram().GetBucket() {
				all = append(all, bucket.GetUpperBound())
			}
		}
	}
	return all
}
