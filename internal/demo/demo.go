// Package demo shows a newcomer the main job in a minute: a member on loopback
// and a real, unmodified puppet agent against it.
//
// It types the same commands that a person would, so what it prints can be
// repeated by hand. Everything lives in one temporary folder; the host's own
// Puppet folders and ports are never touched.
package demo

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed all:code
var code embed.FS

// Options tunes a demo.
type Options struct {
	Executable string // the troupe binary
	Puppet     string // the puppet command; "" looks in the usual places
	Once       bool   // end after the three runs instead of waiting for Ctrl-C
	Out        io.Writer
}

const (
	certname = "web1.demo"
	member   = "troupe.demo" // of the first member
)

// stage is a running demo: the folder, the member and what was measured.
type stage struct {
	o      Options
	dir    string
	puppet string
	first  *peer
	port   string // where the agent goes
	took   []timing
}

type timing struct {
	what string
	d    time.Duration
}

// Run plays the demo. With Once it returns nil only if every run did what it should.
func Run(ctx context.Context, o Options) (err error) {
	s := &stage{o: o}
	s.puppet, err = findPuppet(o.Puppet)
	if err != nil {
		return err
	}
	s.dir, err = os.MkdirTemp("", "troupe-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if err := s.writeCode(); err != nil {
		return err
	}

	s.first = &peer{name: member, site: "east", ip: "127.0.1.1", data: filepath.Join(s.dir, "data")}
	if err := s.front(ctx, s.first); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.first.close()) }()
	if err := s.start(ctx, s.first); err != nil {
		return err
	}
	s.took = append(s.took, timing{"member ready, CA and certificates created", s.first.ready})
	s.port = s.first.port
	if err := s.play(ctx); err != nil {
		return err
	}
	if err := s.playSites(ctx); err != nil {
		return err
	}
	s.summary()
	if o.Once {
		return nil
	}
	s.say("\nThe first member goes on until you press Ctrl-C; then its folder is removed.")
	<-ctx.Done()
	return nil
}

// play is the three runs and what can be seen after each.
func (s *stage) play(ctx context.Context) error {
	s.act("1. An unmodified agent asks for a certificate, is signed, and gets its first catalog")
	if err := s.firstRun(ctx); err != nil {
		return err
	}
	if err := s.command(ctx, "ca", "list", "--all"); err != nil {
		return err
	}

	s.act("2. Somebody edits the code (Hiera: demo::greeting); the next run applies it")
	if err := s.writeGreeting("Good evening"); err != nil {
		return err
	}
	if err := s.agentRun(ctx, "run with a change", 2); err != nil {
		return err
	}
	if err := s.expectGreeting("Good evening"); err != nil {
		return err
	}

	s.act("3. Nothing to do: the run is idempotent")
	if err := s.agentRun(ctx, "idempotent run", 0); err != nil {
		return err
	}

	s.act("What the member has stored")
	if err := s.command(ctx, "report", "list"); err != nil {
		return err
	}
	id, err := s.reportWithChanges(ctx)
	if err != nil {
		return err
	}
	return s.command(ctx, "report", "show", id)
}

// firstRun starts the agent, waits for its request as an operator would, and signs it.
func (s *stage) firstRun(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.agentRun(ctx, "first run (key, certificate, pluginsync, catalog)", 2) }()
	if err := s.waitForRequest(ctx, done); err != nil {
		return err
	}
	if err := s.command(ctx, "ca", "list"); err != nil {
		return errors.Join(err, <-done)
	}
	if err := s.command(ctx, "ca", "sign", "--certname", certname); err != nil {
		return errors.Join(err, <-done)
	}
	if err := <-done; err != nil {
		return err
	}
	return s.expectGreeting("Hello from troupe")
}

// waitForRequest polls the CA until the agent's request is there. The agent's
// end is put back into done for the caller.
func (s *stage) waitForRequest(ctx context.Context, done chan error) error {
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return errors.Join(errors.New("the agent ended before it was signed"), err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), <-done)
		case <-deadline.C:
			return errors.Join(errors.New("no certificate request after a minute"), <-done)
		case <-tick.C:
		}
		out, err := exec.CommandContext(ctx, s.o.Executable, "ca", "list", "-o", "json", "--data", s.data()).Output()
		if err != nil {
			continue // the next tick asks again; the deadline above ends it
		}
		if strings.Contains(string(out), `"`+certname+`"`) {
			return nil
		}
	}
}

// reportWithChanges is the id of the newest report whose run changed something.
func (s *stage) reportWithChanges(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, s.o.Executable, "report", "list", "-o", "json", "--data", s.data()).Output()
	if err != nil {
		return "", fmt.Errorf("list reports: %w", err)
	}
	var reports []struct{ ID, Status string }
	if err := json.Unmarshal(out, &reports); err != nil {
		return "", fmt.Errorf("read the list of reports: %w", err)
	}
	if len(reports) != 3 {
		return "", fmt.Errorf("%d reports are stored, want 3", len(reports))
	}
	for _, r := range reports {
		if r.Status == "changed" {
			return r.ID[:min(12, len(r.ID))], nil
		}
	}
	return "", errors.New("no stored report has status changed")
}

func (s *stage) summary() {
	s.act("How long it took")
	for _, t := range s.took {
		s.say("   %-52s %6.1f s", t.what, t.d.Seconds())
	}
	s.say("\nTry next (in another terminal, while the member runs):")
	s.say("   %s node show %s --data %s", s.o.Executable, certname, s.data())
	s.say("   %s compile %s --data %s", s.o.Executable, certname, s.data())
	s.say("   %s ca revoke --certname %s --data %s      # then run the agent again", s.o.Executable, certname, s.data())
	s.say("   %s", strings.Join(append([]string{s.puppet}, s.agentArgs()...), " "))
	s.say("   %s server --help                            # your own code: --environmentpath DIR", s.o.Executable)
}

// findPuppet returns the agent's command, or says how to get one.
func findPuppet(path string) (string, error) {
	for _, p := range []string{path, "puppet", "/opt/puppetlabs/bin/puppet"} {
		if p == "" {
			continue
		}
		if found, err := exec.LookPath(p); err == nil {
			return found, nil
		}
	}
	return "", errors.New("no puppet command found: install an agent first (Debian: apt-get install puppet-agent), or name one with --puppet")
}

func (s *stage) data() string    { return s.first.data }
func (s *stage) managed() string { return filepath.Join(s.dir, "managed") }
func (s *stage) environment() string {
	return filepath.Join(s.dir, "code", "environments", "production")
}

// writeCode lays down the control repository. The folders are readable by all,
// because the compiling workers run as an unprivileged user.
func (s *stage) writeCode() error {
	if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // workers of another user read below it
		return err
	}
	sub, err := fs.Sub(code, "code")
	if err != nil {
		return err
	}
	if err := os.CopyFS(s.environment(), sub); err != nil {
		return fmt.Errorf("write the demo's code: %w", err)
	}
	return s.writeGreeting("Hello from troupe")
}

func (s *stage) writeGreeting(text string) error {
	dir := filepath.Join(s.environment(), "data")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // see writeCode
		return err
	}
	yaml := fmt.Sprintf("---\ndemo::root: %q\ndemo::greeting: %q\n", s.managed(), text)
	return os.WriteFile(filepath.Join(dir, "common.yaml"), []byte(yaml), 0o644) //nolint:gosec // see writeCode
}

func (s *stage) expectGreeting(text string) error {
	got, err := os.ReadFile(filepath.Join(s.managed(), "greeting.txt"))
	if err != nil {
		return fmt.Errorf("the agent's file: %w", err)
	}
	if !strings.HasPrefix(string(got), text+"\n") || !strings.Contains(string(got), "the show must go on") {
		return fmt.Errorf("the agent wrote %q, want a text that begins with %q and holds the custom fact", got, text)
	}
	return nil
}

// waitForFile returns the trimmed content of a file as soon as it is there.
func waitForFile(ctx context.Context, path string, ended chan error) (string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		b, err := os.ReadFile(path)
		if err == nil && len(b) > 0 {
			return strings.TrimSpace(string(b)), nil
		}
		select {
		case err := <-ended:
			ended <- err
			return "", fmt.Errorf("it ended: %w", err)
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline.C:
			return "", errors.New("not ready after a minute")
		case <-tick.C:
		}
	}
}

// agentArgs are the real agent's arguments: its own folders, our port.
func (s *stage) agentArgs() []string {
	a := filepath.Join(s.dir, "agent")
	return []string{
		"agent", "--test", "--server", "localhost", "--serverport", s.port, "--certname", certname, "--waitforcert", "1",
		"--confdir", a + "/conf", "--vardir", a + "/var", "--ssldir", a + "/ssl", "--rundir", a + "/run",
		"--logdir", a + "/log", "--publicdir", a + "/public", "--statedir", a + "/state",
	}
}

// agentRun runs the agent once and holds it to its exit code: 0 nothing to do,
// 2 changes (puppet agent --detailed-exitcodes).
func (s *stage) agentRun(ctx context.Context, what string, want int) error {
	args := s.agentArgs()
	s.say("$ %s %s", s.puppet, strings.Join(args, " "))
	start := time.Now()
	cmd := exec.CommandContext(ctx, s.puppet, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out := &indent{w: s.o.Out}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return fmt.Errorf("%s: %w", what, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		return fmt.Errorf("%s: the agent ended with exit code %d, want %d", what, got, want)
	}
	s.took = append(s.took, timing{what, time.Since(start)})
	return nil
}

// command runs troupe itself, as a person would in another terminal.
func (s *stage) command(ctx context.Context, args ...string) error {
	s.say("$ troupe %s --data %s", strings.Join(args, " "), s.data())
	return s.show(ctx, "", append(args, "--data", s.data())...)
}

// show runs troupe and prints what it prints.
func (s *stage) show(ctx context.Context, input string, args ...string) error {
	cmd := exec.CommandContext(ctx, s.o.Executable, args...)
	cmd.Stdin = strings.NewReader(input)
	out := &indent{w: s.o.Out}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("troupe %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (s *stage) act(title string) { s.say("\n── %s", title) }

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.o.Out, format+"\n", args...)
}
