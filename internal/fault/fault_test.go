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
