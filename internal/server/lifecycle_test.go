package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// This file shows what a service manager hears, and what a reload and a stop do.

// serviceManager listens on NOTIFY_SOCKET.
type serviceManager struct {
	mu    sync.Mutex
	heard []string
}

func listenAsServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "1000000")
	s := &serviceManager{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for buf := make([]byte, 4096); ; {
			n, err := conn.Read(buf)
			if err != nil {
				return // closed below
			}
			s.mu.Lock()
			s.heard = append(s.heard, string(buf[:n]))
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return s
}

// list is what was heard, without the status texts for people.
func (s *serviceManager) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, h := range s.heard {
		if state, _, _ := strings.Cut(h, "\nSTATUS="); !strings.HasPrefix(state, "STATUS=") {
			out = append(out, state)
		}
	}
	return out
}

func (s *serviceManager) ready(t *testing.T, _ *member) {
	troupetest.Eventually(t, troupetest.Patience, "a pet of the watchdog", func() bool { return slices.Contains(s.list(), "WATCHDOG=1") })
	if n := count(s.list(), "READY=1"); n != 1 {
		t.Errorf("READY=1 %d times in %q, want once", n, s.list())
	}
}

// reloading comes after the stories that reload, well and badly.
func (s *serviceManager) reloading(t *testing.T, _ *member) {
	troupetest.Eventually(t, troupetest.Patience, "the last reload is over", func() bool {
		last := slices.DeleteFunc(s.list(), func(h string) bool { return h == "WATCHDOG=1" })
		return last[len(last)-1] == "READY=1"
	})
	var order []string
	for _, state := range s.list() {
		kind, rest, _ := strings.Cut(state, "\n")
		if kind == "RELOADING=1" && !strings.HasPrefix(rest, "MONOTONIC_USEC=") {
			t.Errorf("%q lacks the time, without which systemd does not accept it", state)
		}
		if kind != "WATCHDOG=1" {
			order = append(order, kind)
		}
	}
	if len(order) < 5 || len(order)%2 == 0 {
		t.Fatalf("heard %q, want READY=1 and pairs of RELOADING=1, READY=1", order)
	}
	for i, kind := range order {
		want := "READY=1"
		if i%2 == 1 {
			want = "RELOADING=1"
		}
		if kind != want {
			t.Fatalf("heard %q: %q is out of place", order, kind)
		}
	}
}

func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

// rules let agents list environments, or not.
func rules(verdict string) string {
	return `authorization: { version: 1, rules: [
		{ match-request: { path: "/puppet/v3/environments", type: path }, ` + verdict + `: "*", sort-order: 1, name: "environments" }
		{ match-request: { path: "/status", type: path }, allow-unauthenticated: true, sort-order: 2, name: "status" }
	] }`
}

const environments = "/puppet/v3/environments"

func reloads(t *testing.T, m *member) {
	open := m.client(t, m.identity(t, "steady.example.test"))
	if code, _ := get(t, open, environments); code != http.StatusOK {
		t.Fatalf("by the default rules: %d, want 200", code)
	}
	reused := connectionReuse()
	ask := func() int {
		t.Helper()
		code, _, err := try(reused.watch(t.Context()), open, http.MethodGet, environments, nil)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}

	write(t, m.auth, rules("deny"))
	write(t, m.file, m.settings(strings.Replace(settings, "[alias.example.test]", "[alias.example.test, second.example.test]", 1))+"auth_conf: "+m.auth+"\n")
	if err := m.admin.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := ask(); code != http.StatusForbidden {
		t.Errorf("by rules that deny it: %d, want 403", code)
	}
	state, err := m.handshake(t, m.tls(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := state.PeerCertificates[0].DNSNames; !slices.Contains(got, "second.example.test") {
		t.Errorf("names of the certificate %v lack the one that was added", got)
	}

	write(t, m.auth, rules("allow"))
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	troupetest.Eventually(t, troupetest.Patience, "SIGHUP brings the new rules", func() bool { return ask() == http.StatusOK })
	if !reused.all() {
		t.Error("a reload dropped the open connection")
	}
}

func waits(t *testing.T, m *member) {
	before, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, m.file, strings.NewReplacer("workers: 1", "workers: 2", "level: debug", "level: warn").Replace(string(before)))
	if err := m.admin.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.level.Level() != slog.LevelWarn {
		t.Errorf("log level = %v, want the new one", m.level.Level())
	}
	lines := m.log.lines(t, "this setting has changed and counts only after a restart")
	if len(lines) != 1 || lines[0]["setting"] != "engine.workers" {
		t.Errorf("told of %v, want engine.workers alone", lines)
	}

	write(t, m.file, strings.Replace(string(before), "certname: one.", "certname: two.", 1))
	if err := m.admin.Reload(t.Context()); err == nil || err.Error() != "data, certname and listen change only with a restart" {
		t.Errorf("with another certname: %v, want a refusal", err)
	}
	write(t, m.file, string(before))
	if err := m.admin.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func broken(t *testing.T, m *member) {
	good, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	c := m.client(t, m.identity(t, "calm.example.test"))
	for name, b := range map[string]struct{ file, text, want string }{
		"rules that end early":           {m.auth, "authorization: { version: 1, rules: [", m.auth},
		"rules that are not there":       {m.auth, "", m.auth},
		"a setting that does not exist":  {m.file, string(good) + "wrokers: 2\n", m.file},
		"a log level that is not spoken": {m.file, strings.Replace(string(good), "level: debug", "level: loud", 1), m.file},
	} {
		write(t, b.file, b.text)
		if b.text == "" {
			if err := os.Remove(b.file); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.admin.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), b.want) {
			t.Errorf("%s: %v, want an error that names %s", name, err, b.want)
		}
		if code, _ := get(t, c, environments); code != http.StatusOK {
			t.Errorf("%s: %d, want the verdict of the old rules, 200", name, code)
		}
		write(t, m.file, string(good))
		write(t, m.auth, rules("allow"))
	}
	if m.level.Level() != slog.LevelDebug {
		t.Errorf("log level = %v, want the old one", m.level.Level())
	}
	// Back to the default rules for the stories that follow.
	write(t, m.file, m.settings(settings))
	if err := m.admin.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func stops(t *testing.T, m *member, heard *serviceManager) {
	type result struct {
		code int
		body string
		err  error
	}
	c := m.client(t, m.identity(t, "slow.example.test"))
	finished := make(chan result, 1)
	go func() {
		code, body, err := try(t.Context(), c, http.MethodPost, "/puppet/v3/catalog/slow.example.test?environment=production", catalogForm("slow.example.test"))
		finished <- result{code, body, err}
	}()
	watch := m.client(t, m.identity(t, "watch.example.test"))
	troupetest.Eventually(t, troupetest.Patience, "the compile runs", func() bool {
		_, page := get(t, watch, "/metrics")
		return strings.Contains(page, "troupe_http_requests_in_flight 2\n") // this one and the compile
	})

	m.cancel()
	troupetest.Eventually(t, troupetest.Patience, "new connections are refused", func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", m.addr)
		if err == nil {
			_ = conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	select {
	case r := <-finished:
		t.Fatalf("the compile ended before the port was closed, so this shows nothing: %+v", r)
	default:
	}
	if r := <-finished; r.err != nil || r.code != http.StatusOK || !strings.Contains(r.body, `"slow"`) {
		t.Errorf("the compile that ran: %d %.300s (%v), want its catalog", r.code, r.body, r.err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	select {
	case err := <-m.ended:
		m.ended <- nil // for the cleanup
		if err != nil {
			t.Errorf("the member ended with %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the member does not end")
	}
	list := heard.list()
	i := slices.Index(list, "STOPPING=1")
	if i < 0 || !slices.Contains(list[i:], "WATCHDOG=1") {
		t.Errorf("heard %q, want STOPPING=1, and pets of the watchdog while the compile was finished", list)
	}
	for _, name := range []string{"listen.addr", "admin.sock"} {
		if _, err := os.Lstat(filepath.Join(m.data, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
}
