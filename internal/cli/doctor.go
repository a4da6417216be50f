package cli

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/doctor"
)

// This file has the command that examines a member and the machine under it.

func newDoctor(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Examine this member and its machine, and say what to do about each thing", Args: noArgs,
		Long: "Examine this member and the machine under it: configuration, clock, disk, ports, names, certificates and\n" +
			"revocation lists, keys, Ruby, environments, journal, other members, limits. Each thing that is wrong comes\n" +
			"with the next command or setting. Nothing is changed. It works on a member that runs, on one that is\n" +
			"stopped, and on a machine that has only a configuration, and ends within ten seconds.\n" +
			"The exit code is 1 if something fails, 0 if there are at most warnings.",
		Example: "  troupe doctor\n  troupe doctor --data /var/lib/troupe -o json",
	}
	settings := serverFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := doctor.Options{Data: c.data, Version: version()}
		if o.Data == "" {
			o.Data = defaultData
		}
		o.Config, o.ConfigError = c.load(settings())
		r := doctor.Examine(cmd.Context(), o)
		if err := errors.Join(cmd.Context().Err(), c.print(r, func(w *tabwriter.Writer) { showExamination(w, r) })); err != nil {
			return err
		}
		if r.State == doctor.Fail {
			return exitCode(1)
		}
		return nil
	}
	return cmd
}

func showExamination(w *tabwriter.Writer, r doctor.Report) {
	count := map[doctor.State]int{}
	for _, f := range r.Findings {
		count[f.State]++
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.State, f.Check, strings.Join(strings.Fields(f.Found), " ")) // errors may have lines
		if f.Remedy != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", f.Remedy)
		}
	}
	fmt.Fprintf(w, "\n%d fail, %d warn, %d unknown, %d ok.\n", count[doctor.Fail], count[doctor.Warn], count[doctor.Unknown], count[doctor.OK])
}
