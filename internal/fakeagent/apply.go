package fakeagent

// This file goes through a catalog as if it were applied: files with a source are fetched, the rest is compared with
// what the last run saw.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"time"
)

// applied is what became of the resources of a catalog.
type applied struct {
	total, changed, failed int
	statuses               map[string]resourceStatus
}

func (a applied) status() string {
	switch {
	case a.failed > 0:
		return "failed"
	case a.changed > 0:
		return "changed"
	default:
		return "unchanged"
	}
}

// containers are in a catalog without being anything to apply.
var containers = map[string]bool{"Class": true, "Stage": true, "Node": true}

func (r *run) apply(ctx context.Context, cat *catalog) applied {
	done := applied{statuses: map[string]resourceStatus{}}
	buckets := remoteBuckets(cat)
	for _, res := range cat.Resources {
		if containers[res.Type] || ctx.Err() != nil {
			continue
		}
		start := time.Now()
		changed, err := r.applyResource(ctx, cat, res, buckets)
		if err != nil {
			done.failed++
			r.fail(res.Type+"["+res.Title+"]", err)
		}
		if changed = changed || err == nil && done.changed < r.agent.o.Changes; changed {
			done.changed++
		}
		done.total++
		done.statuses[res.Type+"["+res.Title+"]"] = newStatus(res, start, changed, err)
	}
	return done
}

func (r *run) applyResource(ctx context.Context, cat *catalog, res resource, buckets map[string]bool) (changed bool, err error) {
	switch {
	case res.Type == "File" && len(res.sources()) > 0 && res.Parameters["content"] == nil:
		if res.recursive() {
			return r.applyTree(ctx, cat, res, buckets)
		}
		return r.applySource(ctx, cat, res, buckets)
	case res.Type == "File" && res.Parameters["content"] != nil:
		return r.applyContent(ctx, res, buckets)
	default:
		return r.applyOther(res)
	}
}

// applyOther counts a resource as changed when its parameters are not those of the last run.
func (r *run) applyOther(res resource) (changed bool, err error) {
	parameters, err := json.Marshal(res.Parameters)
	if err != nil {
		return false, fmt.Errorf("encode parameters: %w", err)
	}
	key, now := digest([]byte(res.Type+"["+res.Title+"]")), digest(parameters)
	if r.agent.state.resources[key] == now {
		return false, nil
	}
	r.agent.state.resources[key] = now
	return true, nil
}

// digest stands for a text that would fill the memory if thousands of nodes kept it.
func digest(text []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(text) // never fails
	return h.Sum64()
}

// applySource uses the first source that the server has.
func (r *run) applySource(ctx context.Context, cat *catalog, res resource, buckets map[string]bool) (bool, error) {
	if inlined, ok := cat.Metadata[res.Title]; ok {
		return r.write(ctx, cat, res, path(res), inlined, inlined.Source, buckets)
	}
	checksum := res.text("checksum")
	if checksum == "" {
		checksum = r.agent.dialect.digest
	}
	for _, source := range res.sources() {
		from, remote := sourcePath(source)
		if !remote {
			continue
		}
		m, found, err := r.find(ctx, from, checksum)
		if err != nil {
			return false, fmt.Errorf("could not retrieve file metadata for %s: %w", source, err)
		}
		if found {
			return r.write(ctx, cat, res, path(res), m, source, buckets)
		}
	}
	return false, fmt.Errorf("could not retrieve information from environment %s source(s) %s",
		r.environment, strings.Join(res.sources(), ", "))
}

// applyTree writes every file below a source.
func (r *run) applyTree(ctx context.Context, cat *catalog, res resource, buckets map[string]bool) (changed bool, err error) {
	for _, source := range res.sources() {
		from, remote := sourcePath(source)
		if !remote {
			continue
		}
		found, inlined := cat.RecursiveMetadata[res.Title][source]
		if !inlined {
			if found, err = r.searchTree(ctx, from); err != nil {
				return false, err
			}
		}
		if len(found) == 0 {
			continue
		}
		var failures []error
		for _, m := range found {
			if m.Type != "file" {
				continue
			}
			wrote, err := r.write(ctx, cat, res, path(res)+"/"+m.RelativePath, m, source+"/"+m.RelativePath, buckets)
			changed = changed || wrote
			failures = append(failures, err)
		}
		return changed, errors.Join(failures...)
	}
	return false, nil
}

func (r *run) searchTree(ctx context.Context, from string) ([]metadata, error) {
	links, recurse := pair{"links", "manage"}, pair{"recurse", "true"}
	sum, ignore := pair{"checksum_type", r.agent.dialect.digest}, pair{"source_permissions", "ignore"}
	query := []pair{recurse, {"max_files", "0"}, links, sum, ignore}
	if r.agent.dialect.legacy {
		query = []pair{links, recurse, ignore, sum}
	}
	found, err := r.search(ctx, from, query...)
	if statusOf(err) == http.StatusNotFound {
		return nil, nil
	}
	return found, err
}

// write fetches one file if its checksum is not the one that the node has.
func (r *run) write(ctx context.Context, cat *catalog, res resource, path string, m metadata, source string, buckets map[string]bool) (bool, error) {
	old, exists := r.agent.state.files[path]
	if old.sum == m.Checksum.Value || m.Type != "file" {
		return false, nil
	}
	from, err := contentPath(cat, m, source, r.environment)
	if err != nil {
		return false, err
	}
	if exists && r.agent.o.ShowDiff {
		if _, err := r.fetchOnce(ctx, from, m, nil); err != nil {
			return false, err
		}
	}
	remote := buckets[res.text("backup")]
	if exists && remote {
		if err := r.backUp(ctx, path, old); err != nil {
			return false, err
		}
	}
	keep := new(keeper)
	got, err := r.fetchOnce(ctx, from, m, keep)
	if err != nil {
		return false, err
	}
	if !remote {
		keep.content = nil
	}
	r.agent.state.files[path] = managed{sum: got, content: keep.content}
	return true, nil
}

// contentPath is where the bytes are: static catalogs say it (content_uri), others have the source's own path.
func contentPath(cat *catalog, m metadata, source, environment string) (string, error) {
	if m.ContentURI != "" {
		from, ok := sourcePath(m.ContentURI)
		if !ok {
			return "", fmt.Errorf("cannot use content_uri %q", m.ContentURI)
		}
		query := encodePairs([]pair{{"environment", environment}, {"code_id", cat.CodeID}})
		return api + "/static_file_content" + from + "?" + query, nil
	}
	from, ok := sourcePath(source)
	if !ok {
		return "", fmt.Errorf("cannot use source %q", source)
	}
	return api + "/file_content" + from, nil
}

func (r *run) applyContent(ctx context.Context, res resource, buckets map[string]bool) (bool, error) {
	content := res.text("content")
	sum := sha256.Sum256([]byte(content))
	now := managed{sum: "{sha256}" + hex.EncodeToString(sum[:])}
	old, exists := r.agent.state.files[path(res)]
	if old.sum == now.sum {
		return false, nil
	}
	if remote := buckets[res.text("backup")]; remote {
		if exists {
			if err := r.backUp(ctx, path(res), old); err != nil {
				return false, err
			}
		}
		if len(content) <= maxKept {
			now.content = []byte(content)
		}
	}
	r.agent.state.files[path(res)] = now
	return true, nil
}

// path is where a file resource lies.
func path(res resource) string {
	if p := res.text("path"); p != "" {
		return p
	}
	return res.Title
}
