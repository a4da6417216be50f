package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/ca"
	"troupe/internal/config"
	"troupe/internal/server"
)

// This file creates a CA, takes one over, and gives one back.

func newCASetup(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "setup", Short: "Create the CA now instead of at the server's first start", Args: noArgs,
		Example: "  troupe ca setup --data /var/lib/troupe",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(nil)
		if err != nil {
			return err
		}
		if err := server.SetupCA(cmd.Context(), cfg); err != nil {
			return err
		}
		return c.print(map[string]any{"data": cfg.Data}, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "The CA is ready in", filepath.Join(cfg.Data, "ca"))
		})
	}
	return cmd
}

func newCAImport(c *common) *cobra.Command {
	var from caSource
	cmd := &cobra.Command{
		Use: "import", Short: "Go on with an existing CA", Args: noArgs,
		Long: "Take over a CA, so that agents notice nothing. Either a Puppet Server's folder, with its issuer and\n" +
			"key, CRL, inventory, signed certificates and requests (--cadir); or an issuer that has not signed\n" +
			"anything yet (--private-key, --cert-bundle, --crl-chain, as in `puppetserver ca import`).\n" +
			"The files are only read; `troupe ca export` writes a folder back. The data folder must not have a\n" +
			"CA yet, and the old server must not sign any more.",
		Example: "  troupe ca import --cadir /etc/puppetlabs/puppetserver/ca --data /var/lib/troupe\n" +
			"  troupe ca import --private-key key.pem --cert-bundle bundle.pem --crl-chain crls.pem",
	}
	cmd.Flags().StringVar(&from.folder, "cadir", "", "the CA `folder` of a Puppet Server")
	cmd.Flags().StringVar(&from.key, "private-key", "", "PEM `file` with the issuer's key")
	cmd.Flags().StringVar(&from.bundle, "cert-bundle", "", "PEM `file` with the issuer's certificate and those above it")
	cmd.Flags().StringVar(&from.crls, "crl-chain", "", "PEM `file` with the CRLs of those above it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(nil)
		if err != nil {
			return err
		}
		got, err := from.run(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		return c.print(got, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "Imported\t%s\n\t%d certificates, %d more only in the inventory\n\t%d revoked serials\n\t%d requests\n",
				got.Issuer, got.Signed, got.Listed, got.Revoked, got.Requests)
			for _, p := range got.Problems {
				fmt.Fprintln(w, "left out\t"+p)
			}
		})
	}
	return cmd
}

// caSource says where the CA comes from: a folder, or three files.
type caSource struct{ folder, key, bundle, crls string }

func (s caSource) run(ctx context.Context, cfg *config.Config) (ca.Imported, error) {
	files := s.key != "" || s.bundle != "" || s.crls != ""
	switch {
	case s.folder != "" && !files:
		return server.ImportCA(ctx, cfg, s.folder)
	case s.folder != "" || s.key == "" || s.bundle == "":
		return ca.Imported{}, usageError{errors.New("say which CA: --cadir DIR (often /etc/puppetlabs/puppetserver/ca or /etc/puppet/puppetserver/ca), or --private-key, --cert-bundle and --crl-chain")}
	}
	var e ca.External
	for _, f := range []struct {
		path string
		to   *[]byte
	}{{s.key, &e.PrivateKey}, {s.bundle, &e.CertBundle}, {s.crls, &e.CRLChain}} {
		if f.path == "" {
			continue
		}
		b, err := os.ReadFile(f.path)
		if err != nil {
			return ca.Imported{}, err
		}
		*f.to = b
	}
	return server.ImportExternalCA(ctx, cfg, e)
}

func newCAExport(c *common) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "export", Short: "Write the CA as a Puppet Server's folder", Args: noArgs,
		Example: "  troupe ca export --to /srv/ca-export",
	}
	cmd.Flags().StringVar(&dir, "to", "", "a new `folder`; it will hold the CA's private key in the clear")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dir == "" {
			return usageError{errors.New("say where to: --to DIR")}
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			if err := m.Export(cmd.Context(), abs); err != nil {
				return err
			}
			return c.print(map[string]any{"folder": abs}, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "The CA is written to", abs)
			})
		})
	}
	return cmd
}
