package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/config"
)

// This file has the commands on certificates, with the vocabulary and flags of
// `puppetserver ca`.

func newCA(c *common) *cobra.Command {
	return group("ca", "Certificates: list, sign, revoke, clean, generate, import, export …",
		newCAList(c), newCASign(c),
		newCAEach(c, "revoke", "Revoke certificates; their connections are refused at once", "Certificate for %s has been revoked", (*adminapi.Client).Revoke),
		newCAEach(c, "clean", "Revoke certificates and forget them and their requests", "Cleaned files related to %s", (*adminapi.Client).Clean),
		newCAGenerate(c), newCARenew(c), newCAExpirations(c), newCAConflicts(c), newCASetup(c), newCAImport(c), newCAExport(c),
		newCARollover(c), newCAReseal(c),
	)
}

func newCAList(c *common) *cobra.Command {
	var all bool
	var names []string
	cmd := &cobra.Command{
		Use: "list", Short: "List certificate requests, or all certificates", Args: noArgs,
		Example: "  troupe ca list\n  troupe ca list --all -o json\n  troupe ca list --certname web1.example.com",
	}
	cmd.Flags().BoolVar(&all, "all", false, "certificates too, not only requests")
	cmd.Flags().StringSliceVar(&names, "certname", nil, "only these `names`, separated by commas")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			state := "requested"
			if all || len(names) > 0 {
				state = ""
			}
			list, err := m.Certificates(cmd.Context(), state)
			if err != nil {
				return err
			}
			missing := slices.Clone(names)
			if len(names) > 0 {
				list = slices.DeleteFunc(list, func(s adminapi.Certificate) bool {
					missing = slices.DeleteFunc(missing, func(n string) bool { return n == s.Name })
					return !slices.Contains(names, s.Name)
				})
			}
			if err := c.printCertificates(list); err != nil {
				return err
			}
			if len(missing) > 0 {
				return fmt.Errorf("no certificate and no request for: %s", strings.Join(missing, ", "))
			}
			return nil
		})
	}
	return cmd
}

func (c *common) printCertificates(list []adminapi.Certificate) error {
	return c.print(list, func(w *tabwriter.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "No certificates to list")
			return
		}
		fmt.Fprintln(w, "STATE\tCERTNAME\tNOT AFTER\tFINGERPRINT (SHA256)\tALT NAMES")
		for _, s := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.State, s.Name, shortDate(s.NotAfter), s.Fingerprint, strings.Join(s.SubjectAltNames, " "))
		}
	})
}

func shortDate(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}

func newCASign(c *common) *cobra.Command {
	var names []string
	var all bool
	var ttl string
	cmd := &cobra.Command{
		Use: "sign", Short: "Sign certificate requests", Args: noArgs,
		Example: "  troupe ca sign --certname web1.example.com\n  troupe ca sign --all --ttl 90d",
	}
	cmd.Flags().StringSliceVar(&names, "certname", nil, "`names`, separated by commas")
	cmd.Flags().BoolVar(&all, "all", false, "every request")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long the certificates are valid, such as 90d or 5y")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if all == (len(names) > 0) {
			return usageError{errors.New("say which requests: --certname NAME[,NAME] or --all")}
		}
		d, err := parseTTL(ttl)
		if err != nil {
			return err
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			res, err := m.Sign(cmd.Context(), adminapi.CertificateRequest{Certnames: names, All: all, TTL: d})
			if err != nil {
				return err
			}
			if all && len(res.Done)+len(res.Errors) == 0 {
				return errors.New("no waiting certificate requests to sign")
			}
			return c.printResult(res, "Successfully signed certificate request for %s")
		})
	}
	return cmd
}

// newCAEach is a command that acts on certificates by name.
func newCAEach(c *common, verb, short, said string, act func(*adminapi.Client, context.Context, adminapi.CertificateRequest) (adminapi.CertificateResult, error)) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use: verb, Short: short, Args: noArgs,
		Example: "  troupe ca " + verb + " --certname web1.example.com,web2.example.com",
	}
	cmd.Flags().StringSliceVar(&names, "certname", nil, "`names`, separated by commas")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(names) == 0 {
			return usageError{errors.New("say which certificates: --certname NAME[,NAME]")}
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			res, err := act(m, cmd.Context(), adminapi.CertificateRequest{Certnames: names})
			if err != nil {
				return err
			}
			return c.printResult(res, said)
		})
	}
	return cmd
}

// printResult tells what was done; names that failed make the command fail.
func (c *common) printResult(res adminapi.CertificateResult, said string) error {
	if err := c.print(res, func(w *tabwriter.Writer) {
		for _, n := range res.Done {
			fmt.Fprintf(w, said+"\n", n)
		}
	}); err != nil {
		return err
	}
	for n, msg := range res.Errors {
		fmt.Fprintf(c.env.Stderr, "troupe: %s: %s\n", n, msg)
	}
	if len(res.Errors) > 0 {
		return exitCode(1)
	}
	return nil
}

func parseTTL(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := config.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usageError{fmt.Errorf("--ttl %q is not a time like 12h, 90d or 5y", s)}
	}
	return d, nil
}

func newCAGenerate(c *common) *cobra.Command {
	var q adminapi.GenerateRequest
	var ttl, dir string
	cmd := &cobra.Command{
		Use: "generate", Short: "Make a key and its certificate", Args: noArgs,
		Long: "Make a key and its certificate and write them, with the CA's bundle and CRLs, below --to in the\n" +
			"folders of an agent's ssldir. The key is made here and stored nowhere else.",
		Example: "  troupe ca generate --certname db1.example.com --subject-alt-names DNS:db,IP:192.0.2.5\n" +
			"  troupe ca generate --certname admin --ca-client --to /etc/puppetlabs/puppet/ssl",
	}
	cmd.Flags().StringVar(&q.Certname, "certname", "", "the certificate's `name`")
	cmd.Flags().StringSliceVar(&q.AltNames, "subject-alt-names", nil, "further `names`, such as DNS:web,IP:192.0.2.1")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long it is valid, such as 90d or 5y")
	cmd.Flags().BoolVar(&q.CAClient, "ca-client", false, "let it use the CA's API (extension pp_cli_auth)")
	cmd.Flags().StringVar(&dir, "to", ".", "`folder` to write to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if q.Certname == "" {
			return usageError{errors.New("say for whom: --certname NAME")}
		}
		var err error
		if q.TTL, err = parseTTL(ttl); err != nil {
			return err
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			pair, err := m.Generate(cmd.Context(), q)
			if err != nil {
				return err
			}
			files, err := writeKeyPair(dir, pair)
			if err != nil {
				return err
			}
			return c.print(map[string]any{"certname": q.Certname, "files": files}, func(w *tabwriter.Writer) {
				for _, f := range files {
					fmt.Fprintln(w, "Successfully saved", f)
				}
			})
		})
	}
	return cmd
}

// writeKeyPair lays files out as an agent's ssldir. It replaces nothing: a key
// that is already there may be in use.
func writeKeyPair(dir string, p adminapi.KeyPair) ([]string, error) {
	var written []string
	for _, f := range []struct {
		path, body string
		mode       os.FileMode
		shared     bool
	}{
		{filepath.Join("private_keys", p.Certname+".pem"), p.PrivateKey, 0o600, false},
		{filepath.Join("certs", p.Certname+".pem"), p.Certificate, 0o644, false},
		{filepath.Join("certs", "ca.pem"), p.Bundle, 0o644, true},
		{"crl.pem", p.CRLs, 0o644, true},
	} {
		if f.body == "" {
			continue
		}
		path := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return written, err
		}
		flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
		if f.shared {
			flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		}
		file, err := os.OpenFile(path, flags, f.mode)
		if err != nil {
			return written, fmt.Errorf("%w (the certificate is issued; move the old file away and run: troupe ca renew --certname %s)", err, p.Certname)
		}
		_, err = file.WriteString(f.body)
		if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
			return written, err
		}
		written = append(written, path)
	}
	return written, nil
}

func newCARenew(c *common) *cobra.Command {
	var name, dir string
	cmd := &cobra.Command{
		Use: "renew", Short: "Issue a certificate again for the same key", Args: noArgs,
		Example: "  troupe ca renew --certname web1.example.com --to /tmp/web1",
	}
	cmd.Flags().StringVar(&name, "certname", "", "the certificate's `name`")
	cmd.Flags().StringVar(&dir, "to", ".", "`folder` to write the certificate to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if name == "" {
			return usageError{errors.New("say whose certificate: --certname NAME")}
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			pair, err := m.Renew(cmd.Context(), name)
			if err != nil {
				return err
			}
			files, err := writeKeyPair(dir, pair)
			if err != nil {
				return err
			}
			return c.print(map[string]any{"certname": name, "files": files}, func(w *tabwriter.Writer) {
				for _, f := range files {
					fmt.Fprintln(w, "Successfully saved", f)
				}
			})
		})
	}
	return cmd
}

func newCAExpirations(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "expirations", Short: "When the CA's certificates and CRLs end", Args: noArgs,
		Example: "  troupe ca expirations",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			e, err := m.Expirations(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(e, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "WHAT\tOF\tEXPIRES")
				for name, when := range e.CACerts {
					fmt.Fprintf(w, "certificate\t%s\t%s\n", name, when)
				}
				for name, when := range e.CRLs {
					fmt.Fprintf(w, "CRL\t%s\t%s\n", name, when)
				}
			})
		})
	}
	return cmd
}

func newCAConflicts(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "conflicts", Short: "List names for which two members have signed different keys", Args: noArgs,
		Long: "List names for which two members have signed different keys, as may happen while they are cut off from\n" +
			"each other. Both certificates are good until one is revoked; the setting ca.conflict: revoke-later does that.",
		Example: "  troupe ca conflicts",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				all, err := m.Conflicts(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(all, func(w *tabwriter.Writer) {
					if len(all) == 0 {
						fmt.Fprintln(w, "No conflicts")
						return
					}
					fmt.Fprintln(w, "CERTNAME\tSIGNED\tSERIAL\tBY")
					for _, conflict := range all {
						for _, one := range conflict.Certificates {
							fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", conflict.Certname, one.Signed.Format(time.RFC3339), one.Serial, one.Origin)
						}
					}
				})
			})
		},
	}
}
