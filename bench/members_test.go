//go:build bench

package bench

// This file measures what a second member costs, and what it is good for.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/fakeagent"
	"troupe/internal/troupetest"
)

// TestMembers lets nodes run at one member, a second one join, and both serve.
func TestMembers(t *testing.T) {
	prefer(t)
	nodes, load, absence, signs, revocations := 10000, time.Minute, 5*time.Minute, 300, 50
	if testing.Short() {
		nodes, load, absence, signs, revocations = 100, 10*time.Second, 10*time.Second, 30, 5
	}
	_, port := troupetest.MemberPort(t)
	first := startSite(t, nodes, "tiny", port+"ca: { autosign: true }\n", fakeagent.Puppet8)
	all := first.run(t, "first runs", fakeagent.Fleet{Agents: first.agents, AtOnce: 8})
	alone := first.signs(t, "alone", signs)

	first.MustCLI("init")
	_, otherPort := troupetest.MemberPort(t)
	metrics := freeAddress(t)
	config := otherPort + "metrics: { listen: \"" + metrics + "\" }\n"
	begin := time.Now()
	data := troupetest.Join(t, first.Server, "west", "west.example.test", config)
	joined := time.Since(begin)
	second := &site{metrics: metrics, Server: troupetest.StartServer(t, troupetest.ServerOptions{Certname: "west.example.test", Data: data, Config: config, Environments: environments(t)})}
	serving := time.Since(begin)
	both := first.signs(t, "both", signs)

	before, beforeAll := second.delays(t)
	interval := time.Duration(float64(len(first.agents)) / 60 * float64(time.Second))
	r := first.run(t, "60 runs/s", fakeagent.Fleet{Agents: first.agents, Duration: load, Interval: interval})
	after, afterAll := second.delays(t)
	p50, p99 := quantile(before, after, afterAll-beforeAll, 0.5), quantile(before, after, afterAll-beforeAll, 0.99)
	mib, _ := pss(t, first.Data)
	otherMiB, _ := pss(t, second.Data)
	goMiB, otherGoMiB := first.ownPSS(t), second.ownPSS(t)
	revoked := first.revocations(t, second, revocations)
	missed, caughtUp, ahead := first.catchUp(t, second, fakeagent.Fleet{Agents: first.agents, Duration: absence, Interval: interval})

	text := fmt.Sprintf(`%s
Two members on this machine, one per site. %d nodes (generation 8.10, role tiny) have run once at the first, which has then %d
records. The age of a record is its time at the first member until it is on the disk of the second, from a histogram whose buckets
double; the load is %.1f runs/s at the first member. Memory is proportional set size.

| what | figure | target |
|---|---|---|
| a fresh machine joins: its journal has everything | %.1f s | |
| it serves | %.1f s | < 60 s: %s |
| age of a record at the other member: p50, p99 | ≤ %v, ≤ %v (n = %.0f) | p99 < 250 ms: %s |
| runs that succeeded | %d of %d | |
| a certificate, alone: p50, p99 | %v, %v (n = %d) | |
| a certificate, with one more copy: p50, p99 | %v, %v (n = %d) | p99 < 50 ms: %s |
| a certificate that was revoked at the first is refused at the second: p50, p99 | %v, %v (n = %d) | 1 s: %s |
| the second was away for %v of that load: the %d records that it missed are in its journal and its tables after | %.1f s, %.0f × as fast as they came | ≥ 20 ×: %s |
| memory of first and second member without Ruby, PSS MiB | %s, %s | ≤ 200: %s |
| with Ruby | %s, %s | |
`, conditions(t), nodes, first.lastRecord(t), r.Goodput(), joined.Seconds(), serving.Seconds(), verdict(serving < time.Minute),
		p50, p99, afterAll-beforeAll, verdict(p99 < 250*time.Millisecond), r.Succeeded, r.Runs,
		rank(alone, 0.5), rank(alone, 0.99), len(alone), rank(both, 0.5), rank(both, 0.99), len(both), verdict(rank(both, 0.99) < 50*time.Millisecond),
		rank(revoked, 0.5), rank(revoked, 0.99), len(revoked), verdict(rank(revoked, 1) < time.Second),
		absence, missed, caughtUp.Seconds(), ahead, verdict(ahead >= 20),
		number(goMiB), number(otherGoMiB), verdict(max(goMiB, otherGoMiB) <= 200), number(mib), number(otherMiB))
	if r.Succeeded != r.Runs || all.Succeeded != all.Runs {
		t.Errorf("%d runs did not succeed: %v %v", r.Runs-r.Succeeded+all.Runs-all.Succeeded, r.Problems, all.Problems)
	}
	record(t, "members", text)
}

// signs sends requests one after the other, each of which is signed at once, and returns how long each took.
func (s *site) signs(t *testing.T, word string, n int) (took []time.Duration) {
	t.Helper()
	client := s.Client()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("signed-%s-%d.example.test", word, i)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
		if err != nil {
			t.Fatal(err)
		}
		body := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL("/puppet-ca/v1/certificate_request/"+name), bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "text/plain")
		begin := time.Now()
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", name, answer.Status)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took
}

// revocations revokes certificates at one member and returns how long another one goes on taking each: from the answer of the
// revocation to the first refused handshake.
func (s *site) revocations(t *testing.T, other *site, n int) (took []time.Duration) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("revoked-%d.example.test", i)
		identity := s.Generate(name)
		s.MustCLI("ca", "revoke", "--certname", name)
		begin := time.Now()
		for limit := begin.Add(time.Minute); ; {
			client := other.Client(identity)
			answer, err := client.Get(other.URL("/puppet/v3/node/" + name))
			client.CloseIdleConnections()
			if err != nil {
				break
			}
			answer.Body.Close()
			if time.Now().After(limit) {
				t.Fatalf("%s is taken a minute after it was revoked", name)
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took
}

// catchUp stops the other member, lets agents run here, starts it again, and returns how many records it had missed, how long it
// took from the start of its process until they were in its journal and its tables, and how many times faster that was than they
// had come.
func (s *site) catchUp(t *testing.T, other *site, load fakeagent.Fleet) (missed int, took time.Duration, ahead float64) {
	t.Helper()
	other.Stop()
	before := s.lastRecord(t)
	began := time.Now()
	s.run(t, "while the other is away", load)
	came := time.Since(began)
	missed = s.lastRecord(t) - before
	var watching sync.WaitGroup
	begin := time.Now()
	watching.Go(func() { took = other.hasAll(t, begin, missed) })
	other.Start()
	watching.Wait()
	return missed, took, came.Seconds() / took.Seconds()
}

// hasAll waits until a member that is starting has imported and folded as many records, and returns how long it took.
func (s *site) hasAll(t *testing.T, begin time.Time, records int) time.Duration {
	for {
		all, err := readMetrics(s.metrics) // its port opens before it serves agents
		if err == nil && min(all["troupe_journal_imported_records_total"], all["troupe_store_folded_total"]) >= float64(records) {
			return time.Since(begin)
		}
		if time.Since(begin) > 10*time.Minute {
			t.Errorf("after %v it has imported %v and folded %v of %d records: %v", time.Since(begin), all["troupe_journal_imported_records_total"], all["troupe_store_folded_total"], records, err)
			return time.Since(begin)
		}
		<-time.After(50 * time.Millisecond) // each look costs the member some milliseconds of the CPU that it catches up with
	}
}

// ownPSS is the memory of the member's own process.
func (s *site) ownPSS(t *testing.T) float64 {
	t.Helper()
	pid, _ := s.processes(t)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nPss:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return float64(kb) / 1024
}

func rank(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))].Round(100 * time.Microsecond)
}

// delays reads the histogram of how old records were when this member took them: counts up to each bound in seconds.
func (s *site) delays(t *testing.T) (upTo map[float64]float64, all float64) {
	t.Helper()
	const name = "troupe_journal_import_delay_seconds"
	upTo = map[float64]float64{}
	for bound := 0.001; bound < 600; bound *= 2 {
		upTo[bound] = s.gauge(t, fmt.Sprintf("%s_bucket{le=%q}", name, strconv.FormatFloat(bound, 'g', -1, 64)))
	}
	return upTo, s.gauge(t, name+"_count")
}

// quantile is the bound below which a share of what came between two readings lies.
func quantile(before, after map[float64]float64, n, share float64) time.Duration {
	for bound := 0.001; bound < 600; bound *= 2 {
		if after[bound]-before[bound] >= share*n {
			return time.Duration(bound * float64(time.Second))
		}
	}
	return time.Hour
}

// lastRecord is the number of records in the journal.
func (s *site) lastRecord(t *testing.T) int {
	t.Helper()
	var v struct{ Records int }
	s.JSON(&v, "journal", "verify")
	return v.Records
}
