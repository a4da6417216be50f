package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/internal/agentroute"
	"troupe/internal/config"
)

// This file tells what an agent of a version would do with a puppet.conf.

type agentRouteFlags struct {
	version, file      string
	certname, domain   string
	nameserver, caFile string
	probe, offline     bool
	timeout            time.Duration
}

func newAgentRoute(c *common) *cobra.Command {
	var f agentRouteFlags
	cmd := &cobra.Command{
		Use: "agent-route", Short: "Tell which servers an agent would go to, and what breaks", Args: noArgs,
		Long: "Tell what an agent of a version would do now with its puppet.conf: for certificates, catalogs, files and\n" +
			"reports which servers it would try, by SRV records, server_list or a single name, in which order; how long it\n" +
			"waits; how it takes a 503; how often it fetches CRL and CA; and what goes wrong with this version and these\n" +
			"settings.\n\n" +
			"Names are looked up unless --offline is given. With --probe each server is connected to in the agent's\n" +
			"order, with TLS and, for server_list, the question for its status, until one is good enough; the exit code\n" +
			"is then 1 if a service finds none. Nothing is changed, and no certificate is shown to the servers.\n\n" +
			"Settings that an agent takes from its command line or its facts are not in puppet.conf: give them here.",
		Example: "  troupe agent-route --version 7.23.0\n" +
			"  troupe agent-route --version 5.5.22 --config ./puppet.conf --certname web1.dc1.example.com\n" +
			"  troupe agent-route --version 8.10 --probe --cacert ca.pem -o json\n" +
			"  troupe agent-route --version 8.10 --nameserver 10.0.0.53:53    before the zone is delegated",
	}
	fs := cmd.Flags()
	fs.StringVar(&f.version, "version", "", "`version` of the agent, as puppet --version prints it")
	fs.StringVar(&f.file, "config", "", "the agent's puppet.conf `file` (default: this machine's)")
	fs.StringVar(&f.certname, "certname", "", "`name` of the agent; its domain stands for the machine's (default: this machine's)")
	fs.StringVar(&f.domain, "domain", "", "the machine's `domain`, which srv_domain defaults to")
	fs.StringVar(&f.nameserver, "nameserver", "", "`address[:port]` of the name server to ask (default: this machine's)")
	fs.BoolVar(&f.probe, "probe", false, "connect to the servers as the agent would")
	fs.BoolVar(&f.offline, "offline", false, "look up no names")
	fs.StringVar(&f.caFile, "cacert", "", "with --probe: the agent's CA bundle, to check servers' certificates")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Second, "of one contact; an agent waits for http_connect_timeout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.agentRoute(cmd.Context(), f) }
	return cmd
}

func (f *agentRouteFlags) check() error {
	switch {
	case f.version == "":
		return usageError{errors.New("say which agent: --version 7.23.0 (see: troupe agent-route --help)")}
	case f.probe && f.offline:
		return usageError{errors.New("--probe needs the network that --offline rules out")}
	case f.caFile != "" && !f.probe:
		return usageError{errors.New("--cacert is for --probe")}
	case f.timeout < time.Millisecond || f.timeout > 10*time.Minute:
		return usageError{fmt.Errorf("--timeout %v: choose 1ms to 10m", f.timeout)}
	}
	if f.nameserver != "" {
		if _, _, err := net.SplitHostPort(f.nameserver); err != nil {
			f.nameserver = net.JoinHostPort(f.nameserver, "53")
		}
	}
	return nil
}

func (c *common) agentRoute(ctx context.Context, f agentRouteFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	version, err := agentroute.ParseVersion(f.version)
	if err != nil {
		return usageError{err}
	}
	plan, err := c.agentPlan(version, f)
	if err != nil {
		return err
	}
	if !f.offline {
		r := agentroute.Resolver{Timeout: f.timeout}
		if f.nameserver != "" {
			r.Servers = []string{f.nameserver}
		}
		if err := plan.Resolve(ctx, r); err != nil {
			return err
		}
	}
	missing := false
	if f.probe {
		roots, err := readRoots(f.caFile)
		if err != nil {
			return err
		}
		plan.Probe(ctx, agentroute.ProbeOptions{Timeout: f.timeout, Roots: roots})
		for _, s := range plan.Services {
			missing = missing || s.Chosen == ""
		}
	}
	if err := c.print(plan, func(w *tabwriter.Writer) { tableOfPlan(w, plan, f.probe) }); err != nil {
		return err
	}
	if missing {
		return exitCode(1)
	}
	return nil
}

// agentPlan reads the agent's puppet.conf.
func (c *common) agentPlan(version agentroute.Version, f agentRouteFlags) (*agentroute.Plan, error) {
	if f.file == "" {
		f.file = config.FindAgentConf(c.conf)
	}
	if f.certname == "" {
		f.certname, _ = os.Hostname() // without one, the domain stays unknown, and the plan says so
	}
	if f.domain == "" {
		_, f.domain, _ = strings.Cut(f.certname, ".")
	}
	conf, err := config.ReadAgentConf(f.file, version.Sections(), map[string]string{
		"certname": f.certname, "server": "puppet", "masterport": "8140", "serverport": "$masterport", "ca_server": "$server", "report_server": "$server",
		"environment": "production",
	})
	if err != nil {
		return nil, err
	}
	return agentroute.New(version, conf, agentroute.Options{Certname: f.certname, Domain: f.domain})
}

func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the CA bundle: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s: give the agent's ssl/certs/ca.pem", path)
	}
	return roots, nil
}

func tableOfPlan(w *tabwriter.Writer, p *agentroute.Plan, probed bool) {
	fmt.Fprintf(w, "agent %s chooses a server %s\n", p.Agent, p.Chooses)
	for _, s := range p.Services {
		fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.For)
		for _, step := range s.Steps {
			source := step.By
			if step.Names != nil {
				source += " " + strings.Join(step.Names, ", else ")
			}
			fmt.Fprintf(w, "  %s: %s (%s)\n", source, words(step.Check), step.Origin)
			if step.Note != "" {
				fmt.Fprintf(w, "    %s\n", step.Note)
			}
			for _, t := range step.Targets {
				rank := ""
				if t.Priority != nil {
					rank = fmt.Sprintf("priority %d, weight %d: %s", *t.Priority, *t.Weight, t.Share)
				}
				where := strings.Join(t.Addresses, " ")
				if t.Error != "" {
					where = t.Error
				}
				fmt.Fprintf(w, "    %s:%d\t%s\t%s\n", t.Host, t.Port, rank, where)
			}
			if step.Last {
				fmt.Fprintf(w, "    nothing after it\n")
			}
		}
		for _, t := range s.Tries {
			fmt.Fprintf(w, "  tried %s\t%s\t%s\t%d ms\n", t.Target, t.Address, t.Result, t.Millis)
		}
		if probed && s.Chosen != "" {
			fmt.Fprintf(w, "  ends at %s\n", s.Chosen)
		} else if probed {
			fmt.Fprintf(w, "  ends nowhere: %s\n", s.Result)
		}
	}
	fmt.Fprintf(w, "\n")
	for _, t := range p.Traits {
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.Name, t.Value, t.Origin)
	}
	fmt.Fprintf(w, "\nwhat breaks\n")
	for _, b := range p.Breaks {
		fmt.Fprintf(w, "  %s\n", b)
	}
}

func words(c agentroute.Check) string {
	switch c {
	case agentroute.Connect:
		return "the first that can be connected to"
	case agentroute.Status:
		return "the first whose status is good"
	default:
		return "without a check"
	}
}
