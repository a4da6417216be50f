package ruby

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/puppet"
)

// This file starts pools on the fixture in testdata/control.

// A rig is a pool that runs, with the code that it compiles.
type rig struct {
	*Pool

	t       *testing.T
	root    string // a copy of testdata/control
	repo    *code.Repo
	stopRun context.CancelFunc
	stopped chan error
	log     *logBuffer
}

// rigOptions changes the pool's options before it is made.
type rigOptions func(*Options)

func newRig(t *testing.T, change ...rigOptions) *rig {
	t.Helper()
	dir := openDir(t)
	r := &rig{t: t, root: filepath.Join(dir, "control"), log: &logBuffer{}, stopped: make(chan error, 1)}
	if err := os.CopyFS(r.root, os.DirFS("testdata/control")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.root, "environments/production/scripts/version.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	repo, err := code.New(code.Options{
		EnvironmentPath: []string{filepath.Join(r.root, "environments")}, BaseModulePath: []string{filepath.Join(r.root, "modules")},
		Dir: filepath.Join(dir, "code"),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.repo = repo

	o := Options{
		Dir: filepath.Join(dir, "engine"), Workers: 2, Deadline: time.Minute,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&o)
	}
	if r.Pool, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stopRun = stop
	go func() { r.stopped <- r.Run(ctx) }()
	t.Cleanup(r.stop)
	eventually(t, "the pool serves", func() bool { return r.Stats().Serving || len(r.stopped) > 0 })
	if len(r.stopped) > 0 {
		err := <-r.stopped
		r.stopped <- err
		t.Fatalf("the pool does not start: %v", err)
	}
	return r
}

// openDir returns a temporary folder that the account of the workers can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// on returns the rig for a subtest.
func (r *rig) on(t *testing.T) *rig {
	t.Helper()
	sub := *r
	sub.t = t
	return &sub
}

func (r *rig) stop() {
	r.stopRun()
	select {
	case err := <-r.stopped:
		if err != nil {
			r.t.Errorf("Run returned %v", err)
		}
		r.stopped <- nil
	case <-time.After(4 * time.Minute):
		stacks := make([]byte, 1<<20)
		r.t.Fatalf("the pool does not stop\n%s", stacks[:runtime.Stack(stacks, true)])
	}
	if r.t.Failed() {
		r.t.Logf("log of the pool:\n%s", r.log)
	}
}

func (r *rig) version() *code.Version {
	r.t.Helper()
	v, err := r.repo.Current(r.t.Context(), "production")
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// request is for a catalog of the fixture.
func (r *rig) request(certname puppet.Certname, change ...func(*engine.Request)) engine.Request {
	r.t.Helper()
	q := engine.Request{
		Certname: certname, Version: r.version(), Rich: true,
		Facts:       puppet.Facts{Certname: certname, Values: json.RawMessage(`{"os":{"family":"Debian"},"trouble":"none"}`)},
		Trusted:     puppet.Trusted{Authenticated: "remote", Certname: certname, Extensions: map[string]string{"pp_role": "web"}},
		ServerFacts: map[string]string{"servername": "puppet.example.test", "serverip": "192.0.2.7"},
	}
	for _, c := range change {
		c(&q)
	}
	return q
}

// trouble asks for a catalog whose code does what kind says.
func (r *rig) trouble(kind string) engine.Request {
	return r.request("trouble.example.test", func(q *engine.Request) {
		q.Facts.Values = json.RawMessage(`{"trouble":` + strconv.Quote(kind) + `}`)
	})
}

func (r *rig) compile(q engine.Request) engine.Result {
	r.t.Helper()
	result, err := r.Compile(r.t.Context(), q)
	if err != nil {
		r.t.Fatalf("Compile(%s): %v", q.Certname, err)
	}
	return result
}

// wake compiles the first catalog of a version, in the zygote, and waits until
// workers compile the next: the zygote takes what comes while it still warms.
func (r *rig) wake(q engine.Request) engine.Result {
	r.t.Helper()
	result := r.compile(q)
	r.zygoteOf(q.Version)
	return result
}

// edit changes a file of the fixture.
func (r *rig) edit(name, from, to string) {
	r.t.Helper()
	path := filepath.Join(r.root, name)
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		r.t.Fatalf("%s does not contain %q", name, from)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// processes lists the live processes of the pool: all that have its script on
// their command line.
func (r *rig) processes() []int {
	return processesWith(r.o.Dir + "/worker/boot.rb")
}

func processesWith(argument string) []int {
	var pids []int
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	for _, path := range paths {
		line, err := os.ReadFile(path) // empty for a zombie
		if err == nil && bytes.Contains(line, []byte(argument)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited a minute in vain until %s", what)
		}
	}
}

// logBuffer is a writer that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func compileError(t *testing.T, err error) *engine.CompileError {
	t.Helper()
	e, ok := errors.AsType[*engine.CompileError](err)
	if !ok {
		t.Fatalf("got error %v, want a CompileError", err)
	}
	return e
}
