package adminapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/adminapi"
	"troupe/internal/backup"
	"troupe/internal/ca"
	"troupe/internal/classifier"
	"troupe/internal/cluster"
	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/store"
)

// This file runs the API on its socket in front of the real parts of a member, and
// shows what holds for every route. Only the engine is not Ruby.

// parts are those of a member whose API is served.
type parts struct {
	data      string
	journal   *journal.Journal
	store     *store.DB
	authority *ca.Authority
	engine    *fixedEngine
	client    *adminapi.Client
	busy      chan struct{} // held while a backup is made
	reloads   int
	refuse    error // what the next reload answers
}

// fixedEngine answers what a test wants, and keeps what it was asked.
type fixedEngine struct {
	asked  engine.Request
	lookup engine.LookupRequest
	result engine.Result
	err    error
}

func (e *fixedEngine) Compile(_ context.Context, q engine.Request) (engine.Result, error) {
	e.asked = q
	return e.result, e.err
}

func (e *fixedEngine) Lookup(_ context.Context, q engine.LookupRequest) (engine.LookupResult, error) {
	e.asked, e.lookup = q.Node, q
	return engine.LookupResult{Output: "--- found\n", Found: true}, e.err
}

func serve(t testing.TB) *parts {
	t.Helper()
	return serveCA(t, ca.EC256)
}

func serveCA(t testing.TB, key ca.KeyType) *parts {
	t.Helper()
	p := &parts{data: t.TempDir(), engine: &fixedEngine{}, busy: make(chan struct{}, 1)}
	p.openParts(t, key)
	environments := filepath.Join(t.TempDir(), "environments")
	for _, env := range []string{"production", "testing"} {
		if err := os.MkdirAll(filepath.Join(environments, env, "manifests"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	repo, err := code.New(code.Options{EnvironmentPath: []string{environments}, Dir: filepath.Join(p.data, "code")})
	if err != nil {
		t.Fatal(err)
	}
	enc, err := classifier.New(classifier.Options{Cache: p.store})
	if err != nil {
		t.Fatal(err)
	}
	members, err := cluster.Open(t.Context(), filepath.Join(p.data, "cluster"), p.journal, cluster.Options{Name: "one.example.test"})
	if err != nil {
		t.Fatal(err)
	}
	api := adminapi.New(adminapi.Member{
		Authority: p.authority, Store: p.store, Journal: p.journal, Code: repo, Compiler: p.engine, Classifier: enc,
		Name: "one.example.test", ServerIP: "192.0.2.1", CustomOIDs: map[string]string{"1.3.6.1.4.1.34380.1.2.77": "team"},
		Reload: func(context.Context) error { p.reloads++; return p.refuse },
		Process: func(context.Context) adminapi.Process {
			return adminapi.Process{Settings: adminapi.Settings{Certname: "one.example.test"}, PID: 7}
		},
		Backup: func() backup.Member {
			return backup.Member{
				Name: "one.example.test", Site: "east", Data: p.data, Journal: p.journal, Authority: p.authority, Cluster: members, Store: p.store, Code: repo, Busy: p.busy,
			}
		},
	}, nil)
	p.run(t, func(ctx context.Context) error { return api.Run(ctx, p.data) })
	p.client = dial(t, p.data)
	return p
}

func (p *parts) openParts(t testing.TB, key ca.KeyType) {
	t.Helper()
	var err error
	if p.journal, err = journal.Open(filepath.Join(p.data, "journal"), journal.Options{}); err != nil {
		t.Fatal(err)
	}
	if p.store, err = store.Open(t.Context(), filepath.Join(p.data, "store"), p.journal, store.Options{}); err != nil {
		t.Fatal(err)
	}
	if p.authority, err = ca.Open(t.Context(), filepath.Join(p.data, "ca"), p.journal, ca.Options{KeyType: key}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{p.authority, p.store, p.journal} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	p.run(t, p.journal.Run)
	p.run(t, p.store.Run)
	p.run(t, p.authority.Run)
}

// run runs something until the test ends, and waits for its end.
func (p *parts) run(t testing.TB, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// dial waits until the member listens.
func dial(t testing.TB, data string) *adminapi.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for tick := time.Tick(5 * time.Millisecond); ; {
		c, err := adminapi.Dial(ctx, data)
		if err == nil {
			return c
		}
		if !errors.Is(err, adminapi.ErrNotRunning) {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("nobody listens in %s: %v", data, err)
		case <-tick:
		}
	}
}

// raw sends a request that the client would never send.
func (p *parts) raw(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", adminapi.SocketPath(p.data))
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://member"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestTheSocketIsTheOwnersAlone(t *testing.T) {
	p := serve(t)
	info, err := os.Lstat(adminapi.SocketPath(p.data))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.ModeSocket|0o600; got != want {
		t.Errorf("mode = %v, want %v", got, want)
	}
}

func TestASocketThatWasLeftBehindIsReplaced(t *testing.T) {
	data := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: adminapi.SocketPath(data), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as kill -9 does
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := adminapi.Dial(t.Context(), data); !errors.Is(err, adminapi.ErrNotRunning) {
		t.Fatalf("before: %v, want %v", err, adminapi.ErrNotRunning)
	}
	p := &parts{}
	p.run(t, func(ctx context.Context) error { return adminapi.New(adminapi.Member{}, nil).Run(ctx, data) })
	dial(t, data)
}

func TestTheSocketGoesWithTheMember(t *testing.T) {
	data := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- adminapi.New(adminapi.Member{}, nil).Run(ctx, data) }()
	c := dial(t, data)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := adminapi.Dial(t.Context(), data); !errors.Is(err, adminapi.ErrNotRunning) {
		t.Errorf("dial afterwards: %v, want %v", err, adminapi.ErrNotRunning)
	}
	if err := c.Reload(t.Context()); err == nil {
		t.Error("a client of the member that ended got an answer")
	}
}

func TestALongPathIsRefusedWithTheWayOut(t *testing.T) {
	data := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	err := adminapi.New(adminapi.Member{}, nil).Run(t.Context(), data)
	if err == nil || !strings.Contains(err.Error(), "choose a shorter data folder") {
		t.Errorf("err = %v, want advice", err)
	}
}

func TestWhatARequestMayNotBe(t *testing.T) {
	p := serve(t)
	for name, c := range map[string]struct {
		method, path, body string
		kind               fault.Kind
		want               string
	}{
		"an unknown field":     {"POST", "/v1/certificates/sign", `{"certnames":[],"force":true}`, fault.Invalid, "unknown field"},
		"two values":           {"POST", "/v1/certificates/sign", `{"certnames":[]}{"all":true}`, fault.Invalid, "more than one value"},
		"no JSON":              {"POST", "/v1/compile", `certname: web1`, fault.Invalid, "read the request"},
		"no body":              {"POST", "/v1/certificates/renew", ``, fault.Invalid, "read the request"},
		"too large":            {"POST", "/v1/compile", `{"facts":"` + strings.Repeat("x", 64<<20) + `"}`, fault.TooLarge, "64 MiB"},
		"an unknown route":     {"GET", "/v1/nothing", ``, fault.NotFound, "no such route: GET /v1/nothing"},
		"another method":       {"DELETE", "/v1/nodes", ``, fault.NotFound, "no such route: DELETE /v1/nodes"},
		"a limit of no number": {"GET", "/v1/reports?limit=all", ``, fault.Invalid, `not "all"`},
		"a negative limit":     {"GET", "/v1/reports?limit=-1", ``, fault.Invalid, `not "-1"`},
		"no name at all":       {"GET", "/v1/nodes/Web%201", ``, fault.Invalid, ""},
		"a path as a name":     {"GET", "/v1/nodes/..%2f..%2fetc/facts", ``, fault.Invalid, ""},
		"a relative folder":    {"POST", "/v1/certificates/export", `{"folder":"backup"}`, fault.Invalid, "absolute path"},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := p.raw(t, c.method, c.path, c.body)
			var got struct {
				Kind    fault.Kind
				Message string
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%d %s: %v", code, body, err)
			}
			if code != http.StatusUnprocessableEntity || got.Kind != c.kind || !strings.Contains(got.Message, c.want) {
				t.Errorf("%d kind %d %q, want 422 kind %d with %q", code, got.Kind, got.Message, c.kind, c.want)
			}
		})
	}
}

func TestReloadTellsWhatTheMemberSays(t *testing.T) {
	p := serve(t)
	if err := p.client.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	for _, kind := range []fault.Kind{
		fault.Internal, fault.Invalid, fault.TooLarge, fault.Unsupported, fault.Denied, fault.NotFound, fault.Conflict, fault.Unavailable, fault.Failed,
	} {
		p.refuse = fault.Wrap(kind, errors.New("auth.conf:3: no verdict"), "the rules cannot be read")
		err := p.client.Reload(t.Context())
		if fault.KindOf(err) != kind || err.Error() != "the rules cannot be read: auth.conf:3: no verdict" {
			t.Errorf("kind %d came back as %d: %v", kind, fault.KindOf(err), err)
		}
	}
	if p.reloads != 10 {
		t.Errorf("%d reloads, want 10", p.reloads)
	}
}
