package classifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file runs the ENC: one argument more than its command, nothing on stdin,
// a bounded answer on stdout, and an end at the deadline for it and its children.

// run returns what the ENC printed. Its error is the one of
// lib/puppet/indirector/exec.rb.
func (c *Classifier) run(ctx context.Context, name puppet.Certname) ([]byte, error) {
	out, err := c.execute(ctx, append(c.command[1:len(c.command):len(c.command)], string(name)), c.command[0])
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "Failed to find %s via exec: %s", name, err)
	}
	return out, nil
}

// execute runs one of the operator's commands and returns what it printed. The
// error's text is Puppet's ("Execution of … returned 1: …").
func (c *Classifier) execute(ctx context.Context, args []string, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waited longer than %s for a free slot: %w", c.o.Timeout, ctx.Err())
	}

	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "LC_ALL=C"}, c.o.Env...)
	// Its own process group, so that children die with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A child left in the background may hold the pipe; Puppet does not wait for it either.
	cmd.WaitDelay = time.Second
	out := &boundedBuffer{max: c.o.MaxOutput, full: cancel}
	cmd.Stdout = out

	err := cmd.Run()
	command := strings.Join(cmd.Args, " ")
	switch {
	case out.over:
		return nil, fmt.Errorf("Execution of '%s' printed more than %d bytes", command, c.o.MaxOutput) //nolint:staticcheck // Puppet's words
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil:
		return nil, fmt.Errorf("Execution of '%s' took longer than %s", command, c.o.Timeout) //nolint:staticcheck // Puppet's words
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("Execution of '%s' was broken off", command) //nolint:staticcheck // Puppet's words
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return out.b.Bytes(), nil
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		return nil, fmt.Errorf("Execution of '%s' returned %d: %s", command, exit.ExitCode(), strings.TrimSpace(out.b.String())) //nolint:staticcheck // Puppet's words
	}
	return nil, fmt.Errorf("Execution of '%s' failed: %w", command, err) //nolint:staticcheck // Puppet's words
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
