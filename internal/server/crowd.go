package server

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// This file bounds how many connections are open, so that a crowd of them cannot
// take the files and the memory that the rest of the member needs.

// maxConnections is more than 100,000 nodes keep open that run every half hour;
// each connection costs some 40 KB.
const maxConnections = 16384

// ownFiles is what a member opens beside connections: databases, workers, content.
const ownFiles = 512

// connectionLimit leaves the member its own files below the process's limit.
func connectionLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return maxConnections // no limit is known
	}
	files := int(min(r.Cur, maxConnections+ownFiles))
	return max(files-ownFiles, files/2)
}

// crowd is a listener that accepts only while there is room. Who does not fit waits
// in the port's backlog.
type crowd struct {
	net.Listener

	room   chan struct{} // one element for each open connection
	closed chan struct{}
	once   sync.Once
	log    *slog.Logger
	warned time.Time // used by Accept alone
}

func newCrowd(l net.Listener, limit int, log *slog.Logger) *crowd {
	return &crowd{Listener: l, room: make(chan struct{}, limit), closed: make(chan struct{}), log: log}
}

// Accept waits for room, then for a connection. One goroutine calls it.
func (c *crowd) Accept() (net.Conn, error) {
	select {
	case c.room <- struct{}{}:
	default:
		if err := c.wait(); err != nil {
			return nil, err
		}
	}
	conn, err := c.Listener.Accept()
	if err != nil {
		<-c.room
		return nil, err
	}
	return &guest{Conn: conn, leave: sync.OnceFunc(func() { <-c.room })}, nil
}

// wait tells the operator, though not at each connection.
func (c *crowd) wait() error {
	if time.Since(c.warned) > time.Minute {
		c.warned = time.Now()
		c.log.Warn("all connections are taken, further ones wait", "limit", cap(c.room), "remedy", "raise the limit of open files, or add a member")
	}
	select {
	case c.room <- struct{}{}:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

// Close also ends an Accept that waits for room.
func (c *crowd) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Listener.Close()
}

// guest is a connection that gives its place back.
type guest struct {
	net.Conn

	leave func()
}

// Close may be called more than once.
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
