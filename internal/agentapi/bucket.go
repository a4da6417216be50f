package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file answers HEAD, GET and PUT /puppet/v3/file_bucket_file/ALGORITHM/SUM/PATH:
// the files that agents replaced (lib/puppet/indirector/file_bucket_file/file.rb).

func (a *API) headBucketFile(w http.ResponseWriter, q *request) error {
	b, err := a.bucketRequest(q)
	if err != nil {
		return err
	}
	has, err := a.inBucket(q.Context(), b)
	if err != nil {
		return err
	}
	if !has {
		return notFound("Could not find file_bucket_file " + q.key)
	}
	w.Header().Set("Content-Length", "0") // as the real server: not the file's size
	w.Header()["Content-Type"] = nil      // as it, too
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *API) getBucketFile(w http.ResponseWriter, q *request) error {
	if q.flag("list_all") {
		return serverError("Listing remote file buckets is not allowed")
	}
	if _, err := q.accepted(binaryFormats); err != nil {
		return err
	}
	b, err := a.bucketRequest(q)
	if err != nil {
		return err
	}
	has, err := a.inBucket(q.Context(), b)
	if err != nil {
		return err
	}
	if !has {
		return notFound("Could not find file_bucket_file " + q.key)
	}
	if q.params.Has("diff_with") {
		return a.getBucketDiff(w, q, b)
	}
	content, size, err := a.db.BucketGet(q.Context(), b.algorithm, b.sum)
	if err != nil {
		return err
	}
	defer content.Close()
	w.Header().Set("Content-Type", formatBinary.sent)
	return stream(q.Context(), w, content, size)
}

// inBucket reports whether the bucket has the content, and has it from that path
// if one is named: an agent that is told no sends the file, and the path with it.
// Only contents named by SHA-256 are known by path.
func (a *API) inBucket(ctx context.Context, b bucketKey) (bool, error) {
	has, err := a.db.BucketHas(ctx, b.algorithm, b.sum)
	if err != nil || !has || b.path == "" || b.algorithm != "sha256" {
		return has, err
	}
	paths, err := a.db.BucketPaths(ctx, b.sum)
	return slices.Contains(paths, b.path), err
}

func (a *API) putBucketFile(w http.ResponseWriter, q *request) error {
	b, err := a.bucketRequest(q)
	if err != nil {
		return err
	}
	kind, err := q.contentType()
	if err != nil {
		return err
	}
	if kind != puppet.TypeBinary {
		return fault.New(fault.Unsupported, "Client sent a mime-type (%s) that doesn't correspond to a format we support", kind)
	}
	if _, err := q.acceptedOrJSON(binaryFormats); err != nil {
		return err
	}
	body, err := q.bodyReader(a.o.Limits.Bucket)
	if err != nil {
		return err
	}
	watched := &readWatcher{r: body}
	if err := a.db.BucketPut(q.Context(), b.algorithm, b.sum, b.path, watched); err != nil {
		if watched.err != nil {
			return bodyFault(watched.err)
		}
		return err
	}
	w.Header().Set("Content-Type", formatBinary.sent)
	w.Header().Set("Content-Length", strconv.Itoa(0)) // the content is not echoed
	w.WriteHeader(http.StatusOK)
	return nil
}

// A bucketKey names one file of the bucket.
type bucketKey struct{ algorithm, sum, path string }

var sumLengths = map[string]int{"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}

var hexDigits = regexp.MustCompile(`\A[0-9a-f]+\z`)

// bucketRequest reads the key. All algorithms are taken, not only the server's
// own: agents of Puppet 5 say md5 unless they are told otherwise.
func (a *API) bucketRequest(q *request) (bucketKey, error) {
	env, err := q.environment()
	if err != nil {
		return bucketKey{}, err
	}
	if _, err := a.code.Current(q.Context(), env); err != nil {
		return bucketKey{}, err
	}
	if q.key == "" {
		return bucketKey{}, badRequest("No request key specified in %s", q.URL.Path)
	}
	algorithm, rest, _ := strings.Cut(q.key, "/")
	sum, path, _ := strings.Cut(rest, "/")
	length, ok := sumLengths[algorithm]
	if !ok {
		return bucketKey{}, serverError(fmt.Sprintf("Unsupported checksum type %q", algorithm))
	}
	if len(sum) != length || !hexDigits.MatchString(sum) {
		return bucketKey{}, serverError(fmt.Sprintf("Invalid checksum %q", sum))
	}
	return bucketKey{algorithm, sum, path}, nil
}

// A readWatcher remembers why reading ended, to tell a bad body from a bad disk.
type readWatcher struct {
	r   io.Reader
	err error
}

func (w *readWatcher) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}
