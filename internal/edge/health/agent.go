package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"troupe/internal/telemetry"
)

// This file speaks HAProxy's agent-check protocol, on both sides: a server says in one line how much work it wants.
//
// The line holds words: 75% or weight:50 (its weight), maxconn:30, ready, drain or maint, up, or down, fail, stopped; after a # comes the
// reason. What is not said stays as it is. That nobody answers is no failure: connections are judged by the other checks.
// Unlike in HAProxy, what a server says of itself never undoes what an operator has said of it.

// maxLine is the longest line that is read.
const maxLine = 1024

type agent struct {
	share    float64
	maxConns int
	admin    string // drain, maint or nothing
	down     bool
	reason   string
	last     string // for people
}

func (a *agent) why() string {
	if a.reason == "" {
		return ""
	}
	return ": " + a.reason
}

// heed takes over what a line says. It returns an error for words that mean nothing; the others count all the same.
func (a *agent) heed(line string, weight int) error {
	words, reason, _ := strings.Cut(line, "#")
	if weight <= 0 {
		weight = 100
	}
	var unknown []string
	for _, word := range strings.FieldsFunc(words, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == 0 }) {
		word = strings.ToLower(word)
		switch word {
		case "up":
			a.down = false
		case "down", "fail", "failed", "stopped":
			a.down = true
		case "ready":
			a.admin = ""
		case string(Drain), string(Maint):
			a.admin = word
		default:
			if !a.number(word, weight) {
				unknown = append(unknown, word)
			}
		}
	}
	a.reason = strings.TrimSpace(reason)
	if len(unknown) > 0 {
		return fmt.Errorf("words that mean nothing here: %q", unknown)
	}
	return nil
}

// maxWeight is HAProxy's largest weight.
const maxWeight = 256

func (a *agent) number(word string, weight int) bool {
	if n, ok := strings.CutPrefix(word, "maxconn:"); ok {
		conns, err := strconv.Atoi(n)
		if err != nil || conns < 0 || conns > math.MaxInt32 {
			return false
		}
		a.maxConns = conns
		return true
	}
	n, absolute := strings.CutPrefix(word, "weight:")
	n, relative := strings.CutSuffix(n, "%")
	w, err := strconv.Atoi(n)
	if err != nil || w < 0 || !relative && (!absolute || w > maxWeight) {
		return false
	}
	share := float64(w) / 100
	if !relative {
		share = float64(w) / float64(weight)
	}
	a.share = min(share, maxWeight/float64(weight))
	return true
}

// AgentLine says a verdict in the words of the protocol.
func AgentLine(v Verdict) string {
	words := []string{"up", "ready"}
	switch v.State {
	case Down:
		words[0] = "down"
	case Drain, Maint:
		words[1] = string(v.State)
	case Up:
	}
	words = append(words, fmt.Sprintf("%d%%", int(math.Round(100*v.Share))))
	if v.MaxConns > 0 {
		words = append(words, fmt.Sprintf("maxconn:%d", v.MaxConns))
	}
	line := strings.Join(words, " ")
	if v.Reason != "" {
		reason := strings.Map(func(r rune) rune {
			if r < ' ' || r == '#' {
				return ' '
			}
			return r
		}, v.Reason)
		line += " #" + strings.ToValidUTF8(reason[:min(len(reason), maxLine/2)], "")
	}
	return line
}

// ask asks the agent of one target at regular times.
func (m *Monitor) ask(ctx context.Context, w *watched) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.mu.Lock()
		timer.Reset(w.asked.Sub(m.o.Now()))
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		line, err := m.hear(ctx, w.Target)
		if ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		now := m.o.Now()
		w.asked = now.Add(m.jitter(w.Check.AgentInterval, w.Check.Spread))
		if m.targets[w.ID] == w {
			a := &w.judge.agent
			before := a.last
			if err == nil {
				err = a.heed(line, w.Weight)
				a.last = line
			}
			if err != nil {
				a.last = err.Error()
			}
			if err != nil && a.last != before {
				m.o.Log.Warn("the agent of a server says nothing useful", "server", w.ID, "agent", w.Check.AgentAddress, telemetry.KeyErr, err)
			}
			m.settle(w, now)
		}
		m.mu.Unlock()
	}
}

// hear returns the line that an agent says.
func (m *Monitor) hear(ctx context.Context, t Target) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, min(t.Check.AgentInterval, t.Check.Timeout))
	defer cancel()
	conn, err := m.o.Dial(ctx, network(t.Check.AgentAddress), t.Check.AgentAddress)
	if err != nil {
		return "", errors.New(failure("L4", "CON", err).short())
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if t.Check.AgentSend != "" {
		_, err = io.WriteString(conn, t.Check.AgentSend)
		if err != nil {
			return "", errors.New(failure("L7", "RSP", err).short())
		}
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxLine)).ReadString('\n')
	if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
		return "", errors.New(failure("L7", "RSP", err).short())
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// How many are answered at one time, and for how long one may take.
const (
	maxAnswers    = 64
	answerTimeout = 5 * time.Second
)

// AgentResponder answers each connection to ln with one line, until ctx ends: troupe's own members say so to a HAProxy in front of them
// what they can take. What the client sends means nothing. It closes ln, and returns when all answers are given.
func AgentResponder(ctx context.Context, ln net.Listener, say func() string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	places := make(chan struct{}, maxAnswers)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if errno, ok := errors.AsType[syscall.Errno](err); ok && errno.Temporary() || errors.Is(err, syscall.ECONNABORTED) {
			select { // out of file descriptors, for example: that passes
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("answer agent checks on %s: %w", ln.Addr(), errors.Join(err, ln.Close()))
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			defer func() { _ = conn.Close() }()
			err := conn.SetDeadline(time.Now().Add(answerTimeout))
			if err == nil {
				_, err = io.WriteString(conn, say()+"\n")
			}
			if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
				err = half.CloseWrite()
			}
			if err == nil { // closed with something unread, a connection loses what was written
				_, _ = io.CopyN(io.Discard, conn, maxLine) // who hangs up asks again
			}
		})
	}
}
