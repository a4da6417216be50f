package cli

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/config"
	"troupe/internal/edge"
	"troupe/internal/edge/balance"
	"troupe/internal/edge/bgp"
	"troupe/internal/telemetry"
)

// This file runs an edge and speaks to a running one.

const defaultEdgeConfig = "/etc/troupe/edge.yaml"

func newEdge(c *common) *cobra.Command {
	return group("edge", "What agents connect to: balancing, health, runs",
		newEdgeRun(c), newEdgeJoin(c), newEdgeCheck(c), newEdgeStatus(c), newEdgeBackends(c), newEdgeRuns(c), newEdgeSessions(c), newEdgeTable(c), newEdgeExplain(c), newEdgeImport(c),
		newEdgeMode(c, "ready", "Send requests to a server again, or to this edge"),
		newEdgeMode(c, "drain", "Send no new run to a server, or to this edge; what runs may end"),
		newEdgeMode(c, "maint", "Send nothing to a server and do not check it"),
		newEdgeWeight(c),
	)
}

// edgeConfig reads the file that --config names, else the usual one, else none.
func (c *common) edgeConfig() (*config.Edge, error) {
	path := cmp.Or(c.config, defaultEdgeConfig)
	var conf *config.Edge
	var err error
	if _, serr := os.Stat(path); c.config == "" && os.IsNotExist(serr) {
		conf, err = config.ParseEdge("no file", nil)
	} else {
		conf, err = config.LoadEdge(path)
	}
	if err == nil && c.data != "" {
		conf.Data = c.data
	}
	return conf, err
}

func newEdgeRun(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Serve agents in front of members or puppetservers", Args: noArgs,
		Long: "Serve agents in front of the members of a troupe, or of puppetservers that are there already. The file says which: docs/edge.md.\n" +
			"SIGTERM has agents let go of their connections, finishes what runs, and stops. With --takeover a running edge of the same data\n" +
			"folder hands its listeners over and ends, so that a restart or an upgrade resets no connection.",
		Example: "  troupe edge run --config /etc/troupe/edge.yaml\n  troupe edge run --takeover",
	}
	takeover := cmd.Flags().Bool("takeover", false, "take the listeners of the running edge, which ends then")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conf, err := c.edgeConfig()
		if err != nil {
			return err
		}
		var level slog.LevelVar
		if err := level.UnmarshalText([]byte(cmp.Or(conf.Log.Level, "info"))); err != nil {
			return usageError{err}
		}
		log := telemetry.NewLogger(c.env.Stderr, &level, conf.Log.Format == "json")
		return edge.Run(cmd.Context(), conf, edge.Options{Log: log, Version: version(), Takeover: *takeover})
	}
	return cmd
}

func newEdgeJoin(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "join TOKEN@HOST", Short: "Make this machine an edge of a troupe", Args: oneArg("token"),
		Long: "Make this machine an edge of a troupe, with a token that \"troupe token create --role edge\" printed. It gets certificates, no key of a\n" +
			"CA and no data. Then start it: troupe edge run. A token of \"-\" is read from standard input.",
		Example: "  troupe edge join troupe1.4k2m7qzz3x.….…@puppet1.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := c.edgeConfig()
			if err != nil {
				return err
			}
			text := args[0]
			if text == "-" {
				if _, err := fmt.Fscan(c.env.Stdin, &text); err != nil {
					return fmt.Errorf("read the token from standard input: %w", err)
				}
			}
			self, err := edge.Join(cmd.Context(), conf, version(), text)
			if err != nil {
				return err
			}
			return c.print(self, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%s is an edge of site %s, for agents that ask for %s. Start it: troupe edge run --data %s\n", self.Name, self.Site, strings.Join(self.Names, ", "), conf.Data)
			})
		},
	}
}

func newEdgeCheck(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Read the edge's configuration and name every problem", Args: noArgs, Example: "  troupe edge check --config edge.yaml",
		RunE: func(*cobra.Command, []string) error {
			conf, err := c.edgeConfig()
			if err != nil {
				return err
			}
			return c.print(conf, func(w *tabwriter.Writer) { fmt.Fprintln(w, "The configuration is good.") })
		},
	}
}

// withEdge calls fn with a client of the running edge.
func (c *common) withEdge(ctx context.Context, fn func(*edge.Client) error) error {
	client, err := c.askEdge(ctx)
	if err != nil {
		return err
	}
	return fn(client)
}

// askEdge finds the running edge.
func (c *common) askEdge(ctx context.Context) (*edge.Client, error) {
	data := c.data
	if data == "" {
		conf, err := c.edgeConfig()
		if err != nil {
			return nil, err
		}
		data = conf.Data
	}
	return edge.Dial(ctx, data)
}

func newEdgeStatus(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "How a running edge does", Args: noArgs, Example: "  troupe edge status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withEdge(cmd.Context(), func(client *edge.Client) error {
				s, err := client.Status(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(s, func(w *tabwriter.Writer) {
					state := "serving"
					switch {
					case s.Drained:
						state = "drained by an operator"
					case !s.Serving:
						state = "NOT SERVING: " + s.Why
					}
					fmt.Fprintf(w, "EDGE\t%s\t%s\n", s.Name, state)
					fmt.Fprintf(w, "site\t%s\nversion\t%s, up %s\n", cmp.Or(s.Site, "-"), s.Version, ago(s.Started))
					fmt.Fprintf(w, "listens\t%s\n", strings.Join(s.Listeners, ", "))
					fmt.Fprintf(w, "now\t%d runs, %d sessions, bodies %d KiB in memory, %d KiB on disk\n", s.Runs, s.Sessions, s.Memory>>10, s.Disk>>10)
					if s.BGP != nil {
						printBGP(w, *s.BGP)
					}
					fmt.Fprintln(w)
					printBackends(w, s.Pools)
				})
			})
		},
	}
}

func printBGP(w *tabwriter.Writer, s bgp.Status) {
	fmt.Fprintf(w, "bgp\t%s, %s: %s\n", s.Phase, ago(s.Since), cmp.Or(s.Reason, "-"))
	if s.RouterID != "" {
		fmt.Fprintf(w, "router id\t%s\n", s.RouterID)
	}
	for _, n := range s.Neighbors {
		fmt.Fprintf(w, "neighbor\t%v, AS %d: %s, %s", n.Address, n.ASN, n.State, ago(n.Since))
		if n.BFD != "" {
			fmt.Fprintf(w, ", BFD %s", n.BFD)
		}
		fmt.Fprintln(w)
	}
	for _, alarm := range s.Alarms {
		fmt.Fprintf(w, "ALARM\t%s\n", alarm)
	}
}

func printBackends(w *tabwriter.Writer, pools []edge.PoolStatus) {
	fmt.Fprintln(w, "POOL\tSERVER\tSTATE\tSINCE\tNOW\tMOST\tTOTAL\tFAILED\tWEIGHT\tCHECK\tWHY")
	for _, p := range pools {
		for _, b := range p.Servers {
			most, weight := "-", strconv.FormatFloat(b.Weight, 'f', 0, 64)
			if b.MaxConns > 0 {
				most = strconv.Itoa(b.MaxConns)
			}
			if b.Backup {
				weight += " backup"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, b.Name, b.State, ago(b.Since), b.Current, most, b.Total, b.Failed, weight, b.Check, b.Reason)
		}
		fmt.Fprintf(w, "%s\t\t%d usable\t\t%d waiting\t\t\t\t\t\t\n", p.Name, p.Usable, p.Queue)
	}
}

func newEdgeBackends(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "backends", Short: "The servers of each pool, as the judge and balancing see them", Args: noArgs, Example: "  troupe edge backends",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withEdge(cmd.Context(), func(client *edge.Client) error {
				s, err := client.Status(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(s.Pools, func(w *tabwriter.Writer) { printBackends(w, s.Pools) })
			})
		},
	}
}

func newEdgeRuns(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "runs", Short: "The agent runs under way, the latest first", Args: noArgs, Example: "  troupe edge runs | head",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withEdge(cmd.Context(), func(client *edge.Client) error {
				all, err := client.Runs(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(all, func(w *tabwriter.Writer) {
					fmt.Fprintln(w, "CLIENT\tAGENT\tENVIRONMENT\tBEGAN\tPHASE\tREQUESTS\tREPLAYS\tREFUSED\tSERVERS")
					for _, r := range all {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", r.Client, cmp.Or(r.Agent, "-"), cmp.Or(r.Environment, "-"), ago(r.Began), r.Phase, r.Requests, r.Replays, r.Refused, strings.Join(r.Servers, " "))
					}
				})
			})
		},
	}
}

func newEdgeSessions(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "sessions", Short: "The connections in mode passthrough", Args: noArgs, Example: "  troupe edge sessions",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withEdge(cmd.Context(), func(client *edge.Client) error {
				all, err := client.Sessions(cmd.Context())
				if err != nil {
					return err
				}
				slices.SortFunc(all, func(a, b edge.SessionStatus) int { return a.Began.Compare(b.Began) })
				return c.print(all, func(w *tabwriter.Writer) {
					fmt.Fprintln(w, "SOURCE\tPOOL\tSERVER\tBEGAN\tBYTES UP\tBYTES DOWN")
					for _, s := range all {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\n", s.Source, s.Pool, s.Server, ago(s.Began), s.Up, s.Down)
					}
				})
			})
		},
	}
}

func newEdgeTable(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "table POOL", Short: "Which client sticks to which server", Args: oneArg("pool"),
		Example: "  troupe edge table workers\n  troupe edge table workers --forget web1.example.com",
	}
	forget := cmd.Flags().String("forget", "", "take this `client` out of the table")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := c.askEdge(cmd.Context())
		if err != nil {
			return err
		}
		if *forget != "" {
			return client.Forget(cmd.Context(), args[0], *forget)
		}
		all, err := client.Table(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return c.print(all, func(w *tabwriter.Writer) { printTable(w, all) })
	}
	return cmd
}

func printTable(w *tabwriter.Writer, all []balance.Entry) {
	fmt.Fprintln(w, "CLIENT\tSERVER\tLAST USED")
	for _, e := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.Key, e.Server, ago(e.Used))
	}
}

func newEdgeExplain(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain CERTNAME", Short: "Where a client's next request would go, and why not elsewhere", Args: oneArg("certname"),
		Example: "  troupe edge explain web1.example.com\n  troupe edge explain web1.example.com --environment staging --pool workers",
	}
	environment := cmd.Flags().String("environment", "", "the `environment` that it asks for")
	pool := cmd.Flags().String("pool", "", "another `pool` than that of the first listener")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := c.askEdge(cmd.Context())
		if err != nil {
			return err
		}
		x, err := client.Explain(cmd.Context(), args[0], *environment, *pool)
		if err != nil {
			return err
		}
		return c.print(x, func(w *tabwriter.Writer) {
			if x.Run != nil {
				fmt.Fprintf(w, "%s is in a run: %s, since %s, at %s\n", x.Client, x.Run.Phase, ago(x.Run.Began), strings.Join(x.Run.Servers, " "))
			}
			if x.SetAside != "" {
				fmt.Fprintln(w, x.SetAside)
			}
			fmt.Fprintln(w, "SERVER\tTAKEN\tWHY")
			for _, r := range x.Servers {
				taken := ""
				if r.Taken {
					taken = "yes"
				}
				fmt.Fprintf(w, "%s/%s\t%s\t%s\n", x.Pool, r.Server, taken, r.Why)
			}
		})
	}
	return cmd
}

// poolServer reads POOL/SERVER.
func poolServer(text string) (pool, server string, err error) {
	pool, server, ok := strings.Cut(text, "/")
	if !ok || pool == "" || server == "" {
		return "", "", usageError{fmt.Errorf("%q is not POOL/SERVER, as troupe edge backends lists them", text)}
	}
	return pool, server, nil
}

func newEdgeMode(c *common, mode, short string) *cobra.Command {
	cmd := &cobra.Command{Use: mode + " POOL/SERVER", Short: short, Example: "  troupe edge " + mode + " workers/puppet1"}
	wholeEdge := mode != "maint"
	if wholeEdge {
		cmd.Use = mode + " [POOL/SERVER]"
		cmd.Example += "\n  troupe edge " + mode
	}
	cut := new(bool)
	if mode != "ready" {
		cut = cmd.Flags().Bool("cut", false, "end what is under way there at once")
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 || len(args) == 0 && wholeEdge {
			return nil
		}
		return usageError{fmt.Errorf("%s needs one POOL/SERVER (see: %s --help)", cmd.CommandPath(), cmd.CommandPath())}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && *cut {
			return usageError{fmt.Errorf("--cut is for one server: name POOL/SERVER. An edge in drain serves who comes all the same; stop it, and what runs ends")}
		}
		client, err := c.askEdge(cmd.Context())
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return client.ChangeEdge(cmd.Context(), mode)
		}
		pool, server, err := poolServer(args[0])
		if err != nil {
			return err
		}
		return client.Change(cmd.Context(), pool, server, edge.Change{Mode: mode, Cut: *cut})
	}
	return cmd
}

func newEdgeWeight(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "weight POOL/SERVER N", Short: "Change a server's weight until the configuration says another one", Example: "  troupe edge weight workers/puppet1 50",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return usageError{fmt.Errorf("%s needs POOL/SERVER and a number (see: %s --help)", cmd.CommandPath(), cmd.CommandPath())}
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, server, err := poolServer(args[0])
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 0 || n > 256 {
				return usageError{fmt.Errorf("a weight is a number from 0 to 256, not %q", args[1])}
			}
			client, err := c.askEdge(cmd.Context())
			if err != nil {
				return err
			}
			return client.Change(cmd.Context(), pool, server, edge.Change{Weight: &n})
		},
	}
}
