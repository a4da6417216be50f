package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// This file puts an edge in front of the members, and takes the member away that an agent is just being served by.

func (s *stage) playEdge(ctx context.Context, all []*peer) (err error) {
	s.act("9. An edge stands in front of all four: the member that serves a run is killed in the middle of it")
	e, err := s.startEdge(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	before := s.port
	defer func() { s.port = before }()
	s.port = e.port
	killed := make(chan *peer, 1)
	failed := make(chan error, 1)
	run, stop := context.WithCancel(ctx)
	go func() {
		defer close(killed)
		p, err := e.killServing(run, all)
		failed <- err
		killed <- p
	}()
	err = s.agentRun(ctx, "run through the edge, with its member killed", 0)
	stop()
	if err = errors.Join(err, <-failed); err != nil {
		return err
	}
	victim := <-killed
	s.say("   %s was killed when it had answered the first request; the run went on at another member", victim.name)
	for _, args := range [][]string{{"edge", "runs"}, {"edge", "backends"}} {
		if err := e.command(ctx, args...); err != nil {
			return err
		}
	}
	return s.start(ctx, victim)
}

// An edge is the process of one.
type edge struct {
	stage *stage
	data  string
	file  string // its edge.yaml
	port  string
	log   *os.File
	cmd   *exec.Cmd
	ended chan error
}

// startEdge makes a machine an edge with a token of the first member, and starts it.
func (s *stage) startEdge(ctx context.Context) (*edge, error) {
	address, err := freeAddress(ctx, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	e := &edge{stage: s, data: filepath.Join(s.dir, "edge.demo"), file: filepath.Join(s.dir, "edge.yaml"), port: address[strings.LastIndex(address, ":")+1:], ended: make(chan error, 1)}
	text := fmt.Sprintf("data: %s\nname: edge.demo\nlisteners: [{listen: %q}]\n", e.data, address)
	if err := os.WriteFile(e.file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	token, err := s.token(ctx, "--role", "edge", "--names", "localhost")
	if err != nil {
		return nil, err
	}
	s.say("$ troupe token create --role edge --names localhost    # on a member; then, on the edge's machine:")
	s.say("$ troupe edge join TOKEN@%s --config %s", token.Address, e.file)
	if err := s.show(ctx, token.line(), "edge", "join", "-", "--config", e.file); err != nil {
		return nil, err
	}
	s.say("$ troupe edge run --config %s", e.file)
	if e.log, err = os.OpenFile(filepath.Join(s.dir, "edge.log"), os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	e.cmd = exec.CommandContext(context.WithoutCancel(ctx), s.o.Executable, "edge", "run", "--config", e.file)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches us first; we stop it in order
	if err := e.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the edge: %w", err), e.log.Close())
	}
	go func() { e.ended <- e.cmd.Wait() }()
	if err := e.await(ctx); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return e, nil
}

// await waits until the edge serves.
func (e *edge) await(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; {
		var status struct{ Serving bool }
		if err := e.ask(ctx, &status, "status"); err == nil && status.Serving {
			e.stage.say("   serves on port %s after %.1f s; log: %s", e.port, time.Since(begin).Seconds(), e.log.Name())
			return nil
		}
		select {
		case err := <-e.ended:
			e.ended <- err
			text, _ := os.ReadFile(e.log.Name()) // best effort: the error itself is told anyway
			return fmt.Errorf("the edge did not start: %w\n%s", err, text)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if time.Since(begin) > time.Minute {
			return errors.New("the edge does not serve after a minute")
		}
	}
}

// killServing kills the member that has answered the first request of the agent's run.
func (e *edge) killServing(ctx context.Context, all []*peer) (*peer, error) {
	for ctx.Err() == nil {
		var runs []struct {
			Client  string
			Servers []string
		}
		if err := e.ask(ctx, &runs, "runs"); err != nil {
			return nil, err
		}
		for _, r := range runs {
			i := slices.IndexFunc(all, func(p *peer) bool { return slices.Contains(r.Servers, "members/"+p.name) })
			if r.Client == certname && i >= 0 {
				return all[i], all[i].kill()
			}
		}
	}
	return nil, errors.New("the run ended before the edge knew who serves it")
}

// ask has a command of troupe edge answer in JSON.
func (e *edge) ask(ctx context.Context, to any, args ...string) error {
	out, err := exec.CommandContext(ctx, e.stage.o.Executable, append(append([]string{"edge"}, args...), "--config", e.file, "-o", "json")...).Output()
	if err != nil {
		return fmt.Errorf("troupe edge %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, to)
}

// command shows what a command of troupe edge prints.
func (e *edge) command(ctx context.Context, args ...string) error {
	e.stage.say("$ troupe %s --config %s", strings.Join(args, " "), e.file)
	return e.stage.show(ctx, "", append(args, "--config", e.file)...)
}

func (e *edge) stop() error {
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already, which Wait tells
	select {
	case err := <-e.ended:
		return errors.Join(err, e.log.Close())
	case <-time.After(time.Minute):
		return errors.Join(errors.New("the edge did not stop within a minute"), e.cmd.Process.Kill(), <-e.ended, e.log.Close())
	}
}
