package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
)

// This file compiles a catalog for a person.

func newCompile(c *common) *cobra.Command {
	var q adminapi.CompileRequest
	var facts, diff, envpath, engineName string
	cmd := &cobra.Command{
		Use: "compile CERTNAME", Short: "Compile a node's catalog and show it, or what differs", Args: oneArg("certname"),
		Long: "Compile a node's catalog as for an agent of Puppet 7 or 8. Nothing is stored and no agent notices.\n" +
			"The running server compiles it, or, if none runs, this command does.\n\n" +
			"With --environmentpath this command compiles those environments. What the member of the data folder\n" +
			"knows of the node is used all the same: facts, classification, trusted extensions, and the exported\n" +
			"resources of others. Without such a member only --facts count.\n\n" +
			"With --diff the result is compared with another catalog: a file, another environment of the same\n" +
			"node (--diff environment:NAME), or the catalog that the node got last (--diff stored).\n\n" +
			"The exit code is 0 when there is a catalog and 1 when there is none; with --diff it is 0 when both\n" +
			"catalogs are equal, 1 when they differ, and 2 when there was nothing to compare.",
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
		err := c.compile(cmd.Context(), q, compileFlags{facts: facts, diff: diff, envpath: envpath})
		if _, exit := errors.AsType[exitCode](err); diff != "" && err != nil && !exit {
			return troubleError{err}
		}
		return err
	}
	return cmd
}

// compileFlags are those that say where to take things from.
type compileFlags struct{ facts, diff, envpath string }

func (c *common) compile(ctx context.Context, q adminapi.CompileRequest, f compileFlags) error {
	var err error
	if q.Facts, err = readFacts(f.facts, c.env.Stdin); err != nil {
		return err
	}
	return c.withCompiler(ctx, f.envpath, &q, func(on compiler) error {
		res, err := on.member.Compile(ctx, q)
		if err != nil {
			return err
		}
		c.warnStale(q.Certname, res)
		if f.diff == "" && res.Error == "" {
			return c.printCompile(res)
		}
		if res.Error != "" {
			return c.printCompileError(res, f.diff != "")
		}
		return c.compare(ctx, on, q, res, f.diff)
	})
}

func (c *common) warnStale(certname string, res adminapi.CompileResult) {
	if res.Stale {
		fmt.Fprintf(c.env.Stderr, "troupe: warning: the external node classifier failed for %s, its last good answer is used; the server's log says why\n", certname)
	}
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
	if path == "-" {
		path = "standard input"
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '{' {
		return nil, fmt.Errorf("facts in %s: not a JSON object, name to value (on the node: puppet facts show --render-as json)", path)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil { // an object, so that only its syntax can be wrong
		return nil, fmt.Errorf("facts in %s: not a JSON object: %w", path, err)
	}
	if values := all["values"]; len(values) > 0 && values[0] == '{' {
		return values, nil
	}
	return body, nil
}

// printCompileError ends a command that got no catalog.
func (c *common) printCompileError(res adminapi.CompileResult, comparing bool) error {
	if c.output != "json" {
		return fmt.Errorf("the catalog does not compile: %s", res.Error)
	}
	if err := c.print(res, nil); err != nil {
		return err
	}
	if comparing {
		return exitCode(2)
	}
	return exitCode(1)
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
