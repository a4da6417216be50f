package agentapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/klauspost/compress"

	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file answers file_metadata, file_metadatas, file_content and
// static_file_content: everything that agents copy.

func (a *API) getFileMetadata(w http.ResponseWriter, q *request) error {
	f, version, mount, path, err := a.fileRequest(w, q, dataFormats)
	if err != nil {
		return err
	}
	m, err := version.Metadata(q.Context(), mount, path, metadataOptions(q))
	if err != nil {
		return fileFault(err, fmt.Sprintf("Could not find file_metadata %s", q.key))
	}
	return write(w, q, f, m.AppendJSON(nil))
}

func (a *API) getFileMetadatas(w http.ResponseWriter, q *request) error {
	f, version, mount, path, err := a.fileRequest(w, q, dataFormats)
	if err != nil {
		return err
	}
	o, err := searchOptions(q)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", f.sent)
	// The query says everything that the answer depends on beside the version.
	key := bodyKey{version: version.Serial, of: strings.Join([]string{q.endpoint, q.key, q.URL.RawQuery, f.name}, "\x00"), gzip: q.acceptsGzip()}
	if body, ok := a.bodies.get(key); ok {
		return sendBody(w, body)
	}
	list, err := version.Search(q.Context(), mount, path, o)
	if err != nil {
		return fileFault(err, fmt.Sprintf("Could not find instances in file_metadata with '%s'", q.key))
	}
	data, err := f.encode(code.AppendMetadatas(nil, list))
	if err != nil {
		return err
	}
	body, err := a.encodeBody(data, key.gzip)
	if err != nil {
		return err
	}
	if version.Immutable(mount) {
		a.bodies.put(key, body)
	}
	return sendBody(w, body)
}

func (a *API) getFileContent(w http.ResponseWriter, q *request) error {
	_, version, mount, path, err := a.fileRequest(w, q, binaryFormats)
	if err != nil {
		return err
	}
	err = a.writeFile(w, q, version.ContentSum(mount, path), func() (*os.File, fs.FileInfo, error) {
		return version.Open(q.Context(), mount, path, q.id.Certname)
	})
	return fileFault(err, fmt.Sprintf("Could not find file_content %s", q.key))
}

// fileRequest reads what the three requests to mounts have in common.
func (a *API) fileRequest(w http.ResponseWriter, q *request, supported []format) (f format, v *code.Version, mount, path string, err error) {
	if !q.params.Has("environment") && q.endpoint != "file_metadata" {
		// puppetserver looks for Bolt's projects before Puppet is asked (file_serving.clj).
		return f, nil, "", "", plainProblem(http.StatusBadRequest,
			"A "+q.endpoint+" request must include an `environment` or `versioned_project` query parameter.")
	}
	env, err := q.environment()
	if err != nil {
		return f, nil, "", "", err
	}
	if v, err = a.runVersion(q.Context(), env); err != nil {
		return f, nil, "", "", err
	}
	tellCodeID(q.Context(), w, v)
	if q.key == "" {
		return f, nil, "", "", badRequest("No request key specified in %s", q.URL.Path)
	}
	if f, err = q.accepted(supported); err != nil {
		return f, nil, "", "", err
	}
	mount, path, _ = strings.Cut(q.key, "/")
	return f, v, mount, path, nil
}

// fileFault words a missing file as the indirection does. The other faults of
// code carry Puppet's words already.
func fileFault(err error, missing string) error {
	if fault.KindOf(err) == fault.NotFound {
		return notFound(missing)
	}
	return err
}

func metadataOptions(q *request) code.MetadataOptions {
	return code.MetadataOptions{
		Links:             q.params.Get("links"),
		ChecksumType:      q.params.Get("checksum_type"),
		SourcePermissions: q.params.Get("source_permissions"),
		Node:              q.id.Certname,
	}
}

func searchOptions(q *request) (code.SearchOptions, error) {
	o := code.SearchOptions{MetadataOptions: metadataOptions(q), Ignore: q.params["ignore"]}
	switch q.params.Get("recurse") {
	case "", "false", "0":
	default:
		o.Recurse = true
	}
	if s := q.params.Get("recurselimit"); s != "" && s != "infinite" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return o, serverError(fmt.Sprintf("recurselimit %q is not a number", s))
		}
		o.RecurseLimit = &n
	}
	if s := q.params.Get("max_files"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return o, serverError(fmt.Sprintf("max_files %q is not a number", s))
		}
		o.MaxFiles = n
	}
	return o, nil
}

var validCodeID = regexp.MustCompile(`\A[-_:;a-zA-Z0-9]+\z`)

// getStaticFileContent serves a file of one version of the code, as a static
// catalog names it (master_core.clj, static-file-content-request-handler).
func (a *API) getStaticFileContent(w http.ResponseWriter, q *request) error {
	codeID := q.params.Get("code_id")
	if q.params.Get("environment") == "" || codeID == "" || q.key == "" {
		return badRequest("Error: A /static_file_content request requires an environment, a code-id, and a file-path")
	}
	env, err := q.environment()
	if err != nil {
		return err
	}
	if !validCodeID.MatchString(codeID) {
		return badRequest("Invalid code-id '%s'. Must contain only alpha-numerics and '-', '_', ';', or ':'", codeID)
	}
	if err := code.CheckStatic(q.key); err != nil {
		return err
	}
	telemetry.Note(q.Context(), slog.String(telemetry.KeyCodeID, codeID))
	version, err := a.code.Version(q.Context(), env, codeID)
	if err != nil {
		return err
	}
	version.Retain()
	defer version.Release()
	return a.writeFile(w, q, version.StaticSum(q.key), func() (*os.File, fs.FileInfo, error) { return version.OpenStatic(q.Context(), q.key) })
}

// maxFileGzip is the size above which to compress a file costs more time than an
// agent's connection does.
const maxFileGzip = 16 << 20

// writeFile sends the file that open opens. Content that can never change has a sum,
// under which it is kept. There are no ranges: Puppet has none.
func (a *API) writeFile(w http.ResponseWriter, q *request, sum string, open func() (*os.File, fs.FileInfo, error)) error {
	key := bodyKey{of: sum, gzip: q.acceptsGzip()}
	if body, ok := a.bodies.get(key); ok && sum != "" {
		w.Header().Set("Content-Type", formatBinary.sent)
		return sendBody(w, body)
	}
	file, info, err := open()
	if err != nil {
		return err
	}
	defer file.Close()
	w.Header().Set("Content-Type", formatBinary.sent)
	if size := info.Size(); sum == "" || size > maxKept {
		return a.streamFile(q, w, file, size)
	}

	data := make([]byte, info.Size())
	if _, err := io.ReadFull(file, data); err != nil {
		return fmt.Errorf("reading %s: %w", q.key, err)
	}
	body, err := a.encodeBody(data, key.gzip)
	if err != nil {
		return err
	}
	a.bodies.put(key, body)
	return sendBody(w, body)
}

// streamFile sends a file that is too large to keep, or that may change.
func (a *API) streamFile(q *request, w http.ResponseWriter, file *os.File, size int64) error {
	w.Header().Set("Vary", "Accept-Encoding")
	if size < minGzip || size > maxFileGzip || !q.acceptsGzip() {
		return stream(q.Context(), w, file, size)
	}

	// What is compressed already is sent as it is.
	head := make([]byte, min(size, 4<<10))
	if _, err := io.ReadFull(file, head); err != nil {
		return fmt.Errorf("reading %s: %w", q.key, err)
	}
	rest := io.MultiReader(bytes.NewReader(head), io.LimitReader(file, size-int64(len(head))))
	if compressed(head) {
		return stream(q.Context(), w, rest, size)
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.WriteHeader(http.StatusOK)
	return a.gzip.compress(w, rest, levelFast)
}

// stream sends exactly size bytes.
func stream(ctx context.Context, w http.ResponseWriter, r io.Reader, size int64) error {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	n, err := io.CopyN(w, r, size)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the client left, or was too slow, after %d of %d bytes: %w", n, size, err)
	}
	if err != nil {
		return fmt.Errorf("sending a file: %w", err)
	}
	return nil
}

// compressed recognises what gzip would not make smaller: archives and pictures, by
// their first bytes, and noise.
func compressed(head []byte) bool {
	head = head[:min(len(head), 4<<10)]
	kind := http.DetectContentType(head)
	for _, p := range []string{"application/x-gzip", "application/zip", "application/x-rar", "image/", "video/", "audio/", "font/woff"} {
		if strings.HasPrefix(kind, p) {
			return true
		}
	}
	for _, magic := range []string{"\xfd7zXZ\x00", "BZh", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return compress.Estimate(head) < noise
}

// noise is below what Estimate gives for text and programs, and above what it gives
// for encrypted bytes.
const noise = 0.05
