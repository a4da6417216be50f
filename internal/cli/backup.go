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
	"troupe/internal/backup"
	"troupe/internal/config"
	"troupe/internal/secretfile"
	"troupe/internal/server"
	"troupe/internal/telemetry"
)

// This file makes backups, shows and checks them, and puts them back.

// passphraseVariable holds the passphrase of backups where there is no file.
const passphraseVariable = "TROUPE_BACKUP_PASSPHRASE"

func newBackup(c *common) *cobra.Command {
	return group("backup", "Backups of everything that a member knows: create, list, verify, restore",
		newBackupCreate(c), newBackupList(c), newBackupVerify(c), newBackupRestore(c))
}

// backupFlags say where backups are and what opens them.
type backupFlags struct {
	place          string
	s3             backup.PlaceOptions
	passphraseFile string
	recipients     []string
	identity       string
}

func (b *backupFlags) addPlace(cmd *cobra.Command, name string) {
	f := cmd.Flags()
	f.StringVar(&b.place, name, "", "a `folder`, or s3://BUCKET/PREFIX (default: the setting backup.to)")
	f.StringVar(&b.s3.Endpoint, "s3-endpoint", "", "`address` of a server other than AWS, https://HOST:PORT (default: the setting, else AWS_ENDPOINT_URL)")
	f.StringVar(&b.s3.Region, "s3-region", "", "`region` of the bucket (default: the setting, else AWS_REGION)")
}

func (b *backupFlags) addKeys(cmd *cobra.Command) {
	cmd.Flags().StringVar(&b.passphraseFile, "passphrase-file", "", "`file` whose first line is the passphrase (default: the variable "+passphraseVariable+", else the setting backup.passphrase_file)")
	cmd.Flags().StringVar(&b.identity, "identity", "", "`file` with the identity of a recipient, as age-keygen writes it")
}

// passphrase looks at the flag and the variable.
func (b *backupFlags) passphrase() (string, error) {
	if b.passphraseFile != "" {
		return backup.ReadPassphrase(b.passphraseFile)
	}
	return os.Getenv(passphraseVariable), nil
}

// keys are what opens a backup.
func (b *backupFlags) keys(cfg *config.Config) (k backup.Keys, err error) {
	if b.identity != "" {
		if k.Identities, err = secretfile.Read(b.identity); err != nil {
			return k, fmt.Errorf("identity of a recipient: %w", err)
		}
	}
	if k.Passphrase, err = b.passphrase(); err != nil || k.Passphrase != "" || k.Identities != "" {
		return k, err
	}
	locks, err := server.BackupLocks(cfg)
	k.Passphrase = locks.Passphrase
	return k, err
}

// locks are what a backup is to be locked with.
func (b *backupFlags) locks(cfg *config.Config) (l backup.Locks, err error) {
	if l.Recipients = b.recipients; len(l.Recipients) > 0 && b.passphraseFile == "" {
		return l, l.Check()
	}
	if l.Passphrase, err = b.passphrase(); err != nil {
		return l, err
	}
	if l.Passphrase == "" && len(l.Recipients) == 0 {
		if l, err = server.BackupLocks(cfg); err != nil {
			return l, err
		}
	}
	return l, l.Check()
}

func newBackupCreate(c *common) *cobra.Command {
	var b backupFlags
	var keep int
	cmd := &cobra.Command{
		Use: "create", Short: "Back up everything that this member knows; it serves on meanwhile", Args: noArgs,
		Long: "Back up everything that this member must not lose: the keys of the CA, the journals of all members, the\n" +
			"contents of the filebucket, the environments. The backup is encrypted here, with a passphrase or for\n" +
			"recipients of age, and is in its place whole or not at all. The member may be running.\n" +
			"S3 takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws/credentials.",
		Example: "  troupe backup create --to /mnt/backups --passphrase-file /etc/troupe/backup.passphrase\n" +
			"  troupe backup create --to s3://backups/troupe --recipient age1… --keep 48",
	}
	b.addPlace(cmd, "to")
	cmd.Flags().StringVar(&b.passphraseFile, "passphrase-file", "", "`file` whose first line is the passphrase (default: the variable "+passphraseVariable+", else the setting backup.passphrase_file)")
	cmd.Flags().StringArrayVar(&b.recipients, "recipient", nil, "lock it for a `recipient` of age instead of with a passphrase; may be repeated")
	cmd.Flags().IntVar(&keep, "keep", 0, "afterwards remove this member's older backups but for so many; 0 removes none")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if keep < 0 {
			return usageError{errors.New("--keep must not be negative")}
		}
		cfg, err := c.load(nil)
		if err != nil {
			return err
		}
		locks, err := b.locks(cfg)
		if err != nil {
			return err
		}
		place, err := server.BackupPlace(cfg, b.place, b.s3)
		if err != nil {
			return err
		}
		return c.withMember(cmd.Context(), func(m *adminapi.Client) error { return c.createBackup(cmd.Context(), m, place, locks, keep) })
	}
	return cmd
}

// created is what create prints.
type created struct {
	backup.Info

	Place   string   `json:"place"`
	Seconds float64  `json:"seconds"`
	Removed []string `json:"removed"`
}

func (c *common) createBackup(ctx context.Context, m *adminapi.Client, place backup.Place, locks backup.Locks, keep int) (err error) {
	began := time.Now()
	stream, err := m.Backup(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	line := c.newProgress()
	info, err := backup.Create(ctx, place, stream.Header, locks, stream.Copy, func(done int64) { line.show(done, stream.Estimate, "about ") })
	line.clear()
	if err != nil {
		return err
	}
	out := created{Info: info, Place: place.String(), Seconds: time.Since(began).Seconds(), Removed: []string{}}
	if keep > 0 {
		gone, err := backup.Prune(ctx, place, stream.Header, keep)
		if err != nil {
			return fmt.Errorf("the backup %s is made, but older ones could not be removed: %w", info.Name, err)
		}
		out.Removed = append(out.Removed, gone...)
	}
	return c.print(out, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s\t%s in %.1f s\n", info.Name, size(info.Size), out.Seconds)
		showSummary(w, info.Summary)
		for _, name := range out.Removed {
			fmt.Fprintln(w, "removed\t"+name)
		}
	})
}

func showSummary(w *tabwriter.Writer, s backup.Summary) {
	fmt.Fprintf(w, "\t%d records in %d chains, %d contents of the filebucket, %d environments with %d files\n", s.Records, s.Chains, s.Contents, s.Environments, s.Files)
	for _, text := range s.LeftOut {
		fmt.Fprintln(w, "LEFT OUT\t"+text)
	}
}

func newBackupList(c *common) *cobra.Command {
	var b backupFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List backups, the newest first, and whether each is whole; needs no passphrase", Args: noArgs,
		Example: "  troupe backup list --from /mnt/backups\n  troupe backup list --from s3://backups/troupe -o json",
	}
	b.addPlace(cmd, "from")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, place, err := c.backupPlace(b)
		if err != nil {
			return err
		}
		all, err := backup.List(cmd.Context(), place)
		if err != nil {
			return err
		}
		return c.print(all, func(w *tabwriter.Writer) {
			if len(all) == 0 {
				fmt.Fprintf(w, "No backups in %s\n", place)
				return
			}
			fmt.Fprintln(w, "TIME\tMEMBER\tSITE\tSIZE\tRECORDS\tSTATE\tNAME")
			for _, i := range all {
				state, at := "whole", "-"
				if !i.Whole {
					state = "NOT WHOLE: " + i.Problem
				}
				if !i.Header.Time.IsZero() {
					at = i.Header.Time.UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", at, i.Header.Member, i.Header.Site, size(i.Size), i.Summary.Records, state, i.Name)
			}
		})
	}
	return cmd
}

// backupPlace loads the configuration and opens the place.
func (c *common) backupPlace(b backupFlags) (*config.Config, backup.Place, error) {
	cfg, err := c.load(nil)
	if err != nil {
		return nil, nil, err
	}
	place, err := server.BackupPlace(cfg, b.place, b.s3)
	return cfg, place, err
}

// verified is what verify prints.
type verified struct {
	Name    string         `json:"name"`
	Header  backup.Header  `json:"header"`
	Summary backup.Summary `json:"summary"`
	Seconds float64        `json:"seconds"`
}

func newBackupVerify(c *common) *cobra.Command {
	var b backupFlags
	cmd := &cobra.Command{
		Use: "verify [NAME]", Short: "Read a backup to its last byte and check everything in it", Args: cobra.MaximumNArgs(1),
		Long: "Decrypt a backup, the newest unless another is named, and check all of it: every record's hash and its\n" +
			"place in its chain, every file's sum, the keys. Nothing is written. The exit code is 0 only if all is well.",
		Example: "  troupe backup verify --from /mnt/backups --passphrase-file /etc/troupe/backup.passphrase",
	}
	b.addPlace(cmd, "from")
	b.addKeys(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, place, err := c.backupPlace(b)
		if err != nil {
			return err
		}
		keys, err := b.keys(cfg)
		if err != nil {
			return err
		}
		info, err := backup.Newest(cmd.Context(), place, strings.Join(args, ""))
		if err != nil {
			return err
		}
		began := time.Now()
		line := c.newProgress()
		summary, err := backup.Verify(cmd.Context(), place, info, keys, func(done, total int64) { line.show(done, total, "") })
		line.clear()
		if err != nil {
			return err
		}
		v := verified{Name: info.Name, Header: info.Header, Summary: summary, Seconds: time.Since(began).Seconds()}
		return c.print(v, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "%s\twhole, read in %.1f s\n", v.Name, v.Seconds)
			showSummary(w, summary)
		})
	}
	return cmd
}

func newBackupRestore(c *common) *cobra.Command {
	var b backupFlags
	var name string
	var alone bool
	cmd := &cobra.Command{
		Use: "restore", Short: "Make this machine, with an empty data folder, a member from a backup", Args: noArgs,
		Long: "Make this machine, with an empty data folder, a member from a backup, the newest unless another is named:\n" +
			"the same CA, the same certificates and revocations, reports, facts, environments. Then start it: troupe server.\n" +
			"It takes the place of the lost member of its name. Other members that are still there bring what is newer;\n" +
			"say --alone if there are none, or if nobody may hear of this machine, as in a drill.\n" +
			"If it is interrupted, run the same command again.",
		Example: "  troupe backup restore --from /mnt/backups --passphrase-file /etc/troupe/backup.passphrase\n" +
			"  troupe backup restore --from s3://backups/troupe --identity troupe.key --name troupe-20261121T200000.000Z-….backup",
	}
	settings := serverFlags(cmd)
	b.addPlace(cmd, "from")
	b.addKeys(cmd)
	cmd.Flags().StringVar(&name, "name", "", "the `backup` to restore (default: the newest that is whole)")
	cmd.Flags().BoolVar(&alone, "alone", false, "remove the other members: they are lost, or this is a drill")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.restore(cmd.Context(), settings(), b, name, server.RestoreRequest{Alone: alone})
	}
	return cmd
}

// restore makes a member of what q does not name yet.
func (c *common) restore(ctx context.Context, settings map[string]string, b backupFlags, name string, q server.RestoreRequest) error {
	cfg, err := c.load(settings)
	if err != nil {
		return err
	}
	if _, err := adminapi.Dial(ctx, cfg.Data); !errors.Is(err, adminapi.ErrNotRunning) {
		return errors.Join(fmt.Errorf("a member is running on %s: restore on a machine without one", cfg.Data), err)
	}
	if q.Keys, err = b.keys(cfg); err != nil {
		return err
	}
	if q.Place, err = server.BackupPlace(cfg, b.place, b.s3); err != nil {
		return err
	}
	if q.Info, err = backup.Newest(ctx, q.Place, name); err != nil {
		return err
	}
	line := c.newProgress()
	r, err := server.Restore(ctx, cfg, server.Options{Log: telemetry.NewLogger(c.env.Stderr, slog.LevelWarn, false), Version: version()}, q,
		func(done, total int64) { line.show(done, total, "") })
	line.clear()
	if err != nil {
		return err
	}
	return c.print(r, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "restored\t%s of %s, %s\n", r.Backup.Name, r.Backup.Header.Member, r.Backup.Header.Time.UTC().Format(time.RFC3339))
		showSummary(w, r.Summary)
		for _, e := range r.Kept {
			fmt.Fprintf(w, "kept\tenvironment %s as it is in %s\n", e, cfg.EnvironmentPath[0])
		}
		for _, m := range r.Removed {
			fmt.Fprintf(w, "removed\tmember %s of site %s\n", m.Name, m.Site)
		}
		for _, m := range r.Others {
			fmt.Fprintf(w, "expects\tmember %s of site %s at %s; if it is lost: troupe remove %s\n", m.Name, m.Site, m.Address, m.Name)
		}
		if r.Self != nil {
			fmt.Fprintf(w, "joined\tas %s of site %s\n", r.Self.Name, r.Self.Site)
		}
		fmt.Fprintf(w, "next\ttroupe server --data %s\n", cfg.Data)
	})
}

// A progress is a line that is written over and over, for a person who looks.
type progress struct {
	c     *common
	shows bool
	shown bool
	last  time.Time
}

func (c *common) newProgress() *progress { return &progress{c: c, shows: isTerminal(c.env.Stderr)} }

// progressEvery is how often a person reads a number.
const progressEvery = 200 * time.Millisecond

func (p *progress) show(done, total int64, word string) {
	if !p.shows || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.c.env.Stderr, "\r\033[K%s of %s%s", size(done), word, size(total))
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.c.env.Stderr, "\r\033[K")
	}
}

// size writes bytes as people read them.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
