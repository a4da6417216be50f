package fakeagent

// This file fetches metadata and content: for plugins, and for file resources with a source.

import (
	"context"
	"crypto/md5" //nolint:gosec // the checksum of 5.x
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// metadata is one entry of file_metadata(s), and of a static catalog.
type metadata struct {
	Path         string `json:"path"`
	RelativePath string `json:"relative_path"`
	Type         string `json:"type"`
	Checksum     struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"checksum"`
	ContentURI string `json:"content_uri"`
	Source     string `json:"source"`
}

// managed is a file that the agent has written.
type managed struct {
	sum     string
	content []byte // kept only where a remote filebucket may want it, and only small
}

// maxKept bounds the content kept for a filebucket.
const maxKept = 1 << 20

// environmentExists is the probe of 7.x and 8.x before pluginsync; without the environment plugins wait for the
// server's decision.
func (r *run) environmentExists(ctx context.Context) bool {
	d := r.agent.dialect
	if d.legacy {
		return true
	}
	if err := r.session.routeTo(ctx, "fileserver", r.trust); err != nil {
		r.fail("probe the environment", err)
		return false
	}
	_, err := r.search(ctx, "/plugins", pair{"recurse", "false"}, pair{"links", "manage"},
		pair{"checksum_type", d.digest}, pair{"source_permissions", "ignore"})
	if err != nil && statusOf(err) != http.StatusNotFound {
		r.fail("probe the environment", err)
	}
	return err == nil
}

// pluginsync fetches what changed in each mount. It reports whether the run must go on with the cached catalog:
// 7.x and later treat a failed pluginsync as a failed server.
func (r *run) pluginsync(ctx context.Context) (useCache bool, err error) {
	mounts := []string{"pluginfacts", "plugins"}
	if r.agent.dialect.legacy {
		mounts = append(mounts, "locales")
	}
	for _, mount := range mounts {
		err := r.syncMount(ctx, mount)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return false, ctx.Err()
		case r.agent.dialect.ignorePluginErrs:
			r.fail("could not retrieve "+mount, err)
		case r.agent.o.NoCacheOnFail || r.agent.state.cached == nil:
			return false, fmt.Errorf("failed to retrieve %s: %w", mount, err)
		default:
			r.fail("failed to retrieve "+mount, err)
			return true, nil
		}
	}
	return false, nil
}

func (r *run) syncMount(ctx context.Context, mount string) error {
	found, err := r.search(ctx, "/"+mount, r.pluginQuery(mount)...)
	if statusOf(err) == http.StatusNotFound {
		return nil // an agent takes it for an empty list
	}
	if err != nil {
		return err
	}
	have, owned := r.agent.state.plugins, false
	for _, m := range found {
		if m.Type != "file" {
			continue
		}
		key := mount + "/" + m.RelativePath
		old, known := have[key]
		if old == m.Checksum.Value {
			continue
		}
		from := api + "/file_content/" + key
		if _, err := r.fetch(ctx, from, m, known, nil); err != nil {
			return err
		}
		if !owned { // other nodes may share the map
			have, owned = maps.Clone(have), true
			r.agent.state.plugins = have
		}
		have[key] = m.Checksum.Value
	}
	return nil
}

func (r *run) pluginQuery(mount string) []pair {
	permissions := "ignore"
	if mount == "pluginfacts" {
		permissions = "use"
	}
	ignore := []pair{{"ignore", ".svn"}, {"ignore", "CVS"}, {"ignore", ".git"}, {"ignore", ".hg"}}
	if mount == "locales" {
		ignore = append(ignore, pair{"ignore", "*.pot"}, pair{"ignore", "config.yaml"})
	}
	links, recurse := pair{"links", "follow"}, pair{"recurse", "true"}
	sum, use := pair{"checksum_type", r.agent.dialect.digest}, pair{"source_permissions", permissions}
	if r.agent.dialect.legacy {
		return append(append([]pair{links, recurse, use}, ignore...), sum)
	}
	return append(append([]pair{recurse, {"max_files", "-1"}}, ignore...), links, sum, use)
}

// search is file_metadatas.
func (r *run) search(ctx context.Context, path string, query ...pair) ([]metadata, error) {
	answer, err := r.send(ctx, r.trust, request{
		kind: "metadata", method: http.MethodGet, accept: r.agent.dialect.acceptData,
		target: r.agent.dialect.target(api+"/file_metadatas"+path, r.environment, query...),
	}, nil)
	if err != nil {
		return nil, err
	}
	var found []metadata
	return found, decodeJSON(answer, &found)
}

// find is file_metadata. It reports false for 404, after which an agent tries the next source.
func (r *run) find(ctx context.Context, path, checksum string) (m metadata, ok bool, err error) {
	answer, err := r.send(ctx, r.trust, request{
		kind: "metadata", method: http.MethodGet, accept: r.agent.dialect.acceptData,
		target: r.agent.dialect.target(api+"/file_metadata"+path, r.environment,
			pair{"links", "manage"}, pair{"checksum_type", checksum}, pair{"source_permissions", "ignore"}),
	}, nil)
	if statusOf(err) == http.StatusNotFound {
		return metadata{}, false, nil
	}
	if err != nil {
		return metadata{}, false, err
	}
	return m, true, decodeJSON(answer, &m)
}

// fetch reads content and compares its checksum with the promised one. With show_diff the content of a file that
// exists is fetched once more, to print the difference.
func (r *run) fetch(ctx context.Context, path string, m metadata, exists bool, keep *keeper) (string, error) {
	if exists && r.agent.o.ShowDiff {
		if _, err := r.fetchOnce(ctx, path, m, nil); err != nil {
			return "", err
		}
	}
	return r.fetchOnce(ctx, path, m, keep)
}

func (r *run) fetchOnce(ctx context.Context, path string, m metadata, keep *keeper) (string, error) {
	sum := newHash(m.Checksum.Type)
	var sink io.Writer = sum
	if keep != nil {
		sink = io.MultiWriter(sum, keep)
	}
	_, err := r.send(ctx, r.trust, request{
		kind: "content", method: http.MethodGet, accept: "application/octet-stream", bare: r.agent.dialect.legacy,
		target: r.contentTarget(path),
	}, sink)
	if err != nil {
		return "", err
	}
	got := "{" + m.Checksum.Type + "}" + hex.EncodeToString(sum.Sum(nil))
	if sumsContent(m.Checksum.Type) && got != m.Checksum.Value {
		return "", fmt.Errorf("file written to disk did not match checksum; discarding changes (%s vs %s)", got, m.Checksum.Value)
	}
	return got, nil
}

// contentTarget adds the environment; a path that came with a query (code_id) has it already.
func (r *run) contentTarget(path string) string {
	path, query, static := strings.Cut(path, "?")
	if static {
		return escapePath(path) + "?" + query
	}
	return r.agent.dialect.target(path, r.environment)
}

// keeper keeps the beginning of a stream, or nothing if the stream is longer than allowed.
type keeper struct {
	content []byte
	tooLong bool
}

func (k *keeper) Write(p []byte) (int, error) {
	if k.tooLong = k.tooLong || len(k.content)+len(p) > maxKept; k.tooLong {
		k.content = nil
		return len(p), nil
	}
	k.content = append(k.content, p...)
	return len(p), nil
}

func newHash(kind string) hash.Hash {
	switch kind {
	case "md5":
		return md5.New() //nolint:gosec // the checksum of 5.x
	case "sha224":
		return sha256.New224()
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	default:
		return sha256.New()
	}
}

// sumsContent reports whether a checksum is one of content.
func sumsContent(kind string) bool {
	switch kind {
	case "md5", "sha224", "sha256", "sha384", "sha512":
		return true
	default:
		return false
	}
}

// sourcePath turns puppet:///modules/x/y into /modules/x/y; other schemes are not fetched from the server.
func sourcePath(source string) (string, bool) {
	u, err := url.Parse(escapePath(source))
	if err != nil || u.Scheme != "puppet" {
		return "", false
	}
	return strings.TrimRight(u.Path, "/"), true
}
