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

	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file answers file_metadata, file_metadatas, file_content and
// static_file_content: everything that agents copy.

func (a *API) getFileMetadata(w http.ResponseWriter, q *request) error {
	f, version, mount, path, err := a.fileRequest(q, dataFormats)
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
	f, version, mount, path, err := a.fileRequest(q, dataFormats)
	if err != nil {
		return err
	}
	o, err := searchOptions(q)
	if err != nil {
		return err
	}
	list, err := version.Search(q.Context(), mount, path, o)
	if err != nil {
		return fileFault(err, fmt.Sprintf("Could not find instances in file_metadata with '%s'", q.key))
	}
	return write(w, q, f, code.AppendMetadatas(nil, list))
}

func (a *API) getFileContent(w http.ResponseWriter, q *request) error {
	_, version, mount, path, err := a.fileRequest(q, binaryFormats)
	if err != nil {
		return err
	}
	file, info, err := version.Open(q.Context(), mount, path, q.id.Certname)
	if err != nil {
		return fileFault(err, fmt.Sprintf("Could not find file_content %s", q.key))
	}
	defer file.Close()
	return writeFile(q.Context(), w, q, file, info)
}

// fileRequest reads what the three requests to mounts have in common.
func (a *API) fileRequest(q *request, supported []format) (f format, v *code.Version, mount, path string, err error) {
	if !q.params.Has("environment") && q.endpoint != "file_metadata" {
		// puppetserver looks for Bolt's projects before Puppet is asked (file_serving.clj).
		return f, nil, "", "", plainProblem(http.StatusBadRequest,
			"A "+q.endpoint+" request must include an `environment` or `versioned_project` query parameter.")
	}
	env, err := q.environment()
	if err != nil {
		return f, nil, "", "", err
	}
	if v, err = a.code.Current(q.Context(), env); err != nil {
		return f, nil, "", "", err
	}
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
	telemetry.Note(q.Context(), slog.String(telemetry.KeyCodeID, codeID))
	version, err := a.code.Version(q.Context(), env, codeID)
	if err != nil {
		return err
	}
	version.Retain()
	defer version.Release()
	file, info, err := version.OpenStatic(q.Context(), q.key)
	if err != nil {
		return err
	}
	defer file.Close()
	return writeFile(q.Context(), w, q, file, info)
}

// Sizes between which a file is compressed on its way: below, it does not pay;
// above, it costs more time than an agent's connection does.
const (
	minFileGzip = 1 << 10
	maxFileGzip = 16 << 20
)

// writeFile streams a file. There are no ranges: Puppet has none.
func writeFile(ctx context.Context, w http.ResponseWriter, q *request, file *os.File, info fs.FileInfo) error {
	h := w.Header()
	h.Set("Content-Type", formatBinary.sent)
	h.Set("Vary", "Accept-Encoding")
	size := info.Size()
	if size < minFileGzip || size > maxFileGzip || !q.acceptsGzip() {
		return stream(ctx, w, file, size)
	}

	// What is compressed already is sent as it is.
	var head [512]byte
	n, err := io.ReadFull(file, head[:])
	if err != nil {
		return fmt.Errorf("reading %s: %w", q.key, err)
	}
	rest := io.MultiReader(bytes.NewReader(head[:n]), io.LimitReader(file, size-int64(n)))
	if compressed(head[:n]) {
		return stream(ctx, w, rest, size)
	}
	h.Set("Content-Encoding", "gzip")
	w.WriteHeader(http.StatusOK)
	return compress(w, rest)
}

// stream sends exactly size bytes.
func stream(ctx context.Context, w http.ResponseWriter, r io.Reader, size int64) error {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	if _, err := io.CopyN(w, r, size); err != nil && ctx.Err() == nil {
		return fmt.Errorf("sending a file: %w", err)
	}
	return nil
}

// compressed recognises archives and pictures by their first bytes.
func compressed(head []byte) bool {
	kind := http.DetectContentType(head)
	for _, p := range []string{"application/x-gzip", "application/zip", "application/x-rar", "image/", "video/", "audio/", "font/woff"} {
		if strings.HasPrefix(kind, p) {
			return true
		}
	}
	return bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")) || bytes.HasPrefix(head, []byte("BZh")) || bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd"))
}
