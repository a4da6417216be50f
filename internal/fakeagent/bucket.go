package fakeagent

// This file keeps the old content of a changed file in the server's filebucket: file_bucket/dipper.rb.

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
)

// remoteBuckets are the titles of filebuckets on the server: those whose path is false.
func remoteBuckets(cat *catalog) map[string]bool {
	found := map[string]bool{}
	for _, res := range cat.Resources {
		if res.Type == "Filebucket" && bytes.Equal(res.Parameters["path"], json.RawMessage("false")) {
			found[res.Title] = true
		}
	}
	return found
}

// backUp asks whether the bucket has the content before it sends it.
func (r *run) backUp(ctx context.Context, path string, old managed) error {
	if old.content == nil {
		return nil // too long to be kept here
	}
	sum := newHash(r.agent.dialect.digest)
	sum.Write(old.content)
	key := r.agent.dialect.digest + "/" + hex.EncodeToString(sum.Sum(nil)) + "/" + path // an absolute path: two slashes
	q := request{
		kind: "bucket", method: http.MethodHead, accept: "application/octet-stream",
		target: r.agent.dialect.target(api+"/file_bucket_file/"+key, r.environment),
	}
	_, err := r.send(ctx, r.trust, q, nil)
	if err == nil {
		return nil
	}
	if statusOf(err) != http.StatusNotFound {
		return fmt.Errorf("could not back up %s: %w", path, err)
	}
	q.method, q.content, q.body = http.MethodPut, "application/octet-stream", old.content
	if _, err := r.send(ctx, r.trust, q, nil); err != nil {
		return fmt.Errorf("could not back up %s: %w", path, err)
	}
	return nil
}
