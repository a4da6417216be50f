package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/engine"
)

// This file looks up Hiera data for a person, with the options of puppet lookup.

// lookupFlags are those of the command that the request does not hold.
type lookupFlags struct{ facts, envpath, fallback string }

func newLookup(c *common) *cobra.Command {
	var q adminapi.LookupRequest
	var f lookupFlags
	cmd := &cobra.Command{
		Use: "lookup KEY...", Short: "Look up Hiera data for a node, and explain where it comes from",
		Long: "Look up Hiera data for a node, as puppet lookup does, and with what the server knows of it: its facts,\n" +
			"$trusted, the environment that it is in, and the version of the code that is served. Of several keys the\n" +
			"first that has a value counts. What a classifier says of the node counts only with --compile.\n\n" +
			"Facts given with --facts count beside the stored ones. With --environmentpath the data is that of a folder\n" +
			"of environments, before it is deployed.\n\n" +
			"The exit code is 0 when there is a value or an explanation, and 1 when there is none.",
		Example: "  troupe lookup ntp::servers --node web1.example.com\n" +
			"  troupe lookup ntp::servers --node web1.example.com --explain\n" +
			"  troupe lookup users --node web1.example.com --merge deep --knock-out-prefix=-- -o json",
	}
	c.lookupOptions(cmd, &q, &f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q.Keys = args
		o := q.Options
		switch {
		case q.Certname == "":
			return usageError{errors.New("--node CERTNAME is missing: whose data to look up (see: troupe lookup --help)")}
		case len(args) == 0 && (o.Explain || !o.ExplainOptions): // the options of all keys can be explained
			return usageError{errors.New("no key was given to look up (see: troupe lookup --help)")}
		case !engine.KnownRendering(o.RenderAs):
			return usageError{fmt.Errorf("--render-as %q is not one of s, json, yaml", o.RenderAs)}
		}
		if cmd.Flags().Changed("default") {
			q.Options.Default = &f.fallback
		}
		return c.lookup(cmd.Context(), q, f)
	}
	return cmd
}

func (c *common) lookupOptions(cmd *cobra.Command, q *adminapi.LookupRequest, from *lookupFlags) {
	f, o := cmd.Flags(), &q.Options
	f.StringVar(&q.Certname, "node", "", "`certname` of the node")
	f.StringVar(&q.Environment, "environment", "", "`name` of the environment (default: the node's)")
	f.StringVar(&from.envpath, "environmentpath", "", "`folder` of environments to use instead of the server's")
	f.StringVar(&from.facts, "facts", "", "JSON `file` with facts that override stored ones; - reads standard input")
	f.StringVar(&o.Merge, "merge", "", "`strategy`: first, unique, hash or deep (default: as lookup_options say)")
	f.StringVar(&o.KnockOutPrefix, "knock-out-prefix", "", "with --merge deep: values with this `prefix` are removed")
	f.BoolVar(&o.SortMergedArrays, "sort-merged-arrays", false, "with --merge deep: sort merged arrays")
	f.BoolVar(&o.MergeHashArrays, "merge-hash-arrays", false, "with --merge deep: merge hashes within arrays by position")
	f.StringVar(&o.Type, "type", "", "data `type` that the value must have")
	f.StringVar(&from.fallback, "default", "", "`value` if nothing is found")
	f.BoolVar(&o.Explain, "explain", false, "tell where the value comes from, or why there is none")
	f.BoolVar(&o.ExplainOptions, "explain-options", false, "tell which lookup_options count")
	f.BoolVar(&o.Compile, "compile", false, "evaluate the node's manifests first, for data that depends on their variables")
	f.StringVar(&o.RenderAs, "render-as", "", "`format` as in puppet lookup: s, json or yaml (default: yaml, explanations s)")
}

func (c *common) lookup(ctx context.Context, q adminapi.LookupRequest, f lookupFlags) error {
	var err error
	if q.Facts, err = readFacts(f.facts, c.env.Stdin); err != nil {
		return err
	}
	if c.output == "json" {
		q.Options.RenderAs = "json"
	}
	return c.withCompiler(ctx, f.envpath, &q.CompileRequest, func(on compiler) error {
		res, err := on.member.Lookup(ctx, q)
		if err != nil {
			return err
		}
		for _, l := range res.Logs {
			fmt.Fprintf(c.env.Stderr, "%s: %s\n", l.Level, l.Message)
		}
		if res.Stale && q.Options.Compile {
			c.warnStale(q.Certname, adminapi.CompileResult{Stale: true})
		}
		if res.Error != "" {
			return errors.New(res.Error)
		}
		return c.printLookup(res, q.Options)
	})
}

// lookedUp is the result for machines. Exactly one of value and explanation is there, if anything was found.
type lookedUp struct {
	Found       bool            `json:"found"`
	Value       json.RawMessage `json:"value,omitempty"`
	Explanation json.RawMessage `json:"explanation,omitempty"`
	Environment string          `json:"environment"`
	CodeID      string          `json:"code_id"`
}

func (c *common) printLookup(res adminapi.LookupResult, o engine.LookupOptions) error {
	if c.output == "json" {
		out := lookedUp{Found: res.Found, Environment: res.Environment, CodeID: res.CodeID}
		switch {
		case o.Explain || o.ExplainOptions:
			out.Explanation = json.RawMessage(res.Output)
		case res.Found:
			out.Value = json.RawMessage(res.Output)
		}
		if err := c.print(out, nil); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(c.env.Stdout, res.Output); err != nil {
		return err
	}
	if !res.Found {
		return exitCode(1)
	}
	return nil
}
