//go:build failpoint

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestTheProcessEndsAtTheNamedPlaceAndCount(t *testing.T) {
	if os.Getenv("FAILPOINT_TEST_CHILD") != "" {
		for _, name := range []string{"a", "b", "a", "b", "a"} {
			os.Stdout.WriteString(name)
			Here(name)
		}
		os.Exit(0)
	}
	for _, c := range []struct {
		armed  string
		passed string
		killed bool
	}{
		{"", "ababa", false},
		{"a", "a", true},
		{"b:2", "abab", true},
		{"a:4", "ababa", false},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTheProcessEndsAtTheNamedPlaceAndCount$")
		cmd.Env = append(os.Environ(), "FAILPOINT_TEST_CHILD=1", Variable+"="+c.armed)
		out, err := cmd.Output()
		exit, failed := errors.AsType[*exec.ExitError](err)
		killed := failed && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if !strings.HasPrefix(string(out), c.passed) || len(strings.TrimPrefix(string(out), c.passed)) > 0 && c.killed || killed != c.killed {
			t.Errorf("%q: passed %q and was killed: %v; want %q, %v (%v)", c.armed, out, killed, c.passed, c.killed, err)
		}
	}
}
