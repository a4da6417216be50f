package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	var all bool
	cmd := &cobra.Command{
		Use: "verify", Short: "Read every record and check numbers, hashes and chain", Args: noArgs,
		Long: "Read every record of the journal and check its number, its hash and its place in the chain.\n" +
			"Damage is named record by record. The exit code is 0 only if the journal is whole.\n" +
			"A running member fetches what is damaged from the others by itself.\n\n" +
			"With --cluster every member does so, and their journals are compared: the exit code is 0 only if\n" +
			"all members were asked, and have the same whole records up to the newest that anybody had.",
		Example: "  troupe journal verify --data /var/lib/troupe\n  troupe journal verify --cluster -o json",
	}
	cmd.Flags().BoolVar(&all, "cluster", false, "of all members, and compare them")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if all {
			return c.verifyCluster(cmd.Context())
		}
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
	}
	return cmd
}

// verifyCluster shows the progress of all members in one line.
func (c *common) verifyCluster(ctx context.Context) error {
	return c.withMember(ctx, func(m *adminapi.Client) error {
		shows, at := isTerminal(c.env.Stderr), map[string]uint64{}
		v, err := m.VerifyCluster(ctx, func(member string, done, total uint64) {
			if !shows || total == 0 {
				return
			}
			at[member] = done * 100 / total
			fmt.Fprint(c.env.Stderr, "\r\033[K")
			for _, name := range slices.Sorted(maps.Keys(at)) {
				fmt.Fprintf(c.env.Stderr, "%s %d %%  ", name, at[name])
			}
		})
		if len(at) > 0 {
			fmt.Fprint(c.env.Stderr, "\r\033[K")
		}
		if err != nil {
			return err
		}
		if err := c.print(v, func(w *tabwriter.Writer) { showCluster(w, v) }); err != nil {
			return err
		}
		if !v.Equal {
			return exitCode(1)
		}
		return nil
	})
}

func showCluster(w *tabwriter.Writer, v adminapi.ClusterVerification) {
	fmt.Fprintln(w, "SITE\tMEMBER\tRECORDS\tJOURNAL")
	for _, m := range v.Members {
		state := "whole"
		switch {
		case m.Error != "":
			state = "not asked"
		case !m.Whole:
			state = "damaged"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", orDash(m.Site), m.Name, m.Records, state)
	}
	fmt.Fprintln(w)
	for _, d := range v.Differences {
		fmt.Fprintln(w, "DIFFERENT\t"+d)
	}
	if v.Equal {
		fmt.Fprintf(w, "%d chains, the same at all members and whole.\n", v.Chains)
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
