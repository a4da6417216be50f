package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"troupe/internal/fault"
)

// This file answers how two files of the bucket differ, for "puppet filebucket
// diff": by the program diff, as Puppet does (file_bucket_file/file.rb, find).

const (
	maxDiffed   = 8 << 20 // bytes of a file; agents can fetch larger ones and compare
	diffTimeout = 20 * time.Second
)

// getBucketDiff compares the file b with the one that the request names.
func (a *API) getBucketDiff(w http.ResponseWriter, q *request, b bucketKey) error {
	other := bucketKey{algorithm: b.algorithm, sum: q.params.Get("diff_with")}
	if len(other.sum) != len(b.sum) || !hexDigits.MatchString(other.sum) {
		return serverError("could not find diff_with " + other.sum)
	}
	has, err := a.inBucket(q.Context(), other)
	if err != nil {
		return err
	}
	if !has {
		return serverError("could not find diff_with " + other.sum)
	}
	text, err := a.diff(q.Context(), b, other)
	if err != nil {
		return err
	}
	body, err := a.encodeBody(text, q.acceptsGzip())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", formatBinary.sent)
	return sendBody(w, body)
}

// diff runs the program. The files lie in a folder of mode 0700 meanwhile.
func (a *API) diff(ctx context.Context, from, to bucketKey) ([]byte, error) {
	program, err := exec.LookPath("diff")
	if err != nil {
		return nil, serverError("Unable to diff on this platform")
	}
	dir, err := os.MkdirTemp("", "troupe-diff-")
	if err != nil {
		return nil, fmt.Errorf("making room for a diff: %w", err)
	}
	defer os.RemoveAll(dir)
	for name, b := range map[string]bucketKey{"from": from, "to": to} {
		if err := a.copyFromBucket(ctx, b, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}

	ctx, cancel := context.WithTimeout(ctx, diffTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-u", "--label", from.sum, "--label", to.sum, "from", "to")
	cmd.Dir = dir
	text, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return text, nil // they differ
	}
	if err != nil {
		return nil, fmt.Errorf("running diff: %w", err)
	}
	return text, nil
}

func (a *API) copyFromBucket(ctx context.Context, b bucketKey, path string) (err error) {
	content, size, err := a.db.BucketGet(ctx, b.algorithm, b.sum)
	if err != nil {
		return err
	}
	defer content.Close()
	if size > maxDiffed {
		return fault.New(fault.TooLarge, "%s has %d bytes; files of more than %d are not compared here", b.sum, size, maxDiffed)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("copying a file to compare: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, content); err != nil {
		return fmt.Errorf("copying a file to compare: %w", err)
	}
	return nil
}
