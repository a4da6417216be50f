package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/engine"
	"troupe/internal/server"
	"troupe/internal/telemetry"
)

// This file compiles a catalog for a person, and compares it with another.

func newCompile(c *common) *cobra.Command {
	var q adminapi.CompileRequest
	var facts, diff, envpath, engineName string
	cmd := &cobra.Command{
		Use: "compile CERTNAME", Short: "Compile a node's catalog and show it, or what differs", Args: oneArg("certname"),
		Long: "Compile a node's catalog. Nothing is stored and no agent notices. The running server compiles it,\n" +
			"or, when --environmentpath is given or no server runs, this command does.\n\n" +
			"With --diff the result is compared with another catalog: a file, another environment of the same\n" +
			"node (--diff environment:NAME), or the catalog that the node got last (--diff stored).\n" +
			"The exit code is 0 when both are equal and 1 when they differ.",
		Example: "  troupe compile web1.example.com\n" +
			"  troupe compile web1.example.com --environment testing --diff stored\n" +
			"  troupe compile web1.example.com --facts facts.json --environmentpath ./environments -o json",
	}
	f := cmd.Flags()
	f.StringVar(&q.Environment, "environment", "", "`name` of the environment")
	f.StringVar(&facts, "facts", "", "JSON `file` with the node's facts; - reads standard input")
	f.StringVar(&diff, "diff", "", "compare with: `FILE`, stored, or environment:NAME")
	f.StringVar(&envpath, "environmentpath", "", "`folder` of environments to use instead of the server's")
	f.StringVar(&engineName, "engine", "ruby", "`engine` that compiles; there is: ruby")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if engineName != "ruby" {
			return usageError{fmt.Errorf("unknown engine %q; there is: ruby", engineName)}
		}
		q.Certname = args[0]
		var err error
		if q.Facts, err = readFacts(facts, c.env.Stdin); err != nil {
			return err
		}
		return c.withCompiler(cmd.Context(), envpath, &q, func(m *adminapi.Client) error {
			res, err := m.Compile(cmd.Context(), q)
			if err != nil {
				return err
			}
			if res.Error != "" {
				return c.printCompileError(res)
			}
			if diff == "" {
				return c.printCompile(res)
			}
			return c.compare(cmd, m, q, res, diff)
		})
	}
	return cmd
}

// withCompiler calls fn with the member of this data folder or, when the command
// brings its own environments, with one of its own in a temporary folder. That
// one knows no facts, so they are asked of the first.
func (c *common) withCompiler(ctx context.Context, envpath string, q *adminapi.CompileRequest, fn func(*adminapi.Client) error) (err error) {
	if envpath == "" {
		return c.withOpened(ctx, server.Options{Compiles: true}, fn)
	}
	if len(q.Facts) == 0 {
		if err := c.withMember(ctx, func(m *adminapi.Client) error {
			q.Facts, err = m.Facts(ctx, q.Certname)
			return err
		}); err != nil {
			return fmt.Errorf("facts of %s (give them with --facts FILE): %w", q.Certname, err)
		}
	}
	dir, err := os.MkdirTemp("", "troupe-compile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	own := *c
	own.data = dir
	cfg, err := own.load(map[string]string{"environmentpath": envpath, "ca.key_type": "ec256"})
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // workers of another user pass through
		return err
	}
	log := telemetry.NewLogger(c.env.Stderr, slog.LevelWarn, false)
	return server.RunOffline(ctx, cfg, server.Options{Log: log, Compiles: true}, fn)
}

// readFacts accepts what `puppet facts show --render-as json` prints, and the
// agent's own form with name and values.
func readFacts(path string, stdin io.Reader) (json.RawMessage, error) {
	if path == "" {
		return nil, nil
	}
	var body []byte
	var err error
	if path == "-" {
		body, err = io.ReadAll(stdin)
	} else {
		body, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	var whole struct {
		Values json.RawMessage `json:"values"`
	}
	if err := json.Unmarshal(body, &whole); err != nil {
		return nil, fmt.Errorf("facts in %s: not a JSON object: %w", path, err)
	}
	if len(whole.Values) > 0 {
		return whole.Values, nil
	}
	return bytes.TrimSpace(body), nil
}

func (c *common) printCompileError(res adminapi.CompileResult) error {
	if c.output == "json" {
		if err := c.print(res, nil); err != nil {
			return err
		}
		return exitCode(1)
	}
	return fmt.Errorf("the catalog does not compile: %s", res.Error)
}

// printCompile writes the catalog to stdout and what it took to stderr, so that
// the catalog can go into a file.
func (c *common) printCompile(res adminapi.CompileResult) error {
	if c.output == "json" {
		return c.print(res, nil)
	}
	for _, l := range res.Logs {
		fmt.Fprintf(c.env.Stderr, "%s: %s\n", l.Level, l.Message)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, res.Catalog, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	fmt.Fprintf(c.env.Stderr, "%d resources in %.3f s; environment %s, code %.12s\n", res.Resources, res.Seconds, res.Environment, res.CodeID)
	_, err := out.WriteTo(c.env.Stdout)
	return err
}

// compare prints every difference between the other catalog and the new one.
func (c *common) compare(cmd *cobra.Command, m *adminapi.Client, q adminapi.CompileRequest, res adminapi.CompileResult, diff string) error {
	other, err := c.otherCatalog(cmd, m, q, diff)
	if err != nil {
		return err
	}
	list, err := engine.Compare(other, res.Catalog)
	if err != nil {
		return err
	}
	if err := c.print(list, func(w *tabwriter.Writer) {
		for _, d := range list {
			fmt.Fprintln(w, d.String())
		}
	}); err != nil {
		return err
	}
	if len(list) > 0 {
		return exitCode(1)
	}
	if c.output != "json" {
		fmt.Fprintln(c.env.Stderr, "no difference")
	}
	return nil
}

func (c *common) otherCatalog(cmd *cobra.Command, m *adminapi.Client, q adminapi.CompileRequest, diff string) ([]byte, error) {
	if diff == "stored" {
		return m.Catalog(cmd.Context(), q.Certname)
	}
	if env, ok := bytes.CutPrefix([]byte(diff), []byte("environment:")); ok {
		q.Environment = string(env)
		res, err := m.Compile(cmd.Context(), q)
		if err != nil {
			return nil, err
		}
		if res.Error != "" {
			return nil, fmt.Errorf("the catalog of environment %s does not compile: %s", env, res.Error)
		}
		return res.Catalog, nil
	}
	return os.ReadFile(diff)
}
