package cli

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"troupe/internal/demo"
)

// This file has the demo.

func newDemo(c *common) *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use: "demo", Short: "A member on loopback and a real puppet agent against it, in a temporary folder", Args: noArgs,
		Long: "Start a member on loopback in a temporary folder and run an unmodified puppet agent against it:\n" +
			"a first run with its certificate, a run with a change, and one with nothing to do. Then three more\n" +
			"members join, in two sites; one is killed, and the sites are cut off from each other. At last an edge\n" +
			"stands in front, and the member that serves a run is killed in the middle of it. The host's own Puppet\n" +
			"folders and ports are not touched. Ctrl-C ends it and removes the folder; with --once, or\n" +
			"without a terminal, it ends by itself and the exit code is 0 only if every run did what it should.",
		Example: "  troupe demo\n  troupe demo --once",
	}
	cmd.Flags().BoolVar(&o.Once, "once", false, "end after the last run")
	cmd.Flags().StringVar(&o.Puppet, "puppet", "", "the agent's `command` (default: puppet, /opt/puppetlabs/bin/puppet)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		o.Executable, o.Out = exe, c.env.Stdout
		o.Once = o.Once || os.Getenv("ONCE") == "1" || !isTerminal(c.env.Stdout)
		return demo.Run(cmd.Context(), o)
	}
	return cmd
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
