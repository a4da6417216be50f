package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"troupe/internal/fault"
)

func TestOnlyTheMessageIsForTheCaller(t *testing.T) {
	cause := fmt.Errorf("open /secret: %w", fs.ErrPermission)
	for name, c := range map[string]struct {
		err       error
		kind      fault.Kind
		message   string
		forTheLog string
	}{
		"a fault":              {fault.New(fault.NotFound, "no node %q", "x"), fault.NotFound, `no node "x"`, `no node "x"`},
		"a fault with a cause": {fault.Wrap(fault.Unavailable, cause, "come later"), fault.Unavailable, "come later", "come later: open /secret: permission denied"},
		"a fault in a wrapper": {fmt.Errorf("save: %w", fault.New(fault.Conflict, "again")), fault.Conflict, "again", "save: again"},
		"the outermost counts": {fault.Wrap(fault.Invalid, fault.New(fault.NotFound, "inner"), "outer"), fault.Invalid, "outer", "outer: inner"},
		"joined errors":        {errors.Join(errors.New("first"), fault.New(fault.Denied, "no")), fault.Denied, "no", "first\nno"},
		"any other error":      {cause, fault.Internal, "internal error", "open /secret: permission denied"},
		"an internal fault":    {fault.New(fault.Internal, "the key is in /secret"), fault.Internal, "internal error", "the key is in /secret"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fault.KindOf(c.err); got != c.kind {
				t.Errorf("kind = %d, want %d", got, c.kind)
			}
			if got := fault.Message(c.err); got != c.message {
				t.Errorf("message = %q, want %q", got, c.message)
			}
			if got := c.err.Error(); got != c.forTheLog {
				t.Errorf("error = %q, want %q", got, c.forTheLog)
			}
		})
	}
	if !errors.Is(fault.Wrap(fault.Invalid, cause, "x"), fs.ErrPermission) {
		t.Error("the cause is lost")
	}
	if fault.KindOf(nil) != fault.Internal {
		t.Error("no error has a kind that means something")
	}
}

func TestACauseIsNotSaidTwice(t *testing.T) {
	cause := errors.New("exit status 3")
	quoted := fault.Wrap(fault.Failed, cause, "the command failed")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a cause of its own":              {fault.Wrap(fault.Failed, cause, "it failed"), "it failed: exit status 3"},
		"the message ends with the cause": {fault.Wrap(fault.Failed, cause, "it failed: %s", cause), "it failed: exit status 3"},
		"the message is the cause":        {fault.Wrap(fault.Failed, cause, "%s", cause), "exit status 3"},
		"the cause stands within":         {fault.Wrap(fault.Failed, cause, "exit status 3 came back"), "exit status 3 came back: exit status 3"},
		"another kind for a fault":        {fault.Wrap(fault.Conflict, quoted, "%s", fault.Message(quoted)), "the command failed: exit status 3"},
		"a fault's message at the end":    {fault.Wrap(fault.Conflict, quoted, "no: %s", fault.Message(quoted)), "no: the command failed: exit status 3"},
		"a fault in a wrapper":            {fault.Wrap(fault.Conflict, fmt.Errorf("run: %w", quoted), "%s", fault.Message(quoted)), "the command failed: run: the command failed: exit status 3"},
		"three levels":                    {fault.Wrap(fault.Invalid, fault.Wrap(fault.Conflict, quoted, "%s", quoted.Msg), "%s", quoted.Msg), "the command failed: exit status 3"},
		"an unrelated fault":              {fault.Wrap(fault.Conflict, quoted, "no"), "no: the command failed: exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.err.Error(); got != c.want {
				t.Errorf("error = %q, want %q", got, c.want)
			}
			if !errors.Is(c.err, cause) {
				t.Error("the cause is lost")
			}
		})
	}
}
