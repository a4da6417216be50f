package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
)

// This file has the commands on nodes.

func newNode(c *common) *cobra.Command {
	return group("node", "Nodes: list, show, facts, catalog",
		newNodeList(c), newNodeShow(c),
		newNodeBody(c, "facts", "Print the node's latest facts as JSON", (*adminapi.Client).Facts),
		newNodeBody(c, "catalog", "Print the node's latest catalog as JSON", (*adminapi.Client).Catalog),
	)
}

func newNodeList(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the nodes that this member knows", Args: noArgs, Example: "  troupe node list\n  troupe node list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				nodes, err := m.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				if err := c.warnOfAge(cmd.Context(), m); err != nil {
					return err
				}
				return c.print(nodes, func(w *tabwriter.Writer) {
					if len(nodes) == 0 {
						fmt.Fprintln(w, "No node has been here yet")
						return
					}
					fmt.Fprintln(w, "CERTNAME\tENVIRONMENT\tLAST REPORT\tSTATUS\tLAST COMPILE")
					for _, n := range nodes {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Certname, n.Environment, ago(n.ReportTimestamp), orDash(n.Status), compileWord(n.LastCompile))
					}
				})
			})
		},
	}
}

func compileWord(c *adminapi.Compile) string {
	switch {
	case c == nil:
		return "-"
	case c.Failed:
		return "failed " + ago(c.Time)
	}
	return fmt.Sprintf("%.2f s, %s", c.Seconds, ago(c.Time))
}

func newNodeShow(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "show CERTNAME", Short: "Show one node and its newest compiles", Args: oneArg("certname"), Example: "  troupe node show web1.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				n, err := m.Node(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if err := c.warnOfAge(cmd.Context(), m); err != nil {
					return err
				}
				return c.print(n, func(w *tabwriter.Writer) { showNode(w, n) })
			})
		},
	}
}

func showNode(w *tabwriter.Writer, n adminapi.NodeDetail) {
	fmt.Fprintf(w, "certname\t%s\nenvironment\t%s\nstatus\t%s\n", n.Certname, n.Environment, orDash(n.Status))
	fmt.Fprintf(w, "facts\t%s\ncatalog\t%s\nreport\t%s\n", ago(n.FactsTimestamp), ago(n.CatalogTimestamp), ago(n.ReportTimestamp))
	if len(n.Compiles) == 0 {
		return
	}
	fmt.Fprintln(w, "\nCOMPILED\tENVIRONMENT\tCODE\tSECONDS\tRESOURCES\tBYTES\tRESULT")
	for _, k := range n.Compiles {
		result := "ok"
		if k.Failed {
			result = k.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%.12s\t%.3f\t%d\t%d\t%s\n", ago(k.Time), k.Environment, k.CodeID, k.Seconds, k.Resources, k.Bytes, result)
	}
	newest := n.Compiles[0]
	if len(newest.Timings) > 0 {
		fmt.Fprint(w, "\nthe newest compile\t")
		for _, phase := range slices.Sorted(maps.Keys(newest.Timings)) {
			fmt.Fprintf(w, "%s %.3f s  ", phase, newest.Timings[phase])
		}
		fmt.Fprintln(w)
	}
	for _, l := range newest.Logs {
		fmt.Fprintf(w, "%s\t%s\n", l.Level, l.Message)
	}
}

// newNodeBody is a command that prints one JSON document of a node.
func newNodeBody(c *common, name, short string, get func(*adminapi.Client, context.Context, string) (json.RawMessage, error)) *cobra.Command {
	return &cobra.Command{
		Use: name + " CERTNAME", Short: short, Args: oneArg("certname"), Example: "  troupe node " + name + " web1.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				body, err := get(m, cmd.Context(), args[0])
				if err != nil {
					return err
				}
				var out bytes.Buffer
				if err := json.Indent(&out, bytes.TrimSpace(body), "", "  "); err != nil {
					return err
				}
				out.WriteByte('\n')
				_, err = out.WriteTo(c.env.Stdout)
				return err
			})
		},
	}
}

// oldData is the age from which data of another site is told to be old.
const oldData = 2 * time.Minute

// warnOfAge tells, beside an answer about nodes, which sites it knows only as they were.
func (c *common) warnOfAge(ctx context.Context, m *adminapi.Client) error {
	s, err := m.Status(ctx)
	if err != nil {
		return err
	}
	ages := s.SiteAges()
	for _, site := range slices.Sorted(maps.Keys(ages)) {
		switch at := ages[site]; {
		case at.IsZero():
			fmt.Fprintf(c.env.Stderr, "Nothing is known of a member of site %s yet (see: troupe status)\n", site)
		case time.Since(at) > oldData:
			fmt.Fprintf(c.env.Stderr, "What site %s wrote is known until %s, %s (see: troupe status)\n", site, at.Local().Format(time.DateTime), ago(at))
		}
	}
	return nil
}

// ago is a time as people say it.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := time.Since(t); {
	case d < 0:
		return t.Local().Format(time.DateTime)
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return t.Local().Format(time.DateOnly)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
