package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/adminapi"
	"troupe/internal/ca"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/engine/ruby"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/server"
)

// This file finds out what checks need: from the member that runs, or from the folder of one that does not.

// An exam is all that checks know. Who tests one fills it by hand.
type exam struct {
	now      time.Time
	version  string
	presence Presence
	settings adminapi.Settings // in force, or those that a start would put in force; zero when there are none

	config      *config.Config
	configError error
	dialError   error // why the member cannot be asked

	process      answer[adminapi.Process] // of a running member
	status       answer[adminapi.Status]  // likewise
	journal      answer[journal.Condition]
	authority    answer[ca.Condition]
	cluster      answer[cluster.Condition]
	probes       answer[[]cluster.Probe]
	environments answer[[]adminapi.Environment]
	ruby         answer[ruby.Found] // of a member that does not run

	host host
}

// An answer is a value, or why there is none.
type answer[T any] struct {
	value T
	err   error
}

// errNone says that there is nothing to look at yet, which is no finding.
var errNone = errors.New("there is none yet")

// errLate says that something was not found out in time, which does not mean that it is wrong.
var errLate = fmt.Errorf("no answer in %v", gatherMost)

// orNone takes a file that is not there for a part that is not there.
func orNone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errNone
	}
	return err
}

// missing writes down why there is no answer, and reports that there is none.
func (a answer[T]) missing(n *notes) bool {
	if a.err != nil && !a.absent() {
		n.unknown("", "%s", a.err)
	}
	return a.err != nil
}

// absent reports that there is nothing to look at yet.
func (a answer[T]) absent() bool { return errors.Is(a.err, errNone) }

// A host is the machine, as far as a test replaces it.
type host struct {
	proc       string // /proc
	cgroup     string // /sys/fs/cgroup
	systemd    string // /run/systemd/system
	addresses  func() ([]net.IP, error)
	lookup     func(ctx context.Context, name string) ([]string, error)
	reverse    func(ctx context.Context, address string) ([]string, error)
	systemctl  func(ctx context.Context, args ...string) (string, error)
	kernelTime func() (synchronized bool, err error)
}

func thisHost() host {
	return host{
		proc: "/proc", cgroup: "/sys/fs/cgroup", systemd: "/run/systemd/system", addresses: interfaceAddresses,
		lookup: net.DefaultResolver.LookupHost, reverse: net.DefaultResolver.LookupAddr,
		systemctl: func(ctx context.Context, args ...string) (string, error) {
			out, err := exec.CommandContext(ctx, "systemctl", args...).Output() // #nosec G204 -- arguments are ours
			return string(out), err
		},
		kernelTime: func() (bool, error) {
			var t unix.Timex // no mode is set: it is only read
			_, err := unix.Adjtimex(&t)
			return t.Status&unix.STA_UNSYNC == 0, err
		},
	}
}

func interfaceAddresses() ([]net.IP, error) {
	list, err := net.InterfaceAddrs()
	var all []net.IP
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			all = append(all, n.IP)
		}
	}
	return all, err
}

// gather asks everything that there is to ask, at once.
func gather(ctx context.Context, o Options) *exam {
	ctx, cancel := context.WithTimeout(ctx, gatherMost)
	defer cancel()
	x := &exam{now: time.Now(), version: o.Version, presence: Stopped, config: o.Config, configError: o.ConfigError, host: thisHost()}
	data := o.Data
	if o.Config != nil {
		x.settings, data = server.SettingsOf(o.Config), o.Config.Data
	}
	client, err := adminapi.Dial(ctx, data)
	switch {
	case err == nil:
		x.presence = Running
		x.ask(ctx, client)
		return x
	case !errors.Is(err, adminapi.ErrNotRunning):
		x.presence, x.dialError = Running, err
		x.cannot(errNone)
		return x
	case o.Config == nil:
		x.cannot(errNone)
		return x
	}
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		x.presence = Fresh
	}
	x.read(ctx, o.Config)
	return x
}

// cannot is for when there is nothing that could be asked.
func (x *exam) cannot(err error) {
	x.process.err, x.status.err, x.journal.err, x.authority.err, x.cluster.err = err, err, err, err, err
	x.probes.err, x.environments.err, x.ruby.err = err, err, err
}

// A task finds out one thing.
type task func(context.Context)

// fetch returns a task that fills an answer. A call that has not ended with ctx leaves it as it is, with an error: nobody waits
// for a disk that hangs.
func fetch[T any](to *answer[T], from func(context.Context) (T, error)) task {
	return func(ctx context.Context) {
		got := make(chan answer[T], 1)
		go func() {
			var a answer[T]
			a.value, a.err = from(ctx)
			got <- a
		}()
		select {
		case *to = <-got:
		case <-ctx.Done():
			select {
			case *to = <-got: // it has noticed
			case <-time.After(grace):
				to.err = ctx.Err()
			}
		}
		if errors.Is(to.err, context.DeadlineExceeded) {
			to.err = errLate
		}
	}
}

func together(ctx context.Context, tasks ...task) {
	var all sync.WaitGroup
	for _, t := range tasks {
		all.Go(func() { t(ctx) })
	}
	all.Wait()
}

// ask asks the member.
func (x *exam) ask(ctx context.Context, c *adminapi.Client) {
	x.ruby.err = errNone
	together(ctx,
		fetch(&x.process, c.Process), fetch(&x.status, c.Status), fetch(&x.journal, c.Journal), fetch(&x.authority, c.Authority),
		fetch(&x.cluster, c.Cluster), fetch(&x.probes, c.Probes), fetch(&x.environments, c.Environments),
	)
	if x.process.err == nil {
		x.settings = x.process.value.Settings // it may have been started with flags
		return
	}
	hangs := x.process.err
	x.cannot(errNone) // one word for all of them
	x.process.err = hangs
}

// read reads the folder of a member that does not run.
func (x *exam) read(ctx context.Context, cfg *config.Config) {
	x.process.err, x.status.err = errNone, errNone
	folder := func(part string) string { return filepath.Join(cfg.Data, part) }
	together(ctx,
		func(ctx context.Context) { x.readJournal(ctx, cfg, folder) },
		fetch(&x.authority, func(ctx context.Context) (ca.Condition, error) {
			c, err := ca.Look(ctx, folder("ca"), "", puppet.Certname(cfg.Certname), x.now)
			return c, orNone(err)
		}),
		fetch(&x.environments, func(ctx context.Context) ([]adminapi.Environment, error) {
			return findEnvironments(ctx, cfg.EnvironmentPath)
		}),
		fetch(&x.ruby, func(ctx context.Context) (ruby.Found, error) {
			return ruby.Look(ctx, ruby.Options{Ruby: cfg.Engine.Ruby, PuppetLib: cfg.Engine.PuppetLib, User: cfg.Engine.User, Dir: folder("engine")})
		}),
	)
}

// readJournal reads the journal, and what is known from it of the troupe.
func (x *exam) readJournal(ctx context.Context, cfg *config.Config, folder func(string) string) {
	var j answer[*journal.Journal]
	fetch(&j, func(ctx context.Context) (*journal.Journal, error) {
		j, err := journal.Look(ctx, folder("journal"), journal.Options{})
		return j, orNone(err)
	})(ctx)
	if j.err != nil {
		x.journal.err, x.cluster.err, x.probes.err = j.err, errNone, errNone // the check of the journal tells
		return
	}
	var c answer[*cluster.Cluster]
	together(ctx, fetch(&x.journal, j.value.Examine), fetch(&c, func(ctx context.Context) (*cluster.Cluster, error) {
		return cluster.Look(ctx, folder("cluster"), j.value, cluster.Options{Name: cfg.Certname, Address: cfg.Cluster.Address})
	}))
	if c.err != nil {
		x.cluster.err, x.probes.err = c.err, c.err
	} else {
		x.cluster.value = c.value.Examine()
		fetch(&x.probes, func(ctx context.Context) ([]cluster.Probe, error) {
			return c.value.ProbeAll(ctx, adminapi.ListenIP(cfg.Cluster.Listen)), nil
		})(ctx)
	}
	if err := j.value.Close(); err != nil && x.journal.err == nil {
		x.journal.err = err
	}
}

// inUse returns the words of a journal that another process has open.
func (x *exam) inUse() string {
	if x.presence == Stopped && fault.KindOf(x.journal.err) == fault.Conflict {
		return x.journal.err.Error()
	}
	return ""
}

// findEnvironments lists folders as a member would, and finds those that it could not list.
func findEnvironments(ctx context.Context, path []string) ([]adminapi.Environment, error) {
	var all []adminapi.Environment
	seen := map[puppet.Environment]bool{}
	for _, dir := range path {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			name, err := puppet.ParseEnvironment(e.Name())
			folder := filepath.Join(dir, e.Name())
			if info, serr := os.Stat(folder); err != nil || serr != nil || !info.IsDir() || seen[name] {
				continue
			}
			seen[name] = true
			one := adminapi.Environment{Name: name, Path: folder}
			for _, part := range []string{"", "manifests", "modules"} {
				if _, err := os.ReadDir(filepath.Join(folder, part)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					one.Error = err.Error()
				}
			}
			all = append(all, one)
		}
	}
	return all, nil
}
