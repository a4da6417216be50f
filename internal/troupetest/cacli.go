package troupetest

// This file runs the real `puppetserver ca` command line.

import (
	"os/exec"
	"strings"
	"testing"
)

// CACLI is the command line of Puppet's certificate authority, unmodified, with a configuration of its own.
type CACLI struct {
	Config string // its puppet.conf: server, serverport, ssldir, certname …
}

// Command returns the command for one verb.
func (c CACLI) Command(t *testing.T, verb string, args ...string) *exec.Cmd {
	t.Helper()
	// What Debian's /usr/bin/puppetserver does for `ca`, which would need the whole server to be installed.
	script := `require "puppetserver/ca/cli"; exit Puppetserver::Ca::Cli.run(ARGV)`
	words := append([]string{"-e", script, "--", verb, "--config", c.Config}, args...)
	return exec.CommandContext(t.Context(), "ruby", words...)
}

// Run runs one verb and returns its exit status and what it printed.
func (c CACLI) Run(t *testing.T, verb string, args ...string) (int, string) {
	t.Helper()
	cmd := c.Command(t, verb, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("puppetserver ca %s: %v", verb, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// MustRun runs one verb that has to succeed.
func (c CACLI) MustRun(t *testing.T, verb string, args ...string) string {
	t.Helper()
	status, out := c.Run(t, verb, args...)
	if status != 0 {
		t.Fatalf("puppetserver ca %s %s: exit %d\n%s", verb, strings.Join(args, " "), status, out)
	}
	return out
}
