package classifier

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/store"
)

// script returns a command that runs the shell text.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "enc")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "/bin/sh " + path
}

func classifier(t *testing.T, o Options) *Classifier {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWithoutAnENCNodesArePlain(t *testing.T) {
	for _, command := range []string{"", "none"} {
		got, err := classifier(t, Options{Command: command}).Classify(t.Context(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		want := Node{Certname: "n1", Classes: []byte("[]"), Parameters: []byte("{}")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("node differs (-want +got):\n%s", diff)
		}
	}
	if _, err := New(Options{Command: "enc.sh"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a relative command is taken (%v)", err)
	}
}

func TestTheENCSaysWhatANodeIs(t *testing.T) {
	tests := []struct {
		name, script string
		want         Node
	}{
		{
			"classes as a list", "echo '{classes: [a, b], environment: staging}'",
			Node{Environment: "staging", Classes: []byte(`["a","b"]`), Parameters: []byte("{}")},
		},
		{
			"classes with parameters", "printf 'classes:\\n  z: {p: yes}\\n  a:\\nparameters:\\n  x: 017\\n'",
			Node{Classes: []byte(`{"z":{"p":true},"a":null}`), Parameters: []byte(`{"x":15}`)},
		},
		{"nothing in particular", "echo '{}'", Node{Classes: []byte("[]"), Parameters: []byte("{}")}},
		{"keys as symbols, and null", "printf ':classes: [a]\\nparameters: ~\\nenvironment:\\n'", Node{Classes: []byte(`["a"]`), Parameters: []byte("{}")}},
		{"other keys", "echo '{classes: [a], extra: 1}'", Node{Classes: []byte(`["a"]`), Parameters: []byte("{}")}},
		{"its argument is the certname", `echo "{parameters: {p: $#-$1}}"`, Node{Classes: []byte("[]"), Parameters: []byte(`{"p":"1-n1.example.test"}`)}},
		{"its environment is small", `test -z "$HOME$SECRET" && echo "{parameters: {p: $LANG}}"`, Node{Classes: []byte("[]"), Parameters: []byte(`{"p":"C"}`)}},
	}
	t.Setenv("SECRET", "x")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := classifier(t, Options{Command: script(t, tt.script)}).Classify(t.Context(), "n1.example.test")
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Certname = "n1.example.test"
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("node differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnENCThatFailsSaysSoInPuppetsWords(t *testing.T) {
	tests := []struct {
		name, script string
		kind         fault.Kind
		want         string
	}{
		{"exit 3", "echo out; echo err >&2; exit 3", fault.Failed, "Failed to find n1 via exec: Execution of 'ENC n1' returned 3: out"},
		{"silence", "echo ' '", fault.NotFound, "Could not find node n1"},
		{"a list", "echo '[a]'", fault.Failed, "Could not load external node results for n1: the answer is no hash but of class Array"},
		{"a number as a key", "echo '{1: a}'", fault.Failed, "Could not load external node results for n1: key is a Integer, not a string or symbol"},
		{"a class", "echo 'classes: a'", fault.Failed, "Could not load external node results for n1: classes is neither an array nor a hash"},
		{"parameters as a list", "echo 'parameters: [a]'", fault.Failed, "Could not load external node results for n1: parameters is not a hash"},
		{"a bad environment", "echo 'environment: a-b'", fault.Failed, "Could not load external node results for n1: The environment must be purely alphanumeric, not 'a-b'"},
		{"a date", "echo 'parameters: {a: 2026-11-20}'", fault.Failed, "Could not load external node results for n1: Tried to load unspecified class: Date"},
		{"more than a node can be", "yes 'a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", fault.Failed, "Failed to find n1 via exec: Execution of 'ENC n1' printed more than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			command := script(t, tt.script)
			_, err := classifier(t, Options{Command: command, MaxOutput: 1 << 16}).Classify(t.Context(), "n1")
			if got := strings.ReplaceAll(fault.Message(err), command, "ENC"); fault.KindOf(err) != tt.kind || got != tt.want {
				t.Errorf("got  %s (kind %d)\nwant %s (kind %d)", got, fault.KindOf(err), tt.want, tt.kind)
			}
		})
	}
	_, err := classifier(t, Options{Command: "/nonexistent/enc"}).Classify(t.Context(), "n1")
	if fault.KindOf(err) != fault.Failed || !strings.HasPrefix(fault.Message(err), "Failed to find n1 via exec: Execution of '/nonexistent/enc n1' failed: ") {
		t.Errorf("a missing ENC gives %v", err)
	}
}

func TestAnENCThatHangsIsKilledWithItsChildren(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	command := script(t, "sleep 300 & echo $! >"+pidFile+"; wait")
	_, err := classifier(t, Options{Command: command, Timeout: 500 * time.Millisecond}).Classify(t.Context(), "n1")
	want := "Failed to find n1 via exec: Execution of '" + command + " n1' took longer than 500ms"
	if fault.KindOf(err) != fault.Failed || fault.Message(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if !eventually(func() bool { return dead(pid) }) {
		t.Errorf("the ENC's child %d still runs", pid)
	}
}

// dead reports whether a process has ended; nobody may have reaped it yet.
func dead(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func eventually(ok func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return true
		}
	}
	return false
}

func TestAChildInTheBackgroundHoldsNobodyUp(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	command := script(t, "sleep 300 & echo $! >"+pidFile+"; echo 'classes: [a]'")
	got, err := classifier(t, Options{Command: command}).Classify(t.Context(), "n1")
	if err != nil || string(got.Classes) != `["a"]` {
		t.Errorf("got %+v (%v)", got, err)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the child did not live: %v", err)
	}
}

func TestOnlySoManyRunAtOnce(t *testing.T) {
	dir := t.TempDir()
	// Each claims one of two places, and fails when both are taken.
	command := script(t, "for i in 1 2; do mkdir "+dir+"/$i 2>/dev/null && { sleep 0.05; rmdir "+dir+"/$i; echo '{}'; exit 0; }; done; exit 1")
	c := classifier(t, Options{Command: command, Concurrency: 2})
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := c.Classify(t.Context(), "n1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestTheLastGoodAnswerIsUsedAndMarked(t *testing.T) {
	db := openStore(t)
	broken := filepath.Join(t.TempDir(), "broken")
	c := classifier(t, Options{Cache: db, Command: script(t, "test -e "+broken+" && { cat "+broken+"; exit $(wc -l <"+broken+"); }\n"+
		"echo 'environment: staging'; echo 'classes: {b: {x: 1}, a: }'; echo 'parameters: {p: 1}'")})
	good, err := c.Classify(t.Context(), "n1")
	if err != nil || good.Stale {
		t.Fatalf("got %+v (%v)", good, err)
	}

	for name, text := range map[string]string{"it exits 1": "\n", "it talks rubbish": "[oops"} {
		if err := os.WriteFile(broken, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := c.Classify(t.Context(), "n1")
		want := good
		want.Stale = true
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, node differs (-want +got):\n%s", name, err, diff)
		}
		if _, err := c.Classify(t.Context(), "n2"); fault.KindOf(err) != fault.Failed {
			t.Errorf("%s: a node without an answer gives %v", name, err)
		}
	}

	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Classify(t.Context(), "n1"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an ENC that does not know the node any more gives %v", err)
	}
}

func openStore(t *testing.T) *store.DB {
	t.Helper()
	dir := t.TempDir()
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(dir, "store"), j, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{j.Run, db.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := errors.Join(db.Close(), j.Close()); err != nil {
			t.Error(err)
		}
	})
	return db
}
