package classifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file runs the ENC: one argument more than its command, nothing on stdin,
// a bounded answer on stdout, and an end at the deadline for it and its children.

// run returns what the ENC printed. Its error is the one of
// lib/puppet/indirector/exec.rb.
func (c *Classifier) run(ctx context.Context, name puppet.Certname) ([]byte, error) {
	out, err := c.execute(ctx, name, c.command...)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "Failed to find %s via exec: %s", name, err)
	}
	return out, nil
}

// execute runs one of the operator's commands with the certname behind its own
// arguments, and returns what it printed. The error's text is Puppet's ("Execution
// of … returned 1: …"); stderr is for the log, as in Puppet.
func (c *Classifier) execute(ctx context.Context, name puppet.Certname, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waited longer than %s for a free slot: %w", c.o.Timeout, ctx.Err())
	}

	cmd := exec.CommandContext(ctx, command[0], append(slices.Clone(command[1:]), string(name))...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "LC_ALL=C"}, c.o.Env...)
	// Its own process group, so that children die with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A child left in the background may hold the pipe; Puppet does not wait for it either.
	cmd.WaitDelay = time.Second
	out := &boundedBuffer{max: c.o.MaxOutput, full: cancel}
	stderr := &tail{max: maxStderr}
	cmd.Stdout, cmd.Stderr = out, stderr
	if err := c.o.Account.Apply(cmd); err != nil {
		return nil, fmt.Errorf("Execution of '%s' failed: %w", strings.Join(cmd.Args, " "), err) //nolint:staticcheck // Puppet's words
	}

	err := outcome(ctx, cmd, out, c.o)
	c.logStderr(ctx, name, cmd, stderr, err)
	if err != nil {
		return nil, err
	}
	return out.b.Bytes(), nil
}

// outcome runs cmd and says in Puppet's words how it failed.
func outcome(ctx context.Context, cmd *exec.Cmd, out *boundedBuffer, o Options) error {
	err := cmd.Run()
	command := strings.Join(cmd.Args, " ")
	switch {
	case out.over:
		return fmt.Errorf("Execution of '%s' printed more than %d bytes", command, o.MaxOutput) //nolint:staticcheck // Puppet's words
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil:
		return fmt.Errorf("Execution of '%s' took longer than %s", command, o.Timeout) //nolint:staticcheck // Puppet's words
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("Execution of '%s' was broken off", command) //nolint:staticcheck // Puppet's words
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		return fmt.Errorf("Execution of '%s' returned %d: %s", command, exit.ExitCode(), strings.TrimSpace(out.b.String())) //nolint:staticcheck // Puppet's words
	}
	return fmt.Errorf("Execution of '%s' failed: %w", command, err) //nolint:staticcheck // Puppet's words
}

// maxStderr is how much of stderr goes to the log: its end, where the reason stands.
const maxStderr = 4 << 10

// logStderr keeps what a command complained of, which is where scripts say why they
// fail.
func (c *Classifier) logStderr(ctx context.Context, name puppet.Certname, cmd *exec.Cmd, stderr *tail, err error) {
	if len(stderr.b) == 0 {
		return
	}
	level := slog.LevelDebug
	if err != nil {
		level = slog.LevelWarn
	}
	c.log.Log(ctx, level, "command wrote to stderr", telemetry.KeyCertname, string(name), "command", cmd.Path, "failed", err != nil, "stderr", strings.TrimSpace(string(stderr.b)))
}

// A tail keeps the last max bytes of what is written.
type tail struct {
	b   []byte
	max int
}

func (w *tail) Write(p []byte) (int, error) {
	w.b = append(w.b, p[max(0, len(p)-w.max):]...)
	w.b = append(w.b[:0], w.b[max(0, len(w.b)-w.max):]...)
	return len(p), nil
}

// A boundedBuffer keeps at most max bytes and calls full when there are more.
type boundedBuffer struct {
	b    bytes.Buffer
	max  int
	over bool
	full func()
}

// Write keeps what fits and takes the rest, so that the writer is not blocked
// until it is killed.
func (w *boundedBuffer) Write(p []byte) (int, error) {
	if room := w.max - w.b.Len(); len(p) > room {
		w.b.Write(p[:room])
		if !w.over {
			w.over = true
			w.full()
		}
		return len(p), nil
	}
	return w.b.Write(p)
}
