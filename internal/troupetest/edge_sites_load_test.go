//go:build long

package troupetest

// This file has agents that run without pause through the service address, and a client that opens new connections all the time.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"troupe/internal/fakeagent"
)

// A pastRun is one run of an agent.
type pastRun struct {
	name       string
	begin, end time.Time
	broken     string // why it counts as broken; "" if all went well
	result     fakeagent.RunResult
}

const clock = "15:04:05.000"

// String has its requests with their times.
func (r pastRun) String() string {
	text := fmt.Sprintf("run of %s from %s to %s broke: %s", r.name, r.begin.Format(clock), r.end.Format(clock), r.broken)
	for _, q := range r.result.Requests {
		text += fmt.Sprintf("; %s %s %d on connection %d in %v", q.Start.Format(clock), q.Kind, q.Status, q.Connection, q.Took.Round(time.Millisecond))
	}
	return text
}

// traffic is all that agents and the client saw.
type traffic struct {
	s    *EdgeSites
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	runs  []pastRun
	asked []asked
}

// readMost is how long an agent of these stories waits for an answer. Real ones wait ten minutes: an answer that vanished on its way
// breaks the run of either, later.
const readMost = 15 * time.Second

// startTraffic lets n agents run one run after the other, and a client open a connection every 20 ms, until [traffic.end].
func (s *EdgeSites) startTraffic(agents []*fakeagent.Agent) *traffic {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	tr := &traffic{s: s, stop: stop}
	for _, a := range agents {
		tr.done.Go(func() { tr.work(ctx, a) })
	}
	tr.done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			tr.done.Go(func() {
				one := s.ask(serviceAddress + ":8140")
				tr.mu.Lock()
				defer tr.mu.Unlock()
				tr.asked = append(tr.asked, one)
			})
		}
	})
	return tr
}

// agents makes agents that know the service address.
func (s *EdgeSites) agents(n int, prefix string) (all []*fakeagent.Agent) {
	s.t.Helper()
	for i := range n {
		g := []fakeagent.Generation{fakeagent.Puppet7, fakeagent.Puppet8, fakeagent.OpenVox9}[i%3]
		a, err := fakeagent.New(fmt.Sprintf("%s%d.example.test", prefix, i), serviceAddress+":8140", fakeagent.Options{
			Generation: g, ServerName: serviceName, WaitForCert: time.Second, Dial: s.Clients.DialAsAgents, ReadTimeout: readMost,
		})
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// work lets an agent run until ctx ends; the last run is finished.
func (tr *traffic) work(ctx context.Context, a *fakeagent.Agent) {
	f := fakeagent.Fleet{Agents: []*fakeagent.Agent{a}}
	f.Observe = func(r fakeagent.RunResult, err error) {
		one := pastRun{name: a.Certname(), begin: time.Now().Add(-r.Took), end: time.Now(), result: r}
		switch {
		case err != nil:
			one.broken = err.Error()
		case r.Status == "failed", r.CachedCatalog, !r.ReportSent, len(r.Failures) > 0:
			one.broken = fmt.Sprintf("status %s, cached %v, report sent %v: %s", r.Status, r.CachedCatalog, r.ReportSent, strings.Join(r.Failures, "; "))
		}
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.runs = append(tr.runs, one)
	}
	for ctx.Err() == nil {
		f.Run(context.WithoutCancel(ctx))
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(600 * time.Millisecond)):
		}
	}
}

// end waits for all runs that are under way.
func (tr *traffic) end() { tr.stop(); tr.done.Wait() }

// broken are the runs that began after a time and did not go well, and how many there were at all.
func (tr *traffic) broken(since time.Time) (bad []pastRun, all int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, r := range tr.runs {
		if r.begin.Before(since) {
			continue
		}
		all++
		if r.broken != "" {
			bad = append(bad, r)
		}
	}
	return bad, all
}

// An asked is one new connection with one request.
type asked struct {
	begin  time.Time
	took   time.Duration
	serial string // of the certificate of the edge that answered
	err    error
}

// askMost is how long the client waits.
const askMost = 10 * time.Second

// ask opens a connection from the agents' machine, and fetches what agents fetch before they have a certificate.
func (s *EdgeSites) ask(address string) asked {
	one := asked{begin: time.Now()}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), askMost)
	defer cancel()
	h := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: serviceName}, // as an agent's first request
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.Clients.DialAsAgents(ctx, network, address)
		},
	}}
	one.err = func() error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/puppet-ca/v1/certificate/ca", nil)
		if err != nil {
			return err
		}
		response, err := h.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", response.Status)
		}
		one.serial = response.TLS.PeerCertificates[0].SerialNumber.Text(16)
		return nil
	}()
	one.took = time.Since(one.begin)
	return one
}

// A seen is what the client saw of connections that it began within a time.
type seen struct {
	all, failed int
	last        time.Duration // since then until the last connection that failed was begun
	good        time.Duration // since then until the first good answer of a connection begun later; of the given edge, if one is given
	slowest     time.Duration
	by          map[string]int // answers by edge
	why         map[string]int
}

func (tr *traffic) seen(since, until time.Time, by *SiteEdge) seen {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := seen{by: map[string]int{}, why: map[string]int{}}
	for _, a := range tr.asked {
		if a.begin.Before(since) || !a.begin.Before(until) {
			continue
		}
		n.all++
		at := a.begin.Sub(since)
		if a.err != nil {
			n.failed++
			n.last = max(n.last, at)
			n.why[lastWords(a.err)]++
			continue
		}
		n.slowest = max(n.slowest, a.took)
		for _, e := range tr.s.Edges {
			if e.Serial == a.serial {
				n.by[e.Site]++
			}
		}
		if end := at + a.took; (by == nil || by.Serial == a.serial) && (n.good == 0 || end < n.good) {
			n.good = end
		}
	}
	return n
}

// lastWords is the cause without addresses.
func lastWords(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+1:]
}

func (n seen) String() string {
	return fmt.Sprintf("%d new connections, %d failed, the last %v after; first good answer %v after; slowest %v; by edge %v; causes %v",
		n.all, n.failed, n.last.Round(time.Millisecond), n.good.Round(time.Millisecond), n.slowest.Round(time.Millisecond), n.by, n.why)
}
