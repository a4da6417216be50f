package troupetest

// This file starts child processes whose end and whose output a test can rely on.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a running child in a process group of its own. Its output goes to a file, whose end is shown when the
// test fails.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has ended and err is set
	err  error
}

// startProcess starts cmd, appending its output to the file log. The whole group is killed when the test ends.
func startProcess(t *testing.T, name, log string, cmd *exec.Cmd) *process {
	t.Helper()

	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("open log of %s: %v", name, err)
	}
	defer out.Close()

	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}

	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		// Children that outlived their parent are still in its group.
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("kill the group of %s: %v", name, err)
		}
		<-p.done
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, tail(log, 120))
		}
	})
	return p
}

// signal sends sig to the child alone, not to its group.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.name, err)
	}
	return nil
}

// wait waits until the child has ended.
func (p *process) wait(limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s still runs after %v", p.name, limit)
	}
}

// ended reports whether the child has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Eventually waits until done reports true, and fails the test after limit.
func Eventually(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	if !poll(t.Context(), limit, done) {
		t.Fatalf("after %v still waiting: %s", limit, what)
	}
}

// poll asks done every few milliseconds until it is true, the time is over or ctx ends.
func poll(ctx context.Context, limit time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()

	var last []string
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if last = append(last, scan.Text()); len(last) > lines {
			last = last[1:]
		}
	}
	if err := scan.Err(); err != nil {
		last = append(last, "(reading the log: "+err.Error()+")")
	}
	return strings.Join(last, "\n")
}
