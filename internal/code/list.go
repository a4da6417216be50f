package code

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file lists environments as GET /puppet/v3/environments does.

// EnvironmentInfo is one environment as it is configured now, scanned or not.
type EnvironmentInfo struct {
	Name     puppet.Environment
	Path     string   // its folder
	Settings Settings // in JSON as in the API's answer
	Current  string   // content id of the version in service, "" if none yet
	Err      error    // why it, or its newest state, cannot be served
}

// SearchPaths returns the environmentpath as the API shows it.
func (r *Repo) SearchPaths() []string {
	paths := make([]string, len(r.o.EnvironmentPath))
	for i, p := range r.o.EnvironmentPath {
		paths[i] = "file://" + p
	}
	return paths
}

// Environments lists all environments by name. One that cannot be read is listed
// with its error; a folder whose name is no environment's is none.
func (r *Repo) Environments(ctx context.Context) ([]EnvironmentInfo, error) {
	seen := map[puppet.Environment]bool{}
	var all []EnvironmentInfo
	for _, dir := range r.o.EnvironmentPath {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, unreadable(dir, err)
		}
		for _, entry := range entries {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("listing environments: %w", err)
			}
			name, err := puppet.ParseEnvironment(entry.Name())
			if err != nil {
				r.o.Log.Debug("folder is no environment", slog.String("path", filepath.Join(dir, entry.Name())), slog.Any(telemetry.KeyErr, err))
				continue
			}
			if seen[name] || r.folder(name) != filepath.Join(dir, entry.Name()) {
				continue
			}
			seen[name] = true
			all = append(all, r.info(name, filepath.Join(dir, entry.Name())))
		}
	}
	for _, e := range r.active() { // deployed to all members, and without a folder on this one
		if v := e.deployedVersion(); v != nil && !seen[e.name] {
			all = append(all, EnvironmentInfo{Name: e.name, Path: v.Path(), Settings: v.Settings, Current: v.ID})
		}
	}
	slices.SortFunc(all, func(a, b EnvironmentInfo) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return all, nil
}

func (r *Repo) info(name puppet.Environment, dir string) EnvironmentInfo {
	i := EnvironmentInfo{Name: name, Path: dir}
	i.Settings, i.Err = r.readSettings(name, dir)

	r.mu.Lock()
	e := r.environments[name]
	r.mu.Unlock()
	if e == nil {
		return i
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pinned != nil { // whatever the folder says
		i.Settings, i.Current, i.Err = e.pinned.Settings, e.pinned.ID, nil
		return i
	}
	if e.now != nil {
		i.Current = e.now.ID
	}
	if e.failure != nil {
		i.Err = e.failure
	}
	return i
}

// readSettings reads the environment.conf on disk.
func (r *Repo) readSettings(name puppet.Environment, dir string) (Settings, error) {
	conf := environmentConf{}
	text, err := readSmall(filepath.Join(dir, "environment.conf"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Settings{}, unreadable(filepath.Join(dir, "environment.conf"), err)
	default:
		if conf, _, err = parseEnvironmentConf(filepath.Join(dir, "environment.conf"), text); err != nil {
			return Settings{}, err
		}
	}
	return settingsContext{name: string(name), dir: dir, o: r.o}.settings(conf)
}

// readSmall reads a file of at most maxConf bytes inside its folder: a link may
// not lead out of it.
func readSmall(path string) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConf {
		return nil, fmt.Errorf("larger than %d bytes", maxConf)
	}
	return text, nil
}
