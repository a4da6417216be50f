package balance

import (
	"container/list"
	"sync"
	"time"
)

// This file learns what catalogs cost to compile, by certname and environment, so that work can be placed before it is done.

// Costs remembers how long requests took. The zero value is ready to use; it is safe for concurrent use.
type Costs struct {
	Size int // how many pairs of certname and environment are kept, those used last; 0 means 100,000

	mu    sync.Mutex
	known map[costKey]*list.Element // of *costOf
	byUse *list.List                // the one used longest ago first
	envs  map[string]*average
	all   average
}

type costKey struct{ certname, env string }

type costOf struct {
	key costKey
	average
}

// An average moves towards what it sees: by a third each time, once it has seen some.
type average struct {
	seconds float64
	seen    int
}

func (a *average) add(seconds float64, slowness int) {
	a.seen = min(a.seen+1, slowness)
	a.seconds += (seconds - a.seconds) / float64(a.seen)
}

// How slowly averages move: that of a node, whose catalog has perhaps changed, and those of many nodes.
const (
	ofNode  = 3
	ofNodes = 200
	maxEnvs = 1000
)

// Observe learns how long a request took.
func (c *Costs) Observe(certname, env string, took time.Duration) {
	if took <= 0 || len(certname) > maxKey || len(env) > maxKey {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known, c.byUse, c.envs = map[costKey]*list.Element{}, list.New(), map[string]*average{}
	}
	size := c.Size
	if size <= 0 {
		size = 100_000
	}
	key := costKey{certname, env}
	at := c.known[key]
	if at == nil {
		at = c.byUse.PushBack(&costOf{key: key})
		c.known[key] = at
	}
	c.byUse.MoveToBack(at)
	if of, ok := at.Value.(*costOf); ok {
		of.add(took.Seconds(), ofNode)
	}
	if len(c.known) > size {
		oldest, _ := c.byUse.Remove(c.byUse.Front()).(*costOf)
		delete(c.known, oldest.key)
	}

	if c.envs[env] == nil && len(c.envs) < maxEnvs {
		c.envs[env] = &average{}
	}
	if a := c.envs[env]; a != nil {
		a.add(took.Seconds(), ofNodes)
	}
	c.all.add(took.Seconds(), ofNodes)
}

// Expect returns what a request will take: as before; else as others of its environment; else as others. Before there was any it is 0.
func (c *Costs) Expect(certname, env string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &c.all
	if of := c.envs[env]; of != nil {
		a = of
	}
	if at := c.known[costKey{certname, env}]; at != nil {
		if of, ok := at.Value.(*costOf); ok {
			a = &of.average
		}
	}
	return time.Duration(a.seconds * float64(time.Second))
}
