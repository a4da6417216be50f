package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/adminapi"
	"troupe/internal/carrier/nats"
	"troupe/internal/cluster"
	"troupe/internal/server"
	"troupe/internal/telemetry"
)

// This file has the commands on the troupe as a whole: how it begins, who joins and leaves, how everybody does.

func newInit(c *common) *cobra.Command {
	var q adminapi.InitRequest
	cmd := &cobra.Command{
		Use: "init", Short: "Begin a troupe with this member as its first", Args: noArgs,
		Long: "Begin a troupe with this member as its first. The member may be running, and goes on as it is;\n" +
			"it opens the port for members (cluster.listen, default :8143) and takes tokens. Where there is no\n" +
			"member yet, its data folder and CA are made.",
		Example: "  troupe init --site east\n  troupe init --site east --address puppet1.example.com:8143",
	}
	cmd.Flags().StringVar(&q.Site, "site", "", "`name` of the data centre (default: the setting site)")
	cmd.Flags().StringVar(&q.Address, "address", "", "`host:port` by which other members reach this one (default: the setting cluster.address, else certname and port 8143)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(nil)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(cfg.Data, 0o711); err != nil { //nolint:gosec // workers of another user read snapshots below it
			return fmt.Errorf("create the data folder: %w", err)
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			s, err := m.Init(cmd.Context(), q)
			if err != nil {
				return err
			}
			return c.printStatus(s)
		})
	}
	return cmd
}

func newToken(c *common) *cobra.Command {
	return group("token", "Tokens for new members: create, list, revoke", newTokenCreate(c), newTokenList(c), newTokenRevoke(c))
}

func newTokenCreate(c *common) *cobra.Command {
	var q cluster.TokenRequest
	var ttl string
	cmd := &cobra.Command{
		Use: "create", Short: "Print the command with which a fresh machine joins", Args: noArgs,
		Example: "  troupe token create --site west\n  troupe token create --uses 3 --ttl 1d\n  troupe token create --role edge --names puppet,puppet.example.com",
	}
	cmd.Flags().StringVar(&q.Site, "site", "", "the new member's `site` (default: it says so itself, else that of this member)")
	cmd.Flags().StringVar((*string)(&q.Role), "role", string(cluster.RoleServer), "server, or edge: serves agents in front of members, and holds no keys of the CA")
	cmd.Flags().StringSliceVar(&q.Names, "names", nil, "of role edge: `names` that agents ask for (default puppet)")
	cmd.Flags().IntVar(&q.Uses, "uses", 1, "how many members may join with it")
	cmd.Flags().StringVar(&ttl, "ttl", "1h", "how long it is valid, such as 1h or 7d")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := parseTTL(ttl)
		if err != nil {
			return err
		}
		q.TTL = d
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			t, err := m.CreateToken(cmd.Context(), q)
			if err != nil {
				return err
			}
			return c.print(t, func(w *tabwriter.Writer) {
				command := "join"
				if q.Role == cluster.RoleEdge {
					command = "edge join"
				}
				fmt.Fprintf(w, "On the new machine, until %s:\n\n  troupe %s %s@%s\n", t.Expires.Local().Format(time.DateTime), command, t.Text, t.Address)
			})
		})
	}
	return cmd
}

func newTokenList(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens, without their secrets", Args: noArgs, Example: "  troupe token list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				all, err := m.Tokens(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(all, func(w *tabwriter.Writer) {
					fmt.Fprintln(w, "ID\tSITE\tUSED\tEXPIRES\tSTATE")
					for _, t := range all {
						state := "good"
						switch {
						case t.Revoked:
							state = "revoked"
						case time.Now().After(t.Expires):
							state = "expired"
						case t.Used >= t.Uses:
							state = "used up"
						}
						fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\t%s\n", t.ID, t.Site, t.Used, t.Uses, t.Expires.UTC().Format(time.RFC3339), state)
					}
				})
			})
		},
	}
}

func newTokenRevoke(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Make a token useless; who joined with it stays", Args: oneArg("token"), Example: "  troupe token revoke 4k2m7qzz3x",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error { return m.RevokeToken(cmd.Context(), args[0]) })
		},
	}
}

func newJoin(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "join TOKEN@HOST", Short: "Make this machine a member of a troupe", Args: cobra.MaximumNArgs(1),
		Long: "Make this machine, with an empty data folder, a member of a troupe: it gets its certificate, the keys\n" +
			"that sign, and everything that the troupe knows. Then start it: troupe server.\n" +
			"If it is interrupted, run the same command again. A token of \"-\" is read from standard input.\n" +
			"With --from it needs no token: all comes from the newest backup, also where no other member is left.",
		Example: "  troupe join troupe1.4k2m7qzz3x.….…@puppet1.example.com\n  troupe join - < token\n" +
			"  troupe join --from s3://backups/troupe --passphrase-file /etc/troupe/backup.passphrase",
	}
	settings := serverFlags(cmd)
	var b backupFlags
	var alone bool
	b.addPlace(cmd, "from")
	b.addKeys(cmd)
	cmd.Flags().BoolVar(&alone, "alone", false, "with --from: remove the other members, they are lost")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case b.place != "" && len(args) == 0:
			return c.restore(cmd.Context(), settings(), b, "", server.RestoreRequest{Alone: alone, Found: true})
		case b.place != "" || len(args) == 0:
			return usageError{errors.New("troupe join needs one token, as troupe token create prints it, or --from and the place of backups (see: troupe join --help)")}
		}
		return c.joinByToken(cmd.Context(), settings(), args[0])
	}
	return cmd
}

func (c *common) joinByToken(ctx context.Context, settings map[string]string, text string) error {
	if text == "-" {
		if _, err := fmt.Fscan(c.env.Stdin, &text); err != nil {
			return fmt.Errorf("read the token from standard input: %w", err)
		}
	}
	cfg, err := c.load(settings)
	if err != nil {
		return err
	}
	if _, err := adminapi.Dial(ctx, cfg.Data); !errors.Is(err, adminapi.ErrNotRunning) {
		return errors.Join(fmt.Errorf("a member is running on %s: only a machine without one can join", cfg.Data), err)
	}
	shows := isTerminal(c.env.Stderr)
	self, err := server.Join(ctx, cfg, server.Options{Log: telemetry.NewLogger(c.env.Stderr, slog.LevelInfo, false), Version: version()}, text, func(done, total uint64) {
		if shows {
			fmt.Fprintf(c.env.Stderr, "\r%d of %d records ", done, total)
		}
	})
	if shows {
		fmt.Fprint(c.env.Stderr, "\r\033[K")
	}
	if err != nil {
		return err
	}
	return c.print(self, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s is a member of site %s. Start it: troupe server --data %s\n", self.Name, self.Site, cfg.Data)
	})
}

func newStatus(c *common) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "All sites and members, how far behind each is, and how old what it wrote is here", Args: noArgs,
		Example: "  troupe status\n  troupe status --watch\n  troupe status -o json",
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again every second")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
			for {
				s, err := m.Status(cmd.Context())
				if err != nil {
					return err
				}
				if watch && c.output != "json" {
					fmt.Fprint(c.env.Stdout, "\033[H\033[2J")
				}
				if err := c.printStatus(s); err != nil || !watch {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		})
	}
	return cmd
}

func (c *common) printStatus(s adminapi.Status) error {
	return c.print(s, func(w *tabwriter.Writer) {
		if !s.Founded {
			fmt.Fprintln(w, "This member serves alone. To begin a troupe: troupe init --site NAME")
			return
		}
		fmt.Fprintln(w, "SITE\tMEMBER\tADDRESS\tVERSION\tSTATE\tBEHIND\tDATA\tCOMPILES")
		for _, m := range s.Members {
			state := m.State
			switch {
			case m.State == adminapi.StateUnknown && m.Since.IsZero():
				state = "unknown, never heard"
			case m.State == adminapi.StateUnknown:
				state = "unknown since " + m.Since.Local().Format(time.DateTime)
			}
			behind := "-"
			if m.State != adminapi.StateSelf {
				behind = fmt.Sprint(m.Behind)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Site, m.Name, m.Address, m.Version, state, behind, ago(m.AsOf), load(m))
		}
		for _, m := range s.Waiting {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\twaits to be taken in: troupe accept %s\t\t\t\n", m.Site, m.Name, m.Address, m.Version, m.Name)
		}
		for _, e := range s.Edges {
			fmt.Fprintf(w, "%s\t%s\t\t\tedge for %s\t\t\t\n", e.Site, e.Name, strings.Join(e.Names, ", "))
		}
		for _, m := range s.Members { // below the table, which a long line would pull apart
			for _, line := range m.Alarms {
				fmt.Fprintf(w, "%s: %s\n", m.Name, line)
			}
			if m.Error != "" {
				fmt.Fprintf(w, "%s: %s\n", m.Name, m.Error)
			}
		}
		if s.NATS != nil {
			fmt.Fprintln(w, natsLines(*s.NATS))
		}
	})
}

// natsLines say whether an operator's own NATS carries records.
func natsLines(s nats.Status) string {
	since := s.Since.Local().Format(time.DateTime)
	switch {
	case s.Server == "" && s.Problem == "":
		return "NATS: connecting since " + since
	case s.Server == "":
		return fmt.Sprintf("NATS: away since %s, HTTPS carries everything: %s; %s", since, s.Problem, s.Remedy)
	}
	lines := []string{fmt.Sprintf("NATS: %s since %s, %d of %d chains of others come through it, %d records of this member wait, the last acknowledgement took %v",
		s.Server, since, s.Following, s.Chains, s.Lag, s.Ack.Round(time.Millisecond))}
	if s.Problem != "" {
		lines = append(lines, fmt.Sprintf("NATS: records of this member do not go through it: %s; %s", s.Problem, s.Remedy))
	}
	for _, r := range s.Refused {
		lines = append(lines, "NATS: messages not taken: "+r)
	}
	return strings.Join(lines, "\n")
}

// load is how much a member that is heard has to do.
func load(m adminapi.MemberStatus) string {
	h := m.Heartbeat
	switch {
	case m.State == adminapi.StateUnknown || h.Heard.IsZero():
		return "-"
	case h.Problem != "":
		return h.Problem
	case h.State != "running":
		return h.State
	case h.Waiting > 0:
		return fmt.Sprintf("%d of %d, %d wait", h.Busy, h.Workers, h.Waiting)
	}
	return fmt.Sprintf("%d of %d", h.Busy, h.Workers)
}

func newAccept(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "accept MEMBER", Short: "Take in a machine that came from a backup", Args: oneArg("machine, by name or origin"),
		Long: "Take in a machine that was restored from a backup while this member lives: it shows a certificate of\n" +
			"this troupe, but nobody has admitted it. `troupe status` lists those that wait. Accept only what you\n" +
			"have restored yourself: whoever holds a stolen backup or disk could ask, too.",
		Example: "  troupe accept puppet3.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				taken, err := m.AcceptMember(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.print(taken, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%s is a member of site %s.\n", taken.Name, taken.Site) })
			})
		},
	}
}

func newRemove(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "remove MEMBER", Short: "End a membership: nobody speaks to that member any more", Args: oneArg("member, by name"),
		Long: "End a membership. The member's certificates are revoked at once; what it wrote before stays.\n" +
			"For a machine that is lost or stolen, or whose name a new one is to take.",
		Example: "  troupe remove puppet3.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				removed, err := m.RemoveMember(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.print(removed, func(w *tabwriter.Writer) {
					fmt.Fprintf(w, "%s of site %s is no member any more.\n", removed.Name, removed.Site)
				})
			})
		},
	}
}

func newLeave(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "leave", Short: "Take this member out of its troupe; the others go on", Args: noArgs,
		Long: "Take this member out of its troupe. It needs another member that can be reached, since what this one\n" +
			"wrote must not go with it. Stop it afterwards, and remove its data folder.",
		Example: "  troupe leave",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				s, err := m.Status(cmd.Context())
				if err != nil {
					return err
				}
				var self string
				whole := false
				for _, one := range s.Members {
					if one.State == adminapi.StateSelf {
						self = one.Name
					}
					whole = whole || one.State == adminapi.StateConnected && one.Behind == 0
				}
				if self == "" {
					return errors.New("this member belongs to no troupe")
				}
				if !whole {
					return errors.New("no other member has everything that this one has: wait until troupe status shows one that is 0 behind")
				}
				if _, err := m.RemoveMember(cmd.Context(), self); err != nil {
					return err
				}
				fmt.Fprintf(c.env.Stderr, "%s has left. Stop it, and remove its data folder.\n", self)
				return nil
			})
		},
	}
}

// siteLine is a site as this member sees it.
type siteLine struct {
	Site    string `json:"site"`
	Members int    `json:"members"`
	Heard   int    `json:"heard"`  // members that this one hears, itself included
	Behind  uint64 `json:"behind"` // records that no member of it has told to have

	AsOf time.Time `json:"as_of,omitzero"` // this member has everything that was written there until then
}

func newSite(c *common) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List sites, how many members of each are heard, and how far behind the best of them is", Args: noArgs,
		Example: "  troupe site list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withMember(cmd.Context(), func(m *adminapi.Client) error {
				s, err := m.Status(cmd.Context())
				if err != nil {
					return err
				}
				sites := sitesOf(s)
				return c.print(sites, func(w *tabwriter.Writer) {
					fmt.Fprintln(w, "SITE\tMEMBERS\tHEARD\tBEHIND\tDATA")
					for _, one := range sites {
						fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", one.Site, one.Members, one.Heard, one.Behind, ago(one.AsOf))
					}
				})
			})
		},
	}
	return group("site", "Sites: list", list)
}

// sitesOf adds up members, which come sorted by site.
func sitesOf(s adminapi.Status) []siteLine {
	all, ages := []siteLine{}, s.SiteAges()
	for _, m := range s.Members {
		if len(all) == 0 || all[len(all)-1].Site != m.Site {
			all = append(all, siteLine{Site: m.Site, Behind: m.Behind, AsOf: ages[m.Site]})
		}
		one := &all[len(all)-1]
		one.Members++
		one.Behind = min(one.Behind, m.Behind)
		if m.State != adminapi.StateUnknown {
			one.Heard++
		}
	}
	return all
}
