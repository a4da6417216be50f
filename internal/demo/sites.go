package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// This file grows the one member to two sites of two members each, and takes parts of them away.

func (s *stage) playSites(ctx context.Context) (err error) {
	s.act("4. Three more machines join: two sites, two members each")
	all := []*peer{s.first}
	begin := time.Now()
	if err := s.command(ctx, "init", "--site", "east"); err != nil {
		return err
	}
	if err := s.command(ctx, "code", "deploy", "production"); err != nil {
		return err
	}
	for _, p := range []*peer{
		{name: "east2.demo", site: "east", ip: "127.0.1.2"}, {name: "west1.demo", site: "west", ip: "127.0.2.1"}, {name: "west2.demo", site: "west", ip: "127.0.2.2"},
	} {
		p.data = filepath.Join(s.dir, p.name)
		if err := s.front(ctx, p); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		if err := s.join(ctx, p); err != nil {
			return err
		}
		if err := s.start(ctx, p); err != nil {
			return err
		}
		all = append(all, p)
	}
	s.took = append(s.took, timing{"three members joined and serving", time.Since(begin)})
	east, west := all[1], all[2]
	if err := s.equal(ctx, "all four have the same certificates", all...); err != nil {
		return err
	}
	if err := s.command(ctx, "status"); err != nil {
		return err
	}
	if err := s.command(ctx, "code", "list"); err != nil {
		return err
	}

	s.act("5. The agent of site east runs at site west: certificate, code and catalog are known there")
	s.port = west.port
	if err := s.agentRun(ctx, "run at the other site", 0); err != nil {
		return err
	}

	s.act("6. The first member is killed, with the CA that it began with")
	if err := s.first.kill(); err != nil {
		return err
	}
	s.port = east.port
	if err := s.agentRun(ctx, "run right after the kill", 0); err != nil {
		return err
	}
	if err := s.at(ctx, west, "ca", "generate", "--certname", "signed-meanwhile.demo", "--to", filepath.Join(s.dir, "meanwhile")); err != nil {
		return err
	}
	if err := s.start(ctx, s.first); err != nil {
		return err
	}
	if err := s.equal(ctx, "the first member is back and has missed nothing", all...); err != nil {
		return err
	}

	s.act("7. The sites are cut off from each other: both sign, both revoke")
	for _, p := range all {
		p.gate.set(true)
	}
	for _, p := range []*peer{s.first, west} {
		if err := s.at(ctx, p, "ca", "generate", "--certname", p.site+"-alone.demo", "--to", filepath.Join(s.dir, p.site)); err != nil {
			return err
		}
		s.port = p.port
		if err := s.agentRun(ctx, "run at "+p.site+" while cut off", 0); err != nil {
			return err
		}
	}
	if err := s.at(ctx, east, "ca", "revoke", "--certname", "signed-meanwhile.demo"); err != nil {
		return err
	}
	if err := s.at(ctx, west, "status"); err != nil {
		return err
	}

	s.act("8. The cut heals: both sides have the union")
	for _, p := range all {
		p.gate.set(false)
	}
	if err := s.equal(ctx, "all four are equal after the cut", all...); err != nil {
		return err
	}
	s.port = s.first.port
	if err := s.at(ctx, west, "ca", "list", "--all"); err != nil {
		return err
	}
	return s.playEdge(ctx, all)
}

// join makes a fresh machine a member with a token of the first.
func (s *stage) join(ctx context.Context, p *peer) error {
	token, err := s.token(ctx, "--site", p.site)
	if err != nil {
		return err
	}
	s.say("$ troupe token create --site %s    # on the first; then, on the new machine:", p.site)
	s.say("$ troupe join TOKEN@%s --data %s …", token.Address, p.data)
	return s.show(ctx, token.line(), append([]string{"join", "-"}, s.flags(p)...)...)
}

// A token lets a machine in.
type token struct{ Text, Address string }

func (s *stage) token(ctx context.Context, flags ...string) (t token, err error) {
	args := append([]string{"token", "create", "-o", "json", "--data", s.data()}, flags...)
	out, err := exec.CommandContext(ctx, s.o.Executable, args...).Output()
	if err != nil {
		return t, fmt.Errorf("make a token: %w", err)
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return t, fmt.Errorf("read the token: %w", err)
	}
	return t, nil
}

// line is what a command of the new machine reads: arguments are seen by all.
func (t token) line() string { return t.Text + "@" + t.Address + "\n" }

// at runs a command of troupe on a member's machine.
func (s *stage) at(ctx context.Context, p *peer, args ...string) error {
	first := s.first
	s.first = p
	defer func() { s.first = first }()
	return s.command(ctx, args...)
}

// equal waits until members list the same certificates in the same states, and notes how long that took.
func (s *stage) equal(ctx context.Context, what string, members ...*peer) error {
	begin := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		lists := map[string]bool{}
		for _, p := range members {
			out, err := exec.CommandContext(ctx, s.o.Executable, "ca", "list", "--all", "-o", "json", "--data", p.data).Output()
			if err != nil {
				return fmt.Errorf("list certificates of %s: %w", p.name, err)
			}
			lists[string(out)] = true
		}
		if len(lists) == 1 {
			s.say("   %s, after %.1f s", what, time.Since(begin).Seconds())
			s.took = append(s.took, timing{what, time.Since(begin)})
			return nil
		}
		if time.Since(begin) > 2*time.Minute {
			return fmt.Errorf("after two minutes still waiting: %s", what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
