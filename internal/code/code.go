// Package code serves environments: the folders of manifests, modules and data
// that operators keep on disk.
//
// Nothing is ever served from such a folder itself. A [Repo] scans it and makes
// an immutable [Version]: a tree of read-only files, named by the hash of its
// content. That hash is what Puppet calls code_id. A run that began with one
// version keeps it to its end, whatever a deploy does meanwhile, and two members
// that see the same files name them alike.
//
// A Version answers what agents ask about files (metadata, recursive searches,
// content) from its own tree in memory, so no request is ever turned into a path
// of the file system and none can leave its mount. Begin with [Repo.Current];
// DESIGN.md in this folder explains what lies on disk.
package code

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// Options tells a Repo where environments lie. Times and counts have good zeros.
type Options struct {
	EnvironmentPath []string          // folders of environments; in the first that has it an environment is found
	BaseModulePath  []string          // module folders that every environment sees after its own
	Settings        map[string]string // of puppet.conf, interpolated: default_manifest, environment_timeout, codedir, …
	FileMounts      []FileMount       // of fileserver.conf, see LoadFileMounts
	Dir             string            // where versions are kept; can be deleted while nothing runs
	Group           int               // group of the Ruby workers, which alone may read Dir; 0 lets every user read it
	Interval        time.Duration     // between full scans, the safety net below notification; 0 means 1 minute
	Keep            int               // versions kept of each environment, beside retained ones; 0 means 3
	Log             *slog.Logger      // nil discards
	Registerer      prometheus.Registerer
}

// withDefaults fills the zeros and makes every path absolute.
func (o Options) withDefaults() (Options, error) {
	if o.Interval <= 0 {
		o.Interval = time.Minute
	}
	if o.Keep <= 0 {
		o.Keep = 3
	}
	o.Log = telemetry.Discard(o.Log).With(slog.String(telemetry.KeySystem, "code"))
	if o.Dir == "" || len(o.EnvironmentPath) == 0 {
		return o, fmt.Errorf("code needs a folder for versions and an environmentpath")
	}

	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, fmt.Errorf("finding the folder of versions: %w", err)
	}
	if o.EnvironmentPath, err = absolutePaths(o.EnvironmentPath); err != nil {
		return o, err
	}
	o.BaseModulePath, err = absolutePaths(o.BaseModulePath)
	return o, err
}

func absolutePaths(paths []string) ([]string, error) {
	abs := make([]string, len(paths))
	for i, p := range paths {
		a, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("making path %q absolute: %w", p, err)
		}
		abs[i] = a
	}
	return abs, nil
}

// A Repo turns folders into versions. It is safe for concurrent use.
type Repo struct {
	o         Options
	store     *snapshots
	watch     *watcher
	checksums *checksums
	metrics   *metrics
	mounts    atomic.Pointer[[]FileMount]
	serials   atomic.Uint64 // the last Version.Serial

	mu           sync.Mutex
	environments map[puppet.Environment]*environment // those asked for since the start, and those with versions from before it
}

// New opens or creates the folder of versions. It scans nothing: an environment
// is first looked at when it is asked for, or by Run if it was in use before.
func New(o Options) (*Repo, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	store, err := openSnapshots(o.Dir, o.Group, o.Log)
	if err != nil {
		return nil, err
	}

	metrics, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}

	r := &Repo{
		o:            o,
		store:        store,
		watch:        newWatcher(o.Log),
		checksums:    newChecksums(store),
		metrics:      metrics,
		environments: map[puppet.Environment]*environment{},
	}
	r.SetFileMounts(o.FileMounts)
	built, err := store.built()
	if err != nil {
		return nil, err
	}
	for _, b := range built {
		if err := r.environment(b.environment).restoreDeployed(b.id); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// SetFileMounts replaces the mounts of fileserver.conf for requests that come
// after it.
func (r *Repo) SetFileMounts(mounts []FileMount) { r.mounts.Store(&mounts) }

// Current returns the newest complete version. It sees every change that was
// written before the call: a folder that changed is scanned again, after a short
// wait for a deploy that is still writing.
//
// A folder that cannot be read leaves the last good version in service; without
// one the error says what to mend. A version that was deployed for all members
// ([Repo.Pin]) serves whatever the folder holds. Who keeps the version for longer
// than a request must Retain it at once.
func (r *Repo) Current(ctx context.Context, e puppet.Environment) (*Version, error) {
	r.mu.Lock()
	env := r.environments[e]
	r.mu.Unlock()
	if env == nil {
		if r.folder(e) == "" {
			return nil, fault.New(fault.NotFound, "Could not find environment '%s'", e)
		}
		env = r.environment(e)
	}
	return env.fresh(ctx)
}

// Newest returns the newest complete version that is known, without looking for
// changes; nil if there is none.
func (r *Repo) Newest(e puppet.Environment) *Version {
	r.mu.Lock()
	env := r.environments[e]
	r.mu.Unlock()
	if env == nil {
		return nil
	}
	return env.serving()
}

// Version returns the version of that content id if it is still kept.
func (r *Repo) Version(ctx context.Context, e puppet.Environment, codeID string) (*Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "version of environment '%s' is no longer asked for", e)
	}
	r.mu.Lock()
	env := r.environments[e]
	r.mu.Unlock()
	if env == nil { // every environment with versions on disk is known
		return nil, fault.New(fault.NotFound, "no version %q of environment '%s' is kept here", codeID, e)
	}
	if v := env.known(codeID); v != nil {
		return v, nil
	}
	return env.load(codeID)
}

// Deployed says that a deploy of an environment has ended: the next call of
// Current looks at once, and does not wait for the folder to hold still.
func (r *Repo) Deployed(e puppet.Environment) {
	if r.folder(e) != "" {
		r.environment(e).deployed()
	}
}

// Drop forgets what is known about the folder of an environment, so that the
// next call of Current reads all of it again.
func (r *Repo) Drop(e puppet.Environment) {
	if r.folder(e) != "" {
		r.environment(e).drop()
	}
}

// folder returns where an environment lies, "" if nowhere.
func (r *Repo) folder(e puppet.Environment) string {
	for _, dir := range r.o.EnvironmentPath {
		path := filepath.Join(dir, string(e))
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
	}
	return ""
}

// environment returns the state of e.
func (r *Repo) environment(e puppet.Environment) *environment {
	r.mu.Lock()
	defer r.mu.Unlock()
	env := r.environments[e]
	if env == nil {
		env = newEnvironment(r, e)
		r.environments[e] = env
	}
	return env
}

// active returns every environment that has been asked for, by name.
func (r *Repo) active() []*environment {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*environment, 0, len(r.environments))
	for _, env := range r.environments {
		all = append(all, env)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	return all
}
