package cli

import (
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
)

// This file changes the key that seals a member's keys.

func newCAReseal(c *common) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "reseal", Short: "Seal this member's keys under a new sealing key", Args: noArgs,
		Long: "Encrypt the keys on this member's disk, those of the CA and of the troupe, under a new sealing key.\n" +
			"Without --key-file a new seal.key is made in the data folder and counts at once. Where the sealing key is systemd's\n" +
			"credential troupe-seal, or is to be: make one, name its file here, encrypt it for systemd, restart the member. Until\n" +
			"that restart the old one counts. It helps when the sealing key or the data folder is in wrong hands, not both:\n" +
			"then the keys themselves are known, and `troupe ca rollover` is what helps.",
		Example: "  troupe ca reseal\n" +
			"  openssl rand -hex 32 > /run/seal.key && troupe ca reseal --key-file /run/seal.key &&\n" +
			"    systemd-creds encrypt --name=troupe-seal /run/seal.key /etc/troupe/seal.cred && rm /run/seal.key && systemctl restart troupe",
	}
	cmd.Flags().StringVar(&file, "key-file", "", "`file` with the new sealing key, 64 hexadecimal digits")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file != "" {
			var err error
			if file, err = filepath.Abs(file); err != nil {
				return err
			}
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			out, err := m.Reseal(cmd.Context(), adminapi.ResealRequest{KeyFile: file})
			if err != nil {
				return err
			}
			return c.print(out, func(w *tabwriter.Writer) {
				if out.Pending {
					fmt.Fprintln(w, "The keys are also sealed under the new sealing key. Now give it to systemd as the credential troupe-seal, and restart the member")
					return
				}
				fmt.Fprintln(w, "The keys are sealed under a new sealing key")
			})
		})
	}
	return cmd
}
