package ruby

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// This file talks to fork servers, the template and the zygotes: a command gets
// one reply; deaths of children and questions come between.

// A control is the channel to one fork server.
type control struct {
	conn    *net.UnixConn
	restore *restorer                        // of paths in what it says; nil for the template, which sees none
	answer  func(context.Context, event) any // of questions; nil if there are none to expect
	gone    chan struct{}                    // closed when the process no longer speaks

	turn    sync.Mutex // one command at a time
	writing sync.Mutex // one frame at a time
	replies chan event

	mu     sync.Mutex
	deaths map[int]chan event // by pid of a child; each holds at most one event
}

func newControl(conn *net.UnixConn, restore *restorer, answer func(context.Context, event) any) *control {
	return &control{conn: conn, restore: restore, answer: answer, gone: make(chan struct{}), replies: make(chan event, 1), deaths: map[int]chan event{}}
}

// read handles what the process says until it ends or the connection is closed.
// onDeath learns of children that ended.
func (c *control) read(ctx context.Context, onDeath func(event)) error {
	defer close(c.gone)
	for {
		head, body, err := readFrame(c.conn)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.restore != nil {
			head = c.restore.bytes(head)
		}
		e, err := parseEvent(head)
		if err != nil {
			return err
		}
		e.body = body

		switch {
		case e.Event == "died":
			c.bury(e)
			onDeath(e)
		case e.Event == "query" && c.answer != nil:
			if err := c.write(c.answer(ctx, e)); err != nil {
				return err
			}
		default:
			if e.Event == "forked" {
				c.expectDeath(e.PID)
			}
			select {
			case c.replies <- e:
			default:
				return fmt.Errorf("event %q came without a command", e.Event)
			}
		}
	}
}

// command sends a command, and a file with it if file is not nil, and returns
// the reply. A process that does not reply in time has lost its place in the
// conversation, so the connection is closed.
func (c *control) command(ctx context.Context, command any, file *os.File) (event, error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	if err := c.write(command); err != nil {
		return event{}, err
	}
	if file != nil {
		// The byte only carries the descriptor.
		if _, _, err := c.conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(file.Fd())), nil); err != nil {
			return event{}, fmt.Errorf("passing a socket: %w", err)
		}
	}
	return c.await(ctx)
}

func (c *control) await(ctx context.Context) (event, error) {
	select {
	case e := <-c.replies:
		return e, nil
	case <-c.gone:
		select {
		case e := <-c.replies: // its last words
			return e, nil
		default:
			return event{}, errors.New("the Ruby process has ended")
		}
	case <-ctx.Done():
		return event{}, errors.Join(fmt.Errorf("waiting for a Ruby process: %w", context.Cause(ctx)), c.conn.Close())
	}
}

func (c *control) write(head any) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return writeFrame(c.conn, head)
}

func (c *control) expectDeath(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaths[pid] = make(chan event, 1)
}

func (c *control) bury(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.deaths[e.PID]; ok {
		ch <- e
	}
}

// noticeDelay is how long the notice of a death may take after the socket of the
// dead process was closed.
const noticeDelay = 2 * time.Second

// death says how a child ended. An event without Exit and Signal means that
// nobody knows.
func (c *control) death(pid int) event {
	c.mu.Lock()
	ch := c.deaths[pid]
	c.mu.Unlock()
	defer c.forget(pid)

	timer := time.NewTimer(noticeDelay)
	defer timer.Stop()
	select {
	case e := <-ch:
		return e
	case <-timer.C:
	case <-c.gone:
		select {
		case e := <-ch:
			return e
		default:
		}
	}
	return event{Event: "died", PID: pid}
}

// forget drops the notice of a child that nobody will ask about.
func (c *control) forget(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.deaths, pid)
}

// fork has the process fork a child and returns our end of the child's socket.
func (c *control) fork(ctx context.Context, command forkCommand) (*net.UnixConn, int, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, 0, err
	}
	defer theirs.Close() // the child has a copy by now
	e, err := c.command(ctx, command, theirs)
	if err == nil && e.Event != "forked" {
		err = fmt.Errorf("forking: %s", e.Error)
	}
	if err != nil {
		return nil, 0, errors.Join(err, ours.Close())
	}
	return ours, e.PID, nil
}

// socketPair makes a socket whose second end is for another process.
func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "socket of a Ruby process")
	file := os.NewFile(uintptr(fds[0]), "socket to a Ruby process")
	conn, err := net.FileConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a socket: %w", err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}
