package ruby

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// This file finds what a Pool would start, without one.

// Found is what a Pool with the same options would start.
type Found struct {
	Versions

	Interpreter string `json:"interpreter"`
	User        string `json:"user"`
	UID         int    `json:"uid"`
}

// Look finds the account, the interpreter and the Puppet library that a Pool would use. It runs the interpreter once, as that
// account, and writes nothing.
func Look(ctx context.Context, o Options) (f Found, err error) {
	a, err := findAccount(o.User)
	if err != nil {
		return f, err
	}
	f.User, f.UID = a.name, a.uid
	if err := checkLibrary(o.PuppetLib); err != nil {
		return f, err
	}
	interpreters, err := findInterpreters(o.Ruby)
	if err != nil {
		return f, err
	}
	p := &Pool{o: o, account: a}
	if err := p.checkReachable(nearest(o.Dir)); err != nil {
		return f, err
	}
	var errs []error
	for _, interpreter := range interpreters {
		f.Interpreter = interpreter
		if f.Versions, err = p.ask(ctx, interpreter); err == nil {
			return f, nil
		}
		errs = append(errs, err)
	}
	return f, errors.Join(errs...)
}

// nearest returns dir, or what is there of the way to it.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// ask loads the library and returns what it is.
func (p *Pool) ask(ctx context.Context, interpreter string) (Versions, error) {
	const text = `require "puppet"; puts Puppet.version, RUBY_VERSION; exit 3 if Puppet.version.to_i < 7`
	cmd := exec.CommandContext(ctx, interpreter, p.arguments("-e", text)...) // #nosec G204 -- the operator names the interpreter
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", launch{home: "/nonexistent"}.environment(), stopGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.account.apply(cmd.SysProcAttr)
	out, problems := &limitedBuffer{left: 1000}, &limitedBuffer{left: 2000}
	cmd.Stdout, cmd.Stderr = out, problems
	err := cmd.Run()
	said := strings.Fields(out.text.String())
	switch {
	case ctx.Err() != nil:
		return Versions{}, fmt.Errorf("ruby %s has not loaded the Puppet library in time: %w", interpreter, ctx.Err())
	case len(said) == 2 && cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 3:
		return Versions{}, fmt.Errorf("ruby %s: Puppet %s is too old: the library must be version 7 or newer", interpreter, said[0])
	case err != nil:
		line, _, _ := bytes.Cut(bytes.TrimSpace(problems.text.Bytes()), []byte("\n"))
		return Versions{}, fmt.Errorf("ruby %s cannot load the Puppet library: %w: %s", interpreter, err, line)
	case len(said) != 2:
		return Versions{}, fmt.Errorf("%s does not speak as Ruby does: is it one?", interpreter)
	}
	return Versions{Puppet: said[0], Ruby: said[1]}, nil
}

// Footprint returns how many workers a Pool with these options has, and how many resident bytes each of them may have before it
// is replaced.
func (o Options) Footprint() (workers int, bytes int64) {
	o = o.withDefaults()
	return o.Workers, o.MaxMemory
}
