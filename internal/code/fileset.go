package code

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"troupe/internal/fault"
)

// This file finds files and describes them, for snapshots and live folders alike
// (puppet/file_serving/fileset.rb, metadata.rb, terminus_helper.rb).

// A folder is where metadata is read from: a branch of a version, or a live
// folder of a custom mount. Paths are relative, "" is the folder itself, and
// what does not exist or lies outside is fs.ErrNotExist.
type folder interface {
	stat(path string, follow bool) (attributes, error)
	list(path string) ([]string, error) // names in a folder, sorted
	sum(path, algorithm string) (string, error)
}

// A place is one path that a mount resolved to.
type place struct {
	path string // original, absolute
	folder
}

// check refuses options that Puppet refuses, in its words.
func (o MetadataOptions) check() error {
	switch o.Links {
	case "", "manage", "follow", "ignore":
	default:
		return fault.New(fault.Failed, ":links can only be set to :manage or :follow")
	}
	if o.ChecksumType != "" && !knownChecksumType(o.ChecksumType) {
		return fault.New(fault.Failed, "Unsupported checksum type %s", o.ChecksumType)
	}
	switch o.SourcePermissions {
	case "", "use", "use_when_creating", "ignore":
		return nil
	}
	return fault.New(fault.Failed, "Unsupported source_permission %s", o.SourcePermissions)
}

func (o MetadataOptions) follow() bool { return o.Links == "follow" }

// describe fills in what Puppet's Metadata#collect does.
func (p place) describe(relative string, o MetadataOptions) (FileMetadata, error) {
	m := FileMetadata{
		Path: p.path, RelativePath: relative, Links: "manage",
		Owner: os.Geteuid(), Group: os.Getegid(), Mode: 0o644,
		ChecksumType: first(o.ChecksumType, "sha256"),
	}
	if o.follow() {
		m.Links = "follow"
	}
	within := relative
	if within == "." {
		within = ""
	}
	a, err := p.stat(within, o.follow())
	if err != nil {
		return m, p.failure("rb_file_s_stat", relative, err)
	}
	if o.SourcePermissions != "" && o.SourcePermissions != "ignore" {
		m.Owner, m.Group, m.Mode = int(a.uid), int(a.gid), int(a.mode)
	}

	m.Type = a.kind.String()
	switch a.kind {
	case fileKind:
		m.Checksum, err = p.checksum(within, m.ChecksumType)
	case dirKind: // always the time of the folder that the search began at
		m.ChecksumType = "ctime"
		m.Checksum, err = p.checksum("", m.ChecksumType)
	case linkKind: // the checksum is of what it leads to, and null if that has none
		m.Destination = a.target
		if sum, err := p.checksum(within, m.ChecksumType); err == nil {
			m.Checksum = sum
		}
	}
	if err != nil {
		return m, p.failure("rb_sysopen", relative, err)
	}
	return m, nil
}

// failure words an error of the file system as Ruby does.
func (p place) failure(call, relative string, err error) error {
	path := p.path
	if relative != "" && relative != "." {
		path += "/" + relative
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.Failed, err, "No such file or directory @ %s - %s", call, path)
	case errors.Is(err, fs.ErrPermission):
		return fault.Wrap(fault.Failed, err, "Permission denied @ %s - %s", call, path)
	}
	return fmt.Errorf("reading %s: %w", path, err)
}

func (p place) checksum(relative, kind string) (string, error) {
	var value string
	switch kind {
	case "none":
	case "mtime", "ctime":
		a, err := p.stat(relative, true)
		if err != nil {
			return "", err
		}
		value = rubyTime(a.ctime)
		if kind == "mtime" {
			value = rubyTime(a.mtime)
		}
	default:
		sum, err := p.sum(relative, kind)
		if err != nil {
			return "", err
		}
		value = sum
	}
	return "{" + kind + "}" + value, nil
}

const (
	softMaxFiles = 1000    // above it a search without max_files is warned about
	hardMaxFiles = 500_000 // above it a search is refused, whatever max_files says
)

// files lists what a search finds below p: "." first, then breadth first.
func (p place) files(ctx context.Context, o SearchOptions, log *slog.Logger) ([]string, error) {
	if _, err := p.stat("", o.follow()); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "Fileset paths must exist")
	}
	found := []string{"."}
	level := []string{""}
	for depth := 1; o.Recurse && (o.RecurseLimit == nil || depth <= *o.RecurseLimit) && len(level) > 0; depth++ {
		var next []string
		for _, dir := range level {
			if err := ctx.Err(); err != nil {
				return nil, fault.Wrap(fault.Unavailable, err, "search of %s was given up", p.path)
			}
			next = append(next, p.children(dir, o)...)
		}
		if len(found)+len(next) > hardMaxFiles {
			return nil, fault.New(fault.Failed, "The directory '%s' contains more than %d entries", p.path, hardMaxFiles)
		}
		found = append(found, next...)
		level = next
	}

	switch entries := len(found) - 1; {
	case o.MaxFiles > 0 && entries > o.MaxFiles:
		return nil, fault.New(fault.Failed, "The directory '%s' contains %d entries, which exceeds the limit of %d specified by the max_files parameter for this resource. The limit may be increased, but be aware that large number of file resources can result in excessive resource consumption and degraded performance. Consider using an alternate method to manage large directory trees", p.path, entries, o.MaxFiles)
	case o.MaxFiles == 0 && entries > softMaxFiles:
		log.Warn("a search found many files; set max_files or manage large folders otherwise", slog.String("path", p.path), slog.Int("entries", entries))
	}
	return found, nil
}

// children are the entries of dir that are not ignored. What cannot be listed
// has none.
func (p place) children(dir string, o SearchOptions) []string {
	a, err := p.stat(dir, o.follow())
	if err != nil || a.kind != dirKind {
		return nil
	}
	names, err := p.list(dir)
	if err != nil {
		return nil
	}
	kept := names[:0:0]
	for _, name := range names {
		if o.ignores(name) {
			continue
		}
		if dir != "" {
			name = dir + "/" + name
		}
		kept = append(kept, name)
	}
	return kept
}

func (o SearchOptions) ignores(name string) bool {
	for _, pattern := range o.Ignore {
		if fnmatch(pattern, name) {
			return true
		}
	}
	return false
}

// search describes all files below the places. Of files with the same relative
// path the first place's wins.
func search(ctx context.Context, places []place, o SearchOptions, log *slog.Logger) ([]FileMetadata, error) {
	var all []FileMetadata
	seen := map[string]bool{}
	for _, p := range places {
		files, err := p.files(ctx, o, log)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if seen[f] {
				continue
			}
			seen[f] = true
			m, err := p.describe(f, o.MetadataOptions)
			if err != nil {
				return nil, err
			}
			all = append(all, m)
		}
	}
	return all, nil
}
