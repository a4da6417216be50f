//go:build bench

package bench

// This file puts one kind of request to one server, and counts what it costs there.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// request is one that can be sent again and again. Its answer must be 200.
type request struct {
	method, target string
	header         []string // name, value, name, value …
	body           func() []byte
}

// load says how often a request is sent: n times, or for as long as d.
type load struct {
	workers int
	n       int
	d       time.Duration
	fresh   bool // a connection of its own for every request
}

// result is one round.
type result struct {
	n     int
	wall  time.Duration
	cpu   time.Duration // of the server
	own   time.Duration // of this process, which makes the load
	p50   time.Duration
	p90   time.Duration
	bytes int64 // of one answer, as sent
}

func (r result) rate() float64 { return float64(r.n) / r.wall.Seconds() }

// cost is the server's CPU time for each request, in milliseconds.
func (r result) cost() float64 { return r.cpu.Seconds() * 1000 / float64(r.n) }

func (r result) String() string {
	return fmt.Sprintf("n %d, %.1f/s, p50 %v, p90 %v, cpu %.2f ms each, generator %.2f ms each, %d B",
		r.n, r.rate(), r.p50.Round(10*time.Microsecond), r.p90.Round(10*time.Microsecond), r.cost(),
		r.own.Seconds()*1000/float64(r.n), r.bytes)
}

// measure puts the load of one role's node on p. The requests of several workers take turns in the list.
func (p *peer) measure(t *testing.T, role string, l load, requests ...request) result {
	t.Helper()
	var turn atomic.Int64
	times, failed := make([][]time.Duration, l.workers), make(chan error, l.workers)
	var size atomic.Int64
	var group sync.WaitGroup

	before, own, start := p.cpu(t), ownCPU(t), time.Now()
	for w := range l.workers {
		group.Go(func() {
			client := p.client(role, l.fresh)
			defer client.CloseIdleConnections()
			for {
				i := int(turn.Add(1)) - 1
				if l.n > 0 && i >= l.n || l.d > 0 && time.Since(start) > l.d {
					return
				}
				at := time.Now()
				n, err := p.ask(client, requests[i%len(requests)])
				if err != nil {
					failed <- err
					return
				}
				size.Store(n)
				times[w] = append(times[w], time.Since(at))
			}
		})
	}
	group.Wait()

	r := result{wall: time.Since(start), cpu: p.cpu(t) - before, own: ownCPU(t) - own, bytes: size.Load()}
	select {
	case err := <-failed:
		t.Fatalf("%s: %v", p.name, err)
	default:
	}
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	r.n, r.p50, r.p90 = len(all), all[len(all)/2], all[len(all)*9/10]
	return r
}

// ask sends one request and reads the answer to its end.
func (p *peer) ask(client *http.Client, r request) (int64, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body())
	}
	request, err := http.NewRequest(r.method, "https://localhost"+r.target, body)
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(r.header); i += 2 {
		request.Header.Set(r.header[i], r.header[i+1])
	}
	request.Header.Set("Accept-Encoding", "gzip;q=1.0,deflate;q=0.6,identity;q=0.3") // as agents do
	request.Header.Set("X-Puppet-Version", "7.23.0")
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(answer.Body, 2000))
		return 0, errors.Join(fmt.Errorf("%s %.100s: %s: %s", r.method, r.target, answer.Status, text), err)
	}
	return io.Copy(io.Discard, answer.Body)
}

func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
