package agentapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file answers: bodies in their format, compressed when the client likes
// that, and every error in the words and the form of the real server.

// A style is the form in which an endpoint words its errors.
type style uint8

const (
	puppetStyle  style = iota // JSON {"message", "issue_kind"}, from Puppet's own handler
	textStyle                 // plain text, from puppetserver's
	ringStyle                 // the same from its own handlers, whose type has no charset
	refusalStyle              // text without a Content-Type, from its authorization
)

// A problem is an answer whose status, kind and words Puppet prescribes.
type problem struct {
	status int
	kind   string // Puppet's issue_kind; "" when it is puppetserver that answers, in plain text
	text   string
}

func (p *problem) Error() string { return p.text }

// plainProblem is an answer of puppetserver itself, on an endpoint of Puppet's.
func plainProblem(status int, text string) error {
	return &problem{status: status, text: text}
}

// serverError is what Puppet answers when a terminus raises: 500 with its words.
func serverError(text string) error {
	return &problem{http.StatusInternalServerError, "RUNTIME_ERROR", "Server Error: " + text}
}

// notFound is what Puppet answers when an indirection has nothing under a key.
func notFound(text string) error {
	return &problem{http.StatusNotFound, "RESOURCE_NOT_FOUND", "Not Found: " + text}
}

// answerError answers err and notes it for the log.
func (a *API) answerError(w *recorder, r *http.Request, s style, err error) {
	ctx := r.Context()
	telemetry.Note(ctx, slog.String(telemetry.KeyErr, err.Error()))
	if w.begun() {
		// The status is out. Only a broken connection tells the client that the body is not whole.
		panic(http.ErrAbortHandler)
	}
	p := problemOf(err)
	if p.status == http.StatusInternalServerError && fault.KindOf(err) == fault.Internal && ctx.Err() == nil {
		if _, said := errors.AsType[*problem](err); !said {
			telemetry.Escalate(ctx, slog.LevelError)
		}
	}
	if p.status == http.StatusServiceUnavailable {
		a.askToComeBack(w, r, err)
		s = textStyle
	}
	if s == puppetStyle && p.kind == "" {
		s = textStyle
	}
	if s != puppetStyle {
		writeProblem(w, s, p)
		return
	}
	body := appendError(nil, p)
	w.Header().Set("Content-Type", formatJSON.sent)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.status)
	send(w, body)
}

// problemOf is the one table of kinds and statuses (lib/puppet/network/http/error.rb).
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	const runtimeError = "RUNTIME_ERROR"
	text := fault.Message(err)
	switch fault.KindOf(err) {
	case fault.Invalid:
		return &problem{http.StatusBadRequest, runtimeError, "Bad Request: " + text}
	case fault.TooLarge:
		return &problem{http.StatusRequestEntityTooLarge, runtimeError, "Payload Too Large: " + text}
	case fault.Unsupported:
		return &problem{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type: " + text}
	case fault.Denied:
		return &problem{http.StatusForbidden, "FAILED_AUTHORIZATION", text}
	case fault.NotFound:
		return &problem{http.StatusNotFound, runtimeError, "Not Found: " + text}
	case fault.Conflict:
		return &problem{http.StatusConflict, runtimeError, "Conflict: " + text}
	case fault.Unavailable:
		return &problem{http.StatusServiceUnavailable, runtimeError, text}
	default:
		return &problem{http.StatusInternalServerError, runtimeError, "Server Error: " + text}
	}
}

// trimPrefixes takes off what only Puppet's own handler puts before a message.
func trimPrefixes(text string) string {
	for _, p := range []string{"Bad Request: ", "Not Found: ", "Server Error: ", "Not Acceptable: ", "Payload Too Large: ", "Unsupported Media Type: "} {
		if rest, ok := strings.CutPrefix(text, p); ok {
			return rest
		}
	}
	return text
}

// appendError writes the JSON without escaping HTML, in Puppet's order of keys.
func appendError(b []byte, p *problem) []byte {
	buf := bytes.NewBuffer(b)
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		Message string `json:"message"`
		Kind    string `json:"issue_kind"`
	}{p.text, p.kind})
	if err != nil {
		panic(err) // two strings are always JSON
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// send writes the body of an error. When that fails the client has gone, and
// nobody is left to be told.
func send(w http.ResponseWriter, body []byte) {
	w.Write(body) //nolint:errcheck // see above; and the type of such a body is never HTML
}

// writeProblem answers in plain text, with the Content-Type of each style.
func writeProblem(w http.ResponseWriter, s style, p *problem) {
	h := w.Header()
	switch {
	case s == ringStyle:
		h.Set("Content-Type", "text/plain")
	case s == refusalStyle, p.status == http.StatusNotFound:
		h["Content-Type"] = nil // or net/http would guess one
	default:
		h.Set("Content-Type", "text/plain;charset=utf-8")
	}
	writeBody(w, p.status, trimPrefixes(p.text))
}

func writeBody(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	send(w, []byte(text))
}

// writeJSON answers a value of our own.
func writeJSON(w http.ResponseWriter, q *request, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	return write(w, q, formatJSON, bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// write answers 200 with JSON in the given format.
func write(w http.ResponseWriter, q *request, f format, b []byte) error {
	b, err := f.encode(b)
	if err != nil {
		return err
	}
	body, err := q.api.encodeBody(b, q.acceptsGzip())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", f.sent)
	return sendBody(w, body)
}
