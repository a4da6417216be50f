package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/deploy"
)

// This file has the commands on code: what all members serve.

func newCode(c *common) *cobra.Command {
	return group("code", "Code of all members: list, deploy, withdraw", newCodeList(c), newCodeDeploy(c), newCodeWithdraw(c))
}

func newCodeList(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List deployed environments and who serves them", Args: noArgs, Example: "  troupe code list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				all, err := m.Deployments(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(all, func(w *tabwriter.Writer) { writeDeployments(w, all) })
			})
		},
	}
}

func writeDeployments(w *tabwriter.Writer, all []deploy.Status) {
	if len(all) == 0 {
		fmt.Fprintln(w, "Nothing is deployed: each member serves its own folders. To deploy one of this member's: troupe code deploy ENVIRONMENT")
		return
	}
	fmt.Fprintln(w, "ENVIRONMENT\tVERSION\tDEPLOYED\tBY\tSERVED BY")
	for _, s := range all {
		serve, lack := servers(s)
		fmt.Fprintf(w, "%s\t%.12s\t%s\t%s\t%d of %d\n", s.Environment, s.Version, s.Time.Local().Format(time.DateTime), s.By, len(serve), len(s.Members))
		for _, line := range lack {
			fmt.Fprintf(w, "\t\t\t\tnot %s\n", line)
		}
	}
}

// servers tells who serves what is deployed, and of the others why not.
func servers(s deploy.Status) (serve, lack []string) {
	for i, m := range s.Members {
		switch {
		case m.Version == s.Version:
			serve = append(serve, m.Name)
		case m.Error != "":
			lack = append(lack, fmt.Sprintf("%s, which cannot be asked: %s", m.Name, m.Error))
		case i == 0 && s.Problem != "":
			lack = append(lack, fmt.Sprintf("%s: %s", m.Name, s.Problem))
		case m.Version == "":
			lack = append(lack, m.Name+", which serves its own folder, or nothing, until it has the version")
		default:
			lack = append(lack, fmt.Sprintf("%s, which still serves %.12s", m.Name, m.Version))
		}
	}
	return serve, lack
}

func newCodeDeploy(c *common) *cobra.Command {
	wait := time.Minute
	cmd := &cobra.Command{
		Use: "deploy ENVIRONMENT...", Short: "Have all members serve what this member's folders hold now",
		Long: "Have all members serve what this member's folders of environments hold now. They fetch it from each\n" +
			"other, and each serves it when it is complete there; runs that have begun keep the version that they\n" +
			"have. From then on the folders count nowhere, until the next deploy or `troupe code withdraw`.\n\n" +
			"After r10k: postrun: ['troupe', 'code', 'deploy', '$modifiedenvs'].",
		Example: "  troupe code deploy production\n  troupe code deploy production test --wait 5m",
		Args: func(_ *cobra.Command, args []string) error {
			if len(strings.Fields(strings.Join(args, " "))) == 0 {
				return usageError{errors.New("which environment? See: troupe code deploy --help")}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", wait, "how long to wait until all members that can be reached serve it; 0s does not")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			all := []deploy.Deployment{}
			var err error
			for e := range strings.FieldsSeq(strings.Join(args, " ")) { // r10k gives all names as one word
				d, one := m.Deploy(cmd.Context(), e)
				if one != nil { // the others need not wait for it to be mended
					err = errors.Join(err, one)
					continue
				}
				all = append(all, d)
			}
			if wait > 0 && len(all) > 0 {
				err = errors.Join(err, c.awaitDeployed(cmd.Context(), m, all, wait))
			}
			return errors.Join(c.print(all, func(w *tabwriter.Writer) {
				for _, d := range all {
					fmt.Fprintf(w, "%s\t%.12s\t%s\n", d.Environment, d.Version, d.ConfigVersion)
				}
			}), err)
		})
	}
	return cmd
}

// awaitDeployed tells which members serve what was deployed, until all do that can be reached.
func (c *common) awaitDeployed(ctx context.Context, m *adminapi.Client, want []deploy.Deployment, wait time.Duration) error {
	begin := time.Now()
	told := map[string]bool{}
	limit := time.After(wait)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := m.Deployments(ctx)
		if err != nil {
			return err
		}
		var lack []string
		for _, s := range all {
			if !slices.ContainsFunc(want, func(d deploy.Deployment) bool { return d.Environment == s.Environment && d.Version == s.Version }) {
				continue // deployed anew meanwhile
			}
			serve, others := servers(s)
			for _, name := range serve {
				if line := fmt.Sprintf("%s serves %s", name, s.Environment); !told[line] {
					told[line] = true
					fmt.Fprintf(c.env.Stderr, "%s after %.1f s\n", line, time.Since(begin).Seconds())
				}
			}
			for i, one := range s.Members {
				if one.Version != s.Version && (i == 0 || one.Error == "") {
					lack = append(lack, one.Name)
				}
			}
			if len(lack) == 0 {
				for _, line := range others {
					fmt.Fprintf(c.env.Stderr, "not yet %s; it fetches the version when it is back\n", line)
				}
			}
		}
		if len(lack) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("after %v these members do not serve it yet: %s; they go on fetching, see: troupe code list", wait, strings.Join(slices.Compact(lack), ", "))
		}
	}
}

func newCodeWithdraw(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "withdraw ENVIRONMENT", Short: "Leave an environment to each member's own folder again", Args: oneArg("environment"),
		Long: "Leave an environment to each member's own folder again. A member without such a folder has no such\n" +
			"environment afterwards.",
		Example: "  troupe code withdraw test",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error { return m.Withdraw(cmd.Context(), args[0]) })
		},
	}
}
