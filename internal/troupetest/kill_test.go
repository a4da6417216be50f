package troupetest

// This file kills the member at any instant and counts what it had acknowledged.

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAReportSentTwiceIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Autosign: true})
	a := enrolled(t, s, Puppet7, "twice.example.test")
	reports := s.Reports(a.Certname)
	if len(reports) != 1 {
		t.Fatalf("%d reports after one run", len(reports))
	}
	var stored struct {
		Raw json.RawMessage `json:"raw"`
	}
	s.JSON(&stored, "report", "show", reports[0].ID)

	c := caller{s: s, client: s.Client(a.Identity())}
	for range 2 {
		if status, err := c.put(t.Context(), "/puppet/v3/report/"+a.Certname+"?environment=production", string(stored.Raw)); status != http.StatusOK {
			t.Errorf("sent again: %d, %v", status, err)
		}
	}
	if got := s.Reports(a.Certname); len(got) != 1 {
		t.Errorf("%d reports are stored, want one: %+v", len(got), got)
	}
}

func TestNothingAcknowledgedIsLostWhenTheServerIsKilled(t *testing.T) {
	t.Parallel()
	killAndCount(t, 10)
}

// ledger is what the member has acknowledged.
type ledger struct {
	mu      sync.Mutex
	signed  []string
	reports map[string]bool // transaction_uuid
	facts   int             // the newest value acknowledged
}

func (l *ledger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

const busyNode = "busy.example.test"

// killAndCount lets three clients sign, store facts and store reports, kills the member in the middle, starts it again
// and looks for everything that it had answered.
func killAndCount(t *testing.T, rounds int) {
	t.Helper()
	s := StartServer(t, ServerOptions{})
	admin := s.Generate("admin.example.test", "--ca-client")
	node := s.Generate(busyNode)
	book := &ledger{reports: map[string]bool{}}

	for round := range rounds {
		pause := time.Duration(rand.IntN(400)) * time.Millisecond
		work(t, s, book, round, pause, admin, node)
		s.Start()
		book.check(t, s)
		if t.Failed() {
			t.Fatalf("round %d: killed after %v", round, pause)
		}
	}
	t.Logf("%d kills; kept: %d signatures, %d reports, %d facts", rounds, len(book.signed), len(book.reports), book.facts)
	s.Stop()
	s.MustCLI("journal", "verify")
}

// work runs the clients until the member is killed; each ends with the first request that fails.
func work(t *testing.T, s *Server, book *ledger, round int, pause time.Duration, admin, node tls.Certificate) {
	t.Helper()
	operator, agent := caller{s: s, client: s.Client(admin)}, caller{s: s, client: s.Client(node)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	var wg sync.WaitGroup
	for _, client := range []func(context.Context) error{
		func(ctx context.Context) error { return signMany(ctx, t, operator, book, round) },
		func(ctx context.Context) error { return storeFacts(ctx, agent, book) },
		func(ctx context.Context) error { return storeReports(ctx, agent, book, round) },
	} {
		wg.Go(func() {
			for ctx.Err() == nil && client(ctx) == nil {
				continue
			}
		})
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	<-timer.C
	s.Kill()
	wg.Wait()
}

// signMany asks for one certificate and signs it.
func signMany(ctx context.Context, t *testing.T, c caller, book *ledger, round int) error {
	t.Helper()
	name := fmt.Sprintf("k%d-%d.example.test", round, rand.Uint64())
	if status, err := c.put(ctx, "/puppet-ca/v1/certificate_request/"+name, csr(t, name)); err != nil || status != http.StatusOK {
		return fmt.Errorf("request: %d, %w", status, err)
	}
	status, err := c.put(ctx, "/puppet-ca/v1/certificate_status/"+name, `{"desired_state":"signed"}`)
	if err != nil || status != http.StatusNoContent {
		return fmt.Errorf("sign: %d, %w", status, err)
	}
	book.note(func() { book.signed = append(book.signed, name) })
	return nil
}

func storeFacts(ctx context.Context, c caller, book *ledger) error {
	next := 0
	book.note(func() { next = book.facts + 1 })
	now := time.Now().UTC().Format(time.RFC3339Nano)
	body := fmt.Sprintf(`{"name":%q,"values":{"counter":%d},"timestamp":%q,"expiration":%q}`, busyNode, next, now, now)
	status, err := c.put(ctx, "/puppet/v3/facts/"+busyNode+"?environment=production", body)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("facts: %d, %w", status, err)
	}
	book.note(func() { book.facts = next })
	return nil
}

func storeReports(ctx context.Context, c caller, book *ledger, round int) error {
	id := fmt.Sprintf("%08x-0000-4000-8000-%012x", round, rand.Uint64()>>16)
	body := fmt.Sprintf(`{"host":%q,"time":%q,"configuration_version":1,"transaction_uuid":%q,"report_format":12,`+
		`"puppet_version":"7.23.0","status":"unchanged","transaction_completed":true,"noop":false,"noop_pending":false,`+
		`"environment":"production","logs":[],"metrics":{},"resource_statuses":{},"corrective_change":false,`+
		`"catalog_uuid":%q,"cached_catalog_status":"not_used"}`, busyNode, time.Now().Format(time.RFC3339Nano), id, id)
	status, err := c.put(ctx, "/puppet/v3/report/"+busyNode+"?environment=production", body)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("report: %d, %w", status, err)
	}
	book.note(func() { book.reports[id] = true })
	return nil
}

// check looks for everything in the ledger.
func (l *ledger) check(t *testing.T, s *Server) {
	t.Helper()
	known := s.Certificates()
	for _, name := range l.signed {
		if known[name].State != "signed" {
			t.Errorf("the signature of %s was acknowledged and is lost (state %q)", name, known[name].State)
		}
	}

	if l.facts > 0 {
		var stored struct {
			Counter int `json:"counter"`
		}
		decodeFacts(t, s.MustCLI("node", "facts", busyNode), &stored)
		if stored.Counter < l.facts {
			t.Errorf("facts are those of %d, acknowledged were %d", stored.Counter, l.facts)
		}
	}

	found := map[string]bool{}
	for _, r := range s.Reports(busyNode) {
		found[r.TransactionUUID] = true
	}
	for id := range l.reports {
		if !found[id] {
			t.Errorf("the report %s was acknowledged and is lost", id)
		}
	}
}

// decodeFacts reads the values, which stand alone or under the key values.
func decodeFacts(t *testing.T, text string, to any) {
	t.Helper()
	var wrapped struct {
		Values json.RawMessage `json:"values"`
	}
	if err := json.Unmarshal([]byte(text), &wrapped); err != nil {
		t.Fatalf("node facts: %v\n%s", err, text)
	}
	values := []byte(text)
	if wrapped.Values != nil {
		values = wrapped.Values
	}
	if err := json.Unmarshal(values, to); err != nil {
		t.Fatalf("node facts: %v\n%s", err, text)
	}
}

// caller sends single requests.
type caller struct {
	s      *Server
	client *http.Client
}

// put sends a body in the format that its beginning shows.
func (c caller) put(ctx context.Context, path, body string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, c.s.URL(path), bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "text/plain")
	if strings.HasPrefix(body, "{") {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	answer, err := c.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0, err
	}
	return answer.StatusCode, nil
}
