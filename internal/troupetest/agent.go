package troupetest

// This file runs unmodified agents of four Puppet generations, each with folders of its own.

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// Generation names an agent by its version.
type Generation string

// The generations that tools/chroots/make.sh and the machine itself offer.
const (
	Puppet5  Generation = "5.5"
	Puppet7  Generation = "7.23" // the machine's own
	Puppet8  Generation = "8.10"
	OpenVox9 Generation = "openvox9"
)

// release is the chroot of a generation; the empty string is the machine itself.
func (g Generation) release() string {
	switch g {
	case Puppet5:
		return "bullseye"
	case Puppet8:
		return "trixie"
	case OpenVox9:
		return "forky"
	default:
		return ""
	}
}

// Command returns a command of the generation. It sees the folders at the same paths as the test does.
func (g Generation) Command(ctx context.Context, t *testing.T, folders []string, args ...string) *exec.Cmd {
	t.Helper()
	if g.release() == "" {
		return exec.CommandContext(ctx, args[0], args[1:]...)
	}

	enter := filepath.Join(moduleRoot(t), "tools", "chroots", "enter.sh")
	cmd := exec.CommandContext(ctx, enter, append([]string{g.release()}, args...)...)
	cmd.Env = append(os.Environ(), "TROUPE_BIND="+strings.Join(folders, ":"))
	return cmd
}

// Agent is one node: a real `puppet agent` with its own identity and state. The fact `sandbox` names the folder that
// catalogs may write to.
type Agent struct {
	Generation Generation
	Certname   string
	Server     string            // address:port of the server, asked for by the name localhost
	Dir        string            // holds conf/, var/, ssl/, sandbox/ …
	Facts      map[string]string // further facts, set through the environment
	Limit      time.Duration     // of one run; 0 means three minutes
	Outside    []string          // words before everything, such as those that enter a network namespace: for agents in chroots, too
	Within     []string          // words before its commands, such as those that enter a network namespace; of the machine's own generation only

	t *testing.T
}

// NewAgent makes the folders of an agent that has never run.
func NewAgent(t *testing.T, g Generation, certname, server string) *Agent {
	t.Helper()
	a := &Agent{Generation: g, Certname: certname, Server: server, Dir: TempDir(t), Facts: map[string]string{}, t: t}
	for _, dir := range []string{"conf", "var", "ssl", "run", "log", "public", "state", "sandbox"} {
		mkdir(t, filepath.Join(a.Dir, dir))
	}
	return a
}

// Sandbox returns the path of a file that catalogs manage.
func (a *Agent) Sandbox(name string) string { return filepath.Join(a.Dir, "sandbox", name) }

// Result is what one command of an agent did.
type Result struct {
	Exit    int // with `agent -t`: 0 nothing to do, 2 changed, 1 failed run, 4 and 6 with failed resources
	Output  string
	Took    time.Duration
	Summary Summary // last_run_summary.yaml, zero if there is none
}

// Summary is the part of last_run_summary.yaml that stories ask for.
type Summary struct {
	Version struct {
		Config string `yaml:"config"`
		Puppet string `yaml:"puppet"`
	} `yaml:"version"`
	Resources map[string]int `yaml:"resources"`
	Events    map[string]int `yaml:"events"`
}

// Run runs `puppet agent -t` with further arguments. An unsigned agent does not wait unless `--waitforcert` says so.
func (a *Agent) Run(args ...string) Result {
	a.t.Helper()
	return a.Puppet(append([]string{"agent", "-t"}, args...)...)
}

// Puppet runs a subcommand of puppet with the agent's identity and folders.
func (a *Agent) Puppet(args ...string) Result {
	a.t.Helper()
	limit := a.Limit
	if limit == 0 {
		limit = 3 * time.Minute
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), limit)
	defer cancel()

	command := slices.Concat([]string{"puppet", args[0]}, a.settings(), args[1:])
	cmd := a.Generation.Command(ctx, a.t, []string{a.Dir}, slices.Concat(a.Within, command)...)
	if len(a.Outside) > 0 {
		cmd.Args = slices.Concat(a.Outside, []string{cmd.Path}, cmd.Args[1:])
		if cmd.Path, cmd.Err = exec.LookPath(a.Outside[0]); cmd.Err != nil {
			a.t.Fatal(cmd.Err)
		}
	}
	cmd.Env = append(cmd.Environ(), "LC_ALL=C.UTF-8", "FACTER_sandbox="+filepath.Join(a.Dir, "sandbox"))
	for _, name := range slices.Sorted(maps.Keys(a.Facts)) {
		cmd.Env = append(cmd.Env, "FACTER_"+name+"="+a.Facts[name])
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

	start := time.Now()
	err := cmd.Run()
	result := Result{Exit: cmd.ProcessState.ExitCode(), Output: output.String(), Took: time.Since(start)}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited || ctx.Err() != nil {
		a.t.Fatalf("%s of %s after %v: %v\n%s", strings.Join(args, " "), a.Certname, result.Took, err, result.Output)
	}
	result.Summary = a.summary()
	return result
}

// settings are the folders and the identity, in the words of the generation.
func (a *Agent) settings() []string {
	host, port, err := net.SplitHostPort(a.Server)
	if err != nil {
		a.t.Fatalf("address of the server: %v", err)
	}
	if host == "127.0.0.1" {
		host = "localhost" // a name that the certificate has
	}

	portSetting := "--serverport"
	settings := []string{"--publicdir", filepath.Join(a.Dir, "public")}
	if a.Generation == Puppet5 {
		portSetting, settings = "--masterport", nil
	}
	for _, setting := range []string{"conf", "var", "ssl", "run", "log", "state"} {
		settings = append(settings, "--"+setting+"dir", filepath.Join(a.Dir, setting))
	}
	return append(settings, "--certname", a.Certname, "--server", host, portSetting, port,
		"--keylength", "2048", "--waitforcert", "0", "--color", "false")
}

func (a *Agent) summary() Summary {
	dir := "public"
	if a.Generation == Puppet5 {
		dir = "state"
	}
	text, err := os.ReadFile(filepath.Join(a.Dir, dir, "last_run_summary.yaml"))
	if errors.Is(err, os.ErrNotExist) {
		return Summary{}
	}
	if err != nil {
		a.t.Fatal(err)
	}
	var s Summary
	if err := yaml.Unmarshal(text, &s); err != nil {
		a.t.Fatalf("last_run_summary.yaml: %v\n%s", err, text)
	}
	return s
}
