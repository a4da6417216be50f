package cli

import (
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"troupe/internal/config"
	"troupe/internal/server"
	"troupe/internal/telemetry"
)

// This file starts a member, and checks and shows its configuration.

// serverFlags are the settings that people type; the rest is in the file.
func serverFlags(cmd *cobra.Command) func() map[string]string {
	f := cmd.Flags()
	f.String("listen", "", "`address` to serve agents on (default :8140)")
	f.String("certname", "", "the member's own `name` (default: the host's full name)")
	f.StringSlice("dns-alt-names", nil, "further `names` in the server's certificate, besides puppet")
	f.String("environmentpath", "", "`folder` of environments")
	f.String("autosign", "", "true, false, or the `path` of an allow-list or a policy executable")
	f.String("site", "", "the `name` of the data centre (default: what troupe init or the token said)")
	f.String("member-listen", "", "`address` to serve other members on (default :8143)")
	f.String("member-address", "", "`host:port` by which other members reach this one (default: certname and port 8143)")
	f.String("log-level", "", "debug, info, warn or error")
	return func() map[string]string {
		out := map[string]string{}
		for flag, key := range map[string]string{
			"listen": "listen", "certname": "certname", "environmentpath": "environmentpath",
			"autosign": "ca.autosign", "log-level": "log.level",
			"site": "site", "member-listen": "cluster.listen", "member-address": "cluster.address",
		} {
			if f.Changed(flag) {
				out[key] = f.Lookup(flag).Value.String()
			}
		}
		if names, err := f.GetStringSlice("dns-alt-names"); err == nil && f.Changed("dns-alt-names") {
			out["dns_alt_names"] = strings.Join(names, ",")
		}
		return out
	}
}

func newServer(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "server", Short: "Serve Puppet agents", Args: noArgs,
		Long: "Serve Puppet agents: certificates, catalogs, files, reports. Without any configuration it creates a\n" +
			"CA and a server certificate in its data folder and serves the environments of the host's Puppet\n" +
			"folders. SIGHUP reads configuration and certificates again; SIGTERM finishes what runs and stops.",
		Example: "  troupe server --data /var/lib/troupe\n" +
			"  troupe server --data ./data --listen 127.0.0.1:8140 --environmentpath ./environments --dns-alt-names puppet.example.com",
	}
	flags := serverFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		load := func() (*config.Config, error) { return c.load(flags()) }
		cfg, err := load()
		if err != nil {
			return err
		}
		var level slog.LevelVar
		if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
			return usageError{err}
		}
		log := telemetry.NewLogger(c.env.Stderr, &level, cfg.Log.Format == "json")
		return server.Run(cmd.Context(), cfg, server.Options{Load: load, Log: log, Level: &level, Version: version()})
	}
	return cmd
}

func newConfig(c *common) *cobra.Command {
	check := &cobra.Command{
		Use: "check", Short: "Read the configuration and name every problem", Args: noArgs,
		Example: "  troupe config check --config /etc/troupe/troupe.yaml",
	}
	checkFlags := serverFlags(check)
	check.RunE = func(*cobra.Command, []string) error {
		cfg, err := c.load(checkFlags())
		if err != nil {
			return err
		}
		if err := server.Check(cfg); err != nil {
			return err
		}
		return c.print(map[string]any{"ok": true, "notes": cfg.Notes}, func(w *tabwriter.Writer) {
			for _, n := range cfg.Notes {
				fmt.Fprintln(w, "note:", n)
			}
			fmt.Fprintln(w, "The configuration is good.")
		})
	}
	show := &cobra.Command{
		Use: "show", Short: "Print every setting in force and where it comes from", Args: noArgs,
		Example: "  troupe config show -o json",
	}
	showFlags := serverFlags(show)
	show.RunE = func(*cobra.Command, []string) error {
		cfg, err := c.load(showFlags())
		if err != nil {
			return err
		}
		list := cfg.Show()
		return c.print(list, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
			for _, s := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", s.Key, s.Value, s.Origin)
			}
		})
	}
	return group("config", "The configuration: check, show", check, show)
}
