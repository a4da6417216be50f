// Package cli is troupe's command line: one file for each noun, one type for each
// group of commands.
//
// Results go to stdout, as tables for people or as JSON with -o json, whose field
// names are stable. Words about what happens, and errors, go to stderr, in lower
// case and with the prefix "troupe:". A command that asks a member finds it by its
// data folder: the running server if there is one, otherwise the folder itself is
// opened for the length of the command.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Env is what a command may touch of the process around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Main runs one command line and returns the process's exit code: 0 done, 1 not
// done, 2 the command line itself is wrong. A comparison speaks as diff(1) does: 0
// equal, 1 different, 2 trouble.
func Main(ctx context.Context, args []string, env Env) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { // a second signal ends the process at once
		<-ctx.Done()
		stop()
	}()

	root := newRoot(env)
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	fmt.Fprintf(env.Stderr, "troupe: %v\n", err)
	_, usage := errors.AsType[usageError](err)
	_, trouble := errors.AsType[troubleError](err)
	if usage || trouble {
		return 2
	}
	return 1
}

// usageError marks a wrong command line.
type usageError struct{ error }

// troubleError marks a comparison that could not be made.
type troubleError struct{ error }

// exitCode ends the process with a code after the command has said everything itself.
type exitCode int //nolint:errname // it is a code, not a failure to be wrapped

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// common are the flags that every command has.
type common struct {
	env    Env
	data   string
	config string
	conf   string
	output string
}

const (
	defaultData   = "/var/lib/troupe"
	defaultConfig = "/etc/troupe/troupe.yaml"
)

func newRoot(env Env) *cobra.Command {
	c := &common{env: env}
	root := &cobra.Command{
		Use:   "troupe",
		Short: "Puppet's server side as one binary that keeps serving",
		Long: `troupe serves unmodified Puppet agents: certificates, catalogs, files and reports.

Start with:  troupe demo                     a member and a real agent, in a temporary folder
        or:  troupe server --data DIR        a member that serves your environments`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetVersionTemplate("troupe {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see: %s --help)", err, cmd.CommandPath())}
	})
	f := root.PersistentFlags()
	f.StringVar(&c.data, "data", "", "the member's data `folder` (default "+defaultData+")")
	f.StringVar(&c.config, "config", "", "the member's configuration `file` (default "+defaultConfig+" if it is there)")
	f.StringVar(&c.conf, "confdir", "", "`folder` of puppet.conf; \"none\" reads none (default: /etc/puppetlabs/puppet or /etc/puppet)")
	f.StringVarP(&c.output, "output", "o", "table", "`format` of the result: table or json")
	root.AddCommand(
		newServer(c), newDemo(c), newConfig(c), newCA(c), newNode(c), newReport(c), newCompile(c), newLookup(c), newJournal(c), newLoad(c), newVersion(c),
		newInit(c), newToken(c), newJoin(c), newStatus(c), newSite(c), newAccept(c), newRemove(c), newLeave(c), newCode(c), newDoctor(c), newBackup(c), newEdge(c), newDNS(c), newAgentRoute(c),
	)
	return root
}

func newVersion(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs, Example: "  troupe version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.env.Stdout, "troupe", version())
			return err
		},
	}
}

// version is the module's version or, for a build from a checkout, its commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "0.1.0+" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "0.1.0"
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument, got %q (see: %s --help)", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

// oneArg names what is missing, instead of counting.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s needs one %s (see: %s --help)", cmd.CommandPath(), what, cmd.CommandPath())}
		}
		return nil
	}
}

// group is a command that only has sub-commands; an unknown one is an error with
// the list of those that exist.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(subs...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		names := make([]string, len(subs))
		for i, s := range subs {
			names[i] = s.Name()
		}
		return usageError{fmt.Errorf("unknown command %q of %s; there are: %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))}
	}
	cmd.Args = cobra.ArbitraryArgs
	return cmd
}

// print writes v as JSON, or calls table for people.
func (c *common) print(v any, table func(w *tabwriter.Writer)) error {
	switch c.output {
	case "json":
		enc := json.NewEncoder(c.env.Stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "table", "":
		w := tabwriter.NewWriter(c.env.Stdout, 0, 4, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	return usageError{fmt.Errorf("unknown output format %q; there are: table, json", c.output)}
}
