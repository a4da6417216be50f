package ruby

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"troupe/internal/telemetry"
)

// This file starts the first Ruby process, the template, and keeps one running.

// A template is a process that has loaded Puppet and forks zygotes.
type template struct {
	control     *control
	interpreter string
	versions    Versions
	compiled    bool // all that it loaded was there in compiled form

	process *os.Process
	output  *os.File
	exited  chan struct{} // closed when the process was waited for
	state   error         // how it ended, after exited
	group   sync.WaitGroup
}

// startFirst tries the interpreters in turn. Only here is a library that cannot
// be loaded the operator's mistake rather than a passing trouble.
func (p *Pool) startFirst(ctx context.Context, l launch) (*template, error) {
	var errs []error
	for _, interpreter := range l.interpreters {
		t, err := p.startTemplate(ctx, interpreter, l)
		if err == nil {
			p.o.Log.Info("engine started", slog.String("puppet", t.versions.Puppet), slog.String("ruby", t.versions.Ruby),
				slog.String("interpreter", interpreter), slog.String("user", p.account.name))
			return t, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// keepTemplate replaces the template when it dies, until ctx ends. Zygotes live
// without it.
func (p *Pool) keepTemplate(ctx context.Context, l launch, t *template) {
	for wait := time.Second; ; {
		if t != nil {
			select {
			case <-ctx.Done():
				t.stop(p.o.Log)
				return
			case <-t.control.gone: // it has ended, or nothing can be asked of it any more
				t.stop(p.o.Log)
				p.setTemplate(nil)
				p.o.Log.Error("ruby template died", slog.Any(telemetry.KeyErr, t.state))
				wait = time.Second
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Minute)

		interpreter := l.interpreters[0]
		if t != nil {
			interpreter = t.interpreter
		}
		next, err := p.startTemplate(ctx, interpreter, l)
		if err != nil {
			p.o.Log.Error("ruby template does not start", slog.Any(telemetry.KeyErr, err))
			t = nil
			continue
		}
		t = next
		p.setTemplate(t)
	}
}

func (p *Pool) setTemplate(t *template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.template = t
	if t != nil {
		p.versions = t.versions
	}
	p.wake()
}

// waitTemplate returns a template as soon as there is one.
func (p *Pool) waitTemplate(ctx context.Context) (*template, error) {
	for {
		p.mu.Lock()
		t, changed := p.template, p.changed
		p.mu.Unlock()
		if t != nil {
			return t, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *Pool) startTemplate(ctx context.Context, interpreter string, l launch) (*template, error) {
	t := &template{interpreter: interpreter, exited: make(chan struct{})}
	cmd := exec.Command(interpreter, p.arguments(l.script, l.compiled)...) //nolint:noctx // ended by its lifeline, with its children; the operator names the interpreter
	cmd.Dir = l.home
	cmd.Env = l.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.account.apply(cmd.SysProcAttr)
	if err := t.launch(cmd, l.lifeline); err != nil {
		return nil, fmt.Errorf("starting Ruby: %w", err)
	}
	t.group.Go(func() { t.readOutput(p.o.Log) })
	t.group.Go(func() {
		ended := func(e event) {
			p.o.Log.Debug("ruby zygote ended", slog.Int("pid", e.PID), slog.String("how", e.ending()))
		}
		if err := t.control.read(ctx, ended); err != nil {
			p.o.Log.Error("ruby template cannot be understood", slog.Any(telemetry.KeyErr, err))
		}
	})

	boot, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { watchBoot(boot, func() (time.Duration, error) { return cpuTime(t.process.Pid) }, cancel) })
	e, err := t.control.await(boot)
	cancel(nil)
	watching.Wait()
	switch {
	case err == nil && e.Event == "ready":
		t.versions, t.compiled = Versions{Puppet: e.Puppet, Ruby: e.Ruby}, e.Compiled
		return t, nil
	case err == nil:
		err = errors.New(e.Error)
	}
	t.stop(p.o.Log)
	if slow, ok := errors.AsType[*slowError](err); ok {
		return nil, fmt.Errorf("ruby %s does not come to an end with loading the Puppet library: %w", interpreter, slow)
	}
	return nil, fmt.Errorf("ruby %s cannot load the Puppet library: %w; install the package puppet-agent (version 7 or newer), "+
		"or name in the configuration the interpreter and the folder that holds puppet.rb", interpreter, err)
}

func (p *Pool) arguments(script ...string) []string {
	// These two put source lines and guesses into messages that agents get.
	args := []string{"--disable=did_you_mean", "--disable=error_highlight", "-W0"}
	for _, dir := range p.o.PuppetLib {
		args = append(args, "-I", filepath.Clean(dir))
	}
	return append(args, script...)
}

// launch starts the process. Pdeathsig is tied to the thread that starts it, so
// that thread is kept until the process has ended.
func (t *template) launch(cmd *exec.Cmd, lifeline *os.File) error {
	conn, theirs, err := socketPair()
	if err != nil {
		return err
	}
	t.control = newControl(conn, nil, nil)
	output, outputEnd, err := os.Pipe()
	if err != nil {
		return errors.Join(err, conn.Close(), theirs.Close())
	}
	t.output = output
	cmd.ExtraFiles = []*os.File{theirs, lifeline}
	cmd.Stdout, cmd.Stderr = outputEnd, outputEnd

	started := make(chan error, 1)
	t.group.Go(func() {
		runtime.LockOSThread()
		err := cmd.Start()
		t.process = cmd.Process
		started <- err
		if err == nil {
			t.state = cmd.Wait()
		}
		close(t.exited)
	})
	err = <-started
	if err = errors.Join(err, theirs.Close(), outputEnd.Close()); err != nil {
		return errors.Join(err, conn.Close(), output.Close())
	}
	return nil
}

// maxOutputLines bounds what one minute of rubbish on stdout costs us in log.
const (
	maxOutputLines = 100
	maxOutputLine  = 1000
)

// readOutput logs what Ruby processes write to stdout and stderr. Nothing of the
// protocol goes there, so code of an environment may print what it likes.
func (t *template) readOutput(log *slog.Logger) {
	lines := bufio.NewReaderSize(t.output, 4096)
	window, count := time.Now(), 0
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			if now := time.Now(); now.Sub(window) > time.Minute {
				window, count = now, 0
			}
			if count++; count <= maxOutputLines {
				log.Info("ruby output", slog.String("line", string(line[:min(len(line), maxOutputLine)])), slog.Bool("more_is_dropped", count == maxOutputLines))
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				log.Error("ruby output cannot be read", slog.Any(telemetry.KeyErr, err))
			}
			return
		}
	}
}

// stopGrace is how long a Ruby process may take to end by itself.
const stopGrace = 3 * time.Second

// stop ends the process with its children and waits for it.
func (t *template) stop(log *slog.Logger) {
	// Each of these fails only if the process is gone already.
	if err := t.control.write(plainCommand{Op: "stop"}); err != nil {
		log.Debug("ruby template is gone", slog.Any(telemetry.KeyErr, err))
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-t.exited:
	case <-timer.C:
		log.Warn("ruby template is killed", slog.Int("pid", t.process.Pid))
		killGroup(t.process, log)
	}
	if err := errors.Join(t.control.conn.Close(), t.output.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
		log.Debug("ruby template was closed before", slog.Any(telemetry.KeyErr, err))
	}
	t.group.Wait()
}

// killGroup kills a process that leads its group, and the group. The leader is
// checked first through its handle: while it exists, even as a zombie, its
// number belongs to nobody else.
func killGroup(process *os.Process, log *slog.Logger) {
	if process.Signal(syscall.Signal(0)) != nil {
		return
	}
	if err := syscall.Kill(-process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		log.Error("ruby process group cannot be killed", slog.Int("pid", process.Pid), slog.Any(telemetry.KeyErr, err))
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		log.Error("ruby process cannot be killed", slog.Int("pid", process.Pid), slog.Any(telemetry.KeyErr, err))
	}
}
