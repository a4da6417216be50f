package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file hands the listeners of a running edge to its successor, so that a restart or an upgrade resets no connection: the port is
// never closed, and who waits in its backlog is served by the new process. The old one finishes what it has and ends.

// takeoverMost bounds each step.
const takeoverMost = 10 * time.Second

// maxHandover is how many listeners fit into one message.
const maxHandover = 250

const takeoverSocket = "takeover.sock"

// bind has the listeners from a running edge, or binds them.
func (e *Edge) bind(ctx context.Context) (all []net.Listener, inherited bool, err error) {
	if e.o.Takeover {
		if all, err = e.takeOver(ctx); err == nil {
			return all, true, nil
		}
		if !errors.Is(err, ErrNotRunning) {
			return nil, false, fmt.Errorf("take over from the running edge: %w", err)
		}
	}
	if !e.o.Takeover {
		if _, err := Dial(ctx, e.conf.Data); err == nil {
			return nil, false, fault.New(fault.Conflict, "an edge is running with data folder %s: stop it, or take over from it with troupe edge run --takeover", e.conf.Data)
		}
	}
	for _, c := range e.conf.Listeners {
		l, err := listen(ctx, c.Listen)
		if err != nil {
			for _, one := range all {
				err = errors.Join(err, one.Close())
			}
			return nil, false, err
		}
		all = append(all, l)
	}
	return all, false, nil
}

// takeOver asks the running edge for its listeners. Those that the new configuration does not have are closed, those that it has anew
// are bound.
func (e *Edge) takeOver(ctx context.Context) ([]net.Listener, error) {
	client, err := Dial(ctx, e.conf.Data)
	if err != nil {
		return nil, err
	}
	before, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	e.servedBefore = before.Serving
	path := filepath.Join(e.conf.Data, takeoverSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(path, 0o600), l.SetDeadline(time.Now().Add(takeoverMost))); err != nil {
		return nil, err
	}
	asked := make(chan error, 1)
	go func() { asked <- client.do(ctx, http.MethodPost, "/v1/takeover", nil, &struct{}{}) }()
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, errors.Join(err, <-asked)
	}
	given, err := receive(conn)
	if err = errors.Join(err, <-asked, conn.SetDeadline(time.Time{})); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	e.predecessor = conn
	var all []net.Listener
	for _, c := range e.conf.Listeners {
		if got := given[c.Listen]; got != nil {
			delete(given, c.Listen)
			all = append(all, got)
			continue
		}
		fresh, err := listen(ctx, c.Listen)
		if err != nil {
			return nil, err
		}
		all = append(all, fresh)
	}
	for _, unused := range given {
		_ = unused.Close() // nobody listens there any more
	}
	return all, nil
}

// receive reads names and file descriptors.
func receive(conn *net.UnixConn) (map[string]net.Listener, error) {
	if err := conn.SetDeadline(time.Now().Add(takeoverMost)); err != nil {
		return nil, err
	}
	text, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(maxHandover*4))
	n, rn, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(text[:n], &names); err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no listeners came: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != len(names) {
		return nil, fmt.Errorf("%d listeners came for %d names: %w", len(fds), len(names), err)
	}
	given := map[string]net.Listener{}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), names[i])
		l, lerr := net.FileListener(f)
		if err = errors.Join(err, lerr, f.Close()); lerr == nil {
			given[names[i]] = l
		}
	}
	return given, err
}

// giveOver sends the listeners to the process that asks for them. Both take connections until the new one says that it serves; then
// this one finishes what it has. If the new one falls over before, nothing has changed.
func (e *Edge) giveOver(w http.ResponseWriter, _ *http.Request) {
	replaced := false
	e.words.hand(true) // it reads them when it has the listeners
	defer func() {
		if !replaced {
			e.words.hand(false)
		}
	}()
	conn, err := e.send()
	if err != nil {
		e.reply(w, nil, fault.Wrap(fault.Conflict, err, "the listeners were not handed over: %v", err))
		return
	}
	defer conn.Close()
	e.reply(w, struct{}{}, nil)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return // it has gone
	}
	if err := conn.SetDeadline(time.Now().Add(startMost)); err != nil {
		return
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		e.log.Warn("a process that asked for the listeners did not begin to serve: this one goes on", telemetry.KeyErr, err)
		return
	}
	replaced = true
	e.log.Info("another process has taken over: this one finishes what it has", "grace", e.runConf.drain)
	if e.speaker != nil {
		e.speaker.Abandon()
	}
	e.replace.Do(func() { close(e.replaced) })
}

// gated has a part count among those that must have begun.
func (e *Edge) gated(run func(ctx context.Context, begun func()) error) func(context.Context) error {
	begun := e.begun.wait()
	return func(ctx context.Context) error { return run(ctx, begun) }
}

// begin takes the place of the process before this one, or the empty one: when all parts have begun. If the one before serves and this one
// does not, this one is what is wrong.
func (e *Edge) begin(ctx context.Context) error {
	e.begun.pass()
	select {
	case <-e.begun.open:
	case <-ctx.Done():
		return nil
	}
	if e.predecessor != nil {
		most := verdictsMost
		if e.servedBefore {
			most = orElse(e.o.replaceMost, replaceMost)
		}
		e.firstVerdicts(ctx, most)
		if ok, why := e.serving(); !ok && e.servedBefore && ctx.Err() == nil {
			return errors.Join(fault.New(fault.Conflict, "the running edge serves and this one would not: %s. Nothing was taken over", why), e.predecessor.Close())
		}
	}
	path := filepath.Join(e.conf.Data, controlSocket)
	if e.predecessor != nil {
		if err := e.makeRoom(ctx, path); err != nil {
			e.log.Warn("runs that the edge before this one knows are not known here", telemetry.KeyErr, err)
		}
	}
	close(e.accepting)
	if err := os.Rename(path+nextSocket, path); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if e.predecessor == nil {
		return nil
	}
	if _, err := e.predecessor.Write([]byte{1}); err != nil {
		e.log.Warn("the edge before this one was not told to end", telemetry.KeyErr, err, "remedy", "stop it by its process id")
	}
	close(e.took)
	return e.predecessor.Close()
}

// replaceMost is how long this process may take to find servers that the one before it has.
const replaceMost = 20 * time.Second

// startMost is how long a successor may take from the listeners to serving.
const startMost = time.Minute

func (e *Edge) send() (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(e.conf.Data, takeoverSocket), Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := e.sendListeners(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (e *Edge) sendListeners(conn *net.UnixConn) error {
	var names []string
	var fds []int
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, l := range e.listeners {
		tcp, ok := l.Listener.(*net.TCPListener)
		if !ok || len(fds) == maxHandover {
			return errors.New("a listener cannot be handed over")
		}
		f, err := tcp.File()
		if err != nil {
			return err
		}
		files, fds, names = append(files, f), append(fds, int(f.Fd())), append(names, l.conf.Listen)
	}
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(text, unix.UnixRights(fds...), nil)
	return err
}
