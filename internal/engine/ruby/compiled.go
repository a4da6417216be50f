package ruby

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/telemetry"
)

// This file keeps the library's Ruby files in compiled form, so that the next
// start does not parse them. The file is ours, not the account's: code of an
// environment must not decide what the template runs for all.

const (
	compileDelay = 15 * time.Second // the first catalogs come first
	compileLimit = 2 * time.Minute
	maxCompiled  = 128 << 20 // bytes; Puppet 7 and Facter take 11 MB
	compileNice  = 10
)

// keepCompiled writes the file anew if the template found it wanting.
func (p *Pool) keepCompiled(ctx context.Context, l launch, t *template) {
	if t.compiled {
		return
	}
	timer := time.NewTimer(compileDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	began := time.Now()
	size, err := p.compileLibrary(ctx, l, t.interpreter)
	switch {
	case err == nil:
		p.o.Log.Info("ruby files compiled for the next start", slog.Int64("bytes", size), slog.Duration(telemetry.KeyDuration, time.Since(began)))
	case ctx.Err() == nil:
		p.o.Log.Warn("ruby files cannot be compiled; starts take longer", slog.Any(telemetry.KeyErr, err))
	}
}

// compileLibrary replaces the file, as a whole and only by one that is on disk.
func (p *Pool) compileLibrary(ctx context.Context, l launch, interpreter string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, compileLimit)
	defer cancel()
	file, err := os.OpenFile(l.compiled+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644) // #nosec G302 -- the account reads it
	if err != nil {
		return 0, fmt.Errorf("making the file: %w", err)
	}
	defer file.Close()
	size, err := p.runCompile(ctx, l, interpreter, file)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(file.Name(), l.compiled)
	}
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", l.compiled, err)
	}
	return size, nil
}

func (p *Pool) runCompile(ctx context.Context, l launch, interpreter string, out io.Writer) (int64, error) {
	script := filepath.Join(filepath.Dir(l.script), "compile.rb")
	cmd := exec.CommandContext(ctx, interpreter, p.arguments(script)...) // #nosec G204 -- the operator names the interpreter
	cmd.Dir, cmd.Env, cmd.WaitDelay = l.home, l.environment(), stopGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.account.apply(cmd.SysProcAttr)
	problems := &limitedBuffer{left: 10_000}
	cmd.Stderr = problems
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("making a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting Ruby: %w", err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, compileNice); err != nil {
		p.o.Log.Debug("compiling is not less urgent than the rest", slog.Any(telemetry.KeyErr, err))
	}
	size, err := io.Copy(out, io.LimitReader(stdout, maxCompiled+1))
	if err == nil && size > maxCompiled {
		err = fmt.Errorf("there are more than %d bytes", maxCompiled)
	}
	if err != nil {
		killGroup(cmd.Process, p.o.Log)
	}
	if ended := cmd.Wait(); err == nil && ended != nil {
		err = fmt.Errorf("ruby ended with %w: %s", ended, bytes.TrimSpace(problems.text.Bytes()))
	}
	return size, err
}

// A limitedBuffer keeps the beginning of what is written.
type limitedBuffer struct {
	text bytes.Buffer
	left int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	kept := p[:min(len(p), b.left)]
	b.left -= len(kept)
	b.text.Write(kept)
	return len(p), nil
}
