package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/puppet"
)

// This file has the commands on reports.

func newReport(c *common) *cobra.Command {
	return group("report", "Reports: list, show", newReportList(c), newReportShow(c))
}

func newReportList(c *common) *cobra.Command {
	q := adminapi.ReportQuery{Limit: 50}
	cmd := &cobra.Command{
		Use: "list", Short: "List reports, newest first", Args: noArgs,
		Example: "  troupe report list\n  troupe report list --certname web1.example.com --status failed -o json",
	}
	cmd.Flags().StringVar(&q.Certname, "certname", "", "only of this `name`")
	cmd.Flags().StringVar(&q.Status, "status", "", "only with this `status`: changed, unchanged or failed")
	cmd.Flags().IntVar(&q.Limit, "limit", q.Limit, "at most this many")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if words := []string{"changed", "unchanged", "failed"}; q.Status != "" && !slices.Contains(words, q.Status) {
			return usageError{fmt.Errorf("unknown status %q; there are: %s", q.Status, strings.Join(words, ", "))}
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			list, err := m.Reports(cmd.Context(), q)
			if err != nil {
				return err
			}
			if err := c.warnOfAge(cmd.Context(), m); err != nil {
				return err
			}
			return c.print(list, func(w *tabwriter.Writer) {
				if len(list) == 0 {
					fmt.Fprintln(w, "No reports")
					return
				}
				fmt.Fprintln(w, "ID\tTIME\tCERTNAME\tENVIRONMENT\tSTATUS\tSECONDS\tCHANGED\tFAILED\tRESOURCES")
				for _, r := range list {
					fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%s\t%.1f\t%d\t%d\t%d\n", r.ID, r.Time.Local().Format(time.DateTime), r.Certname, r.Environment, statusWord(r), r.Seconds, r.Changed, r.Failed, r.Resources)
				}
			})
		})
	}
	return cmd
}

func statusWord(r adminapi.Report) string {
	word := r.Status
	if r.Noop {
		word += " (noop)"
	}
	if r.CachedCatalog == "on_failure" {
		word += " (cached catalog)"
	}
	return word
}

func newReportShow(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one report", Args: oneArg("report id"), Example: "  troupe report show 3fa91c   # the beginning of the id is enough",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				r, err := m.Report(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				perr := c.print(r, func(w *tabwriter.Writer) { err = showReport(w, r) })
				return errors.Join(perr, err)
			})
		},
	}
}

// showReport writes the head as a table and the rest as lines: messages of agents
// have tabs and line breaks of their own.
func showReport(w *tabwriter.Writer, r adminapi.ReportDetail) error {
	fmt.Fprintf(w, "report\t%s\ncertname\t%s\nenvironment\t%s\nstatus\t%s\n", r.ID, r.Certname, r.Environment, statusWord(r.Report))
	fmt.Fprintf(w, "time\t%s, %.1f s\nagent\tPuppet %s\nconfiguration\t%s\ntransaction\t%s\n", r.Time.Local().Format(time.DateTime), r.Seconds, r.PuppetVersion, r.ConfigurationVersion, r.TransactionUUID)
	fmt.Fprintf(w, "resources\t%d, changed %d, failed %d\n", r.Resources, r.Changed, r.Failed)
	if t := r.Metrics["time"]; len(t) > 0 {
		fmt.Fprintln(w, "seconds\t"+slowest(t))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, res := range r.Events {
		fmt.Fprintf(w, "\n%s[%s] %s\n", res.Type, res.Title, outcome(res))
		for _, e := range res.Events {
			fmt.Fprintf(w, "    %s: %s: %s\n", orDash(e.Property), e.Status, e.Message)
		}
	}
	if len(r.Logs) > 0 {
		fmt.Fprintln(w)
	}
	for _, l := range r.Logs {
		fmt.Fprintf(w, "%-7s %s: %s\n", l.Level, l.Source, strings.NewReplacer("\t", "  ", "\n", "\n        ").Replace(strings.TrimSpace(l.Message)))
	}
	return nil
}

// slowest names the longest parts of the run, longest first.
func slowest(t map[string]float64) string {
	names := slices.SortedFunc(maps.Keys(t), func(a, b string) int { return cmp.Compare(t[b], t[a]) })
	var parts []string
	for _, n := range names {
		if len(parts) < 6 && n != "total" && t[n] >= 0.001 {
			parts = append(parts, fmt.Sprintf("%s %.2f", n, t[n]))
		}
	}
	return strings.Join(parts, ", ")
}

func outcome(r puppet.ReportResource) string {
	switch {
	case r.Failed:
		return "failed"
	case r.Skipped:
		return "skipped"
	case r.Changed:
		return "changed"
	case r.OutOfSync:
		return "out of sync"
	}
	return "unchanged"
}
