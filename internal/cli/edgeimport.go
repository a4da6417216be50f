package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/edge/haproxy"
)

// This file writes an edge's configuration in the place of HAProxy's.

// maxImport is more than a haproxy.cfg has, and than a file of addresses that it names.
const maxImport = 4 << 20

func newEdgeImport(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "import HAPROXY.CFG", Short: "Write an edge's configuration from that of HAProxy, and say of each line what it became", Args: oneArg("haproxy.cfg"),
		Long: "Read the configuration of a HAProxy in front of puppetservers and print an edge.yaml in its place on standard output. On standard error\n" +
			"comes a report: what each line became, what differs, and what an edge has nothing for. Read it before you use the result. Nothing is\n" +
			"connected to, and no password of the file is repeated. With --strict the command ends with status 1 if anything was lost.",
		Example: "  troupe edge import /etc/haproxy/haproxy.cfg > edge.yaml\n  troupe edge check --config edge.yaml\n  troupe edge import haproxy.cfg --strict -o json | jq '.lines[] | select(.state == \"unmapped\")'",
	}
	strict := cmd.Flags().Bool("strict", false, "end with status 1 when a line has no equivalent")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		text, err := readBounded(args[0])
		if err != nil {
			return fmt.Errorf("read the configuration of HAProxy: %w", err)
		}
		res, err := haproxy.Import(args[0], text, haproxy.Options{ReadFile: func(path string) ([]byte, error) {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(args[0]), path)
			}
			return readBounded(path)
		}})
		if err != nil {
			return err
		}
		if err := c.printImport(args[0], res); err != nil {
			return err
		}
		if *strict && res.Count(haproxy.Unmapped) > 0 {
			return exitCode(1)
		}
		return nil
	}
	return cmd
}

// readBounded reads a regular file that is not too large.
func readBounded(path string) (text []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err = io.ReadAll(io.LimitReader(f, maxImport+1))
	if err == nil && len(text) > maxImport {
		err = fmt.Errorf("%s is larger than %d MiB: is it the right file?", path, maxImport>>20)
	}
	return text, err
}

// printImport writes the configuration to standard output, so that it can go into a file, and the report beside it.
func (c *common) printImport(name string, res *haproxy.Result) error {
	if c.output == "json" {
		return c.print(res, nil)
	}
	if c.output != "table" && c.output != "" {
		return c.print(res, nil) // it says which formats there are
	}
	if _, err := fmt.Fprintf(c.env.Stdout, "# Written by troupe edge import from %s. Read its report before you use this.\n%s", filepath.Base(name), res.YAML); err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.env.Stderr, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "LINE\tWHAT\tSTATE\tWHAT IT BECAME")
	for _, l := range res.Lines {
		at, what := strconv.Itoa(l.Number), l.What
		for i := 0; i < len(l.Became); {
			state, texts := l.Became[i].State, []string{}
			for ; i < len(l.Became) && l.Became[i].State == state; i++ {
				texts = append(texts, l.Became[i].Text)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", at, what, state, strings.Join(texts, "; "))
			at, what = "", ""
		}
	}
	for _, text := range res.General {
		fmt.Fprintf(w, "\nIn general: %s\n", text)
	}
	fmt.Fprintf(w, "\n%d lines: %d became settings, %d are not needed, %d differ, %d have no equivalent.\n",
		len(res.Lines), res.Count(haproxy.Mapped), res.Count(haproxy.Unneeded), res.Count(haproxy.Differs), res.Count(haproxy.Unmapped))
	return w.Flush()
}
