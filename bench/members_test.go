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
	"slices"
	"strconv"
	"testing"
	"time"

	"troupe/internal/fakeagent"
	"troupe/internal/troupetest"
)

// TestMembers lets nodes run at one member, a second one join, and both serve.
func TestMembers(t *testing.T) {
	prefer(t)
	nodes, load, signs := 10000, time.Minute, 300
	if testing.Short() {
		nodes, load, signs = 100, 10*time.Second, 30
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

	text := fmt.Sprintf(`%s
Two members on this machine, one per site. %d nodes (generation 8.10, role tiny) have run once at the first, which has then %d
records. The age of a record is its time at the first member until it is on the disk of the second, from a histogram whose buckets
double; the load is %.1f runs/s at the first member. Memory counts Ruby.

| what | figure | target |
|---|---|---|
| a fresh machine joins: its journal has everything | %.1f s | |
| it serves | %.1f s | < 60 s: %s |
| age of a record at the other member: p50, p99 | ≤ %v, ≤ %v (n = %.0f) | p99 < 250 ms: %s |
| runs that succeeded | %d of %d | |
| a certificate, alone: p50, p99 | %v, %v (n = %d) | |
| a certificate, with one more copy: p50, p99 | %v, %v (n = %d) | p99 < 50 ms: %s |
| memory of first and second member, PSS MiB | %s, %s | |
`, conditions(t), nodes, first.lastRecord(t), r.Goodput(), joined.Seconds(), serving.Seconds(), verdict(serving < time.Minute),
		p50, p99, afterAll-beforeAll, verdict(p99 < 250*time.Millisecond), r.Succeeded, r.Runs,
		rank(alone, 0.5), rank(alone, 0.99), len(alone), rank(both, 0.5), rank(both, 0.99), len(both), verdict(rank(both, 0.99) < 50*time.Millisecond),
		number(mib), number(otherMiB))
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
