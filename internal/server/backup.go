package server

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"troupe/internal/backup"
	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// This file makes backups while the member serves.

const (
	backupTick  = 30 * time.Second // how soon a changed setting counts
	backupMost  = 12 * time.Hour   // for one backup
	backupRetry = 5 * time.Minute  // after one that failed, and never longer than backup.every
)

// backupMember are the parts that a backup is made of.
func (m *member) backupMember() backup.Member {
	cfg := m.cfg.Load()
	b := backup.Member{
		Name: cfg.Certname, Site: cfg.Site, Version: m.o.Version, Data: cfg.Data,
		Journal: m.journal, Authority: m.authority, Cluster: m.cluster, Store: m.store, Code: m.code, Busy: m.backing, Outside: cfg.BaseModulePath,
	}
	for _, one := range m.cluster.Members() {
		if one.Self {
			b.Site = one.Site
		}
	}
	return b
}

// BackupPlace returns the place that text names, with what the configuration says about S3; "" is that of the configuration.
func BackupPlace(cfg *config.Config, text string, o backup.PlaceOptions) (backup.Place, error) {
	if text == "" {
		text = cfg.Backup.To
	}
	if o.Endpoint == "" {
		o.Endpoint = cfg.Backup.S3Endpoint
	}
	if o.Region == "" {
		o.Region = cfg.Backup.S3Region
	}
	return backup.OpenPlace(text, o)
}

// BackupLocks returns what the configuration locks backups with; none is no error.
func BackupLocks(cfg *config.Config) (l backup.Locks, err error) {
	l.Recipients = cfg.Backup.Recipients
	if path := cfg.Backup.PassphraseFile; path != "" {
		l.Passphrase, err = backup.ReadPassphrase(path)
	}
	return l, err
}

type backupMetrics struct {
	last, size, took prometheus.Gauge
	made             *prometheus.CounterVec
}

func newBackupMetrics(r prometheus.Registerer) backupMetrics {
	f := promauto.With(r)
	return backupMetrics{
		last: f.NewGauge(prometheus.GaugeOpts{Name: "troupe_backup_last_success_timestamp_seconds", Help: "When the newest backup of the schedule was made; 0 before the first that this member knows of."}),
		size: f.NewGauge(prometheus.GaugeOpts{Name: "troupe_backup_last_size_bytes", Help: "Size of the newest backup of the schedule."}),
		took: f.NewGauge(prometheus.GaugeOpts{Name: "troupe_backup_last_duration_seconds", Help: "Time to make the newest backup of the schedule."}),
		made: f.NewCounterVec(prometheus.CounterOpts{Name: "troupe_backup_runs_total", Help: "Backups of the schedule, by their outcome."}, []string{"result"}),
	}
}

// runBackups makes a backup each backup.every. That none can be made is said, and keeps nobody from being served.
func (m *member) runBackups(ctx context.Context) error {
	metrics := newBackupMetrics(m.registry)
	s := schedule{m: m, metrics: metrics}
	tick := time.NewTicker(backupTick)
	defer tick.Stop()
	for {
		s.turn(ctx, m.cfg.Load())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// A schedule knows when the next backup is due.
type schedule struct {
	m       *member
	metrics backupMetrics
	of      config.Backup // the settings by which due was reckoned
	known   bool          // due was reckoned
	due     time.Time
	failing string // the error of the last one, of which we told
}

func (s *schedule) turn(ctx context.Context, cfg *config.Config) {
	if cfg.Backup.Every == 0 || cfg.Backup.To == "" {
		s.known = false
		return
	}
	if s.known && s.of.Every == cfg.Backup.Every && s.of.To == cfg.Backup.To && time.Now().Before(s.due) {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, backupMost)
	defer cancel()
	info, made, err := s.backUp(ctx, cfg)
	if ctx.Err() != nil && time.Since(began) < backupMost {
		return // the member stops
	}
	s.known, s.of = true, cfg.Backup
	if err != nil {
		s.due = time.Now().Add(min(backupRetry, cfg.Backup.Every))
		s.metrics.made.WithLabelValues("error").Inc()
		if s.failing != err.Error() {
			s.failing = err.Error()
			s.m.log.WarnContext(ctx, "no backup could be made; the member serves on, and tries again", "to", cfg.Backup.To, telemetry.KeyErr, err)
		}
		return
	}
	s.due = info.Header.Time.Add(cfg.Backup.Every)
	s.metrics.last.Set(float64(info.Header.Time.UnixMilli()) / 1000)
	s.metrics.size.Set(float64(info.Size))
	if !made {
		return
	}
	s.failing = ""
	s.metrics.took.Set(time.Since(began).Seconds())
	s.metrics.made.WithLabelValues("ok").Inc()
	s.m.log.InfoContext(ctx, "backup made", "name", info.Name, "to", cfg.Backup.To, "size", info.Size, "records", info.Summary.Records, telemetry.KeyDuration, time.Since(began))
	for _, text := range info.Summary.LeftOut {
		s.m.log.WarnContext(ctx, "the backup lacks something", "what", text)
	}
}

// backUp makes one, unless there is one of this member that is not old: a member that is started again and again makes no more
// backups than one that runs.
func (s *schedule) backUp(ctx context.Context, cfg *config.Config) (info backup.Info, made bool, err error) {
	place, err := BackupPlace(cfg, "", backup.PlaceOptions{})
	if err != nil {
		return info, false, err
	}
	locks, err := BackupLocks(cfg)
	if err != nil {
		return info, false, err
	}
	b := s.m.backupMember()
	h := b.Header(time.Now())
	if !s.known {
		last, err := lastOf(ctx, place, h)
		if err != nil {
			return info, false, err
		}
		if last.Whole && h.Time.Sub(last.Header.Time) < cfg.Backup.Every && !last.Header.Time.After(h.Time) {
			return last, false, nil
		}
	}
	info, err = backup.Create(ctx, place, h, locks, func(ctx context.Context, w io.Writer) (backup.Summary, error) { return b.Write(ctx, h, w) }, nil)
	if err != nil || cfg.Backup.Keep == 0 {
		return info, err == nil, err
	}
	if _, err := backup.Prune(ctx, place, h, cfg.Backup.Keep); err != nil {
		s.m.log.WarnContext(ctx, "old backups could not be removed", "to", cfg.Backup.To, telemetry.KeyErr, err)
	}
	return info, true, nil
}

// lastOf returns the newest whole backup that this very member has made; one that is not whole if there is none.
func lastOf(ctx context.Context, place backup.Place, h backup.Header) (backup.Info, error) {
	all, err := backup.List(ctx, place)
	if err != nil && !errors.Is(err, backup.ErrNoFolder) {
		return backup.Info{}, err
	}
	for _, i := range all {
		if i.Whole && i.Header.Origin == h.Origin {
			return i, nil
		}
	}
	return backup.Info{}, nil
}
