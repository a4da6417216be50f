package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// This file asks a running edge about its zone.

func newDNS(c *common) *cobra.Command {
	return group("dns", "The zone that an edge answers for: explain, export", newDNSExplain(c), newDNSExport(c))
}

func newDNSExplain(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain NAME", Short: "Why a question is answered as it is", Args: oneArg("name"),
		Example: "  troupe dns explain _x-puppet._tcp.east.example.com --from 192.0.2.7\n  troupe dns explain puppet.example.com --type AAAA --from 2001:db8::7",
	}
	from := cmd.Flags().String("from", "127.0.0.1", "the `address` that asks")
	kind := cmd.Flags().String("type", "", "record `type` (default SRV for names that begin with _, else A)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := c.askEdge(cmd.Context())
		if err != nil {
			return err
		}
		x, err := client.ExplainDNS(cmd.Context(), args[0], *kind, *from)
		if err != nil {
			return err
		}
		return c.print(x, func(w *tabwriter.Writer) { fmt.Fprint(w, x.String()) })
	}
	return cmd
}

func newDNSExport(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "export", Short: "Print the zone as a file, and the records that the parent zone needs", Args: noArgs, Example: "  troupe dns export --site east > puppet.zone",
	}
	site := cmd.Flags().String("site", "", "as this `site` sees it (default: the edge's own)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := c.askEdge(cmd.Context())
		if err != nil {
			return err
		}
		zone, delegation, err := client.ExportZone(cmd.Context(), *site)
		if err != nil {
			return err
		}
		return c.print(map[string]string{"zone": zone, "delegation": delegation}, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "%s\n; in the parent zone:\n%s", zone, commented(delegation))
		})
	}
	return cmd
}

// commented makes a text one that a zone file skips.
func commented(text string) (out string) {
	for line := range strings.Lines(text) {
		out += "; " + strings.TrimSuffix(line, "\n") + "\n"
	}
	return out
}
