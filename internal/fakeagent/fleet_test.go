package fakeagent

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPercentilesAreExactToAFewPerCent(t *testing.T) {
	h := new(histogram)
	for i := range 10000 {
		h.add(time.Duration(i+1) * 137 * time.Microsecond)
	}
	got := h.latency()
	for name, pair := range map[string][2]time.Duration{
		"p50": {got.P50, 5000 * 137 * time.Microsecond},
		"p90": {got.P90, 9000 * 137 * time.Microsecond},
		"p99": {got.P99, 9900 * 137 * time.Microsecond},
		"max": {got.Max, 10000 * 137 * time.Microsecond},
	} {
		if off := float64(pair[0])/float64(pair[1]) - 1; off > 0.02 || off < -0.02 {
			t.Errorf("%s is %v, want about %v", name, pair[0], pair[1])
		}
	}
	if got.Count != 10000 {
		t.Errorf("count is %d, want 10000", got.Count)
	}
}

func TestEveryDurationHasItsBucketInOrder(t *testing.T) {
	last := -1
	for us := range 200000 {
		b := bucketOf(time.Duration(us) * time.Microsecond)
		if b != last && b != last+1 {
			t.Fatalf("%d µs is in bucket %d, after %d", us, b, last)
		}
		last = b
	}
}

func TestARunSucceedsOnlyWithTheServersCatalogAndItsReport(t *testing.T) {
	good := RunResult{Certname: "a.example.test", Status: "changed", ReportSent: true}
	cached, unreported, failed := good, good, good
	cached.CachedCatalog = true
	cached.Failures = []string{"GET /puppet/v3/node/a.example.test after 1.5s: the connection was cut: EOF"}
	unreported.ReportSent = false
	failed.Status = "failed"

	tally := newTally(time.Now(), nil)
	for _, r := range []RunResult{good, cached, cached, unreported, failed} {
		tally.begin()
		tally.end(r, nil)
	}
	tally.begin()
	tally.end(good, errors.New("no certificate"))
	got := tally.result()

	if got.Runs != 6 || got.Succeeded != 1 || got.Failed != 2 || got.Cached != 2 || got.Unreported != 1 || got.Running != 0 {
		t.Errorf("runs %d, succeeded %d, failed %d, cached %d, unreported %d, running %d, want 6, 1, 2, 2, 1, 0",
			got.Runs, got.Succeeded, got.Failed, got.Cached, got.Unreported, got.Running)
	}
	if n := got.Problems["GET /puppet/v3/node/NODE: the connection was cut: EOF"]; n != 2 {
		t.Errorf("the same problem of two runs counts %d times: %v", n, got.Problems)
	}
}

// unreachable is a node whose runs fail at once: the tests below look at when runs begin.
func unreachable(t *testing.T, name string) *Agent {
	t.Helper()
	a, err := New(name, "127.0.0.1:1", Options{Dial: refuse})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func refuse(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }

func TestRunsOfAFleetBeginWhenTheyShould(t *testing.T) {
	const nodes = 200
	for name, row := range map[string]struct {
		fleet      Fleet
		runs       int
		atLeast    time.Duration
		mostAtOnce int
	}{
		"a herd":                     {Fleet{}, nodes, 0, nodes},
		"spread over a splay":        {Fleet{Splay: time.Minute}, nodes, 50 * time.Second, 30},
		"again and again, evenly":    {Fleet{Duration: 10 * time.Minute, Interval: 2 * time.Minute}, 5 * nodes, 9 * time.Minute, 15},
		"a splay longer than a load": {Fleet{Duration: time.Minute, Interval: time.Minute}, nodes, 50 * time.Second, 30},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for i := range nodes {
					row.fleet.Agents = append(row.fleet.Agents, unreachable(t, "node"+string(rune('a'+i%26))))
				}
				got := row.fleet.Run(t.Context())
				if got.Runs != row.runs || got.Failed != row.runs || got.Missed != 0 {
					t.Errorf("%d runs, %d failed, %d missed, want %d failed runs", got.Runs, got.Failed, got.Missed, row.runs)
				}
				if got.Took < row.atLeast {
					t.Errorf("took %v, want %v at least", got.Took, row.atLeast)
				}
				for i, s := range got.Seconds {
					if s.Begun > row.mostAtOnce {
						t.Errorf("%d runs begin in second %d, want %d at most", s.Begun, i, row.mostAtOnce)
					}
				}
			})
		})
	}
}

func TestFactsOfATemplateNameTheirNode(t *testing.T) {
	template, err := NewFactsTemplate([]byte(`{"name":"x","values":{"os":{"family":"Debian"},"fqdn":"old.example.test","networking":{"ip":"192.0.2.1","hostname":"old"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		FQDN       string `json:"fqdn"`
		ClientCert string `json:"clientcert"`
		Networking struct{ FQDN, Hostname, IP string }
		OS         struct{ Family string }
	}
	if err := json.Unmarshal(template.For("web1.example.test"), &got); err != nil {
		t.Fatal(err)
	}
	if got.FQDN != "web1.example.test" || got.ClientCert != got.FQDN || got.Networking.FQDN != got.FQDN ||
		got.Networking.Hostname != "web1" || got.Networking.IP != "192.0.2.1" || got.OS.Family != "Debian" {
		t.Errorf("facts are %+v", got)
	}
	if strings.Contains(string(template.For("web1.example.test")), "old") {
		t.Error("the old name is left")
	}
	if _, err := NewFactsTemplate([]byte(`[1]`)); err == nil {
		t.Error("a list is taken for facts")
	}
}
