// Package fault classifies errors that a caller, not an operator, must understand.
//
// A package below an API returns a fault where the caller has a choice (mend the
// request, ask somebody else, wait); every other error is Internal and its text
// stays in the log. Each API has one function that turns a Kind into its own
// status code and body.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Kind says what a caller can do about an error. The zero Kind is Internal.
type Kind uint8

// The kinds, in the order in which an HTTP API checks them.
const (
	Internal    Kind = iota // our fault; details go to the log only
	Invalid                 // the request can never succeed
	TooLarge                // the request exceeds a limit
	Unsupported             // the content type or the method is not one we speak
	Denied                  // the caller may not do this
	NotFound                // no such node, environment, certificate, …
	Conflict                // try again with newer state
	Unavailable             // try another server, or later
	Failed                  // the caller's own code failed: a catalog that does not compile, an ENC that exits 1
)

// Error carries a Kind and a message that is safe to show to the caller.
type Error struct {
	Kind  Kind
	Msg   string
	Err   error         // cause, for the log; may be nil
	After time.Duration // for Unavailable: when to come back; 0 means unknown
}

// Error returns the message and its cause. What the message already ends with is
// not said twice: many messages quote their cause, because the caller needs it too.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	cause := e.Err.Error()
	if strings.HasSuffix(e.Msg, cause) {
		return e.Msg
	}
	// The message may quote that of another fault, without the cause of that one.
	if inner, ok := errors.AsType[*Error](e.Err); ok && strings.HasSuffix(e.Msg, inner.Msg) {
		if rest, ok := strings.CutPrefix(cause, inner.Msg); ok {
			return e.Msg + rest
		}
	}
	return e.Msg + ": " + cause
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an Error of the given kind.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// Wrap returns an Error of the given kind that keeps its cause for the log.
func Wrap(k Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...), Err: cause}
}

// KindOf reports the kind of the outermost Error in err's tree.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Message returns the text that the caller may see. Causes are never part of it.
func Message(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e.Msg
	}
	return "internal error"
}
