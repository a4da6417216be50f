package caapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file turns answers and errors into HTTP, and reads bodies within limits.

// The content types that puppetserver sends, as they leave Jetty (recorded in
// internal/troupetest/testdata/puppetserver-7.9.5).
const (
	typeText      = "text/plain"               // ring handlers
	typePlain     = "text/plain;charset=utf-8" // everything else that is text
	typeJSON      = "application/json"         //
	typeHTML      = "text/html;charset=utf-8"  // the router
	maxJSON       = 4 << 20                    // bytes of a JSON body: a hundred thousand names
	maxCSR        = 64 << 10                   // bytes of a certificate request
	maxCRLs       = 32 << 20                   // bytes of uploaded revocation lists
	defaultAfter  = 10 * time.Second           // Retry-After when nobody knows better
	allowStatus   = "GET, PUT, DELETE"         //
	notAllowed    = "Method not allowed."      //
	notAcceptable = "No acceptable resource available."
)

// An answer is a response that is not an error of ours.
type answer struct {
	status      int
	contentType string
	body        []byte
	stream      func(io.Writer) error // in place of body
	allow       string
	vary        bool // the content type followed the header Accept
}

func text(status int, contentType, body string) (answer, error) {
	return answer{status: status, contentType: contentType, body: []byte(body)}, nil
}

func notFound() answer {
	return answer{status: http.StatusNotFound, contentType: typeHTML, body: []byte("Not Found")}
}

func asJSON(status int, v any) (answer, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return answer{}, fmt.Errorf("encode answer: %w", err)
	}
	return answer{status: status, contentType: typeJSON, body: bytes.TrimSuffix(b.Bytes(), []byte("\n"))}, nil
}

// respond is the only place that writes a response.
func (a *API) respond(w http.ResponseWriter, r *http.Request, ans answer, err error) {
	if err != nil {
		ans = a.failure(w, r, err)
	}
	h := w.Header()
	h["Content-Type"] = nil // or net/http would guess one
	if ans.contentType != "" {
		h.Set("Content-Type", ans.contentType)
	}
	if ans.allow != "" {
		h.Set("Allow", ans.allow)
	}
	if ans.vary {
		h.Set("Vary", "Accept")
	}
	if ans.stream == nil {
		w.WriteHeader(ans.status)
		if _, err := w.Write(ans.body); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
			telemetry.Note(r.Context(), slog.Any(telemetry.KeyErr, err))
		}
		return
	}
	w.WriteHeader(ans.status)
	buffered := bufio.NewWriterSize(w, 256<<10)
	err = ans.stream(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		// Half an answer must not look like a whole one: the connection is cut.
		telemetry.Note(r.Context(), slog.Any(telemetry.KeyErr, err))
		panic(http.ErrAbortHandler)
	}
}

// failure chooses status and text for an error.
func (a *API) failure(w http.ResponseWriter, r *http.Request, err error) answer {
	telemetry.Note(r.Context(), slog.Any(telemetry.KeyErr, err))
	status := http.StatusInternalServerError
	switch fault.KindOf(err) {
	case fault.Invalid:
		status = http.StatusBadRequest
	case fault.TooLarge:
		status = http.StatusRequestEntityTooLarge
	case fault.Unsupported:
		status = http.StatusUnsupportedMediaType
	case fault.Denied:
		return answer{status: http.StatusForbidden, body: []byte(fault.Message(err))}
	case fault.NotFound:
		status = http.StatusNotFound
	case fault.Conflict:
		status = http.StatusConflict
	case fault.Unavailable:
		status = http.StatusServiceUnavailable
		if v := r.Header.Get("X-Puppet-Version"); v == "" || puppet.ObeysRetryAfter(v) {
			w.Header().Set("Retry-After", retryAfter(err)) // other agents would sleep and then fail
		}
	case fault.Internal, fault.Failed:
		telemetry.Escalate(r.Context(), slog.LevelError)
		// Unlike puppetserver: the cause stays in the log.
		return answer{status: status, contentType: typePlain, body: []byte("Internal Server Error: see the log of the server")}
	}
	return answer{status: status, contentType: typePlain, body: []byte(fault.Message(err))}
}

func retryAfter(err error) string {
	after := defaultAfter
	if e, ok := errors.AsType[*fault.Error](err); ok && e.After > 0 {
		after = e.After
	}
	return strconv.Itoa(int(math.Ceil(after.Seconds())))
}

// readBody reads a body of at most limit bytes.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The request's body could not be read.")
	}
	if int64(len(b)) > limit {
		return nil, fault.New(fault.TooLarge, "The request's body has more than %d bytes.", limit)
	}
	return b, nil
}

// readJSON reads the first JSON value of a body, as Cheshire's parse-stream does.
// It returns nil for what is no JSON, and for null and false.
func readJSON(r *http.Request) (any, error) {
	b, err := readBody(r, maxJSON)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if bad := d.Decode(&v); bad != nil || v == false {
		v = nil
	}
	return v, nil
}
