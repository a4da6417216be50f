package ca

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"troupe/internal/account"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file decides which requests are signed without a person: puppet.conf's
// setting autosign.

// Autosign is off when it is zero.
type Autosign struct {
	All  bool   // sign everything that the rest of the policy allows
	Path string // else: an executable that decides, or a list of names; it may be missing

	Account account.Account // that the executable runs as; zero means our own
	Timeout time.Duration   // of the executable; 0 means 30s
	RubyLib []string        // prepended to the executable's RUBYLIB, so that it finds Puppet and Facter
	GemPath []string        // appended to the executable's GEM_PATH
}

const (
	maxPolicyRuns   = 8
	policyTimeout   = 30 * time.Second
	maxPolicyOutput = 64 << 10
	maxListSize     = 16 << 20
)

func (s Autosign) String() string {
	switch {
	case s.All:
		return "true"
	case s.Path == "":
		return "false"
	}
	return s.Path
}

// autosigns says whether a request is signed at once. An error of the list or the
// executable leaves the request waiting for a person.
func (a *Authority) autosigns(ctx context.Context, s Autosign, name puppet.Certname, csrPEM []byte) bool {
	if s.All || s.Path == "" {
		return s.All
	}
	info, err := os.Stat(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	var ok bool
	switch {
	case err != nil:
	case info.Mode()&0o111 != 0 && info.Mode().IsRegular():
		ok, err = a.runPolicy(ctx, s, name, csrPEM)
	default:
		ok, err = a.listed(ctx, s.Path, name)
	}
	if err != nil {
		a.log.WarnContext(ctx, "autosign failed: the request waits for a person", "autosign", s.Path, telemetry.KeyCertname, string(name), telemetry.KeyErr, err)
	}
	return ok && err == nil
}

// listed reads an allow-list: exact names, globs like *.example.com, or * alone.
func (a *Authority) listed(ctx context.Context, path string, name puppet.Certname) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxListSize {
		return false, errors.Join(err, fmt.Errorf("%s is larger than %d bytes", path, maxListSize))
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		if strings.ContainsAny(line, "# ") {
			a.log.ErrorContext(ctx, "invalid pattern in the autosign list", "pattern", line, "autosign", path)
			continue
		}
		if matchesLine(line, string(name)) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// matchesLine compares a name with a line of the list. *.example.com matches
// example.com too, and case counts only in names without a glob (line-matches?).
func matchesLine(line, name string) bool {
	switch {
	case line == "*":
		return true
	case !strings.HasPrefix(line, "*"):
		return line == name
	}
	glob := strings.Split(strings.TrimRight(strings.ToLower(line), "."), ".")
	labels := strings.Split(strings.TrimRight(strings.ToLower(name), "."), ".")
	suffix := glob[1:]
	return len(labels) >= len(suffix) && slices.Equal(labels[len(labels)-len(suffix):], suffix)
}

// runPolicy asks the executable: the name is its argument, the request its
// input, and only exit code 0 signs.
func (a *Authority) runPolicy(ctx context.Context, s Autosign, name puppet.Certname, csrPEM []byte) (bool, error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = policyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case a.hands <- struct{}{}:
		defer func() { <-a.hands }()
	case <-ctx.Done():
		return false, fmt.Errorf("wait for one of %d running executables: %w", cap(a.hands), ctx.Err())
	}

	stdout, stderr := &boundedBuffer{}, &boundedBuffer{}
	cmd := exec.CommandContext(ctx, s.Path, string(name))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(csrPEM), stdout, stderr
	cmd.Env = policyEnvironment(os.Environ(), s)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := s.Account.Apply(cmd); err != nil {
		return false, err
	}
	err := cmd.Run()

	a.log.DebugContext(ctx, "autosign command has run", "autosign", s.Path, telemetry.KeyCertname, string(name), "exit_code", cmd.ProcessState.ExitCode(), "stdout", stdout.String())
	if stderr.Len() > 0 {
		a.log.WarnContext(ctx, "autosign command wrote to stderr", "autosign", s.Path, telemetry.KeyCertname, string(name), "stderr", stderr.String())
	}
	switch exit, ok := errors.AsType[*exec.ExitError](err); {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, fmt.Errorf("the executable was ended: %w", ctx.Err())
	case ok:
		a.log.WarnContext(ctx, "autosign command rejected the request", "autosign", s.Path, telemetry.KeyCertname, string(name), "exit_code", exit.ExitCode())
		return false, nil
	}
	return false, err
}

// policyEnvironment adds what execute-autosign-command! adds.
func policyEnvironment(env []string, s Autosign) []string {
	env = slices.Clone(env)
	appendPath(&env, "RUBYLIB", s.RubyLib)
	appendPath(&env, "GEM_PATH", s.GemPath)
	return env
}

func appendPath(env *[]string, key string, paths []string) {
	if len(paths) == 0 {
		return
	}
	value := strings.Join(paths, string(os.PathListSeparator))
	for i, e := range *env {
		if old, ok := strings.CutPrefix(e, key+"="); ok && old != "" {
			(*env)[i] = key + "=" + old + string(os.PathListSeparator) + value
			return
		}
	}
	*env = append(*env, key+"="+value)
}

// A boundedBuffer keeps the beginning of what is written and drops the rest.
type boundedBuffer struct{ bytes.Buffer }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := maxPolicyOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
