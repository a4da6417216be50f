package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// This file runs members, and the network between them.

// A peer is one member. Each has an address of its own on loopback, so that a front can tell who comes.
type peer struct {
	name, site string
	ip         string
	data       string
	port       string        // of the agents' port, when it runs
	ready      time.Duration // how long it took to serve

	listen string // of its member port
	gate   *gate  // in front of that port
	log    *os.File
	cmd    *exec.Cmd
	ended  chan error
}

// front opens the way to a member that does not run yet.
func (s *stage) front(ctx context.Context, p *peer) (err error) {
	if p.listen, err = freeAddress(ctx, p.ip); err != nil {
		return err
	}
	p.gate, err = openGate(ctx, p)
	return err
}

// freeAddress returns an address at which nobody listens just now.
func freeAddress(ctx context.Context, ip string) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", ip+":0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// flags are those that a member has both when it joins and when it serves.
func (s *stage) flags(p *peer) []string {
	return []string{"--data", p.data, "--confdir", "none", "--certname", p.name, "--member-listen", p.listen, "--member-address", p.gate.address()}
}

// start starts `troupe server` and waits until it says where it listens.
func (s *stage) start(ctx context.Context, p *peer) error {
	logPath := filepath.Join(s.dir, p.name+".log")
	var err error
	if p.log, err = os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(p.data, "listen.addr")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // a killed member leaves it behind
	}
	args := append([]string{"server"}, s.flags(p)...)
	args = append(args, "--listen", "127.0.0.1:0", "--dns-alt-names", "localhost")
	if p == s.first { // the others get their code from it
		args = append(args, "--environmentpath", filepath.Join(s.dir, "code", "environments"))
	}
	s.say("$ troupe %s", strings.Join(args, " "))
	begin := time.Now()
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), s.o.Executable, args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches us first; we stop it in order
	if err := p.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the member: %w", err), p.log.Close())
	}
	p.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(p.cmd, p.ended)

	addr, err := waitForFile(ctx, filepath.Join(p.data, "listen.addr"), p.ended)
	if err != nil {
		tail, _ := os.ReadFile(logPath) // best effort: the error itself is told anyway
		return fmt.Errorf("the member did not start: %w\n%s", err, tail)
	}
	p.ready = time.Since(begin)
	p.port = addr[strings.LastIndex(addr, ":")+1:]
	s.say("   ready on %s after %.1f s; log: %s", addr, p.ready.Seconds(), logPath)
	return nil
}

// kill ends a member as a power failure does.
func (p *peer) kill() error {
	err := p.cmd.Process.Kill()
	if _, killed := errors.AsType[*exec.ExitError](<-p.ended); !killed {
		err = errors.Join(err, fmt.Errorf("member %s had ended before it was killed", p.name))
	}
	p.cmd = nil
	return errors.Join(err, p.log.Close())
}

// close stops a member, if it runs, and its gate.
func (p *peer) close() error {
	var errs []error
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already, which Wait tells
		select {
		case err := <-p.ended:
			errs = append(errs, err)
		case <-time.After(20 * time.Second):
			errs = append(errs, fmt.Errorf("member %s did not stop within 20 s", p.name), p.cmd.Process.Kill(), <-p.ended)
		}
		errs = append(errs, p.log.Close())
	}
	if p.gate != nil {
		p.gate.close()
	}
	return errors.Join(errs...)
}

// A gate is the network in front of a member: it passes connections on, or, while the sites are cut, those of its own site only.
type gate struct {
	l      net.Listener
	behind string
	site   string // the beginning of the addresses of its own site
	wait   sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool // from the other site: value is true for both ends
}

func openGate(ctx context.Context, p *peer) (*gate, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{l: l, behind: p.listen, site: p.ip[:strings.LastIndex(p.ip, ".")+1], conns: map[net.Conn]bool{}}
	g.wait.Go(g.run)
	return g, nil
}

func (g *gate) address() string { return g.l.Addr().String() }

func (g *gate) run() {
	for {
		from, err := g.l.Accept()
		if err != nil {
			return // it was closed
		}
		g.wait.Go(func() { g.pass(from) })
	}
}

// pass copies both ways until one end closes, or the sites are cut.
func (g *gate) pass(from net.Conn) {
	defer from.Close()
	if !g.admit(from) {
		return
	}
	defer g.forget(from)
	to, err := net.DialTimeout("tcp", g.behind, time.Second) //nolint:noctx // loopback; close ends it
	if err != nil {
		return // as if nobody listened
	}
	defer to.Close()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(to, from); to.Close() }) // an end that breaks is a network that breaks
	both.Go(func() { _, _ = io.Copy(from, to); from.Close() })
	both.Wait()
}

func (g *gate) admit(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if strings.HasPrefix(c.RemoteAddr().String(), g.site) {
		return true
	}
	if g.cut {
		return false
	}
	g.conns[c] = true
	return true
}

func (g *gate) forget(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// set cuts the other site off, with the connections that there are, or lets it in again.
func (g *gate) set(cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = cut
	if cut {
		for c := range g.conns {
			_ = c.Close()
		}
	}
}

func (g *gate) close() {
	_ = g.l.Close()
	g.mu.Lock()
	for c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.wait.Wait()
}
