package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/server"
)

// This file has the commands on the journal.

func newJournal(c *common) *cobra.Command {
	return group("journal", "The member's journal: verify", newJournalVerify(c))
}

func newJournalVerify(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Read every record and check numbers, hashes and chain", Args: noArgs,
		Long: "Read every record of the journal and check its number, its hash and its place in the chain.\n" +
			"Damage is named record by record. The exit code is 0 only if the journal is whole.",
		Example: "  troupe journal verify --data /var/lib/troupe",
		RunE: func(cmd *cobra.Command, _ []string) error {
			shows, shown := isTerminal(c.env.Stderr), false
			v, err := c.verify(cmd.Context(), func(done, total uint64) {
				if shows && total > 0 {
					shown = true
					fmt.Fprintf(c.env.Stderr, "\r%3d %%", done*100/total)
				}
			})
			if shown {
				fmt.Fprint(c.env.Stderr, "\r     \r")
			}
			if err != nil {
				return err
			}
			if err := c.print(v, func(w *tabwriter.Writer) { showVerification(w, v) }); err != nil {
				return err
			}
			if !v.Whole {
				return exitCode(1)
			}
			return nil
		},
	}
}

// verify asks the running member, or opens the journal and nothing else: a
// damaged one must not be needed for more than reading it.
func (c *common) verify(ctx context.Context, progress func(done, total uint64)) (adminapi.Verification, error) {
	cfg, err := c.load(nil)
	if err != nil {
		return adminapi.Verification{}, err
	}
	client, err := adminapi.Dial(ctx, cfg.Data)
	if err == nil {
		return client.Verify(ctx, progress)
	}
	if !errors.Is(err, adminapi.ErrNotRunning) {
		return adminapi.Verification{}, err
	}
	return server.VerifyJournal(ctx, cfg, progress)
}

func showVerification(w *tabwriter.Writer, v adminapi.Verification) {
	for _, d := range v.Damage {
		fmt.Fprintln(w, "DAMAGED\t"+d)
	}
	if v.Whole {
		fmt.Fprintf(w, "%d records; the journal is whole.\n", v.Records)
	}
}
