package statusapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/authz"
	"troupe/internal/statusapi"
)

// This file compares the status service with the real one, and with what its
// services say.

// running is a service that does well.
func running(name, version string) statusapi.Service {
	return in(name, version, statusapi.StateRunning)
}

func in(name, version string, s statusapi.State) statusapi.Service {
	return statusapi.Service{Name: name, Version: version, Check: func(context.Context, string) (statusapi.State, map[string]any) { return s, nil }}
}

// ask sends a request as somebody without a certificate.
func ask(t *testing.T, h http.Handler, method, target, body string) (*http.Response, string) {
	t.Helper()
	return send(t, h, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
}

// withCertificate makes r one of an agent.
func withCertificate(r *http.Request) *http.Request {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "web1.example.test"}}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
	return r
}

func send(t *testing.T, h http.Handler, r *http.Request) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	resp := w.Result()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func guard() *authz.Guard { return authz.NewGuard(authz.GuardOptions{}) }

func TestAnswersAreThoseOfTheRealServer(t *testing.T) {
	text, err := os.ReadFile("../troupetest/testdata/puppetserver-7.9.5/status.json")
	if err != nil {
		t.Fatal(err)
	}
	var exchanges []struct {
		Name     string
		As       string
		Method   string
		Target   string
		Status   int
		Header   []string `json:"response_header"`
		Response string   `json:"response_body"`
	}
	if err := json.Unmarshal(text, &exchanges); err != nil {
		t.Fatal(err)
	}
	if len(exchanges) < 11 {
		t.Fatalf("%d recorded answers, want at least 11", len(exchanges))
	}
	const v = "7.9.5"
	h := statusapi.New(guard(), []statusapi.Service{
		running("puppet-profiler", v), running("jruby-metrics", v), running("ca", v), running("master", v), running("server", v), running("status-service", "1.1.1"),
	}, statusapi.Options{}).Handler()

	for _, x := range exchanges {
		t.Run(x.Name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), x.Method, x.Target, http.NoBody)
			if x.As != "" {
				r = withCertificate(r)
			}
			resp, body := send(t, h, r)
			if resp.StatusCode != x.Status {
				t.Errorf("status = %d, want %d", resp.StatusCode, x.Status)
			}
			want := ""
			for _, line := range x.Header {
				if v, ok := strings.CutPrefix(line, "Content-Type: "); ok {
					want = v
				}
			}
			if got := resp.Header.Get("Content-Type"); got != want {
				t.Errorf("content type = %q, want %q", got, want)
			}
			if diff := cmp.Diff(decoded(x.Response), decoded(body)); diff != "" {
				t.Errorf("body differs from the real server's (-real +ours):\n%s", diff)
			}
		})
	}
}

// decoded is the value of JSON, or the text itself: the order of keys is free.
func decoded(body string) any {
	var v any
	if json.Unmarshal([]byte(body), &v) == nil {
		return v
	}
	return body
}

func TestTheWorstServiceDecides(t *testing.T) {
	const (
		good, starting, stopping = statusapi.StateRunning, statusapi.StateStarting, statusapi.StateStopping
		unknown, bad             = statusapi.StateUnknown, statusapi.StateError
	)
	for name, c := range map[string]struct {
		states []statusapi.State
		want   statusapi.State
		code   int
	}{
		"all run":                        {[]statusapi.State{good, good}, good, 200},
		"one starts":                     {[]statusapi.State{good, starting}, starting, 503},
		"one stops":                      {[]statusapi.State{starting, stopping}, stopping, 503},
		"one is unknown":                 {[]statusapi.State{stopping, unknown, good}, unknown, 503},
		"one has an error":               {[]statusapi.State{unknown, good, bad}, bad, 503},
		"a state that does not exist":    {[]statusapi.State{good, "splendid"}, unknown, 503},
		"there are no services":          {nil, unknown, 503},
		"the only one does as it should": {[]statusapi.State{good}, good, 200},
	} {
		t.Run(name, func(t *testing.T) {
			var services []statusapi.Service
			for i, s := range c.states {
				services = append(services, in(string(rune('a'+i)), "1", s))
			}
			h := statusapi.New(guard(), services, statusapi.Options{}).Handler()
			if resp, body := ask(t, h, "GET", "/status/v1/simple", ""); resp.StatusCode != c.code || body != string(c.want) {
				t.Errorf("simple: %d %q, want %d %q", resp.StatusCode, body, c.code, c.want)
			}
			if resp, _ := ask(t, h, "GET", "/status/v1/services", ""); resp.StatusCode != c.code {
				t.Errorf("services: %d, want %d", resp.StatusCode, c.code)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	h := statusapi.New(guard(), []statusapi.Service{running("server", "1")}, statusapi.Options{}).Handler()
	invalid := func(msg string) string { return `{"kind":"data-invalid","msg":"` + msg + `"}` }
	for name, c := range map[string]struct {
		method, target string
		code           int
		body           string
	}{
		"a level that does not exist":     {"GET", "/status/v1/services/server?level=all", 400, invalid("Invalid level: :all")},
		"a timeout that is no number":     {"GET", "/status/v1/services?timeout=soon", 400, invalid("Invalid timeout. Should be an integer but was soon")},
		"a timeout of nothing":            {"GET", "/status/v1/simple?timeout=0", 400, invalid("Invalid timeout. Timeout must be greater than zero but was 0")},
		"a timeout before the question":   {"GET", "/status/v1/simple/server?timeout=-3", 400, invalid("Invalid timeout. Timeout must be greater than zero but was -3")},
		"a service that does not exist":   {"GET", "/status/v1/simple/nosuch?timeout=x", 404, "not found: nosuch"},
		"a path that only services knows": {"PUT", "/status/v1/services/server/more", 403, "Forbidden request: /status/v1/services/server/more (method :put). Please see the server logs for details."},
		"metrics without a certificate":   {"GET", "/metrics", 403, "Forbidden request: /metrics (method :get). Please see the server logs for details."},
		"Jolokia without a rule for it":   {"GET", "/metrics/v2/list", 403, "Forbidden request: /metrics/v2/list (method :get). Please see the server logs for details."},
	} {
		t.Run(name, func(t *testing.T) {
			if resp, body := ask(t, h, c.method, c.target, ""); resp.StatusCode != c.code || body != c.body {
				t.Errorf("%d %s\nwant %d %s", resp.StatusCode, body, c.code, c.body)
			}
		})
	}
}

func TestMetricsNeedACertificateOfThisCA(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "troupe_up 1\n") })
	h := statusapi.New(guard(), nil, statusapi.Options{Metrics: page}).Handler()
	if resp, _ := ask(t, h, "GET", "/metrics", ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("without a certificate: %d, want 403", resp.StatusCode)
	}
	r := withCertificate(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	if resp, body := send(t, h, r); resp.StatusCode != http.StatusOK || body != "troupe_up 1\n" {
		t.Errorf("with one: %d %q, want 200 and the page", resp.StatusCode, body)
	}
	h = statusapi.New(guard(), nil, statusapi.Options{}).Handler()
	if resp, _ := send(t, h, r); resp.StatusCode != http.StatusNotFound {
		t.Errorf("of a member without metrics: %d, want 404", resp.StatusCode)
	}
}

func TestDetailReachesTheCheckAndItsFactsTheClient(t *testing.T) {
	echo := statusapi.Service{Name: "server", Version: "1", Check: func(_ context.Context, level string) (statusapi.State, map[string]any) {
		return statusapi.StateRunning, map[string]any{"asked": level}
	}}
	h := statusapi.New(guard(), []statusapi.Service{echo}, statusapi.Options{}).Handler()
	for query, want := range map[string]string{"": "info", "?level=critical": "critical", "?level=info": "info", "?level=debug&timeout=5": "debug"} {
		_, body := ask(t, h, "GET", "/status/v1/services/server"+query, "")
		var got struct {
			DetailLevel string `json:"detail_level"`
			Status      struct{ Asked string }
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if got.DetailLevel != want || got.Status.Asked != want {
			t.Errorf("%q: detail_level %q and asked %q, want %q", query, got.DetailLevel, got.Status.Asked, want)
		}
	}
}

func TestAHangingCheckIsUnknownAndDoesNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var asked atomic.Int32
		hang := statusapi.Service{Name: "server", Version: "1", Check: func(context.Context, string) (statusapi.State, map[string]any) {
			asked.Add(1)
			<-release // deaf to its context, as a read from a dead disk is
			return statusapi.StateRunning, nil
		}}
		h := statusapi.New(guard(), []statusapi.Service{hang, running("ca", "1")}, statusapi.Options{}).Handler()

		start := time.Now()
		for range 20 {
			resp, body := ask(t, h, "GET", "/status/v1/simple/server?timeout=2", "")
			if resp.StatusCode != http.StatusServiceUnavailable || body != "unknown" {
				t.Fatalf("%d %q, want 503 unknown", resp.StatusCode, body)
			}
		}
		if took := time.Since(start); took != 40*time.Second {
			t.Errorf("20 questions took %v, want 2s each", took)
		}
		if n := asked.Load(); n != 8 {
			t.Errorf("%d checks hang, want no more than 8", n)
		}

		resp, body := ask(t, h, "GET", "/status/v1/services/server?timeout=3", "")
		if !strings.Contains(body, `"state":"unknown","status":"Status check timed out after 3 seconds"`) || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		if resp, body := ask(t, h, "GET", "/status/v1/simple/ca", ""); resp.StatusCode != http.StatusOK || body != "running" {
			t.Errorf("the service beside it: %d %q, want 200 running", resp.StatusCode, body)
		}

		close(release)
		synctest.Wait()
		if resp, body := ask(t, h, "GET", "/status/v1/simple/server", ""); resp.StatusCode != http.StatusOK || body != "running" {
			t.Errorf("after it came back: %d %q, want 200 running", resp.StatusCode, body)
		}
	})
}

func TestACheckThatGivesUpInTimeIsUnknownToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		obeys := statusapi.Service{Name: "server", Version: "1", Check: func(ctx context.Context, _ string) (statusapi.State, map[string]any) {
			<-ctx.Done()
			return statusapi.StateError, map[string]any{"error": ctx.Err().Error()}
		}}
		h := statusapi.New(guard(), []statusapi.Service{obeys}, statusapi.Options{}).Handler()
		if resp, body := ask(t, h, "GET", "/status/v1/simple", ""); resp.StatusCode != http.StatusServiceUnavailable || body != "unknown" {
			t.Errorf("%d %q, want 503 unknown", resp.StatusCode, body)
		}
	})
}

func TestACheckThatPanicsIsUnknown(t *testing.T) {
	broken := statusapi.Service{Name: "server", Version: "1", Check: func(context.Context, string) (statusapi.State, map[string]any) { panic("no journal") }}
	h := statusapi.New(guard(), []statusapi.Service{broken}, statusapi.Options{}).Handler()
	for range 20 { // more than there are slots
		if resp, body := ask(t, h, "GET", "/status/v1/simple", ""); resp.StatusCode != http.StatusServiceUnavailable || body != "unknown" {
			t.Fatalf("%d %q, want 503 unknown", resp.StatusCode, body)
		}
	}
}
