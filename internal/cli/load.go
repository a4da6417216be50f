package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/fakeagent"
)

// This file puts the load of many simulated agents on a server.

// loadFlags is what the command line says.
type loadFlags struct {
	server, name         string
	nodes                int
	agents               []string
	certname             string
	environment          string
	facts                string
	certs, ca            string
	duration             time.Duration
	interval             time.Duration
	rate                 float64
	herd                 bool
	splay                time.Duration
	concurrency, changed int
	pluginsync           string
}

func newLoad(c *common) *cobra.Command {
	f := loadFlags{nodes: 100, certname: "load%05d.example.test", environment: "production", pluginsync: "cached"}
	cmd := &cobra.Command{
		Use: "load", Short: "Put the load of many simulated agents on a server", Args: noArgs,
		Long: "Run simulated agents against any server that speaks Puppet's protocol, troupe or Puppet Server: each run\n" +
			"is a whole one over mutual TLS, with connections of its own (node, plugins, catalog, file metadata and\n" +
			"content of sources, report), request by request as the chosen generation of agents sends them. Agents\n" +
			"obey a 503 with Retry-After as their generation does: 8.10 waits and comes back; 7.23 waits and fails.\n\n" +
			"When runs begin: with --herd all at once, or with --splay spread over a time, each node once; with\n" +
			"--duration again and again, each node every --interval with a phase of its own, or so often that there\n" +
			"are --rate runs a second; with --duration alone as fast as --concurrency agents can, which measures\n" +
			"capacity.\n\n" +
			"Certificates: asked for from the server, which must sign at once (autosign); or signed here by the CA in\n" +
			"--ca (ca_crt.pem and ca_key.pem, as `troupe ca export` writes them). --certs keeps them for the next\n" +
			"time. Keys are EC P-256, and 16 of them are shared by all nodes: making thousands would take longer than\n" +
			"the load. The first node fetches the plugins and the others start with them; --pluginsync first lets\n" +
			"every run fetch them all.\n\n" +
			"A run succeeded if the server's own catalog was applied without a failed resource and the report was\n" +
			"taken. Nothing is changed on this machine. The exit code is 1 if a run did not succeed.",
		Example: "  troupe load --server puppet.example.com --nodes 2000 --duration 10m --interval 30m\n" +
			"  troupe load --server localhost:8140 --nodes 500 --herd --agent 7.23,8.10 --certs ./certs\n" +
			"  troupe load --server localhost:8140 --nodes 50 --duration 1m --concurrency 8 -o json",
	}
	fs := cmd.Flags()
	fs.StringVar(&f.server, "server", "", "`HOST[:PORT]` of the server (port 8140)")
	fs.StringVar(&f.name, "server-name", "", "`name` that the server's certificate must carry (default: HOST)")
	fs.IntVar(&f.nodes, "nodes", f.nodes, "how many nodes")
	fs.StringSliceVar(&f.agents, "agent", []string{string(fakeagent.Puppet8)}, "`generations` of the agents, taken in turns: 5.5, 7.23, 8.10, openvox9")
	fs.StringVar(&f.certname, "certname", f.certname, "`pattern` of the nodes' names; %d becomes the number, from 1 on")
	fs.StringVar(&f.environment, "environment", f.environment, "`name` of the environment that nodes ask for")
	fs.StringVar(&f.facts, "facts", "", "`file` of facts in JSON (puppet facts show --render-as json), or a folder of such files, taken in turns; names are replaced")
	fs.StringVar(&f.certs, "certs", "", "`folder` that keeps certificates and keys for the next time")
	fs.StringVar(&f.ca, "ca", "", "`folder` with the CA that signs the nodes' certificates here")
	fs.DurationVar(&f.duration, "duration", 0, "how long runs begin (default: each node runs once)")
	fs.DurationVar(&f.interval, "interval", 0, "time between two runs of a node")
	fs.Float64Var(&f.rate, "rate", 0, "runs that begin each second, instead of --interval")
	fs.BoolVar(&f.herd, "herd", false, "all nodes at once, each one time")
	fs.DurationVar(&f.splay, "splay", 0, "each node one time, spread at random over this")
	fs.IntVar(&f.concurrency, "concurrency", 0, "runs at the same time at most (default: no bound; 8 with --duration alone)")
	fs.IntVar(&f.changed, "changed", 0, "resources that every run reports as changed")
	fs.StringVar(&f.pluginsync, "pluginsync", f.pluginsync, "cached, or first: every run fetches all plugins")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.runLoad(cmd.Context(), f) }
	return cmd
}

func (f *loadFlags) check() error {
	switch {
	case f.server == "":
		return usageError{errors.New("say which server: --server HOST[:PORT]")}
	case f.nodes < 1:
		return usageError{fmt.Errorf("--nodes %d: there must be one at least", f.nodes)}
	case f.herd && (f.duration > 0 || f.splay > 0 || f.interval > 0 || f.rate > 0):
		return usageError{errors.New("--herd means all at once and one time; it goes with none of --duration, --interval, --rate and --splay")}
	case f.splay > 0 && f.duration > 0:
		return usageError{errors.New("--splay spreads single runs; with --duration use --interval or --rate")}
	case f.interval > 0 && f.rate > 0:
		return usageError{errors.New("--interval and --rate say the same thing; give one")}
	case (f.interval > 0 || f.rate > 0) && f.duration == 0:
		return usageError{errors.New("say for how long: --duration")}
	case f.duration < 0 || f.interval < 0 || f.rate < 0 || f.splay < 0 || f.concurrency < 0 || f.changed < 0:
		return usageError{errors.New("times, rates and counts are not negative")}
	case f.duration == 0 && f.splay == 0 && !f.herd && f.nodes > 1:
		return usageError{errors.New("say when they run: --herd, --splay TIME, or --duration TIME with --interval or --rate")}
	case f.pluginsync != "cached" && f.pluginsync != "first":
		return usageError{fmt.Errorf("unknown --pluginsync %q; there are: cached, first", f.pluginsync)}
	case f.nodes > 1 && fmt.Sprintf(f.certname, 1) == fmt.Sprintf(f.certname, 2) || strings.Contains(fmt.Sprintf(f.certname, 1), "%!"):
		return usageError{fmt.Errorf("--certname %q needs one %%d for the node's number", f.certname)}
	}
	if _, _, err := net.SplitHostPort(f.server); err != nil {
		f.server = net.JoinHostPort(f.server, "8140")
	}
	if f.rate > 0 {
		f.interval = time.Duration(float64(f.nodes) / f.rate * float64(time.Second))
	}
	return nil
}

func (c *common) runLoad(ctx context.Context, f loadFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	agents, err := f.fleet()
	if err != nil {
		return err
	}
	muster := fakeagent.Muster{Certs: fakeagent.SSLDir(f.certs), Plugin: f.pluginsync == "cached"}
	if f.ca != "" {
		if muster.Issuer, err = fakeagent.OpenIssuer(f.ca); err != nil {
			return err
		}
	}
	begin := time.Now()
	muster.Count = func(ready, made int) {
		if ready%500 == 0 {
			fmt.Fprintf(c.env.Stderr, "%d of %d nodes have certificates (%d new)\n", ready, len(agents), made)
		}
	}
	if err := muster.Prepare(ctx, agents); err != nil {
		return fmt.Errorf("prepare the nodes: %w", err)
	}
	fmt.Fprintf(c.env.Stderr, "%d nodes are ready after %v\n", len(agents), time.Since(begin).Round(time.Millisecond))

	fleet := fakeagent.Fleet{
		Agents: agents, Splay: f.splay, Duration: f.duration, Interval: f.interval, AtOnce: f.concurrency,
		Progress: c.loadProgress(),
	}
	result := fleet.Run(ctx)
	if err := c.printLoad(result); err != nil {
		return err
	}
	if result.Succeeded != result.Runs || ctx.Err() != nil {
		return exitCode(1)
	}
	return nil
}

// fleet makes the nodes. Each costs some kilobytes until it runs.
func (f *loadFlags) fleet() ([]*fakeagent.Agent, error) {
	templates, err := readTemplates(f.facts)
	if err != nil {
		return nil, err
	}
	var agents []*fakeagent.Agent
	for i := range f.nodes {
		certname := fmt.Sprintf(f.certname, i+1)
		o := fakeagent.Options{
			Generation: fakeagent.Generation(f.agents[i%len(f.agents)]), ServerName: f.name, Environment: f.environment,
			NoCacheOnFail: true, FreshPlugins: f.pluginsync == "first", Changes: f.changed,
		}
		if len(templates) > 0 {
			template := templates[i%len(templates)]
			o.MakeFacts = func() []byte { return template.For(certname) }
		}
		a, err := fakeagent.New(certname, f.server, o)
		if err != nil {
			return nil, usageError{err}
		}
		agents = append(agents, a)
	}
	return agents, nil
}

func readTemplates(path string) ([]fakeagent.FactsTemplate, error) {
	if path == "" {
		return nil, nil
	}
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.IsDir() {
		if files, err = jsonFiles(path); err != nil {
			return nil, err
		}
	}
	var templates []fakeagent.FactsTemplate
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		t, err := fakeagent.NewFactsTemplate(text)
		if err != nil {
			return nil, fmt.Errorf("facts in %s: %w", file, err)
		}
		templates = append(templates, t)
	}
	return templates, nil
}

// jsonFiles lists those of a folder, by name.
func jsonFiles(folder string) ([]string, error) {
	names, err := fs.Glob(os.DirFS(folder), "*.json")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no *.json in %s", folder)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = filepath.Join(folder, name)
	}
	return names, nil
}
