package ca

import (
	"context"
	"slices"
	"sync"

	"troupe/internal/puppet"
)

// This file makes sure that one certname is judged and signed by one request at a time.

// nameLocks is a lock for each certname in use.
type nameLocks struct {
	mu    sync.Mutex
	locks map[puppet.Certname]*nameLock
}

type nameLock struct {
	turn  chan struct{} // holds a token while locked
	users int           // guarded by nameLocks.mu
}

func newNameLocks() *nameLocks { return &nameLocks{locks: map[puppet.Certname]*nameLock{}} }

// lock locks the names and returns what unlocks them. Names are locked in their
// order, so that two callers never wait for each other.
func (n *nameLocks) lock(ctx context.Context, names ...puppet.Certname) (unlock func(), err error) {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)

	var held []puppet.Certname
	unlock = func() {
		for _, name := range held {
			n.release(name, true)
		}
	}
	for _, name := range names {
		l := n.use(name)
		select {
		case l.turn <- struct{}{}:
			held = append(held, name)
		case <-ctx.Done():
			n.release(name, false)
			unlock()
			return nil, ctx.Err()
		}
	}
	return unlock, nil
}

func (n *nameLocks) use(name puppet.Certname) *nameLock {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, ok := n.locks[name]
	if !ok {
		l = &nameLock{turn: make(chan struct{}, 1)}
		n.locks[name] = l
	}
	l.users++
	return l
}

func (n *nameLocks) release(name puppet.Certname, locked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.locks[name]
	if locked {
		<-l.turn
	}
	if l.users--; l.users == 0 {
		delete(n.locks, name)
	}
}
