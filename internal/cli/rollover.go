package cli

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/atomicfile"
	"troupe/internal/ca"
)

// This file takes the CA from one issuer to the next.

func newCARollover(c *common) *cobra.Command {
	cmd := group("rollover", "Go over to a new issuer of certificates",
		newRolloverStatus(c),
		newRolloverStep(c, adminapi.RolloverBegin, "Make a new issuer beside the old one",
			"Make the key and the certificate of a new issuer. Agents get both in the CA bundle, with the CRLs of both; servers keep\n"+
				"showing certificates of the old one, so no agent notices. The key goes to every member; when all have it, new certificates\n"+
				"are of the new issuer. Nothing is final before `finish`."),
		newRolloverModule(c),
		newRolloverStep(c, adminapi.RolloverShow, "Let servers show certificates of the new issuer",
			"Let all servers show agents a certificate of the new issuer. Agents that do not trust it yet fail their run from now on:\n"+
				"give them the module first, or a day to fetch the CA by themselves (agents since 8.1). `--old` takes it back."),
		newRolloverStep(c, adminapi.RolloverFinish, "Retire the old issuer: what it signed is refused",
			"Retire the old issuer. It leaves the CA bundle, and every certificate that it signed is refused at once. This cannot be\n"+
				"taken back. It is refused while names hang on the old issuer, unless forced."),
		newRolloverStep(c, adminapi.RolloverCancel, "Give the new issuer up", "Give the new issuer up. It is refused when that has signed something, unless forced."),
	)
	cmd.Long = "Go over to a new issuer of certificates, in an order in which no agent fails a run (docs/security.md):\n" +
		"begin, module, show, finish, module. `status` tells after each step who is not ready for the next."
	return cmd
}

func newRolloverStep(c *common, step, short, long string) *cobra.Command {
	q := adminapi.RolloverStep{Step: step}
	var old bool
	cmd := &cobra.Command{Use: step, Short: short, Long: long, Args: noArgs, Example: "  troupe ca rollover " + step}
	if step != adminapi.RolloverBegin {
		cmd.Flags().BoolVar(&q.Force, "force", false, "although somebody is not ready")
	}
	switch step {
	case adminapi.RolloverBegin:
		cmd.Flags().BoolVar(&q.Stolen, "compromised", false, "the old key was stolen: from now on a certificate of the old issuer counts only if this troupe knows that it signed it")
	case adminapi.RolloverFinish:
		cmd.Flags().BoolVar(&q.Stolen, "compromised", false, "the old key was stolen: finish now, whoever depends on it")
	case adminapi.RolloverShow:
		cmd.Flags().BoolVar(&old, "old", false, "show certificates of the old issuer again")
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if old {
			q.Step = adminapi.RolloverHide
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			r, err := m.StepRollover(cmd.Context(), q)
			if err != nil {
				return err
			}
			return c.printRollover(r, 0)
		})
	}
	return cmd
}

func newRolloverStatus(c *common) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "status", Short: "Tell how far a roll-over is", Args: noArgs,
		Example: "  troupe ca rollover status\n  troupe ca rollover status --all -o json",
	}
	cmd.Flags().BoolVar(&all, "all", false, "every name that hangs on the old issuer, not only the first 20")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			r, err := m.Rollover(cmd.Context())
			if err != nil {
				return err
			}
			most := 20
			if all {
				most = len(r.Hanging)
			}
			return c.printRollover(r, most)
		})
	}
	return cmd
}

// printRollover shows issuers, what comes next, and the first names that hang on the old issuer.
func (c *common) printRollover(r adminapi.Rollover, most int) error {
	return c.print(r, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "ISSUER\tKEY\tROLE\tKEY HERE\tVALID CERTIFICATES\tNOT AFTER")
		for _, i := range r.Issuers {
			role := i.Role
			if i.Stolen {
				role += ", stolen"
			}
			if i.Role == ca.IssuerExtra {
				role += fmt.Sprintf(", begun by %s", i.By)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", i.Name, i.Key[:min(8, len(i.Key))], role, yes(i.Held), i.Live, shortDate(i.NotAfter))
		}
		if !r.Open {
			fmt.Fprintln(w, "\nNo roll-over is going on.")
			return
		}
		fmt.Fprintf(w, "\nThe new issuer signs:\t%s\nServers show it:\t%s\nAgents with a certificate of it, seen in use:\t%d of %d\nAgents that accepted a server with one:\t%d\nNames that hang on the old issuer:\t%d\n",
			yes(r.Signs), yes(r.Shown), r.Moved, r.Agents, r.Accept, r.Names)
		fmt.Fprintln(w, "Next:\t"+nextStep(r))
		if len(r.Hanging) == 0 || most == 0 {
			return
		}
		fmt.Fprintln(w, "\nCERTNAME\tNEW CERTIFICATE\tACCEPTS NEW SERVERS\tOLD ONE ENDS")
		for _, h := range r.Hanging[:min(most, len(r.Hanging))] {
			state := "none"
			switch {
			case h.Renewed:
				state = "signed, not seen in use"
			case !h.Listed:
				state = "cleaned, or known from an inventory only"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", h.Certname, state, yes(h.Accepts), shortDate(h.NotAfter))
		}
		if left := r.Names - min(most, len(r.Hanging)); left > 0 {
			fmt.Fprintf(w, "and %d more (--all)\n", left)
		}
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func nextStep(r adminapi.Rollover) string {
	switch {
	case len(r.WaitingFor) > 0:
		return "the key has to reach " + strings.Join(r.WaitingFor, ", ") + ": by itself, when they are connected"
	case !r.Signs:
		return "the new issuer signs in a moment"
	case !r.Shown:
		return "give agents the CA and certificates (troupe ca rollover module), then: troupe ca rollover show"
	case r.Names > 0:
		return "wait until the names below came with new certificates, or clean those that are gone; then: troupe ca rollover finish"
	}
	return "troupe ca rollover finish"
}

//go:embed rollover
var rolloverFiles embed.FS

func newRolloverModule(c *common) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "module", Short: "Write a Puppet module that hands out CA, CRLs and new certificates", Args: noArgs,
		Long: "Sign the keys of all agents that hang on the old issuer again, and write a Puppet module that hands each agent its new\n" +
			"certificate, the CA bundle and the CRLs. Agents keep their keys, which are not needed for it. Include the class\n" +
			"troupe_rollover in every node; run this again for agents that came meanwhile, and after `finish`: then it takes the old CA\n" +
			"away from agents.",
		Example: "  troupe ca rollover module --to /etc/puppetlabs/code/environments/production/modules/troupe_rollover",
	}
	cmd.Flags().StringVar(&dir, "to", "", "`folder` of the module, whose name must be troupe_rollover")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dir == "" {
			return usageError{errors.New("say where to: --to MODULES/troupe_rollover")}
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if filepath.Base(abs) != "troupe_rollover" {
			return usageError{fmt.Errorf("--to %s: Puppet finds the class only in a folder with its name, troupe_rollover", dir)}
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			wrote, err := writeRolloverModule(cmd.Context(), m, abs)
			if err != nil {
				return err
			}
			for n, msg := range wrote.Errors {
				fmt.Fprintf(c.env.Stderr, "troupe: %s: %s\n", n, msg)
			}
			return c.print(wrote, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "The module is in %s, with %d certificates. Now: include troupe_rollover\n", wrote.Folder, wrote.Certificates)
			})
		})
	}
	return cmd
}

// wroteModule tells what writeRolloverModule did.
type wroteModule struct {
	Folder       string            `json:"folder"`
	Certificates int               `json:"certificates"`
	Errors       map[string]string `json:"errors"` // by certname
}

func writeRolloverModule(ctx context.Context, m *adminapi.Client, dir string) (wrote wroteModule, err error) {
	wrote = wroteModule{Folder: dir, Errors: map[string]string{}}
	r, err := m.Rollover(ctx)
	if err != nil {
		return wrote, err
	}
	if r.Open && !r.Signs {
		return wrote, errors.New("the new issuer does not sign yet (troupe ca rollover status)")
	}
	for _, sub := range []string{"manifests", filepath.Join("lib", "facter"), filepath.Join("files", "certs")} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil { //nolint:gosec // code is for all to read
			return wrote, err
		}
	}
	var names []string
	for _, h := range r.Hanging {
		if h.Listed {
			names = append(names, string(h.Certname))
		}
	}
	got, err := m.RenewForRollover(ctx, nil)
	if err != nil {
		return wrote, err
	}
	for some := range slices.Chunk(names, 200) {
		page, err := m.RenewForRollover(ctx, some)
		if err != nil {
			return wrote, err
		}
		maps.Copy(wrote.Errors, page.Errors)
		for name, cert := range page.Certificates {
			key, err := keyOf(cert)
			if err != nil {
				return wrote, fmt.Errorf("certificate of %s: %w", name, err)
			}
			if err := atomicfile.Write(filepath.Join(dir, "files", "certs", key+".pem"), []byte(cert), 0o644); err != nil {
				return wrote, err
			}
			wrote.Certificates++
		}
	}
	manifest, err := manifestOf(r.Issuers[0].Name, got)
	if err != nil {
		return wrote, err
	}
	fact, err := fs.ReadFile(rolloverFiles, "rollover/fact.rb")
	if err != nil {
		return wrote, err
	}
	return wrote, errors.Join(
		atomicfile.Write(filepath.Join(dir, "files", "ca.pem"), []byte(got.Bundle), 0o644),
		atomicfile.Write(filepath.Join(dir, "files", "crl.pem"), []byte(got.CRLs), 0o644),
		atomicfile.Write(filepath.Join(dir, "lib", "facter", "troupe_rollover.rb"), fact, 0o644),
		atomicfile.Write(filepath.Join(dir, "manifests", "init.pp"), manifest, 0o644),
	)
}

// manifestOf is the class, with the names of what agents are to have.
func manifestOf(issuer string, got adminapi.RolloverCertificates) ([]byte, error) {
	var cas, lists []string
	for rest := []byte(got.Bundle + got.CRLs); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			list, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return nil, err
			}
			lists = append(lists, quoted(list.Issuer.CommonName))
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		cas = append(cas, quoted(cert.Subject.CommonName))
	}
	text, err := fs.ReadFile(rolloverFiles, "rollover/init.pp")
	if err != nil {
		return nil, err
	}
	return []byte(strings.NewReplacer("@ISSUER@", quoted(issuer), "@CAS@", strings.Join(cas, ", "), "@LISTS@", strings.Join(lists, ", ")).Replace(string(text))), nil
}

// quoted is a string of the Puppet language.
func quoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// keyOf names the key of a certificate as the module's fact does.
func keyOf(certificate string) (string, error) {
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		return "", errors.New("no certificate in PEM form")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}
