//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// armed is where this process ends, and how often it still passes before; it is read once, since the environment does not change.
var armed = sync.OnceValue(func() *point {
	name, count, counted := strings.Cut(os.Getenv(Variable), ":")
	p := &point{name: name}
	p.left.Store(1)
	if counted {
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil || n < 1 {
			// A test that kills nobody would show nothing.
			panic(fmt.Sprintf("%s=%s: the count must be a number from 1 on", Variable, os.Getenv(Variable)))
		}
		p.left.Store(n)
	}
	return p
})

type point struct {
	name string
	left atomic.Int64
}

// Here ends the process, if this is the place and its count is reached.
func Here(name string) {
	p := armed()
	if p.name != name || p.left.Add(-1) != 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: the process kills itself\n", name)
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal may take a moment, in which nothing more may happen
}
