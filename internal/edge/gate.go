package edge

import "sync"

// A gate opens when everything that must have begun has: then this process may take the place of the one before it.
type gate struct {
	mu   sync.Mutex
	left int
	open chan struct{}
}

func newGate() *gate { return &gate{left: 1, open: make(chan struct{})} }

// wait returns a function that says that one more thing has begun. It may be called more than once.
func (g *gate) wait() func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left++
	return sync.OnceFunc(g.pass)
}

// pass is called once more than wait, by whoever called all of them.
func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left--; g.left == 0 {
		close(g.open)
	}
}
