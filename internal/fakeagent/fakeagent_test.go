package fakeagent_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"troupe/internal/fakeagent"
)

func sortedCopy(s []string) []string { return slices.Sorted(slices.Values(s)) }

func newAgent(t *testing.T, s *stub, o fakeagent.Options) *fakeagent.Agent {
	t.Helper()
	agent, err := fakeagent.New(node, s.address(), o)
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

func mustRun(t *testing.T, agent *fakeagent.Agent) fakeagent.RunResult {
	t.Helper()
	result, err := agent.Run(t.Context())
	if err != nil {
		t.Fatalf("run: %v (failures %q)", err, result.Failures)
	}
	return result
}

// cutConnection ends the connection instead of answering.
func cutConnection(t *testing.T, w http.ResponseWriter) {
	t.Helper()
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_ = conn.Close()
}

// on answers every request whose path contains part with h.
func (s *stub) on(part string, h func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		return strings.Contains(r.URL.Path, part) && h(w, r)
	}
}

func TestACutRequestIsNotSentAgain(t *testing.T) {
	for _, kind := range []string{"catalog", "report", "file_metadatas", "file_content"} {
		t.Run(kind, func(t *testing.T) {
			s := siteStub(t)
			agent := newAgent(t, s, fakeagent.Options{NoCacheOnFail: true})
			var cuts atomic.Int32
			s.on("/puppet/v3/"+kind, func(w http.ResponseWriter, _ *http.Request) bool {
				if cuts.Add(1) > 1 {
					return false
				}
				cutConnection(t, w)
				return true
			})
			result, err := agent.Run(t.Context())
			if len(result.Failures) == 0 {
				t.Errorf("a cut %s left no failure (err %v)", kind, err)
			}
			cutTargets := 0
			for _, q := range result.Requests {
				if errors.Is(q.Err, fakeagent.ErrCut) {
					cutTargets++
				}
			}
			if cutTargets != 1 {
				t.Errorf("%d requests were cut, want exactly the first %s", cutTargets, kind)
			}
		})
	}
}

func TestPuppet5SendsACutGetOnceMore(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{Generation: fakeagent.Puppet5})
	var cuts atomic.Int32
	s.on("/puppet/v3/node/", func(w http.ResponseWriter, _ *http.Request) bool {
		if cuts.Add(1) > 1 {
			return false
		}
		cutConnection(t, w)
		return true
	})
	result := mustRun(t, agent)
	if got := result.Count("node"); got != 2 || len(result.Failures) > 0 {
		t.Errorf("node was asked %d times with failures %q, want twice and none", got, result.Failures)
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	for _, c := range []struct {
		generation fakeagent.Generation
		status     int
	}{
		{fakeagent.Puppet5, http.StatusServiceUnavailable},
		{fakeagent.Puppet8, http.StatusServiceUnavailable},
		{fakeagent.Puppet8, http.StatusTooManyRequests},
		{fakeagent.OpenVox9, http.StatusServiceUnavailable},
	} {
		s := siteStub(t)
		agent := newAgent(t, s, fakeagent.Options{Generation: c.generation})
		var refused atomic.Int32
		s.on("/catalog/", func(w http.ResponseWriter, _ *http.Request) bool {
			if refused.Add(1) > 3 {
				return false
			}
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(c.status)
			return true
		})
		result := mustRun(t, agent)
		if result.Count("catalog") != 4 || result.Status != "changed" {
			t.Errorf("%s after %d: %d catalog requests, status %s; want 4 and changed",
				c.generation, c.status, result.Count("catalog"), result.Status)
		}
	}
}

func TestPuppet7FailsWhenItIsToldToComeBack(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{Generation: fakeagent.Puppet7})
	s.on("/catalog/", func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	result, err := agent.Run(t.Context())
	if !errors.Is(err, fakeagent.ErrClosedEarly) || result.Count("catalog") != 1 || result.Status != "failed" {
		t.Errorf("got error %v, %d catalog requests, status %s; want attempt to read body out of block, 1, failed",
			err, result.Count("catalog"), result.Status)
	}
}

func TestAHundredRetriesAreTheEnd(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{})
	s.on("/catalog/", func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	result, err := agent.Run(t.Context())
	if !errors.Is(err, fakeagent.ErrTooManyRetries) || result.Count("catalog") != 101 {
		t.Errorf("got %v after %d requests, want too many retries after 101", err, result.Count("catalog"))
	}
}

func TestUnavailableWithoutRetryAfterIsAnError(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{})
	s.on("/catalog/", func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	result, err := agent.Run(t.Context())
	if err == nil || result.Count("catalog") != 1 || !result.ReportSent || result.Status != "failed" {
		t.Errorf("got error %v, %d catalog requests, report sent %v, status %s; want an error, 1, a failed report",
			err, result.Count("catalog"), result.ReportSent, result.Status)
	}
}

func TestTheCachedCatalogIsUsedWhenTheServerFails(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{})
	mustRun(t, agent)
	s.on("/catalog/", func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, `{"message":"Server Error"}`, http.StatusInternalServerError)
		return true
	})
	result := mustRun(t, agent)
	if !result.CachedCatalog || !result.ReportSent || result.Status != "unchanged" {
		t.Errorf("cached %v, reported %v, status %s; want true, true, unchanged", result.CachedCatalog, result.ReportSent, result.Status)
	}
}

func TestAnUnsignedAgentEndsOrWaits(t *testing.T) {
	s := siteStub(t)
	s.unsigned = true
	if _, err := newAgent(t, s, fakeagent.Options{}).Run(t.Context()); !errors.Is(err, fakeagent.ErrNotSigned) {
		t.Fatalf("without waitforcert: got %v, want ErrNotSigned", err)
	}

	agent := newAgent(t, s, fakeagent.Options{WaitForCert: time.Millisecond})
	agent.SetIdentity(fakeagent.Identity{})
	s.signed = map[string][]byte{}
	var looks atomic.Int32
	s.on("/certificate/"+node, func(http.ResponseWriter, *http.Request) bool {
		if looks.Add(1) == 3 {
			s.mu.Lock()
			s.unsigned = false
			s.mu.Unlock()
		}
		return false
	})
	result := mustRun(t, agent)
	if got := result.Count("csr"); got != 3 {
		t.Errorf("the request was sent %d times, want once in each of 3 turns", got)
	}
}

func TestARevokedServerIsNotTalkedTo(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{RefreshBundles: true, NoCacheOnFail: true})
	mustRun(t, agent)

	leaf, err := x509.ParseCertificate(s.server.TLS.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	s.on("/certificate_revocation_list/", func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(s.crl(leaf.SerialNumber))
		return true
	})
	if _, err := agent.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("got %v, want a refusal because the server is revoked", err)
	}
}

func TestAMissingCRLBreaksTheConnection(t *testing.T) {
	s, other := siteStub(t), newStub(t)
	agent := newAgent(t, s, fakeagent.Options{})
	s.on("/certificate_revocation_list/", func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(other.crl())
		return true
	})
	if _, err := agent.Run(t.Context()); err == nil {
		t.Error("a run without the CRL of the issuer succeeded")
	}
}

func TestCertificatesAreRenewedByNewerAgents(t *testing.T) {
	for _, c := range []struct {
		generation fakeagent.Generation
		want       int
	}{{fakeagent.Puppet7, 0}, {fakeagent.Puppet8, 1}} {
		s := siteStub(t)
		s.leafLife = 10 * 24 * time.Hour
		agent := newAgent(t, s, fakeagent.Options{Generation: c.generation})
		mustRun(t, agent)
		before := agent.Identity().Certificate
		result := mustRun(t, agent)
		if got := result.Count("renewal"); got != c.want {
			t.Errorf("%s renewed %d times, want %d", c.generation, got, c.want)
		}
		if changed := !agent.Identity().Certificate.Equal(before); changed != (c.want > 0) {
			t.Errorf("%s: certificate changed: %v", c.generation, changed)
		}
	}
}

func TestTheServerMaySwitchTheEnvironment(t *testing.T) {
	s := siteStub(t)
	s.catalog = `{"environment":"testing","catalog_uuid":"u","resources":[]}`
	result := mustRun(t, newAgent(t, s, fakeagent.Options{}))
	if result.Environment != "testing" || result.Count("catalog") != 2 {
		t.Errorf("environment %s after %d catalogs, want testing after 2", result.Environment, result.Count("catalog"))
	}
}

func TestStaticCatalogsFetchContentByCodeID(t *testing.T) {
	s := siteStub(t)
	s.catalog = `{"environment":"production","code_id":"abc","catalog_uuid":"u","resources":[
		{"type":"File","title":"/x/motd","parameters":{"source":"puppet:///modules/site/motd"}}],
		"metadata":{"/x/motd":{"type":"file","source":"puppet:///modules/site/motd","content_uri":"puppet:///modules/site/files/motd",
		"checksum":{"type":"sha256","value":"{sha256}bc63a99a8e3d8f3c1bfa8a2ca1c8ab1ba1d2f1cb31c4a8c1b9b7a0b1e4d1a2b3"}}}}`
	result, err := newAgent(t, s, fakeagent.Options{}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The promised checksum is not that of the content: the agent must notice.
	if result.Failed != 1 || !slices.ContainsFunc(result.Failures, func(f string) bool { return strings.Contains(f, "did not match checksum") }) {
		t.Errorf("failed %d, failures %q; want one wrong checksum", result.Failed, result.Failures)
	}
	want := "/puppet/v3/static_file_content/modules/site/files/motd?environment=production&code_id=abc"
	if !slices.ContainsFunc(result.Requests, func(q fakeagent.Request) bool { return q.Target == want }) {
		t.Errorf("no request for %s", want)
	}
}

func TestARemoteFilebucketIsAskedBeforeItIsFilled(t *testing.T) {
	s := siteStub(t)
	catalog := func(content string) string {
		return `{"environment":"production","catalog_uuid":"u","resources":[
			{"type":"Filebucket","title":"main","parameters":{"path":false}},
			{"type":"File","title":"/x/f","parameters":{"content":"` + content + `","backup":"main"}}]}`
	}
	agent := newAgent(t, s, fakeagent.Options{})
	s.catalog = catalog("one")
	mustRun(t, agent)
	s.catalog = catalog("two")
	result := mustRun(t, agent)
	var methods []string
	for _, q := range result.Requests {
		if q.Kind == "bucket" {
			methods = append(methods, q.Method)
		}
	}
	if !slices.Equal(methods, []string{http.MethodHead, http.MethodPut}) {
		t.Errorf("bucket requests %v, want HEAD and PUT", methods)
	}
}

func TestIdleConnectionsExpireAfterTheKeepAlive(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{KeepAlive: time.Nanosecond})
	mustRun(t, agent)
	slow := mustRun(t, agent)
	if slow.Connections < len(slow.Requests) {
		t.Errorf("%d connections for %d requests, want a new one each time", slow.Connections, len(slow.Requests))
	}
	agent = newAgent(t, siteStub(t), fakeagent.Options{})
	mustRun(t, agent)
	if fast := mustRun(t, agent); fast.Connections != 1 {
		t.Errorf("%d connections, want one for the whole run", fast.Connections)
	}
}

func TestACutContextEndsAWaitingRun(t *testing.T) {
	s := siteStub(t)
	agent := newAgent(t, s, fakeagent.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	s.on("/catalog/", func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusServiceUnavailable)
		cancel()
		return true
	})
	if _, err := agent.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestAFleetSumsUpItsRuns(t *testing.T) {
	s := siteStub(t)
	var fleet fakeagent.Fleet
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		agent, err := fakeagent.New(name+".example.test", s.address(), fakeagent.Options{})
		if err != nil {
			t.Fatal(err)
		}
		fleet.Agents = append(fleet.Agents, agent)
	}
	fleet.AtOnce, fleet.Splay = 3, 10*time.Millisecond
	got := fleet.Run(t.Context())
	if got.Runs != 6 || got.Failed != 0 || got.Kinds["catalog"].Count != 6 || got.Run.Max < got.Run.P50 {
		t.Errorf("got %+v", got)
	}
}

func TestASplayIsNotLongerThanAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		o := fakeagent.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}
		agent, err := fakeagent.New(node, "localhost:8140", o)
		if err != nil {
			t.Fatal(err)
		}
		fleet := fakeagent.Fleet{Agents: []*fakeagent.Agent{agent}, Splay: time.Hour}
		if got := fleet.Run(t.Context()); got.Took > time.Hour || got.Failed != 1 {
			t.Errorf("took %v with %d failures, want at most an hour and 1", got.Took, got.Failed)
		}
	})
}
