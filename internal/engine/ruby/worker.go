package ruby

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/telemetry"
)

// This file runs one request in one worker process and ends those that misbehave.

// A worker is a process that compiles one catalog at a time.
type worker struct {
	conn     *net.UnixConn
	pid      int
	process  *os.Process
	restore  *restorer
	log      *slog.Logger
	requests int
	used     time.Time   // when it became idle; guarded by Pool.mu
	dead     atomic.Bool // it was killed by us
}

// forkLimit is generous: a fork takes milliseconds.
const forkLimit = 30 * time.Second

// fork makes a new worker. A caller that went away does not break off the
// conversation with the zygote.
func (z *zygote) fork(ctx context.Context, log *slog.Logger) (*worker, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forkLimit)
	defer cancel()
	conn, pid, err := z.control.fork(ctx, forkCommand{Op: "fork"})
	if err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("finding a worker: %w", err), conn.Close())
	}
	return &worker{conn: conn, pid: pid, process: process, restore: z.restore, log: log}, nil
}

// A cause says why a worker did not answer.
type cause uint8

const (
	died      cause = iota + 1 // by itself, or somebody else killed it
	timedOut                   // killed by us at the deadline
	tooLarge                   // killed by us for its memory
	cancelled                  // killed by us because nobody waits for the answer
	garbled                    // it did not speak the protocol
)

// A lostError is returned for a request whose worker is gone or has to go.
type lostError struct {
	cause       cause
	err         error
	ending      string // how its process ended
	fromOutside bool   // nothing that it did ended it
}

func (e *lostError) Error() string { return fmt.Sprintf("worker lost: %v", e.err) }
func (e *lostError) Unwrap() error { return e.err }

// bounds are what one request may take.
type bounds struct {
	deadline time.Duration
	memory   int64 // resident bytes of the worker
}

// memoryInterval is how often a busy worker's memory is read.
const memoryInterval = 100 * time.Millisecond

// exchange sends a command and returns the answer with its body. Questions that
// come before it are answered by ask. An error is an *lostError, and the worker
// has been killed.
func (w *worker) exchange(ctx context.Context, command any, b bounds, ask func(context.Context, event) any) (event, []byte, error) {
	w.requests++
	done := make(chan struct{})
	var verdict cause
	var watching sync.WaitGroup
	watching.Go(func() { verdict = w.watch(ctx, done, b) })

	e, body, err := w.converse(ctx, command, ask)
	close(done)
	watching.Wait()
	switch {
	case err == nil:
		return e, body, nil // a verdict that came too late killed the worker, not the answer
	case verdict != 0:
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		verdict = died
	default:
		verdict = garbled
	}
	w.kill()
	return event{}, nil, &lostError{cause: verdict, err: err}
}

func (w *worker) converse(ctx context.Context, command any, ask func(context.Context, event) any) (event, []byte, error) {
	if err := writeFrame(w.conn, command); err != nil {
		return event{}, nil, err
	}
	for {
		head, body, err := readFrame(w.conn)
		if err != nil {
			return event{}, nil, err
		}
		e, err := parseEvent(w.restore.bytes(head))
		if err != nil {
			return e, nil, err
		}
		if e.Event != "query" {
			return e, body, nil
		}
		if err := writeFrame(w.conn, ask(ctx, e)); err != nil {
			return e, nil, err
		}
	}
}

// watch kills the worker when its time, its memory or the interest in its answer
// ends, and says which it was.
func (w *worker) watch(ctx context.Context, done <-chan struct{}, b bounds) cause {
	deadline := time.NewTimer(b.deadline)
	defer deadline.Stop()
	memory := time.NewTicker(memoryInterval)
	defer memory.Stop()
	for {
		reason := cancelled
		select {
		case <-done:
			return 0
		case <-ctx.Done():
		case <-deadline.C:
			reason = timedOut
		case <-memory.C:
			if resident(w.pid) <= b.memory {
				continue
			}
			reason = tooLarge
		}
		w.kill()
		return reason
	}
}

// resident returns the bytes that a process has in memory, 0 if it is gone.
func resident(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// kill ends the process with all that it started. It may be called twice.
func (w *worker) kill() {
	w.dead.Store(true)
	killGroup(w.process, w.log)
	if err := w.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		w.log.Debug("socket of a worker was closed before", slog.Any(telemetry.KeyErr, err))
	}
}

// spent reports whether the worker should not get another request.
func (w *worker) spent(e event, o Options) bool {
	return w.dead.Load() || e.Memory || e.Leaving || e.Strays || e.Spent || w.requests >= o.MaxRequests || e.Resident > o.MaxMemory
}

// awaitExit waits until a process has ended, and says whether it has. It need not
// be our child.
func awaitExit(process *os.Process, limit time.Duration) bool {
	end := time.Now().Add(limit)
	exited := false
	err := process.WithHandle(func(fd uintptr) {
		for left := limit; left > 0 && !exited; left = time.Until(end) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} // #nosec G115 -- a descriptor
			n, err := unix.Poll(fds, int(left.Milliseconds())+1)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			exited = n > 0
		}
	})
	return exited || err != nil // without a handle it was gone when it was looked for
}
